"""T4 in two processes: all are told to end, wherever they are; they save at one step, end, and go on bit for bit."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import counted, train
from outcomes import lines, same, state

from diffusion.training import callbacks
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

RECIPE = (
    "data.batch_size=2", "data.eval_batch_size=2", "trainer.devices=2", "trainer.max_epochs=2", "model.dropout=0.2",
    "samples.every_n_epochs=1", "samples.n=2", "score.every_n_epochs=1", "score.n=4", "score.yardsticks=[]",
    "~features", "+features._target_=told.Rows", "sampler.steps=4",
)  # fmt: skip
PLACES: dict[str, tuple[Any, str, int]] = {  # one after the other, the first process's n-th call of a function
    "before the first step": (Diffusion, "configure_optimizers", 1),
    "pictures, which the first process draws alone": (callbacks, "poll", 2),
    "samples to score": (callbacks, "poll", 4 + 2),
    "scoring": (callbacks, "score_samples", 1),
    "validation": (Diffusion, "validation_step", 2),
}


def told(place: tuple[Any, str, int]) -> Callable[[], None]:
    """The whole process group is told to end there."""
    return lambda: counted(*place, lambda: os.killpg(0, signal.SIGTERM))


def outcome(folder: Path) -> dict[str, Any]:
    """The last state, every line of metrics.csv, every score."""
    scores = [(r["metric"], r["step"], str(r["value"])) for r in json.loads((folder / "scores.json").read_text())]
    pictures = [(file.name, file.read_bytes()) for file in sorted(folder.glob("samples/*"))]
    return state(folder) | {"lines": lines(folder), "scores": scores, "pictures": pictures}


def test_two_processes_told_to_end_wherever_they_are(tiny, tmp_path, figure):
    whole, folder, log = tmp_path / "a/whole", tmp_path / "b/run", tmp_path / "log"
    overrides = [*tiny, *RECIPE]
    assert train([*overrides, f"hydra.run.dir={whole}"], log) == 0, log.read_text()
    for where, place in PLACES.items():
        assert train([*overrides, f"hydra.run.dir={folder}", "ckpt=auto"], log, told(place)) == 143, log.read_text()
        assert json.loads((folder / "run.json").read_text())["state"] == "interrupted", where
        if "pictures" in where:
            assert not list(folder.glob("samples/*")), "they were drawn to the end"
    assert train([*overrides, f"hydra.run.dir={folder}", "ckpt=auto"], log) == 0, log.read_text()
    expected, got = outcome(whole), outcome(folder)
    for part in expected:
        assert same(got[part], expected[part]), part
    figure("two processes told to end", f"at {len(PLACES)} places one after the other, resumed bitwise")
