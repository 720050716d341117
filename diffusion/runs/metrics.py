"""metrics.csv as columns without holes: Lightning's CSVLogger writes a row per logging call, mostly empty cells."""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Series(NamedTuple):
    """One logged quantity: `step` (n,) int, ascending, and `value` (n,) float.

    `step` is the number of training steps made. The file counts from 0: its step 99 is logged after 100 steps.
    """

    step: np.ndarray
    value: np.ndarray

    def at(self, step: int) -> float:
        """The value at a step; NaN where nothing was logged then."""
        found = self.value[self.step == step]
        return float(found[0]) if len(found) else math.nan


Metrics = Mapping[str, Series]


def read_metrics(path: Path) -> dict[str, Series]:
    """Column name -> `Series` of its finite values; of a step that was logged twice the later row counts.

    Without a file, {}.
    """
    if not path.is_file():
        return {}
    cells: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.get("step"):
                continue
            step = 1 + int(float(row["step"]))
            for name, text in row.items():
                if name not in ("epoch", "step") and text and math.isfinite(value := float(text)):
                    cells.setdefault(name, {})[step] = value
    series = {}
    for name, column in cells.items():
        steps = sorted(column)
        series[name] = Series(np.array(steps), np.array([column[step] for step in steps]))
    return series


def bins_of(metrics: Metrics, quantity: str) -> list[str]:
    """The columns `val/mse_bin0`, `val/mse_bin1`, … of a quantity such as `val/mse`, in order of time."""
    prefix = f"{quantity}_bin"
    found = [name for name in metrics if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(found, key=lambda name: int(name.removeprefix(prefix)))


def validated_weights(metrics: Iterable[Metrics]) -> str:
    """The weights whose error is val/mse: `EMA weights`, or `raw weights` in a run without an average.

    (val/mse_raw is logged only beside the error of an average.)
    """
    averaged = {"val/mse_raw" in each for each in metrics if "val/mse" in each}
    names = {True: "EMA weights", False: "raw weights"}
    return " or, without EMA, ".join(names[each] for each in sorted(averaged, reverse=True)) or "weights"
