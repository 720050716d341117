"""Resuming with settings that change what a step, an epoch, a loss or an error is, and runs with adapted settings."""

import json
import shutil
from collections import defaultdict

import pytest
from composing import train

from diffusion.checkpoint.restore import restore
from diffusion.runs.metrics import read_metrics, read_rows
from diffusion.training.saving import Checkpoints

LOGGED = ["samples.n=0", "trainer.log_every_n_steps=1", "least_interval=1"]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_epochs_are_counted_in_images_after_a_change_of_the_batch_size(tiny, tmp_path):
    """Twelve steps of 4 of 24 images, and six of 8."""
    words = [*tiny, *LOGGED]
    train([*words, "trainer.max_epochs=2"], tmp_path / "a")
    larger = ["data.batch_size=8", "trainer.max_epochs=4", f"ckpt={tmp_path}/a/checkpoints/last.ckpt"]
    train([*words, *larger], tmp_path / "b")
    assert (record(tmp_path / "b")["steps"], record(tmp_path / "b")["epochs"]) == (18, 4)
    epochs = defaultdict(set)
    for row in read_rows(tmp_path / "b/metrics.csv"):
        epochs[row["step"]] |= {row["epoch"]} if "epoch" in row else set()
    assert [*epochs.values()] == [{i // 6} for i in range(12)] + [{2 + i // 3} for i in range(6)]


def test_a_larger_global_batch_begins_with_a_whole_step(tiny, tmp_path):
    """Three batches of 4 are not a whole number of steps of 8, however these are divided."""
    words = [*tiny, *LOGGED, "trainer.precision=64-true", "trainer.max_epochs=-1"]
    train([*words, "data.batch_size=4", "data.global_batch_size=4", "trainer.max_steps=3"], tmp_path / "a")
    losses = []
    for size in (8, 4):
        more = [f"data.batch_size={size}", "data.global_batch_size=8", "trainer.max_steps=6"]
        train([*words, *more, f"ckpt={tmp_path}/a/checkpoints/last.ckpt"], tmp_path / f"b{size}")
        losses.append(read_metrics(tmp_path / f"b{size}/metrics.csv")["train/loss"].value)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_the_best_checkpoint_is_forgotten_if_the_error_measures_something_else(tiny, photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "state_dict", lambda self: {"best": 0.0, "latest": 0.0})
        train([*tiny, "samples.n=0", "trainer.max_epochs=1"], tmp_path / "a")
    more = ["trainer.max_epochs=2", f"ckpt={tmp_path}/a/checkpoints/last.ckpt", "samples.n=0"]
    shutil.copytree(photos, tmp_path / "copy")
    moved = f"data.root={tmp_path}/copy"
    for name, word, kept in (("same", "seed=0", True), ("moved", moved, True), ("split", "data.seed=1", False)):
        train([*tiny, *more, word], tmp_path / name)
        best, last = (restore(tmp_path / name / "checkpoints" / f"{which}.ckpt") for which in ("best", "last"))
        assert (best.step < last.step) == kept
        assert best.images == last.images, name
