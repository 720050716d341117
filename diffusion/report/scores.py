"""Numbers, configurations and scores as text, and the tables of scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.base.console import console
from diffusion.metric.record import Score
from diffusion.report.page import MISSING, Table, listed

# The baselines of a score, as named in tables and figures.
BASELINES = {"noise": "pure noise", "real": "real images", "split_half": "split half"}


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


def describe(node: Any) -> str:
    """A configuration node as a line of text: `AdamW(lr=0.0003, betas=[0.9, 0.999])`, `steps=50, eta=0`, `true`.

    A part has the name of its class (`_target_`) or, in the source of a score, its `name`.
    """
    if isinstance(node, Mapping):
        key = "_target_" if "_target_" in node else "name"
        name = str(node.get(key) or "").rpartition(".")[2]
        inside = ", ".join(f"{k}={describe(v)}" for k, v in node.items() if k != key and not k.startswith("_"))
        return f"{name}({inside})" if name and inside else name or inside or "none"
    if isinstance(node, list | tuple):
        return "[" + ", ".join(map(describe, node)) + "]"
    if isinstance(node, bool) or node is None:
        return str(node).lower()
    return f"{node:g}" if isinstance(node, float) else str(node)


def alike(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """`a, b: WORDS`: the names that have the same words together, from pairs of a name and words."""
    groups: dict[str, dict[str, None]] = {}
    for name, words in pairs:
        groups.setdefault(words, {})[name] = None
    return [f"{', '.join(names)}: {words}" for words, names in groups.items()]


def half_width(score: Score) -> float:
    """Half the width of a score's interval; NaN if it has none."""
    low, high = score.interval or (math.nan, math.nan)
    return (high - low) / 2


def ends(score: Score) -> tuple[float, float]:
    """The bounds of a score's interval; the value twice if it has none."""
    return score.interval or (score.value, score.value)


def value_text(score: Score | None) -> str:
    """The value with its interval, if it has one; `—` if there is no value."""
    if score is None or math.isnan(score.value):
        return MISSING
    if score.interval is None:
        return number(score.value)
    half = half_width(score)
    low, high = (number(0.0 if abs(end) < 1e-12 else end, half) for end in score.interval)  # a proportion's rounding
    return f"{number(score.value, half)} [{low}, {high}]"


def protocol_text(score: Score) -> str:
    """All parts of the protocol: `256 images; features lite0; …; reference split val; reference n 250; …`."""
    parts = {key: value for key, value in score.protocol.items() if key not in ("metric", "n") and value is not None}
    return "; ".join([f"{score.n} images", *(f"{key} {describe(value)}" for key, value in parts.items())])


def source_text(score: Score) -> str:
    """How the scored images were made: `samples, step=400, weights=ema, sampler=DDIM(steps=50, eta=0), seed=7`."""
    keys = ("step", "weights", "sampler", "guidance", "precision", "seed")
    made = {key: score.source[key] for key in keys if score.source.get(key) is not None}
    return ", ".join([score.what, *(f"{key}={describe(value)}" for key, value in made.items())])


def protocols(scores: Sequence[Score]) -> list[str]:
    """How the scored samples were made, and how each score was measured."""
    made = alike((score.name, source_text(score)) for score in scores if score.what not in BASELINES)
    measured = alike((score.name, protocol_text(score)) for score in scores)
    words = listed(f"{words}." for words in [*made, *measured])
    return ["Only compare numbers of the same protocol.", words] if words else []


def table_order(score: Score) -> tuple[Any, ...]:
    """The place of a score in a table: the distances first, those to the training images later, copies last."""
    return score.metric == "copies", score.name.startswith("train/"), score.higher_is_better is not False, score.name


def score_table(scores: Sequence[Score]) -> Table:
    """The latest scores, the distances first, next to their baselines; of another number of images, with that."""
    columns = [what for what in BASELINES if any(score.what == what for score in scores)]
    latest: dict[tuple[Any, ...], dict[str, Score]] = {}  # in order -> what was scored -> its score
    for score in sorted(scores, key=table_order):
        latest.setdefault((score.name, score.reference), {})[score.what] = score
    rows: list[list[str]] = []
    for found in latest.values():
        one = next(iter(found.values()))
        name = f"{one.name}, {one.what}" if one.what.startswith("class ") else one.name
        own = [score for what, score in found.items() if what not in BASELINES]
        n = own[0].n if own else None
        other = {what: f" (n = {score.n})" * (n not in (None, score.n)) for what, score in found.items()}
        baselines = [number(s.value, half_width(s)) + other[w] if (s := found.get(w)) else MISSING for w in columns]
        rows += [[name, value, *baselines] for value in [value_text(score) for score in own] or [MISSING]]
    head = ["score", "value", *(BASELINES[what] for what in columns)]
    return Table(head, rows, range(1, 2 + len(columns)))


def print_scores(scores: Sequence[Score]) -> None:
    """Print the scores with their intervals and baselines."""
    first = scores[0]
    console.print(f"{first.n} images against {first.reference.n or 'the statistics'} of {first.reference.split}")
    score_table(scores).print(console)
