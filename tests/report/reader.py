"""A page as a program reads it: tables by caption, texts, what stands where."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "img", "input", "br", "link"}


@dataclass
class Page(HTMLParser):
    """What an HTML text holds.

    Attributes:
        tables: rows of cells by caption, the header first.
        tags: every element's name and attributes, in order.
        text: all that is read, scripts and styles apart.
        scripts: contents and attributes of the script elements.
    """

    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    scripts: list[tuple[dict[str, str], str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._caption = ""
        self._rows: list[list[str]] = []

    def handle_starttag(self, tag, attrs):
        told = {name: value or "" for name, value in attrs}
        self.tags.append((tag, told))
        if tag == "script":
            self.scripts.append((told, ""))
        if tag == "table":
            self._caption, self._rows = "", []
        if tag == "tr":
            self._rows.append([])
        if tag in ("th", "td"):
            self._rows[-1].append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        if "script" in self._open:
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif "style" not in self._open:
            self.text += data
            if "caption" in self._open:
                self._caption += data
            elif "th" in self._open or "td" in self._open:
                self._rows[-1][-1] += data


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert not page._open, f"never closed: {page._open}"
    return page
