"""The page in the machine's Chromium: nothing asked of the network, nothing on the console, usable on a phone."""

import re
import shutil

import pytest
from made import HOSTILE, make_run, write_data

from fcit_ray.report.writing import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
LOOKS = [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")]

FAULTS = """() => {
  const faults = [];
  let rank = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const own = Number(heading.tagName[1]);
    if (own > rank + 1) faults.push(`${heading.tagName} after H${rank}: ${heading.textContent}`);
    rank = own;
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  for (const field of document.querySelectorAll("input, select, textarea"))
    if (!field.labels.length) faults.push(`no label: ${field.name}`);
  for (const picture of document.querySelectorAll("img")) if (!picture.alt) faults.push("a picture without alt");
  for (const button of document.querySelectorAll("button"))
    if (!button.textContent.trim()) faults.push("a button without a name");
  for (const table of document.querySelectorAll("main table")) {
    if (!table.caption?.textContent.trim()) faults.push("a table without caption");
    for (const head of table.querySelectorAll("th")) if (!head.scope) faults.push("a head without scope");
  }
  for (const region of document.querySelectorAll(".scroll"))
    if (region.tabIndex !== 0 || !region.getAttribute("aria-label")) faults.push("a region without name or focus");
  for (const link of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(link.hash.slice(1))) faults.push(`leads nowhere: ${link.hash}`);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) faults.push("an id twice");
  for (const landmark of ["header", "nav", "main", "footer"])
    if (!document.querySelector(landmark)) faults.push(`no ${landmark}`);
  return faults;
}"""

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour, below) => { // painted over what lies below, as the browser does
    canvas.fillStyle = `rgb(${below.join(" ")})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = (parts) => {
    const [r, g, b] = parts.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const worst = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, script, style, option")) continue;
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
    const ground = chain.reduce((below, colour) => rgb(colour, below), [255, 255, 255]);
    const [a, b] = [light(rgb(getComputedStyle(element).color, ground)), light(ground)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const key = `${element.tagName}.${element.className}`;
    if (contrast < 4.5) worst[key] = Math.min(contrast, worst[key] ?? 99);
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one run with hostile texts, and one of three runs of which one is not finished."""
    place = tmp_path_factory.mktemp("pages")
    data = write_data(place / "data", question=HOSTILE)
    long = "NameWithoutAnySpace" * 5
    one = make_run(place / "one", name=HOSTILE, root=data, wrong=HOSTILE)
    two = make_run(place / "two", name=long, root=data, seed=1, train={"epochs": 2})
    half = make_run(place / "half", name="Half", root=data, finished=False)
    return {
        "one": write_report(one.path, place / "one.html"),
        "several": write_report([one.path, two.path, half.path], place / "several.html"),
    }


@pytest.fixture
def visit(browser):
    """Open a page; what it says on the console and asks for is kept, and must be nothing when the test is over."""
    contexts, said = [], []

    def visit(file, width=1440, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda asked: said.append(asked.url) if not re.match("file:|data:", asked.url) else None)
        page.goto(file.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []


def draw_all(page):
    """Open what is folded and wait until every chart is there."""
    page.evaluate("document.querySelectorAll('details.run').forEach((run) => (run.open = true))")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("document.querySelectorAll('.plot:not([data-drawn])').length === 0")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("which", ["one", "several"])
def test_a_page_fits_is_drawn_and_can_be_read(pages, visit, which, width, scheme):
    page = visit(pages[which], width, scheme)
    draw_all(page)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].map((plot) => [plot.querySelectorAll('svg path').length > 1,"
        " plot.querySelector('svg').getBoundingClientRect().width <= plot.clientWidth + 1, plot.role,"
        " !!plot.ariaLabel, plot.closest('figure').querySelectorAll('table tbody tr').length > 0])"
    )
    assert len(drawn) >= 6
    assert all(chart == [True, True, "img", True, True] for chart in drawn)
    assert page.evaluate(CONTRASTS) == {}
    assert page.title().startswith(HOSTILE)  # told, not run: it would have renamed the page


@pytest.mark.parametrize("which", ["one", "several"])
def test_a_page_is_built_for_keyboards_and_screen_readers(pages, visit, which):
    page = visit(pages[which])
    assert page.evaluate(FAULTS) == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_tables_are_ordered_by_click_and_by_key(pages, visit):
    page = visit(pages["several"])
    table = page.locator("table.sortable").first

    def column():
        return table.locator("tbody tr > :nth-child(1)").all_text_contents()

    before = column()
    assert len(before) == 2
    table.get_by_role("button", name="Method").click()
    assert column() == sorted(before)
    head = table.locator("th[aria-sort]")
    assert head.get_attribute("aria-sort") == "ascending"
    table.get_by_role("button", name="Method").press("Enter")
    assert column() == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    table.get_by_role("button", name="Last").press("Space")
    assert head.count() == 1
    assert head.text_content().strip() == "Last"


def test_answers_are_filtered_and_the_count_says_so(pages, visit):
    page = visit(pages["several"])
    count, shown = page.locator("#count"), page.locator("#cards > li:visible")
    form = page.get_by_role("search")
    assert count.get_attribute("aria-live") == "polite"
    assert count.text_content() == "24 questions, 12 shown"
    assert shown.count() == 12
    page.get_by_role("button", name="Show more").press("Enter")
    assert shown.count() == 24
    form.get_by_label("Dataset").select_option("IconQA")
    assert count.text_content() == "12 questions"
    form.get_by_label("Answer").select_option("wrong")
    assert count.text_content() == "0 questions"
    form.get_by_label("Dataset").select_option("ArxivQA")
    wrong = int(count.text_content().split()[0])
    # 12 of ArxivQA's 16 are right after stage 1, for the run that is not finished; 8 after stage 2, for the others.
    form.get_by_label("Run", exact=True).select_option("Half (unfinished)")
    assert 0 < int(count.text_content().split()[0]) < wrong < 12
    form.get_by_label("Run", exact=True).select_option("")
    form.get_by_label("Answer").select_option("")
    first = shown.first.locator(".question").text_content()
    form.get_by_label("Text").fill(first[first.rindex("(") :])
    assert count.text_content() == "1 question"


def test_a_link_into_a_folded_run_opens_it(pages, visit):
    page = visit(pages["several"])
    assert page.locator("#run-2").get_attribute("open") is None
    page.get_by_role("navigation").get_by_role("link", name="Half").click()
    page.wait_for_function("document.getElementById('run-3').open")


def test_a_page_prints_all_charts_and_no_controls(pages, visit):
    page = visit(pages["one"])
    draw_all(page)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#filters").is_visible()
    assert page.locator("svg").first.is_visible()
