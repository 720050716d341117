"""Numbers, configurations and scores as text, and the tables of scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.console import console
from diffusion.metric.record import Score
from diffusion.report.page import MISSING, Table

# The baselines of a score, as named in tables and figures.
BASELINES = {"untrained": "untrained network", "noise": "pure noise", "real": "real images", "floor": "floor"}


def number(value: float, half: float | None = None) -> str:
    """Format a number to the second significant digit of `half`, half the width of its interval.

    Without an interval, to 4 significant digits: `0.01234`, `29610`; with an exponent from 1e6 on and below 1e-4.
    """
    if value == 0 or not math.isfinite(value):
        return f"{abs(value):g}"
    size = math.floor(math.log10(abs(value)))
    if half is None or not 0 < half < math.inf:
        rounded = float(f"{value:.4g}")
        return f"{rounded:.0f}" if 3 <= size < 6 else f"{rounded:.4g}"
    digits = min(1 - math.floor(math.log10(float(f"{half:.1e}"))), 5 - size)  # 6 significant digits are enough
    return f"{round(value, digits) + 0.0:.{max(0, digits)}f}"


def plus_minus(value: float, half: float) -> str:
    """`105.7 ± 1.2`; only the number if `half` is NaN. A half of only rounding errors is 0."""
    half = 0.0 if half < 1e-12 * max(1.0, abs(value)) else half
    return number(value, half) + (f" ± {number(half, half)}" if half >= 0 else "")


def describe(node: Any, target: str = "_target_") -> str:
    """A configuration node as a line of text: `AdamW(lr=0.0003, betas=[0.9, 0.999])`, `steps=50, eta=0`, `true`.

    Args:
        target: the key of a part's class; `name` in the source of a score, whose null settings are left out.
    """
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key != target and not key.startswith("_")}
        shown = [f"{k}={describe(v, target)}" for k, v in kept.items() if v is not None or target != "name"]
        name, inside = str(node.get(target) or "").rpartition(".")[2], ", ".join(shown)
        return f"{name}({inside})" if name and inside else name or inside or "none"
    if isinstance(node, list | tuple):
        return "[" + ", ".join(describe(value, target) for value in node) + "]"
    if isinstance(node, bool) or node is None:
        return {True: "true", False: "false", None: "none"}[node]
    return f"{node:g}" if isinstance(node, float) else str(node)


def alike(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """`a, b: WORDS`: the names that have the same words together, from pairs of a name and words."""
    groups: dict[str, dict[str, None]] = {}
    for name, words in pairs:
        groups.setdefault(words, {})[name] = None
    return [f"{', '.join(names)}: {words}" for words, names in groups.items()]


def half_width(score: Score) -> float:
    """Half the width of a score's interval, or else its std; NaN if it has neither."""
    if score.interval:
        return (score.interval[1] - score.interval[0]) / 2
    return math.nan if score.std is None else score.std


def value_text(score: Score | None) -> str:
    """The value with its interval, or ± std if it has no interval; `—` if there is no value."""
    if score is None or math.isnan(score.value):
        return MISSING
    half = half_width(score)
    if not score.interval:
        return plus_minus(score.value, half)
    low, high = (number(0.0 if abs(end) < 1e-12 else end, half) for end in score.interval)  # a proportion's rounding
    return f"{number(score.value, half)} [{low}, {high}]"


def protocol_text(score: Score) -> str:
    """`256 images of 64x64 pixels against the 250 images of the reference split `val` (key `…`); features `lite0`…`."""
    settings = [describe(score.settings)] * bool(score.settings)
    split = f"split `{score.reference.split}` (key `{score.reference.key}`)"
    if score.what == "network":  # bits per dimension
        return f"the {score.n} images of the {split}; {', '.join(settings)}"
    size, _, shown = (score.resolution or "").partition(" ")
    pixels = f" of {size} pixels" * bool(size) + f" ({shown})" * bool(shown)
    names = {"features": score.features, "weights hash": score.weights_hash, "resize": score.resize}
    parts = [f"{name} `{value}`" if value else f"{name} not recorded" for name, value in names.items()]
    against = f"the {score.reference.n} images of the reference {split}"
    return f"{score.n} images{pixels} against {against}; {', '.join(parts + settings)}"


def source_text(score: Score) -> str:
    """How the scored images were made: `samples, step 400, ema weights, DDIM(steps=50, eta=0), seed 7`."""
    source = score.source
    parts = [score.what]
    if source.get("step") is not None:
        parts.append(f"step {source['step']:,}")
    if source.get("weights"):
        parts.append(f"{source['weights']} weights")
    parts += [describe(source[key], "name") for key in ("sampler", "guidance", "precision") if source.get(key)]
    if source.get("seed") is not None:
        parts.append(f"seed {source['seed']}")
    return ", ".join(parts)


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


def print_scores(scores: Sequence[Score]) -> None:
    """Print the scores with their intervals and baselines."""
    first = scores[0]
    console.print(f"{first.n} images against {first.reference.n} of {first.reference.split}")
    score_table(scores).print(console)


def print_by_class(scores: Sequence[Score]) -> None:
    """Print the scores of the samples of each class, one row per class."""
    metrics, rows = [*dict.fromkeys(score.metric for score in scores)], []
    for what in dict.fromkeys(score.what for score in scores):
        row = {score.metric: score for score in scores if score.what == what}
        values = [number(s.value, half_width(s)) if (s := row.get(metric)) else MISSING for metric in metrics]
        rows.append([what.removeprefix("class "), str(next(iter(row.values())).n), *values])
    if rows:
        Table(["class", "samples", *metrics], rows, range(1, 2 + len(metrics))).print(console)
