"""The tables of scores, and their protocols."""

from collections.abc import Sequence
from typing import Any

from diffusion.base.console import console
from diffusion.findings.numbers import number
from diffusion.findings.scores import BASELINES, half_width, protocols, value_text
from diffusion.metric.record import Score
from diffusion.report.page import Cell, Table, listed


def protocol_blocks(scores: Sequence[Score]) -> list[str]:
    """The protocols of the scores as a list, with a warning; nothing without scores."""
    words = protocols(scores)
    return ["Only compare numbers of the same protocol.", listed(words)] if words else []


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
