"""Text for reports: configuration nodes, numbers, and scores with their protocols."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffusion.metric.record import Score

MISSING = "—"
# The baselines of a score, as named in tables and figures.
BASELINES = {"untrained": "untrained network", "noise": "pure noise", "real": "real images", "floor": "floor"}


def describe(node: Any, target: str = "_target_") -> str:
    """A configuration node as a line of text: `AdamW(lr=0.0003, betas=[0.9, 0.999])`, `steps=50, eta=0`, `true`.

    Args:
        target: the key of a part's class; `name` in the source of a score, whose null settings are left out.
    """
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key != target and not key.startswith("_")}
        if target == "name":
            kept = {key: value for key, value in kept.items() if value is not None}
        inside = ", ".join(f"{key}={describe(value, target)}" for key, value in kept.items())
        name = str(node.get(target) or "").rpartition(".")[2]
        return f"{name}({inside})" if name and inside else name or inside or "none"
    if isinstance(node, list | tuple):
        return "[" + ", ".join(describe(value, target) for value in node) + "]"
    if isinstance(node, bool) or node is None:
        return {True: "true", False: "false", None: "none"}[node]
    return f"{node:g}" if isinstance(node, float) else str(node)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """A CSV file's text."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def spread(n: int, most: int) -> list[int]:
    """The indices 0 … n − 1, or `most` evenly spaced ones with both ends if there are more."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def alike(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """`a, b: WORDS`: the names that have the same words together, from pairs of a name and words."""
    groups: dict[str, dict[str, None]] = {}
    for name, words in pairs:
        groups.setdefault(words, {})[name] = None
    return [f"{', '.join(names)}: {words}" for words, names in groups.items()]


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

    def quoted(value: Any) -> str:
        return f"`{value}`" if value not in (None, "") else "not recorded"

    split, reference = "", "a reference that was not recorded"
    if score.reference is not None:
        split = f"split `{score.reference.split}` (key {quoted(score.reference.key)})"
        reference = f"the {score.reference.n} images of the reference {split}"
    if score.what == "network":  # bits per dimension
        return f"the {score.n} images of the {split}; {describe(score.settings)}"
    size, _, shown = (score.resolution or "").partition(" ")
    pixels = f" of {size} pixels" * bool(size) + f" ({shown})" * bool(shown)
    settings = f", {describe(score.settings)}" if score.settings else ""
    return (
        f"{score.n} images{pixels} against {reference}; features {quoted(score.features)}, "
        f"weights hash {quoted(score.weights_hash)}, resize {quoted(score.resize)}{settings}"
    )
