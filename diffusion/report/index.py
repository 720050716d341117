"""report.html of a folder of runs: a list of its runs, sweeps, evaluations and studies, newest first."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.console import count, duration
from diffusion.errors import UserError
from diffusion.report import pictures
from diffusion.report.blocks import Block, Cell, Html, Section, Table, either, paragraph, tag
from diffusion.report.formatting import MISSING
from diffusion.report.lines import Line, line
from diffusion.runs.folder import Run, command_of, is_sweep, jobs_of, natural_order, runs_below

IMAGES, SIDE = 4, 64  # of a thumbnail; the largest side of its images in pixels


class Entry(NamedTuple):
    """A folder in the list, and the command that made it."""

    line: Line
    command: str
    picture: Html | None


def entry_of(path: Path, root: Path) -> Entry:
    """The entry of a folder."""
    try:
        picture = pictures.latest(Run(path), IMAGES, IMAGES, SIDE)
    except UserError:  # unreadable
        picture = None
    image = pictures.shown(picture, f"Samples of {path.name}") if picture else None
    return Entry(line(path, root), command_of(path), image)


def index_sections(
    folder: Path, link: Callable[[Path], str | None], entry: Callable[[Path], Entry] | None = None
) -> list[Section]:
    """The sections of the list. The folders of other commands without scores, such as samples, are left out.

    Args:
        link: folder -> the URL of its page, or None if it has no page.
        entry: folder -> the result of `entry_of`, which a server can cache.
    """
    found = {path: entry(path) if entry else entry_of(path, folder) for path in runs_below(folder)}
    trained = {path: each for path, each in found.items() if each.command == "train"}
    scored = {path: each for path, each in found.items() if each.line.metric and path not in trained}
    sweeps = {path.parent for path in [*trained, *scored] if is_sweep(path.parent)}

    def newest(entries: dict[Path, Entry]) -> list[tuple[Path, Entry]]:
        return sorted(entries.items(), key=lambda item: -item[1].line.written)

    def listed(items: list[tuple[Path, str, str]]) -> list[Block]:
        texts = [[tag("a", name, href=link(path)) if link(path) else name, words] for path, name, words in items]
        return [either(tag("ul", [tag("li", each) for each in texts]))] if texts else []

    runs = Table(
        ["run", "samples", "state", "step", "left", "score", "last written"],
        [row_of(each, link(path), relative(path, folder)) for path, each in newest(trained)], "Runs", (3, 4, 5),
    )  # fmt: skip
    jobs = [(path, relative(path, folder), f" ({count(len(jobs_of(path)), 'run')})") for path in sweeps]
    made = [
        (p, relative(p, folder), f" (diffusion.{e.command}): {e.line.metric} {e.line.score}") for p, e in newest(scored)
    ]
    return [
        Section("Runs", lambda: [runs if trained else paragraph("No runs yet.")]),
        Section("Sweeps", lambda: listed(sorted(jobs, key=lambda job: natural_order(job[0])))),
        Section("Evaluations and studies", lambda: listed(made)),
    ]


def row_of(entry: Entry, link: str | None, name: str) -> list[Any]:
    """A run in the table."""
    found = entry.line
    steps = MISSING if found.steps is None else f"{found.steps:,}"
    left = Cell(MISSING) if found.seconds_left is None else Cell(duration(found.seconds_left), found.seconds_left)
    badge = tag("span", found.state, class_=f"badge {''.join(filter(str.isalnum, found.state))}")
    reason = tag("div", found.reason, class_="soft") if found.reason else None
    score = f"{found.metric} {found.score}" if found.metric else MISSING
    order = MISSING if found.value is None else f"{found.metric} {found.value:020.9f}"
    return [
        Cell(name, link=link),
        Cell("", picture=entry.picture),
        Cell("", found.state, picture=Html(badge + (reason or ""))),
        Cell(f"{steps} of {found.total_steps:,}" if found.total_steps else steps, found.steps),
        left,
        Cell(score, order),
        Cell(f"{datetime.fromtimestamp(found.written):%Y-%m-%d %H:%M:%S}", found.written),
    ]


def relative(path: Path, root: Path) -> str:
    """The path relative to `root`; for `root` itself, its name."""
    inside = str(path.relative_to(root))
    return path.resolve().name if inside == "." else inside
