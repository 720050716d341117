"""A report: sections of Markdown, tables, charts, and HTML for pages only. A page is the rendering of its sections.

A block is a text in Markdown, in which text of the user is `escaped`. HTML inside it is shown as text. report.html is
one self-contained file, with its style and scripts; assets/page.js makes it interactive. A content security policy in
the page blocks all other scripts and all requests, so text of strangers cannot do anything.
"""

import base64
import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt
from rich import box
from rich.console import Console
from rich.table import Table as Printed

from diffusion.files import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parent / "assets"
NAME = "report.html"
MISSING = "—"  # in a table
DOCUMENT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{body}
{contents}
{scripts}
</body>
</html>
"""

LEAST = 80  # characters: a table is not made for a narrower console, on which it would lose names and digits
RENDERER = MarkdownIt("commonmark", {"html": False}).enable("table")


class Html(str):
    """HTML, for pages only."""


class Markdown(str):
    """The text of a cell in Markdown; any other text is escaped."""


class Picture(str):
    """A picture in Markdown, for files only."""


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element with children: text, which is escaped, elements, or lists of them; None is left out.

    `class_` is the attribute class and `data_at` data-at. True has no value; lists and mappings become JSON.
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


def code(text: str) -> str:
    """Commands for a shell."""
    return f"```bash\n{text}\n```"


@dataclass(frozen=True)
class Cell:
    """A cell of a table, and its full value in a CSV file."""

    text: str
    value: float | str | None = None
    bold: bool = False

    def marked(self, mark: str, text: str) -> str:
        """`text`, with `mark` on both sides if the cell is bold."""
        return f"{mark}{text}{mark}" if self.bold else text


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
        def shown(cell: Cell) -> str:
            text = cell.text if isinstance(cell.text, Markdown) else escaped(cell.text)
            return cell.marked("**", text).replace("|", "\\|")

        rule = ["--:" if i in self.numbers else "---" for i in range(len(self.head))]
        lines = [map(escaped, self.head), rule, *(map(shown, row) for row in self.cells)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def csv(self) -> str:
        """The text of a CSV file, with full values instead of rounded ones."""
        full = [[c.text.replace(MISSING, "") if c.value is None else c.value for c in row] for row in self.cells]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.head, *full])
        return text.getvalue()

    def print(self, console: Console) -> None:
        """Print the table; if it is too wide, in parts that each begin with the first column, which may be wrapped."""
        width = max(LEAST, console.width)
        texts = [self.head, *([cell.marked("*", cell.text) for cell in row] for row in self.cells)]
        widths = [3 + max(map(len, column)) for column in zip(*texts, strict=True)]
        first = min(widths[0], max(24, width // 3))
        parts: list[list[int]] = [[]]
        for i in range(1, len(self.head)):
            if parts[-1] and first + sum(widths[j] for j in [*parts[-1], i]) + 2 > width:
                parts.append([])
            parts[-1].append(i)
        for part in parts:
            made = Printed(box=box.SIMPLE_HEAD)
            made.add_column(self.head[0], max_width=first - 3, overflow="fold")
            for i in part:
                made.add_column(self.head[i], justify="right" if i in self.numbers else "left", no_wrap=True)
            for line in texts[1:]:
                made.add_row(line[0], *(line[i] for i in part))
            console.print(made, soft_wrap=False, crop=False, width=width)


@dataclass(frozen=True)
class Chart:
    """A figure: SVG in a page; in Markdown, a link to its PNG `file`, relative to the report, if it has one."""

    caption: str
    figure: "Figure"
    file: str | None = None
    by_step: bool = False  # the x axis is the training step

    def html(self) -> Html:
        from diffusion.report import style  # matplotlib: status does without it

        drawing = Html(style.svg(self.figure, self.caption, self.by_step))
        return tag("figure", drawing, tag("figcaption", self.caption), class_="chart")

    def markdown(self) -> str:
        return picture(self.file, self.caption) if self.file else ""


def picture(file: str, caption: str) -> Picture:
    """A picture of the report's folder, with its caption."""
    return Picture(f"![{Path(file).stem}]({file})\n\n*{escaped(caption)}*")


