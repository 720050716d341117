"""metrics.csv as columns without holes: Lightning's CSVLogger writes a row per logging call, mostly empty cells."""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Series(NamedTuple):
    """One logged quantity: `epoch` (n,) float (NaN where not logged), `step` (n,) int ascending, `value` (n,) float.

    `step` is the number of training steps made. The file counts from 0: its step 99 is logged after 100 steps.
    """

    epoch: np.ndarray
    step: np.ndarray
    value: np.ndarray


Metrics = Mapping[str, Series]


def read_metrics(path: Path) -> dict[str, Series]:
    """Column name -> `Series` of its finite values; of a step logged twice the later row counts. {} without a file."""
    if not path.is_file():
        return {}
    cells: dict[str, dict[int, tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.get("step"):
                continue
            step, epoch = 1 + int(float(row["step"])), float(row.get("epoch") or "nan")
            for name, text in row.items():
                if name in ("epoch", "step") or not text or not np.isfinite(float(text)):
                    continue
                cells.setdefault(name, {})[step] = (epoch, float(text))
    series = {}
    for name, column in cells.items():
        steps = sorted(column)
        epochs, values = np.array([column[s] for s in steps]).T
        series[name] = Series(epochs, np.array(steps), values)
    return series


def bin_names(metrics: Metrics) -> list[str]:
    """The columns `val/mse_bin0`, `val/mse_bin1`, … in order of time."""
    return sorted(
        (n for n in metrics if re.fullmatch(r"val/mse_bin\d+", n)), key=lambda n: int(n[len("val/mse_bin") :])
    )


def validated_weights(metrics: Iterable[Metrics]) -> str:
    """Whose error val/mse is: `EMA weights`, or `raw weights`; only beside an average's are raw ones logged by name."""
    averaged = {"val/mse_raw" in each for each in metrics if "val/mse" in each}
    words = {True: "EMA weights", False: "raw weights"}
    return " or, without EMA, ".join(words[each] for each in sorted(averaged, reverse=True)) or "weights"
