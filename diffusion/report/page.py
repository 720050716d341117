"""A report: sections of Markdown, tables, charts, and HTML for pages only. A page is the rendering of its sections.

A block is a text in Markdown, in which text of the user is `escaped`. HTML inside it is shown as text. report.html is
one self-contained file, with its style and scripts; assets/page.js makes it interactive. A content security policy in
the page blocks all other scripts and all requests, so text of strangers cannot do anything.
"""

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table as Printed

from diffusion.base.files import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parent / "assets"
NAME = "report.html"
MISSING = "—"  # in a table
LEAST = 80  # characters: a table is not made for a narrower console, on which it would lose names and digits
Html = Markup  # for pages only; Html("<p>{}</p>").format(text) escapes the text
SHELL = "```bash\n{}\n```"
RENDERER = MarkdownIt("commonmark", {"html": False}).enable("table")


class Markdown(str):
    """The text of a cell in Markdown; any other text is escaped."""


class Picture(str):
    """A picture in Markdown, for files only."""


def escaped(text: str) -> str:
    """A text as one line of Markdown that renders verbatim, except for `code` between backticks."""
    special = r"(`[^`]+`)|[\\`*<~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])"
    return re.sub(special, lambda found: found[1] or f"\\{found[0]}", " ".join(text.split()))


def linked(name: str, url: str | None) -> str:
    """A name in a table, with a link if there is a URL."""
    return Markdown(f"[{escaped(name)}]({url})") if url else name


def listed(texts: Iterable[str]) -> str:
    """A list of texts."""
    return "\n".join(f"- {escaped(text)}" for text in texts)


@dataclass(frozen=True)
class Cell:
    """A cell of a table, and its full value in a CSV file."""

    text: str
    value: float | str | None = None
    bold: bool = False

    @property
    def printed(self) -> str:
        return f"*{self.text}*" if self.bold else self.text

    @property
    def markdown(self) -> str:
        text = self.text if isinstance(self.text, Markdown) else escaped(self.text)
        return (f"**{text}**" if self.bold else text).replace("|", "\\|")


@dataclass(frozen=True)
class Table:
    """A table. A cell is a text, or a `Cell`; the columns `numbers` are right-aligned."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numbers: Sequence[int] = ()

    @cached_property
    def cells(self) -> list[list[Cell]]:
        return [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in self.rows]

    def markdown(self) -> str:
        rule = ["--:" if i in self.numbers else "---" for i in range(len(self.head))]
        lines = [map(escaped, self.head), rule, *([cell.markdown for cell in row] for row in self.cells)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def csv(self) -> str:
        """The text of a CSV file, with full values instead of rounded ones."""
        full = [[c.text.replace(MISSING, "") if c.value is None else c.value for c in row] for row in self.cells]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.head, *full])
        return text.getvalue()

    def print(self, console: Console, columns: Sequence[int] = ()) -> None:
        """Print the table, or some columns; if it is too wide, in two parts that begin with what names the rows."""
        columns, width = columns or range(len(self.head)), max(LEAST, console.width)
        lead = next((i for i in range(1, 6) if len({(*row[:i],) for row in self.cells}) == len(self.cells)), 1)
        made, total = Printed(box=box.SIMPLE_HEAD), 2
        for i in columns:
            longest = max(len(self.head[i]), *(len(row[i].printed) for row in self.cells), 0)
            least = longest if i else min(longest, width // 3)
            side: Any = "right" if i in self.numbers else "left"
            made.add_column(self.head[i], justify=side, min_width=least, no_wrap=i > 0, overflow="fold")
            total += least + 3
        if total > width and len(columns) > lead + 1:
            half = (len(columns) + lead) // 2
            self.print(console, columns[:half])
            self.print(console, [*range(lead), *columns[half:]])
            return
        for row in self.cells:
            made.add_row(*(row[i].printed for i in columns))
        console.print(made, crop=False, width=width)


@dataclass(frozen=True)
class Chart:
    """A figure: SVG in a page; in Markdown, a link to its PNG `file`, relative to the report, if it has one."""

    caption: str
    figure: "Figure"
    file: str | None = None

    def html(self) -> Html:
        from diffusion.report import style  # matplotlib: status does without it

        return captioned(Html(style.svg(self.figure, self.caption)), self.caption, "chart")

    def markdown(self) -> str:
        return picture(self.file, self.caption) if self.file else ""


def picture(file: str, caption: str) -> Picture:
    """A picture of the report's folder, with its caption."""
    return Picture(f"![{Path(file).stem}]({file})\n\n*{escaped(caption)}*")


