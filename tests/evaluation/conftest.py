"""A run that several tests score and draw from."""

from pathlib import Path

import pytest
from composing import train

SCORE = ("score.n=9", "score.baselines=[]", "features=lite0", "metrics.kernel.subsets=7", "samples.n=0")
SAMPLER = ("sampler=heun", "sampler.steps=3", "grid@sampler.grid=linspace", "seed=3")
AVERAGE = ("ema=power", "ema.snapshots=8", "trainer.max_steps=16", "trainer.max_epochs=4", "optimizer.lr=0.01")


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> Path:
    """A complete run with 8 snapshots of averages, and a sampler, seed, n and metrics other than the defaults."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    train([*tiny, *SCORE, *SAMPLER, *AVERAGE], folder)
    return folder
