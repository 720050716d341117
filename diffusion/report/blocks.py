"""The parts of a report: texts, tables, charts. Each is described once, and has a form in HTML and one in Markdown.

All text is plain, whoever wrote it: it is escaped for HTML or Markdown at the end. Backticks mark `code`.
"""

import html
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from matplotlib.figure import Figure
from rich import box
from rich.table import Table as Printed

from diffusion.report import style
from diffusion.report.formatting import MISSING, csv_text
from diffusion.report.style import svg


class Html(str):
    """HTML. Any other text is escaped."""


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element with children: text, elements, or lists of them; None is left out.

    `class_` stands for the attribute class and `data_at` for data-at. True is an attribute without a value, and lists
    and mappings become JSON.
    """
    words = [name]
    for key, value in attributes.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else str(value)
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            words.append(key if value is True else f'{key}="{html.escape(shown)}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in ("img", "input") else f"{start}{joined(children)}</{name}>")


def joined(children: Any) -> Html:
    """Children as HTML."""
    if isinstance(children, Html) or children is None:
        return Html(children or "")
    if isinstance(children, list | tuple):
        return Html("".join(map(joined, children)))
    return Html(html.escape(str(children), quote=False))


def marked(text: str) -> list[Html]:
    """A text as HTML, with its `code`."""
    return [tag("code", part) if i % 2 else joined(part) for i, part in enumerate(text.split("`"))]


def escaped(text: str) -> str:
    """A text as one line of Markdown that renders verbatim, special characters being escaped with a backslash.

    Underscores within words, and brackets that do not begin a link, need no escape.
    """
    return re.sub(r"[\\`*<~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])", r"\\\g<0>", " ".join(text.split()))


def in_markdown(text: str) -> str:
    """A text as Markdown, with its `code`."""
    return "`".join(part if i % 2 else escaped(part) for i, part in enumerate(text.split("`")))


class Block(Protocol):
    """A part of a report; either form may be empty."""

    def html(self) -> Html: ...

    def markdown(self) -> str: ...


class Made(NamedTuple):
    """A block in its two forms."""

    page: Html
    text: str

    def html(self) -> Html:
        return self.page

    def markdown(self) -> str:
        return self.text


def either(page: Html | None = None, text: str = "") -> Made:
    """What the page and the Markdown show in different ways, or only one of them."""
    return Made(page or Html(), text)


def paragraph(words: str, look: str | None = "soft") -> Made:
    """A paragraph; `look` is the class of its HTML element."""
    return Made(tag("p", marked(words), class_=look), in_markdown(words))


def bullets(texts: Iterable[str]) -> Made:
    """A list of texts."""
    found = [*texts]
    items = [tag("li", marked(each)) for each in found]
    return Made(tag("ul", items, class_="soft") if items else Html(), "\n".join(f"- {in_markdown(x)}" for x in found))


def code_block(text: str) -> Made:
    """Commands for a shell."""
    return Made(tag("pre", text), f"```bash\n{text}\n```")


def facts(pairs: Sequence[tuple[str, str]], linked: bool = False) -> Made:
    """Pairs of a name, which may be a link to a file, and a text."""
    names = [tag("a", name, href=quote(name)) if linked else name for name, _ in pairs]
    lines = [[tag("dt", name), tag("dd", text)] for name, (_, text) in zip(names, pairs, strict=True)]
    rows = [f"| {f'[{name}]({quote(name)})' if linked else name} | {escaped(text)} |" for name, text in pairs]
    return Made(tag("dl", lines) if lines else Html(), "\n".join(["| | |", "| --- | --- |", *rows]) if rows else "")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the value to sort by, and what only some forms show."""

    text: str
    value: float | str | None = None
    bold: bool = False
    link: str | None = None
    picture: Html | None = None

    def html(self) -> Html:
        shown: Any = tag("strong", self.text) if self.bold else marked(self.text)
        shown = tag("a", shown, href=self.link) if self.link else shown
        return joined([shown, self.picture])

    def marked(self, bold: str, text: str) -> str:
        """`text`, with `bold` on both sides if the cell is bold."""
        return f"{bold}{text}{bold}" if self.bold else text


