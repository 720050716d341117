"""A report: sections of texts, tables, charts and pictures, as a page and as a Markdown file.

A text is Markdown, in which text of the user is `escaped`; HTML inside it is shown as text. report.html is one
self-contained file, with its style and scripts; assets/page.js makes it interactive. A content security policy in the
page blocks all other scripts and all requests, so text of strangers cannot do anything.
"""

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table as Printed

from diffusion.base.files import replace
from diffusion.findings.numbers import MISSING, number

ASSETS = Path(__file__).parent / "assets"
NAME = "report.html"
LEAST = 80  # characters: a table is not made for a narrower console, on which it would lose names and digits
RENDERER = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass
class Block:
    """A part of a section: `markdown` for a file, `html` for a page; None: the page shows the Markdown."""

    markdown: str = ""
    html: Markup | None = None

    def shown(self) -> Markup:
        return Markup(RENDERER.render(self.markdown)) if self.html is None else self.html

    def save(self, folder: Path) -> list[Path]:
        """Write the files that the Markdown links, of a report in this folder; returns their paths."""
        return []


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, perhaps as code or with a link or picture, and its full value in a CSV file."""

    text: str
    value: float | None = None
    bold: bool = False
    url: str | None = None
    image: str = ""  # a data: URL

    @property
    def printed(self) -> str:
        return f"*{self.text}*" if self.bold else self.text

    @property
    def markdown(self) -> str:
        text = escaped(self.text).replace("|", "\\|")
        shown = f"![]({self.image}) {text}" if self.image else f"**{text}**" if self.bold else text
        return f"[{shown}]({self.url})" if self.url else shown


class Table(Block):
    """A table. A cell may be given as a text, as a number, or as None if it is missing; numbers are right-aligned."""

    def __init__(self, head: Sequence[str], rows: Iterable[Iterable[Cell | str | float | None]]):
        self.head, self.cells = head, [[_cell(each) for each in row] for row in rows]
        self.right = [any(row[i].value is not None for row in self.cells) for i in range(len(head))]
        rule = ["--:" if right else "---" for right in self.right]
        lines = [map(escaped, head), rule, *([cell.markdown for cell in row] for row in self.cells)]
        super().__init__("\n".join(f"| {' | '.join(line)} |" for line in lines))

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
            side: Any = "right" if self.right[i] else "left"
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


def _cell(value: Cell | str | float | None) -> Cell:
    if value is None:
        return Cell(MISSING)
    return value if isinstance(value, Cell) else Cell(value) if isinstance(value, str) else Cell(number(value), value)


class Section:
    """A part of a report with a title; without one, it is a beginning or an end. A page shows it `folded` or open."""

    def __init__(self, title: str, blocks: Iterable[Block | str | None], folded: bool = False):
        self.title, self.anchor, self.folded = title, title.lower().replace(" ", "-").strip("?") or "summary", folded
        self.blocks = [Block(block) if isinstance(block, str) else block for block in blocks if block]

    @cached_property
    def html(self) -> Markup:
        return Markup("\n").join(filter(None, (block.shown() for block in self.blocks)))

    @property
    def markdown(self) -> str:
        parts = [block.markdown for block in self.blocks if block.markdown]
        return "\n\n".join([f"## {self.title}", *parts] if self.title and parts else parts)


def escaped(text: str) -> str:
    """A text as one line of Markdown that renders verbatim, except for `code` between backticks."""
    special = r"(`[^`]+`)|[\\`*<~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])"
    return re.sub(special, lambda found: found[1] or f"\\{found[0]}", " ".join(text.split()))


def listed(texts: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(text)}" for text in texts)


def shell(*lines: str) -> str:
    return "```bash\n" + "\n".join(lines) + "\n```"


def picture(file: str, caption: str) -> str:
    """A picture of the report's folder with its caption in Markdown."""
    return f"![{Path(file).stem}]({file})\n\n*{escaped(caption)}*"


def write_files(
    folder: Path, name: str, title: str, sections: Sequence[Section], state: str | None = None
) -> list[Path]:
    """Write a report as Markdown into the file `name`, with the PNG files of its charts, and as report.html.

    Returns the paths. `state` is that of a run.
    """
    texts = [f"# {escaped(title)}", *(section.markdown for section in sections)]
    replace(folder / name, "\n\n".join(filter(None, texts)) + "\n")
    saved = [path for section in sections for block in section.blocks for path in block.save(folder)]
    replace(folder / NAME, document(title, sections, state))
    return [folder / name, *saved, folder / NAME]


def document(
    title: str, sections: Iterable[Section], state: str | None = None, scripts: Sequence[str] = (),
    model: Mapping[str, bytes] | None = None, **live: Any,
) -> str:  # fmt: skip
    """The page with these sections; those without content are left out.

    Args:
        state: the state of a run, next to the title.
        scripts: files of assets/ that the page runs after page.js.
        model: the files that the script draw.js unpacks, name -> gzip.
        live: for a page of a server: `home`, the address of the page that lists all runs; `version`, to ask every
            `refresh` seconds for a newer one.
    """
    style, *programs = (Markup((ASSETS / name).read_text("utf-8")) for name in ("page.css", "page.js", *scripts))
    hashes = [base64.b64encode(hashlib.sha256(program.encode()).digest()).decode() for program in programs]
    packed = {name: base64.b64encode(content).decode() for name, content in (model or {}).items()}
    live |= {"title": title, "sections": [section for section in sections if section.html], "state": state}
    return rendered("page.html", style=style, scripts=programs, hashes=hashes, model=packed, **live)


def rendered(name: str, **values: Any) -> Markup:
    """A template of assets/ with these values, which are escaped."""
    return Markup(_templates().get_template(name).render(values))


def html(block: str, **values: Any) -> Markup:
    """The HTML of a block: its macro in assets/blocks.html with these values, which are escaped."""
    return Markup(getattr(_templates().get_template("blocks.html").module, block)(**values).strip())


@cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
