"""Two processes compute the same power-function averages as one."""

from pathlib import Path

import pytest
import torch
from composing import train

from diffusion.checkpoint import averages, storage

pytestmark = pytest.mark.reliability

COMMON = ("ema=power", "ema.snapshots=2", "trainer.max_steps=4", "trainer.precision=64-true", "samples.n=0")


def test_two_processes_compute_the_same_power_averages_as_one(tiny, tmp_path, figure):
    def run(name: str, *layout: str) -> Path:
        train([*tiny, *COMMON, *layout], tmp_path / name)
        return tmp_path / name / "checkpoints"

    one, two = run("one", "data.batch_size=8"), run("two", "data.batch_size=4", "trainer.devices=2")
    assert list(averages.snapshots(one)) == list(averages.snapshots(two)) == [2, 4]
    worst = 0.0
    for step in (2, 4):
        kept = [storage.load(averages.snapshot(folder, step))["averages"] for folder in (one, two)]
        for length in ("0.05", "0.1"):
            ours, theirs = (each[length] for each in kept)
            assert ours.keys() == theirs.keys()
            worst = max(worst, *(float((ours[name] - theirs[name]).abs().max()) for name in ours))
    made = [averages.of_length(storage.load(each / "last.ckpt"), each / "last.ckpt", 0.15) for each in (one, two)]
    assert all(torch.allclose(made[0][name], made[1][name], rtol=0, atol=1e-12) for name in made[0])
    assert worst <= 1e-12
    figure("averages of two processes against one, largest difference", f"{worst:.1e}")
