"""The list of the runs in a folder, for the terminal and as a page: state, steps, time left, score, picture."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from diffusion.base.console import duration
from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.page import Block, Cell, Section, Table, html, listed
from diffusion.report.scores import value_text
from diffusion.runs.folder import DAMAGED, PARTS, Run, is_sweep, jobs_of, natural_order, runs_below

IMAGES, SIDE = 4, 64  # of a thumbnail; the largest side of its images in pixels
HEAD = ("run", "state", "score", "step", "left", "last written")


class Line(NamedTuple):
    """The entry of a run, or of another command that computed scores; what is not known is None."""

    run: Run
    name: str
    state: str
    reason: str
    score: Score | None
    step: int | None
    total_steps: int | None
    left: float | None  # seconds; 0 in the last samples and scores
    written: datetime

    @property
    def cells(self) -> list[Cell | str | None]:
        """Those of `HEAD`."""
        shown = Cell(f"{self.score.name} {value_text(self.score)}", self.score.value) if self.score else None
        steps = [each for each in (self.step, self.total_steps) if each is not None]
        of_total = Cell(" of ".join(f"{each:,}" for each in steps), steps[0]) if steps else None
        words = duration(self.left) if self.left else "last samples and scores"
        time = None if self.left is None else Cell(words, self.left)
        return [self.name, self.state, shown, of_total, time, f"{self.written:%F %T}"]


def lines_below(folder: Path) -> list[Line]:
    """The entries of the folders at or below `folder`, ordered by name. Commands without scores are left out."""
    lines = []
    for run in map(Run, runs_below(folder)):
        try:
            info, state, score, _ = run.info, run.state, last_score(run), (run.config, run.record)
            reason = str(info.get("reason", ""))
        except UserError as error:
            info, state, score, reason = {}, DAMAGED, None, str(error)
        if info or score or reason:
            name, steps = str(run.folder.relative_to(folder)), (info.get("steps"), info.get("total_steps"))
            left = info.get("left") if state == "running" else None
            written = next(file.stat().st_mtime for part in PARTS if (file := run.folder / part).exists())
            lines.append(Line(run, name, state, reason, score, *steps, left, datetime.fromtimestamp(written)))
    return lines


def last_score(run: Run) -> Score | None:
    """The latest score of images by the run's first distance or else first metric, or the last validation error."""
    of_images = [score for score in run.scores if score.what in ("samples", "images")]
    scored = [score for score in of_images if not score.metric.startswith("copies")]
    if scored:
        first = next((score for score in scored if score.higher_is_better is False), scored[0])
        return [score for score in scored if score.name == first.name][-1]
    series = run.metrics.get("val/mse")
    return None if series is None else Score("val/mse", float(series.value[-1]), None)


def index_sections(folder: Path, link: Callable[[Path], str | None], choose: str | None = None) -> list[Section]:
    """The sections of the page, newest runs first. `link` gives the URL of a folder's page, or None if it has none.

    `choose` is the URL of a page that compares runs, whose parameters `run` are the links of those with a mark.
    """
    lines = sorted(lines_below(folder), key=lambda line: str(line.cells[-1]), reverse=True)
    rows = [[pictured(line, link), *line.cells[1:]] for line in lines]
    found = sorted({path for line in lines if is_sweep(path := line.run.folder.parent)}, key=natural_order)
    sweeps = [(Cell(str(path.relative_to(folder)), url=link(path)), len(jobs_of(path))) for path in found]
    button = Block(html=html("choose", action=choose)) if choose and len(rows) > 1 else None
    reasons = listed(f"{line.name}: {line.reason}" for line in lines if line.reason)
    return [
        Section("Sweeps", [Table(("sweep", "runs"), sweeps)] if sweeps else []),
        Section("Runs", [button, Table(HEAD, rows), reasons] if rows else ["No runs yet."]),
    ]


def pictured(line: Line, link: Callable[[Path], str | None]) -> Cell:
    """The name of a run after its first samples, both with a link to its page."""
    from diffusion.report import images  # imports torch, which would slow `status`

    image = ""
    if (picture := images.latest(line.run, IMAGES, IMAGES)) is not None:
        picture.thumbnail((SIDE * IMAGES, SIDE))
        image = images.address(picture)
    return Cell(line.name, url=link(line.run.folder), image=image)