def slider(label: str, texts: Sequence[str], steps: Sequence[int] = (), play: bool = False) -> Html:
    """A slider for its section: for the rows of images and, with training `steps`, for the charts."""
    return tag("div", class_="slider", data_label=label, data_texts=texts, data_steps=steps, data_play=play)


Block = str | Table | Chart


class Section:
    """A part of a report with a title; without one, it is a beginning or an end."""

    def __init__(self, title: str, blocks: Iterable[Block | None]):
        self.title, self.anchor = title, title.lower().replace(" ", "-") or "summary"
        self.blocks = [block for block in blocks if block]

    def html(self) -> Html:
        """The section; empty without content."""
        parts = []
        for block in self.blocks:
            if isinstance(block, Html | Chart):
                parts.append(block if isinstance(block, Html) else block.html())
            elif not isinstance(block, Picture):
                parts.append(Html(RENDERER.render(block if isinstance(block, str) else block.markdown())))
        if not (content := joined(parts)):
            return content
        heading = tag("h2", self.title) if self.title else None
        return tag("section", heading, content, id=self.anchor, aria_label=self.title or None)

    def markdown(self) -> str:
        blocks = [block for block in self.blocks if not isinstance(block, Html)]
        parts = [*filter(None, (block if isinstance(block, str) else block.markdown() for block in blocks))]
        return "\n\n".join([f"## {self.title}", *parts] if self.title and parts else parts)


def write_files(
    folder: Path, name: str, title: str, sections: Sequence[Section], state: str | None = None
) -> list[Path]:
    """Write the Markdown of a report into the file `name`, the PNG files of its charts, and report.html.

    Returns the paths. `state` is that of a run.
    """
    from diffusion.report import style

    parts = [f"# {escaped(title)}", *(section.markdown() for section in sections)]
    replace(folder / name, "\n\n".join(filter(None, parts)) + "\n")
    charts = [block for section in sections for block in section.blocks if isinstance(block, Chart) and block.file]
    saved = [style.save(chart.figure, folder / str(chart.file)) for chart in charts]
    replace(folder / NAME, document(title, sections, state))
    return [folder / name, *saved, folder / NAME]


def document(
    title: str,
    sections: Iterable[Section],
    state: str | None = None,
    home: str | None = None,
    live: Mapping[str, Any] | None = None,
    model: Mapping[str, bytes] | None = None,
) -> str:
    """The page with these sections.

    Args:
        state: the state of a run, next to the title.
        home: the address of the page that lists all runs.
        live: `version` of a page that asks its server for a newer one, and how often: `refresh`, in seconds.
        model: for a page that draws samples (assets/draw.js): the files that its script unpacks, name -> gzip.
    """
    made = [(section, text) for section in sections if (text := section.html())]
    links = [tag("li", tag("a", each.title, href=f"#{each.anchor}")) for each, _ in made if each.title]
    head = [
        tag("p", tag("a", "all runs", href=home)) if home else None,
        tag("h1", title),
        tag("span", state, class_=f"badge {state.replace(' ', '')}") if state else None,
        tag("nav", tag("ul", links), aria_label="Contents") if len(links) > 2 else None,
    ]
    data = {f"data_{key}": value for key, value in (live or {}).items()}
    scripts = [asset(name) for name in ("page.js", *(["draw.js"] if model else []))]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    if model:
        allowed += " blob: 'wasm-unsafe-eval'"  # the network's runtime is a JS module and a WebAssembly program
    packed = [
        f'<script type="application/gzip" id="packed-{name}">{base64.b64encode(content).decode()}</script>'
        for name, content in (model or {}).items()
    ]
    return DOCUMENT.format(
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src '{'self' if live else 'none'}'; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        style=asset("page.css"),
        body=tag("main", tag("header", head), [text for _, text in made], id="page", **data),
        contents="\n".join(packed),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def asset(name: str) -> str:
    """The text of a file of assets/."""
    return (ASSETS / name).read_text("utf-8").strip()
