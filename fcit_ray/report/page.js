"use strict";
(() => {
  // Charts are drawn when they come into sight, and all of them before printing.
  // The page's own font by name: texts are measured on a canvas, which knows of no inheritance.
  const font = getComputedStyle(document.body).fontFamily;
  const config = {
    background: "transparent",
    font,
    view: { stroke: null },
    axis: {
      labelColor: "var(--ink-2)", titleColor: "var(--ink-2)", titleFontWeight: 500, labelFontSize: 11,
      titleFontSize: 11, domainColor: "var(--line-2)", tickColor: "var(--line-2)", gridColor: "var(--line)",
      labelOverlap: true, titlePadding: 8, labelLimit: 120,
    },
    axisX: { grid: false },
  };
  const drawn = new WeakSet();
  const draw = async (plot) => {
    if (drawn.has(plot) || !plot.clientWidth) return;
    drawn.add(plot);
    const holder = document.createElement("div");
    holder.className = "canvas";
    plot.append(holder);
    const spec = JSON.parse(plot.querySelector("script").textContent);
    const { view } = await window.vegaEmbed(holder, { ...spec, autosize: { type: "fit", contains: "padding" } }, {
      mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config,
      tooltip: { disableDefaultStyle: true },
    });
    const svg = holder.querySelector("svg");
    svg.setAttribute("aria-hidden", "true"); // what holds it says what it shows, and the table has the numbers
    new ResizeObserver(() => {
      const width = holder.clientWidth;
      if (width && Math.abs(width - view.width()) > 1) view.signal("width", width).runAsync();
    }).observe(holder);
    plot.dataset.drawn = "yes";
  };
  const plots = [...document.querySelectorAll(".plot")];
  const sight = new IntersectionObserver((seen) => seen.forEach((one) => one.isIntersecting && draw(one.target)), {
    rootMargin: "600px 0px",
  });
  plots.forEach((plot) => sight.observe(plot));
  window.addEventListener("beforeprint", () => plots.forEach(draw));

  // Tables: a button in each column's head orders the rows; what has no value stays at the end.
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const value = (row, column) => {
      const told = row.cells[column].dataset.value;
      return told === undefined || told === "" ? null : isNaN(told) ? told : Number(told);
    };
    heads.forEach((head, column) =>
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        [...body.rows]
          .sort((one, two) => {
            const [a, b] = [value(one, column), value(two, column)];
            if (a === null || b === null) return (a === null) - (b === null);
            const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
            return up ? order : -order;
          })
          .forEach((row) => body.append(row));
      })
    );
  });

  // Answers: filtered by what is chosen, some at a time.
  const form = document.getElementById("filters");
  if (form) {
    const STEP = 12;
    const cards = [...document.querySelectorAll("#cards > .card")];
    const texts = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));
    const count = document.getElementById("count");
    const more = document.getElementById("more");
    let shown = STEP;
    const fits = (card, { dataset, run, outcome, text }) => {
      if (dataset && card.dataset.dataset !== dataset) return false;
      if (text && !texts.get(card).includes(text)) return false;
      const all = [...card.querySelectorAll(".given > li")];
      const given = run ? all.filter((one) => one.dataset.run === run) : all;
      if (!given.length) return false;
      const right = (of) => of.filter((one) => one.dataset.right === "yes").length;
      if (outcome === "mixed") {
        const count = right(all);
        return count > 0 && count < all.length;
      }
      return !outcome || (outcome === "right" ? right(given) > 0 : right(given) < given.length);
    };
    const apply = () => {
      const asked = Object.fromEntries(new FormData(form));
      asked.text = asked.text.trim().toLowerCase();
      const found = cards.filter((card) => fits(card, asked));
      cards.forEach((card) => (card.hidden = true));
      found.slice(0, shown).forEach((card) => (card.hidden = false));
      more.hidden = found.length <= shown;
      const some = found.length > shown ? `, ${shown} shown` : "";
      count.textContent = found.length === 1 ? "1 question" : `${found.length} questions${some}`;
    };
    const anew = () => { shown = STEP; apply(); };
    form.addEventListener("input", anew);
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      const first = [...cards].filter((card) => !card.hidden).length;
      shown += 2 * STEP;
      apply();
      const next = cards.filter((card) => !card.hidden)[first];
      if (next) { next.tabIndex = -1; next.focus({ preventScroll: true }); }
    });
    apply();
  }

  // On a phone the contents are folded; a link into a folded run opens it.
  if (matchMedia("(max-width: 60rem)").matches) document.getElementById("contents").open = false;
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  window.addEventListener("hashchange", unfold);
  unfold();
})();
