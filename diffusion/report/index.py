"""The list of the runs in a folder, in the terminal and as a page: state, steps, time left, score, picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.console import duration
from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.page import MISSING, Markdown, Section, Table, linked
from diffusion.report.scores import half_width, number
from diffusion.runs.folder import PARTS, Run, command_of, is_sweep, jobs_of, natural_order, runs_below
from diffusion.runs.record import RunRecord

IMAGES, SIDE = 4, 64  # of a thumbnail; the largest side of its images in pixels


@dataclass(frozen=True)
class Line:
    """A run's entry in a list of runs."""

    folder: Path
    state: str
    reason: str
    steps: str  # `300 of 1,000`
    left: str
    score: Score | None
    written: float  # time of the last write, as a Unix timestamp

    @property
    def score_text(self) -> str:
        """The metric and its value, rounded according to its interval."""
        return f"{self.score.name} {number(self.score.value, half_width(self.score))}" if self.score else MISSING


def line(folder: Path) -> Line:
    """The entry of the run in `folder`."""
    run, score = Run(folder), None
    info, state, reason = run.info, RunRecord(folder).state, str(run.info.get("reason", ""))
    try:
        score = last_score(run)
    except UserError as error:
        reason = reason or str(error).removeprefix(f"{folder}/")
    numbers = [f"{info[key]:,}" for key in ("steps", "total_steps") if info.get(key) is not None]
    left = seconds_left(info, time.time()) if state == "running" else None
    written = next(file.stat().st_mtime for part in PARTS if (file := folder / part).exists())
    steps, words = " of ".join(numbers) or MISSING, MISSING if left is None else duration(left)
    return Line(folder, state, reason, steps, words, score, written)


def seconds_left(content: dict[str, Any], now: float) -> float | None:
    """Time for the remaining steps at the rate since the run was started or resumed; None if unknown."""
    try:
        done = content["steps"] - content.get("first_step", 0)
        passed = now - datetime.fromisoformat(content["started"]).timestamp()
        return float((content["total_steps"] - content["steps"]) * passed / done)
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return None


def last_score(run: Run) -> Score | None:
    """The latest score of samples by the run's first metric (except copies), or else the last validation error."""
    scored = [score for score in run.scores if score.what == "samples" and not score.metric.startswith("copies")]
    if scored:
        return [score for score in scored if score.name == scored[0].name][-1]
    series = run.metrics.get("val/mse")
    return None if series is None else Score("val/mse", float(series.value[-1]), None)


def index_sections(folder: Path, link: Callable[[Path], str | None]) -> list[Section]:
    """The sections of the page, newest runs first. Folders of other commands without scores are left out.

    Args:
        link: folder -> the URL of its page, or None if it has no page.
    """
    lines = sorted(map(line, runs_below(folder)), key=lambda each: -each.written)

    def name(path: Path) -> str:
        return linked(path.resolve().name if path == folder else str(path.relative_to(folder)), link(path))

    runs, scored = [], []
    for each in lines:
        if (command := command_of(each.folder)) == "train":
            state = f"{each.state}: {each.reason}" if each.reason else each.state
            written = f"{datetime.fromtimestamp(each.written):%Y-%m-%d %H:%M:%S}"
            picture = thumbnail(each.folder)
            runs.append([name(each.folder), picture, state, each.steps, each.left, each.score_text, written])
        elif each.score:
            scored.append([name(each.folder), command, each.score_text])
    found = {each.folder.parent for each in lines if is_sweep(each.folder.parent)}
    sweeps = [[name(path), str(len(jobs_of(path)))] for path in sorted(found, key=natural_order)]
    head = ("run", "samples", "state", "step", "left", "score", "last written")
    return [
        Section("Runs", [Table(head, runs, (3, 4, 5)) if runs else "No runs yet."]),
        Section("Sweeps", [Table(("sweep", "runs"), sweeps, (1,))] if sweeps else []),
        Section("Evaluations and studies", [Table(("folder", "command", "score"), scored)] if scored else []),
    ]


def thumbnail(folder: Path) -> Markdown:
    """The first samples of a run; empty if there are none, or if they cannot be read."""
    from diffusion.report import images  # imports torch, which would slow `status`

    try:
        picture = images.latest(Run(folder), IMAGES, IMAGES)
    except UserError:
        picture = None
    if picture is None:
        return Markdown("")
    picture.thumbnail((SIDE * IMAGES, SIDE))
    return Markdown(f"![samples]({images.address(picture)})")
