"""The table of scores, on the console and in reports."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.console import console
from diffusion.metric.record import Score
from diffusion.report.blocks import Cell, Table
from diffusion.report.formatting import BASELINES, MISSING, half_width, number, protocol_text, sampler_text, value_text

LEAST = 80  # characters that every table fits into; on narrower consoles, it would lose names and digits


def score_table(scores: Sequence[Score], origins: bool = True, folded: str | None = None) -> Table:
    """A row per score, with its baselines; with `origins`, also its protocol's number and how its images were made.

    A baseline is next to a score of the same protocol; `untrained` samples also need the same sampler. A baseline that
    belongs to no score has its own row.
    """
    protocols = [*dict.fromkeys(protocol_text(score) for score in scores)]
    columns = [what for what in BASELINES if any(score.what == what for score in scores)]
    found: list[tuple[Score, dict[str, Score | None]]] = [
        (score, {what: _baseline(what, score, scores) for what in columns})
        for score in scores
        if score.what not in BASELINES
    ]
    used = {id(baseline) for _, baselines in found for baseline in baselines.values()}
    found += [(score, {score.what: score}) for score in scores if score.what in BASELINES and id(score) not in used]
    rows = []
    for score, baselines in found:
        own = score.what not in BASELINES
        cells: list[Any] = [Cell(value_text(score), score.value, bold=origins) if own else Cell(MISSING)]
        for what in columns:
            other = baselines.get(what)
            cells.append(MISSING if other is None else number(other.value, half_width(other)))
        if origins:
            cells += [f"[{1 + protocols.index(protocol_text(score))}]", source_text(score)]
        rows.append([score.name, *cells])
    head = ["score", "value", *(BASELINES[what] for what in columns), *(["protocol", "source"] if origins else [])]
    return Table(head, rows, "Scores", range(1, 2 + len(columns)), folded=folded)


def _baseline(what: str, score: Score, scores: Sequence[Score]) -> Score | None:
    """The latest of `scores` that is the baseline `what` for `score`."""
    for other in reversed(scores):
        same_sampler = what != "untrained" or other.source.get("sampler") == score.source.get("sampler")
        if other.what == what and same_sampler and other.protocol_key == score.protocol_key:
            return other
    return None


def source_text(score: Score) -> str:
    """How the scored images were made: `samples, step 400, ema weights, DDIM(steps=50, eta=0), seed 7`."""
    source = score.source
    step, weights, seed = (source.get(key) for key in ("step", "weights", "seed"))
    parts = [
        score.what,
        None if step is None else f"step {step:,}",
        f"{weights} weights" if weights else None,
        *(sampler_text(source[key]) for key in ("sampler", "guidance") if isinstance(source.get(key), Mapping)),
        source.get("precision"),
        None if seed is None else f"seed {seed}",
    ]
    return ", ".join(filter(None, parts))


def print_scores(scores: Sequence[Score]) -> None:
    """Print the scores with their intervals and baselines."""
    first = scores[0]
    assert first.reference is not None
    console.print(f"{first.n} images against {first.reference.n} of {first.reference.split}")
    print_table(score_table(scores, origins=False))


def print_by_class(scores: Sequence[Score]) -> None:
    """Print the scores of the samples of each class, one row per class."""
    metrics = [*dict.fromkeys(score.metric for score in scores)]
    rows = []
    for what in dict.fromkeys(score.what for score in scores):
        row = {score.metric: score for score in scores if score.what == what}
        values = [number(s.value, half_width(s)) if (s := row.get(metric)) else MISSING for metric in metrics]
        rows.append([what.removeprefix("class "), str(next(iter(row.values())).n), *values])
    if scores:
        print_table(Table(["class", "samples", *metrics], rows, "Scores by class", range(1, 2 + len(metrics))))


def print_table(table: Table) -> None:
    """Print a table; no name and no number is left out on a narrow console, whose terminal wraps the lines."""
    for part in table.printed(max(LEAST, console.width)):
        console.print(part, soft_wrap=False, crop=False, width=max(LEAST, console.width))


def latest(scores: Sequence[Score]) -> dict[str, dict[str, Score]]:
    """Metric -> what was scored -> its latest score; without values that are not finite."""
    found: dict[str, dict[str, Score]] = {}
    for score in sorted(scores, key=lambda score: [score.what in BASELINES, *BASELINES].index(score.what in BASELINES)):
        if math.isfinite(score.value):
            found.setdefault(score.name, {})[score.what] = score
    return found
