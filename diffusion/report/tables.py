"""The tables of scores, of all samples and of each class, and the list of their protocols."""

from collections.abc import Sequence
from typing import Any

from diffusion.base.console import console
from diffusion.findings.numbers import number
from diffusion.findings.scores import BASELINES, half_width, protocols, value_text
from diffusion.metric.record import Score
from diffusion.report.page import Cell, Table, listed

NOTES = (  # below a table of scores
    "The reference are held-out images, or for `train/` the training images. Brackets are 95% intervals over other "
    "samples of the same model and, if the reference are tiles, the distances' over other photographs. Real images are "
    "as many of another split, or all of it (n). Split half is the score of two random parts of real images, which "
    "differ by chance alone. Lower is closer to the reference, except for precision, recall and coverage, where higher "
    "is better; for density, neither is."
)
CLASS_NOTES = (
    "Samples of each class, compared with real images of that class (n) as above. Fewer images make distances larger: "
    "compare a class over models, not with other classes."
)


def protocol_blocks(scores: Sequence[Score]) -> list[str]:
    """The protocols of the scores as a list, with a warning; nothing without scores."""
    words = protocols(scores)
    return ["Only compare numbers of the same protocol.", listed(words)] if words else []


def table_order(score: Score) -> tuple[Any, ...]:
    """The place of a score in a table: the distances first, those to the training images later, copies last."""
    return score.metric == "copies", score.name.startswith("train/"), score.higher_is_better is not False, score.name


def score_table(scores: Sequence[Score]) -> Table:
    """The latest scores, the distances first, next to their baselines; of another number of images, with that.

    Those of single classes have a table of their own (`class_table`).
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


def class_table(scores: Sequence[Score]) -> Table | None:
    """A row for each class, with its latest scores and their numbers of images; None without scores by class."""
    latest: dict[str, dict[str, Score]] = {}  # class -> metric -> its score
    metrics: dict[str, None] = {}
    for score in sorted((score for score in scores if score.of_class), key=table_order):
        latest.setdefault(score.of_class or "", {})[score.name] = score
        metrics[score.name] = None
    if not latest:
        return None
    rows: list[list[Cell | str | None]] = []
    for name, found in latest.items():
        one = next(iter(found.values()))
        cells = [Cell(value_text(found[key]), found[key].value) if key in found else None for key in metrics]
        rows.append([name, *(Cell(f"{n:,}", n) for n in (one.n or 0, one.reference.n or 0)), *cells])
    return Table(["class", "samples", "n", *metrics], rows)


def print_scores(scores: Sequence[Score]) -> None:
    first = scores[0]
    console.print(f"{first.n} images against {first.reference.n or 'the statistics'} of {first.reference.split}")
    score_table(scores).print(console)
