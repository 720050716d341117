"""The outcome of a run, for bitwise comparison."""

import csv
from pathlib import Path
from typing import Any

import torch

from diffusion.checkpoint import storage

KEPT = (
    "state_dict",
    "current_model_state",
    "optimizer_states",
    "lr_schedulers",
    "global_step",
    "epoch",
)


def state(run: Path) -> dict[str, Any]:
    """Weights, averages, optimizer moments, learning rates and counters."""
    contents = storage.load(run / "checkpoints/last.ckpt")
    return {name: contents[name] for name in KEPT}


def lines(run: Path) -> list[dict[str, str]]:
    """The lines of metrics.csv, without empty cells, by step; NaN equals NaN."""
    with (run / "metrics.csv").open(newline="") as file:
        found = [{name: str(float(cell)) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return sorted(found, key=lambda row: (float(row["step"]), sorted(row)))


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures are bitwise equal."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
