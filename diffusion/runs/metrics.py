"""metrics.csv as columns without gaps: the file has one row per logging call, with mostly empty cells."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion.errors import UserError, first_line

MEASURED = ("data", "schedule", "validation", "trainer.limit_val_batches")  # must be equal to compare errors, but for
UNMEASURED = ("data.batch_size", "data.eval_batch_size", "data.global_batch_size", "data.flip")


class Series(NamedTuple):
    """One logged quantity: `step` (n,) int, ascending, and `value` (n,) float.

    `step` is the number of completed training steps. The file counts from 0: its step 99 is logged after 100 steps.
    """

    step: np.ndarray
    value: np.ndarray

    def at(self, step: int) -> float:
        """The value at a step; NaN if nothing was logged."""
        found = self.value[self.step == step]
        return float(found[0]) if len(found) else math.nan


Metrics = Mapping[str, Series]


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of the file without their empty cells; [] if there is no file.

    A last line without a line break is skipped: it is still being written, or the run was killed meanwhile. Raises
    UserError for a file that is not a table of numbers.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    try:
        lines = list(csv.reader(content[: content.rfind(b"\n") + 1].decode("utf-8").splitlines()))
        return [{name: float(cell) for name, cell in zip(lines[0], line, strict=True) if cell} for line in lines[1:]]
    except ValueError as error:
        raise UserError(f"{path}: not a table of numbers ({first_line(error)}); restore or remove it") from error


def read_metrics(path: Path) -> dict[str, Series]:
    """Column name -> `Series` of its finite values. If a step was logged twice, the later row is used."""
    cells: dict[str, dict[int, float]] = {}
    for row in read_rows(path):
        for name in row.keys() - {"epoch", "step"} if "step" in row else ():
            if math.isfinite(row[name]):
                cells.setdefault(name, {})[1 + int(row["step"])] = row[name]
    ordered = {name: sorted(column.items()) for name, column in sorted(cells.items())}
    return {name: Series(*map(np.array, zip(*column, strict=True))) for name, column in ordered.items()}


def measures(setting: str) -> bool:
    """Whether the errors (val/mse) of two runs that differ in this setting measure different tasks or images."""
    return setting.startswith(MEASURED) and setting not in UNMEASURED


def bins_of(metrics: Metrics, quantity: str) -> list[str]:
    """The columns `val/mse_bin0`, `val/mse_bin1`, … of a quantity such as `val/mse`, ordered by time t."""
    prefix = f"{quantity}_bin"
    found = [name for name in metrics if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(found, key=lambda name: int(name.removeprefix(prefix)))


def validated_weights(metrics: Iterable[Metrics]) -> str:
    """The weights measured by val/mse: `EMA weights`, or `raw weights` in a run without an average.

    (val/mse_raw is only logged in addition to the error of an average.)
    """
    averaged = {"val/mse_raw" in each for each in metrics if "val/mse" in each}
    names = {True: "EMA weights", False: "raw weights"}
    return " or, without EMA, ".join(names[each] for each in sorted(averaged, reverse=True)) or "weights"
