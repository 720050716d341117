"""The table of scores, on the console and in reports."""

from collections.abc import Sequence

from diffusion.console import console
from diffusion.metric.record import Score
from diffusion.report.formatting import BASELINES, MISSING, describe, half_width, number, value_text
from diffusion.report.page import Table


def score_table(scores: Sequence[Score]) -> Table:
    """The latest scores, next to the baselines of the same protocol; a baseline without a score has its own row."""
    columns = [what for what in BASELINES if any(score.what == what for score in scores)]
    latest: dict[str, dict[str, Score]] = {}  # protocol -> what was scored -> its score
    for score in scores:
        latest.setdefault(score.protocol_key, {})[score.what] = score
    rows: list[list[str]] = []
    for found in latest.values():
        name = next(iter(found.values())).name
        baselines = [number(s.value, half_width(s)) if (s := found.get(what)) else MISSING for what in columns]
        values = [value_text(score) for what, score in found.items() if what not in BASELINES]
        rows += [[name, value, *baselines] for value in values or [MISSING]]
    head = ["score", "value", *(BASELINES[what] for what in columns)]
    return Table(head, rows, range(1, 2 + len(columns)))


def source_text(score: Score) -> str:
    """How the scored images were made: `samples, step 400, ema weights, DDIM(steps=50, eta=0), seed 7`."""
    source = score.source
    step, weights, seed = (source.get(key) for key in ("step", "weights", "seed"))
    parts = [
        score.what,
        None if step is None else f"step {step:,}",
        f"{weights} weights" if weights else None,
        *(describe(source[key], "name") for key in ("sampler", "guidance") if source.get(key)),
        source.get("precision"),
        None if seed is None else f"seed {seed}",
    ]
    return ", ".join(filter(None, parts))


def print_scores(scores: Sequence[Score]) -> None:
    """Print the scores with their intervals and baselines."""
    first = scores[0]
    assert first.reference is not None
    console.print(f"{first.n} images against {first.reference.n} of {first.reference.split}")
    score_table(scores).print(console)


def print_by_class(scores: Sequence[Score]) -> None:
    """Print the scores of the samples of each class, one row per class."""
    metrics = [*dict.fromkeys(score.metric for score in scores)]
    rows = []
    for what in dict.fromkeys(score.what for score in scores):
        row = {score.metric: score for score in scores if score.what == what}
        values = [number(s.value, half_width(s)) if (s := row.get(metric)) else MISSING for metric in metrics]
        rows.append([what.removeprefix("class "), str(next(iter(row.values())).n), *values])
    if rows:
        Table(["class", "samples", *metrics], rows, range(1, 2 + len(metrics))).print(console)
