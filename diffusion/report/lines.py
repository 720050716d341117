"""A run's entry in a list of runs: state, steps, time left, score."""

import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.formatting import half_width, number
from diffusion.runs.folder import PARTS, Run
from diffusion.runs.record import RunRecord


@dataclass(frozen=True)
class Line:
    """A run's entry in a list of runs."""

    run: str  # its path relative to the listed folder
    state: str
    steps: int | None
    total_steps: int | None
    seconds_left: float | None  # only while running; at the rate so far
    metric: str | None
    value: float | None
    written: float  # time of the last write, as a Unix timestamp
    reason: str
    score: str  # the value, rounded according to its interval
    lower: bool | None = None  # whether lower is better; None if neither or unknown


def line(folder: Path, root: Path) -> Line:
    """The entry of the run in `folder`."""
    run, score = Run(folder), None
    content, state, reason = run.info, RunRecord(folder).state, str(run.info.get("reason", ""))
    try:
        score = last_score(run)
    except UserError as error:
        reason = reason or str(error).removeprefix(f"{folder}/")
    return Line(
        run=str(folder.relative_to(root)),
        state=state,
        steps=content.get("steps"),
        total_steps=content.get("total_steps"),
        seconds_left=seconds_left(content, time.time()) if state == "running" else None,
        metric=score.name if score else None,
        value=score.value if score and math.isfinite(score.value) else None,
        written=next(file.stat().st_mtime for part in PARTS if (file := folder / part).exists()),
        reason=reason,
        score=number(score.value, half_width(score)) if score else "",
        lower=None if score is None or score.higher_is_better is None else not score.higher_is_better,
    )


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
