"""The table of scores by class."""

from collections.abc import Sequence

from diffusion.metric.record import Score
from diffusion.report.page import Cell, Table
from diffusion.report.scores import table_order, value_text

NOTE = (
    "Samples of each class, compared with real images of that class (n) as above. Fewer images make distances larger: "
    "compare a class over models, not with other classes."
)


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
