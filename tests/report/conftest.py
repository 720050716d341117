"""A small run folder as training writes it, with known numbers."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion.base.pixels import grid, save_png

CONFIG = """\
name: demo
seed: 0
schedule:
  _target_: diffusion.process.schedule.linear
  steps: 100
  first: 0.0001
  last: 0.02
optimizer:
  _target_: torch.optim.AdamW
  _partial_: true
  lr: {lr}
  betas: [0.9, 0.999]
data:
  _target_: diffusion.data.StandIn
  size: 32
trainer:
  max_steps: 400
"""

INFO = {
    "state": "complete",
    "started": "2026-01-02T03:04:05",
    "finished": "2026-01-02T03:09:11",
    "seconds": 306.2,
    "seconds_of": {"training": 300.2, "validation": 6.0},
    "device": "cpu",
    "host_cores": 2,
    "parameters": 1234567,
    "steps": 400,
    "epochs": 8,
    "images": {"train": 2091, "val": 250, "test": 251},
    "classes": {"sky": 1394, "stone": 697},
    "left_out": 3,
    "versions": {"torch": "2.13.0"},
    "command": ["diffusion", "train", "experiment=demo"],
}

STEPS = (100, 200, 300, 400)
VAL = (0.4, 0.1, 0.05, 0.06)
FIT = (0.39, 0.09, 0.04, 0.03)


def score(what: str, value: float, **changed: Any) -> dict[str, Any]:
    record = {
        "metric": "fd_lite0",
        "value": value,
        "n": 256,
        "what": what,
        "features": "lite0",
        "weights_hash": "a1b2c3",
        "resize": "bicubic-antialias",
        "reference": {"split": "val", "n": 250, "key": "k3y"},
        "sampler": {"name": "DDIM", "steps": 50, "eta": 0.0},
        "weights": "ema",
        "seed": 7,
        "step": 400,
    }
    return record | changed


PLAIN: dict[str, Any] = {"sampler": None, "weights": None, "seed": None, "step": None}  # images that no network drew
SCORES = [
    score("samples", 123.4),
    score("noise", 301.5, **PLAIN),
    score("real", 41.75, **PLAIN),
    score("samples", 0.0123, metric="kid_lite0", std=0.0021),
    score("noise", 0.456, metric="kid_lite0", std=0.001, n=128, **PLAIN),
]

REFEREE = {"n": 256, "train": 500, "photographs": [500, 250], "tiles": False, "small": 100}
REFEREE |= {
    "further": {
        "verdict": "apart",
        "by": ["lite0"],
        "eyes": dict.fromkeys(("lite0", "colours"), dict.fromkeys(("distance", "error", "margin"), 0.5)),
    }
}


def write_metrics(path: Path) -> None:
    """Write sparse rows as Lightning's CSVLogger does: one row per logging call, with steps counted from 0."""
    bins = [f"val/mse_bin{i}" for i in range(10)]
    names = ["epoch", "step", "train/loss", "val/mse", "val/mse_raw", "fit/mse", "fit/mse_raw", "gap/mse", *bins]
    gaps = [f"gap/{what}_bin{i}{weights}" for what in ("mse", "half") for i in range(10) for weights in ("", "_raw")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *gaps])
        writer.writeheader()
        for step in range(50, 401, 50):
            writer.writerow({"epoch": step // 50 - 1, "step": step - 1, "train/loss": 1 / step})
        for step, val, fit in zip(STEPS, VAL, FIT, strict=True):
            row = {"val/mse": val, "val/mse_raw": 2 * val, "fit/mse": fit, "fit/mse_raw": 2 * fit}
            by_time = {name: val / (i + 1) for i, name in enumerate(bins)}
            by_time |= {name: (val - fit) / (10 if "/half" in name else 1) for name in gaps}
            writer.writerow({"epoch": step // 50 - 1, "step": step - 1, "gap/mse": val - fit} | row | by_time)


def pictures(n: int = 6, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """`make_run(folder, lr=…, info={…}, scores=[…])` writes a complete run folder; `info=None` writes no run.json."""

    def make(folder: Path, lr: float = 3e-4, info: dict[str, Any] | None = INFO, scores: Any = SCORES) -> Path:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG.format(lr=lr, folder=folder))
        if info is not None:
            (folder / "run.json").write_text(json.dumps(info))
        (folder / "scores.json").write_text(json.dumps(scores))
        (folder / "referee.json").write_text(json.dumps(REFEREE))
        write_metrics(folder / "metrics.csv")
        for step in STEPS:
            save_png(grid(pictures(seed=step)), folder / f"samples/step-{step:08d}.png")
        save_png(grid(pictures(seed=400)), folder / "samples/final.png")
        for name in ("last", "best"):
            (folder / f"checkpoints/{name}.ckpt").write_bytes(b"")
        return folder

    return make


@pytest.fixture
def make_output() -> Callable[..., Path]:
    """`make_output(folder, command)` writes the files of another command than training, as Hydra records it."""

    def make(folder: Path, command: str, scores: Any = None) -> Path:
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra/hydra.yaml").write_text(f"hydra:\n  job:\n    name: {command}\n")
        if scores is not None:
            (folder / "config.yaml").write_text("ckpt: run/checkpoints/last.ckpt\nseed: 0\n")
            (folder / "scores.json").write_text(json.dumps(scores))
        return folder

    return make


@pytest.fixture
def run_folder(tmp_path: Path, make_run: Callable[..., Path]) -> Path:
    return make_run(tmp_path / "demo")
