"""T5, T10 with gradient accumulation: checkpoints contain whole steps, and accumulation equals a larger batch."""

from pathlib import Path
from typing import Any

import pytest
from composing import train as train_here
from forked import train
from outcomes import lines, same, state

from diffusion.checkpoint import storage

pytestmark = pytest.mark.reliability

RECIPE = [  # 12 batches of 2 per epoch: 3 steps of 4 batches
    "data.batch_size=2", "model.dropout=0.3", "optimizer=adam", "samples.n=0", "trainer.max_epochs=3",
    "checkpoint.keep=20", "trainer.accumulate_grad_batches=4",
]  # fmt: skip


def final_state(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The final state of a run in a separate process."""
    log = folder.with_suffix(".log")
    assert train([*overrides, f"hydra.run.dir={folder}"], log) == 0, log.read_text()
    return state(folder)


@pytest.mark.parametrize(
    ("every", "steps"),
    [(6, [2, 4, 6, 8, 9]), (9, [3, 6, 9])],  # batches between validations, not a multiple of a step's batches
)
def test_checkpoints_contain_whole_steps_and_resume_exactly(tiny, tmp_path, every, steps, figure):
    overrides = [*tiny, *RECIPE, f"trainer.val_check_interval={every}"]
    expected = final_state(tmp_path / "whole", overrides)
    files = storage.numbered_files(tmp_path / "whole/checkpoints")
    assert sorted(storage.load(file)["global_step"] for file in files) == steps
    for step, file in [*zip(reversed(steps), files, strict=True)][1:]:  # the last one has nothing left to train
        folder = tmp_path / f"from {step}"
        assert same(final_state(folder, [*overrides, f"ckpt={file}"]), expected), step
        assert lines(folder) == lines(tmp_path / "whole"), step
    figure(
        f"accumulation of 4, a validation every {every} batches", f"resumed from {len(steps) - 1} steps, 0 bits differ"
    )


def test_a_run_resumes_with_a_different_accumulation(tiny, tmp_path):
    """Global batches of 8: one half of the run uses 2 batches of 4 for each, the other half a single batch."""
    common = [*tiny, "model.dropout=0.2", "trainer.precision=64-true", "trainer.max_epochs=4", "checkpoint.keep=20"]
    halves, whole = ["data.batch_size=4", "trainer.accumulate_grad_batches=2"], ["data.batch_size=8"]
    train_here([*common, *whole], tmp_path / "whole")
    for first, then in ((halves, whole), (whole, halves)):
        folder = tmp_path / f"{first[0]} first"
        train_here([*common, *first], folder)
        ckpt = storage.numbered(folder / "checkpoints", 6)
        train_here([*common, *then, f"ckpt='{ckpt}'"], folder / "resumed")
        assert steps_of(folder / "resumed") == steps_of(tmp_path / "whole")
        for name, value in state(tmp_path / "whole")["state_dict"].items():
            assert float((value - state(folder / "resumed")["state_dict"][name]).abs().max()) <= 1e-12, name


def steps_of(folder: Path) -> set[tuple[float, bool]]:
    """The step of each line of metrics.csv, and whether it is a validation."""
    return {(float(line["step"]), "val/mse" in line) for line in lines(folder)}


def test_accumulation_equals_a_larger_batch_even_if_it_does_not_divide_the_epoch(tiny, tmp_path):
    """24 images are 2 steps of 10, as single batches of 10 or as 5 batches of 2."""
    common = [*tiny, "model.dropout=0.2", "data.flip=true", "trainer.precision=64-true", "trainer.max_epochs=3"]
    layouts = {"one": ["data.batch_size=10"], "five": ["data.batch_size=2", "trainer.accumulate_grad_batches=5"]}
    states = {}
    for name, layout in layouts.items():
        train_here([*common, *layout], tmp_path / name)
        states[name] = state(tmp_path / name)
        assert states[name]["global_step"] == 6
    for name, value in states["one"]["state_dict"].items():
        assert float((value - states["five"]["state_dict"][name]).abs().max()) <= 1e-12, name
