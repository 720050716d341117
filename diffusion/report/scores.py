"""Configurations and scores as text, and the tables of scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.base.console import console
from diffusion.metric.record import Score
from diffusion.report.numbers import MISSING, number
from diffusion.report.page import Cell, Table, listed

# The baselines of a score, as named in tables and figures.
BASELINES = {
    "noise": "pure noise",
    "real": "real images",
    "ceiling": "real, encoded and decoded",
    "split_half": "split half",
    "exact": "exact",
}


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


def value_text(score: Score) -> str:
    """The value with its interval, if it has one; `—` if it is not a number."""
    if math.isnan(score.value):
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
    scores = [score for score in scores if not score.of_class]  # whose protocols differ in the numbers of images alone
    made = alike((score.name, source_text(score)) for score in scores if score.what not in BASELINES)
    measured = alike((score.name, protocol_text(score)) for score in scores)
    words = listed(f"{words}." for words in [*made, *measured])
    return ["Only compare numbers of the same protocol.", words] if words else []


def table_order(score: Score) -> tuple[Any, ...]:
    """The place of a score in a table: the distances first, those to the training images later, copies last."""
    return score.metric == "copies", score.name.startswith("train/"), score.higher_is_better is not False, score.name


def score_table(scores: Sequence[Score]) -> Table:
    """The latest scores, the distances first, next to their baselines; of another number of images, with that.

    Those of single classes have a table of their own (`report.classes`).
    """
    latest: dict[tuple[Any, ...], dict[str, Score]] = {}  # in order -> what was scored -> its score
    for score in sorted((each for each in scores if not each.of_class), key=table_order):
        latest.setdefault((score.name, score.reference), {})[score.what] = score
    columns = [what for what in BASELINES if any(what in found for found in latest.values())]
    rows: list[list[str | Cell | None]] = []
    for found in latest.values():
        name = next(iter(found.values())).name
        for own in [score for what, score in found.items() if what not in BASELINES] or [None]:  # type: ignore[list-item]
            value = Cell(value_text(own), own.value) if own else None
            rows.append([name, value, *(baseline(found.get(what), own) for what in columns)])
    return Table(["score", "value", *(BASELINES[what] for what in columns)], rows)


def baseline(real: Score | None, score: Score | None) -> Cell | None:
    """The cell of a baseline of a score, with its number of images if that is another."""
    if real is None:
        return None
    other = f" (n = {real.n})" if score and score.n not in (None, real.n) else ""
    return Cell(number(real.value, half_width(real)) + other, real.value)


def print_scores(scores: Sequence[Score]) -> None:
    first = scores[0]
    console.print(f"{first.n} images against {first.reference.n or 'the statistics'} of {first.reference.split}")
    score_table(scores).print(console)
