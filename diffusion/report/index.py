"""The list of the runs in a folder: its runs, sweeps, evaluations and studies, newest first."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from diffusion.console import duration
from diffusion.errors import UserError
from diffusion.report import images
from diffusion.report.comparison import linked
from diffusion.report.formatting import MISSING
from diffusion.report.lines import Line, line
from diffusion.report.page import Markdown, Section, Table
from diffusion.runs.folder import Run, command_of, is_sweep, jobs_of, natural_order, runs_below

IMAGES, SIDE = 4, 64  # of a thumbnail; the largest side of its images in pixels


def index_sections(folder: Path, link: Callable[[Path], str | None]) -> list[Section]:
    """The sections of the list. The folders of other commands without scores, such as samples, are left out.

    Args:
        link: folder -> the URL of its page, or None if it has no page.
    """
    found = sorted(((path, command_of(path), line(path, folder)) for path in runs_below(folder)),
                   key=lambda entry: -entry[2].written)  # fmt: skip

    def name(path: Path) -> str:
        return linked(relative(path, folder), link(path))

    trained = [[name(path), *row_of(path, each)] for path, command, each in found if command == "train"]
    scored = [
        [name(path), command, f"{each.metric} {each.score}"]
        for path, command, each in found
        if command != "train" and each.metric
    ]
    sweeps = sorted({path.parent for path, _, _ in found if is_sweep(path.parent)}, key=natural_order)
    jobs = [[name(path), str(len(jobs_of(path)))] for path in sweeps]
    head = ("run", "samples", "state", "step", "left", "score", "last written")
    return [
        Section("Runs", [Table(head, trained, (3, 4, 5)) if trained else "No runs yet."]),
        Section("Sweeps", [Table(("sweep", "runs"), jobs, (1,))] if jobs else []),
        Section("Evaluations and studies", [Table(("folder", "command", "score"), scored)] if scored else []),
    ]


def row_of(path: Path, found: Line) -> list[str]:
    """A run in the table, without its name."""
    try:
        picture = images.latest(Run(path), IMAGES, IMAGES)
    except UserError:  # unreadable
        picture = None
    if picture:
        picture.thumbnail((SIDE * IMAGES, SIDE))
    steps = MISSING if found.steps is None else f"{found.steps:,}"
    return [
        Markdown(f"![samples]({images.address(picture)})" if picture else ""),
        f"{found.state}: {found.reason}" if found.reason else found.state,
        f"{steps} of {found.total_steps:,}" if found.total_steps else steps,
        MISSING if found.seconds_left is None else duration(found.seconds_left),
        f"{found.metric} {found.score}" if found.metric else MISSING,
        f"{datetime.fromtimestamp(found.written):%Y-%m-%d %H:%M:%S}",
    ]


def relative(path: Path, root: Path) -> str:
    """The path relative to `root`; for `root` itself, its name."""
    return path.resolve().name if path == root else str(path.relative_to(root))
