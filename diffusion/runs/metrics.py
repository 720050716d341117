"""metrics.csv as columns without gaps: the file has one row per logging call, with mostly empty cells."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.console import count
from diffusion.errors import UserError

MEASURED = ("data", "schedule", "validation")  # settings that must be equal for errors to be comparable
UNMEASURED = (  # settings in these groups that do not matter
    "data.batch_size", "data.global_batch_size", "data.num_workers", "data.flip",
)  # fmt: skip
LIMIT = "trainer.limit_val_batches"  # fewer images
BATCHED = ("data.eval_batch_size", "trainer.devices", "trainer.num_nodes")  # with a limit, they choose the images


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
    ValueError for a file that is not a table of numbers.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    lines = list(csv.reader(content[: content.rfind(b"\n") + 1].decode("utf-8").splitlines()))
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise ValueError(f"line {number} has {count(len(line), 'cell')}, the first line {len(lines[0])}")
    return [{name: float(cell) for name, cell in zip(lines[0], line, strict=True) if cell} for line in lines[1:]]


def measures(setting: str, limited: bool) -> bool:
    """Whether the errors (val/mse) of two runs that differ in this setting measure different tasks or images.

    Args:
        limited: whether trainer.limit_val_batches is set in any of the runs.
    """
    if setting in BATCHED:
        return limited
    return setting == LIMIT or (setting.split(".")[0] in MEASURED and setting not in UNMEASURED)


def changed_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str] | None:
    """The settings of `data` that differ and choose other images of the same data; None if it is other data."""
    roots = [None if (root := node.get("root")) is None else Path(str(root)).resolve() for node in (before, now)]
    if before.get("_target_") != now.get("_target_") or roots[0] != roots[1]:
        return None
    keys = {**before, **now}.keys() - {"root"}
    return sorted(key for key in keys if before.get(key) != now.get(key) and measures(f"data.{key}", False))


def last_value(name: str, path: Path) -> float:
    """The last value of a column, even if not finite. Raises UserError if it was not logged."""
    rows = read_rows(path)
    values = [row[name] for row in rows if name in row]
    if not values:
        names = sorted({each for row in rows for each in row if "_bin" not in each} - {"epoch", "step"})
        raise UserError(f"{path}: no metric {name}; it contains {', '.join(names)}")
    return values[-1]


def read_metrics(path: Path) -> dict[str, Series]:
    """Column name -> `Series` of its finite values. If a step was logged twice, the later row is used.

    Raises ValueError like `read_rows`.
    """
    cells: dict[str, dict[int, float]] = {}
    for row in read_rows(path):
        for name in row.keys() - {"epoch", "step"} if "step" in row else ():
            if math.isfinite(row[name]):
                cells.setdefault(name, {})[1 + int(row["step"])] = row[name]
    ordered = {name: sorted(column.items()) for name, column in sorted(cells.items())}
    return {name: Series(*map(np.array, zip(*column, strict=True))) for name, column in ordered.items()}


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