@dataclass(frozen=True)
class Table:
    """A table. A cell is a text, or a `Cell`; the columns `numbers` are right-aligned.

    Args:
        caption: what it is, for screen readers.
        about: column -> what it means, shown where the pointer rests on its head.
        folded: in a page, the words that unfold it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str
    numbers: Sequence[int] = ()
    about: Mapping[str, str] | None = None
    folded: str | None = None

    @cached_property
    def cells(self) -> list[list[Cell]]:
        return [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in self.rows]

    def html(self) -> Html:
        """A table that can be sorted by a click on a head and, if it is long, filtered."""
        looks = [{"class_": "number" if i in self.numbers else None} for i in range(len(self.head))]
        about = {name: words.replace("`", "") for name, words in (self.about or {}).items()}
        heads = [
            tag("th", name, scope="col", title=about.get(name), **look)
            for name, look in zip(self.head, looks, strict=True)
        ]
        rows = [
            [tag("td", cell.html(), data_value=cell.value, **look) for cell, look in zip(row, looks, strict=True)]
            for row in self.cells
        ]
        caption = tag("caption", self.caption, class_="visually-hidden")
        body = tag("tbody", [tag("tr", row) for row in rows])
        table = tag("table", caption, tag("thead", tag("tr", heads)), body)
        box = tag("div", table, class_="scroll", tabindex=0, role="group", aria_label=self.caption)
        return tag("details", tag("summary", self.folded), box) if self.folded else box

    def markdown(self) -> str:
        rule = ["--:" if i in self.numbers else "---" for i in range(len(self.head))]
        body = [[cell.marked("**", in_markdown(cell.text)) for cell in row] for row in self.cells]
        lines = [[*self.head], rule, *body]
        return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)

    def csv(self) -> str:
        """The text of a CSV file, with full values instead of rounded ones."""
        full = lambda cell: cell.text.replace(MISSING, "") if cell.value is None else cell.value  # noqa: E731
        return csv_text([self.head, *(map(full, row) for row in self.cells)])

    def printed(self, width: int) -> list[Printed]:
        """The table for a console of this width: several if it is too wide, each beginning with the first two columns.

        The first column is wrapped if it is wider than a third of the console.
        """
        texts = [[*self.head], *([cell.marked("*", cell.text) for cell in row] for row in self.cells)]
        widths = [3 + max(len(line[i]) for line in texts) for i in range(len(self.head))]
        first = min(widths[0], max(24, width // 3))
        parts: list[list[int]] = [[1]]
        for i in range(2, len(self.head)):
            if len(parts[-1]) > 1 and first + sum(widths[j] for j in [*parts[-1], i]) + 2 > width:
                parts.append([1])
            parts[-1].append(i)
        found = []
        for part in parts:
            made = Printed(box=box.SIMPLE_HEAD)
            made.add_column(self.head[0], max_width=first - 3, overflow="fold")
            for i in part:
                made.add_column(self.head[i], justify="right" if i in self.numbers else "left", no_wrap=True)
            for line in texts[1:]:
                made.add_row(line[0], *(line[i] for i in part))
            found.append(made)
        return found


@dataclass(frozen=True)
class Chart:
    """A figure: as SVG in the page; in Markdown, a link to its file, if it has one.

    Args:
        caption: what it shows.
        draw: makes the figure.
        file: its PNG file, relative to the report.
    """

    caption: str
    draw: Callable[[], Figure]
    file: str | None = None

    @cached_property
    def figure(self) -> Figure:
        return self.draw()

    def html(self) -> Html:
        drawing = tag("div", Html(svg(self.figure, self.caption)), class_="scroll")
        return tag("figure", drawing, tag("figcaption", marked(self.caption)), class_="chart")

    def markdown(self) -> str:
        return f"![{escaped(self.caption)}]({self.file})\n\n*{escaped(self.caption)}*" if self.file else ""


@dataclass(frozen=True)
class Charts:
    """Charts next to each other, below `before`; in a page, perhaps with a slider for all of them.

    Args:
        label: the name of the slider.
        texts: the text of each of its positions.
        steps: the training step of each position, if the charts are by step.
    """

    charts: Sequence[Chart]
    before: Html | None = None
    label: str | None = None
    texts: Sequence[str] = ()
    steps: Sequence[int] = ()

    def html(self) -> Html:
        if not self.charts and not self.before:
            return Html()
        content = joined([self.before, tag("div", [each.html() for each in self.charts], class_="charts")])
        linked = {"data_label": self.label, "data_texts": [*self.texts], "data_steps": [*self.steps]}
        return tag("div", content, class_="linked", **linked) if len(self.texts) > 1 else content

    def markdown(self) -> str:
        return "\n\n".join(filter(None, (chart.markdown() for chart in self.charts)))


@dataclass(frozen=True)
class Section:
    """A part of a report with a title, whose blocks are made from these `files` of the folder when they are needed."""

    title: str
    make: Callable[[], Iterable[Block | None]]
    files: Sequence[str] = ()

    @cached_property
    def blocks(self) -> list[Block]:
        return [block for block in self.make() if block is not None]

    def html(self) -> Html:
        """The section; empty without content. `data_made` changes with the content."""
        content = joined([block.html() for block in self.blocks])
        if not content:
            return content
        name = self.title.lower().replace(" ", "-") or "summary"
        heading = tag("h2", self.title) if self.title else None
        made = format(zlib.crc32(content.encode()), "x")
        return tag("section", heading, content, id=name, aria_label=self.title or None, data_made=made)

    def markdown(self) -> str:
        parts = [text for block in self.blocks if (text := block.markdown())]
        return "\n\n".join([f"## {self.title}", *parts]) if parts else ""


def markdown(title: str, sections: Iterable[Section]) -> str:
    """A report as Markdown; a section without a title is its beginning."""
    parts = [section.markdown().removeprefix("## \n\n") for section in sections]
    return "\n\n".join([f"# {escaped(title)}", *filter(None, parts)]) + "\n"


def save_charts(sections: Iterable[Section], folder: Path) -> list[Path]:
    """Write the PNG files of all charts into `folder`, and return their paths."""
    groups = [block for section in sections for block in section.blocks if isinstance(block, Charts)]
    return [style.save(chart.figure, folder / chart.file) for group in groups for chart in group.charts if chart.file]
