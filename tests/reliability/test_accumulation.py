"""T5 with validations, and so checkpoints, that fall due within the accumulation of a step's gradients."""

from pathlib import Path
from typing import Any

import pytest
from forked import train
from outcomes import lines, same, state

from diffusion.checkpoint import storage

pytestmark = pytest.mark.reliability

RECIPE = [  # 6 batches of 4 an epoch, in steps of 4 and of 2
    "name=test", "model.dropout=0.3", "optimizer=adam", "samples.n=0", "trainer.max_epochs=3", "checkpoint.keep=20",
    "trainer.accumulate_grad_batches=4", "trainer.check_val_every_n_epoch=null",
]  # fmt: skip


def end(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The last state of a run in a process of its own."""
    log = folder.with_suffix(".log")
    assert train([*overrides, f"hydra.run.dir={folder}"], log) == 0, log.read_text()
    return state(folder)


@pytest.mark.parametrize(
    ("every", "steps"),
    [(3, [1, 2, 3, 4, 5, 6]), (5, [2, 3, 5, 6])],  # of batches 3, 6, 9, …; 5, 10, 15 and the last
)
def test_each_checkpoint_is_of_a_whole_step(tiny, tmp_path, every, steps, figure):
    overrides = [*tiny, *RECIPE, f"trainer.val_check_interval={every}"]
    expected = end(tmp_path / "whole", overrides)
    files = storage.numbered_files(tmp_path / "whole/checkpoints")
    assert sorted(storage.load(file)["global_step"] for file in files) == steps
    for step, file in [*zip(reversed(steps), files, strict=True)][1:]:  # behind the last one nothing is left to train
        folder = tmp_path / f"from {step}"
        assert same(end(folder, [*overrides, f"ckpt={file}"]), expected), step
        assert lines(folder) == lines(tmp_path / "whole"), step
    figure(
        f"accumulation of 4, a validation every {every} batches", f"resumed from {len(steps) - 1} steps, 0 bits differ"
    )