def captioned(content: Html, caption: str, look: str = "") -> Html:
    """Content of a page with a caption; `look` is a class of the style sheet."""
    return Html('<figure class="{}">{}<figcaption>{}</figcaption></figure>').format(look, content, caption)


def slider(label: str, texts: Sequence[str], steps: Sequence[int] = (), play: bool = False) -> Html:
    """A slider for its section: for the rows of images and, with training `steps`, for the charts."""
    box = Html('<div class="slider" data-label="{}" data-texts="{}" data-steps="{}"{}></div>')
    return box.format(label, json.dumps(texts), json.dumps(steps), Html(" data-play" * play))


Block = str | Table | Chart


class Section:
    """A part of a report with a title; without one, it is a beginning or an end. A page shows it `folded` or open."""

    def __init__(self, title: str, blocks: Iterable[Block | None], folded: bool = False):
        self.title, self.anchor, self.folded = title, title.lower().replace(" ", "-").strip("?") or "summary", folded
        self.blocks = [block for block in blocks if block]

    @cached_property
    def html(self) -> Html:
        """The content for a page."""
        parts = []
        for block in self.blocks:
            if isinstance(block, Html | Chart):
                parts.append(block.html() if isinstance(block, Chart) else block)
            elif not isinstance(block, Picture):
                parts.append(Html(RENDERER.render(block if isinstance(block, str) else block.markdown())))
        return Html("\n").join(parts)

    def markdown(self) -> str:
        blocks = [block for block in self.blocks if not isinstance(block, Html)]
        parts = [*filter(None, (block if isinstance(block, str) else block.markdown() for block in blocks))]
        return "\n\n".join([f"## {self.title}", *parts] if self.title and parts else parts)


def write_files(
    folder: Path, name: str, title: str, sections: Sequence[Section], state: str | None = None
) -> list[Path]:
    """Write a report as Markdown into the file `name`, with the PNG files of its charts, and as report.html.

    Returns the paths. `state` is that of a run.
    """
    from diffusion.report import style

    texts = [f"# {escaped(title)}", *(section.markdown() for section in sections)]
    replace(folder / name, "\n\n".join(filter(None, texts)) + "\n")
    charts = [block for section in sections for block in section.blocks if isinstance(block, Chart) and block.file]
    saved = [style.save(chart.figure, folder / str(chart.file)) for chart in charts]
    replace(folder / NAME, document(title, sections, state))
    return [folder / name, *saved, folder / NAME]


def document(
    title: str, sections: Iterable[Section], state: str | None = None, model: Mapping[str, bytes] | None = None,
    **live: Any,
) -> str:  # fmt: skip
    """The page with these sections; those without content are left out.

    Args:
        state: the state of a run, next to the title.
        model: for a page that draws samples (assets/draw.js): the files that its script unpacks, name -> gzip.
        live: for a page of a server: `home`, the address of the page that lists all runs; `version`, to ask every
            `refresh` seconds for a newer one.
    """
    style, page, draw = (Html((ASSETS / name).read_text("utf-8")) for name in ("page.css", "page.js", "draw.js"))
    scripts = [page, draw] if model else [page]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    packed = {name: base64.b64encode(content).decode() for name, content in (model or {}).items()}
    live |= {"title": title, "sections": [section for section in sections if section.html], "state": state}
    return rendered("page.html", style=style, scripts=scripts, hashes=hashes, model=packed, **live)


def rendered(name: str, **values: Any) -> Html:
    """A template of assets/ with these values, which are escaped."""
    from jinja2 import Environment  # torch depends on it

    return Html(Environment(autoescape=True).from_string((ASSETS / name).read_text("utf-8")).render(values))
