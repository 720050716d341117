"""Resuming with settings that change what a step, an epoch, a loss or an error is, and runs with adapted settings."""

import json
import shutil
from collections import defaultdict
from types import SimpleNamespace

import pytest
from composing import launch_here, settings, train

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import restore
from diffusion.errors import UserError
from diffusion.runs import jobs
from diffusion.runs.jobs import config_text
from diffusion.runs.metrics import read_metrics, read_rows
from diffusion.training.clock import Clock
from diffusion.training.guard import Guard
from diffusion.training.resume import has_same_loss
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


def test_a_run_on_edms_schedule_from_before_its_validation_changed_has_a_new_best(tiny, tmp_path):
    """An earlier version spread the times evenly, and did not record it."""
    words = [*tiny, "schedule=edm", "prediction=edm", "sampler=heun", "timesteps@objective.timesteps=log_normal"]
    words += ["samples.n=0", "trainer.max_epochs=1"]
    train(words, tmp_path / "a")
    file = tmp_path / "a/checkpoints/last.ckpt"
    contents = storage.load(file)
    assert "times: angles" in contents["config"]
    contents["config"] = contents["config"].replace("times: angles", "times: null")
    contents["callbacks"]["Checkpoints"]["best"] = 0.0
    storage.save(contents, file)
    train([*words[:-1], "trainer.max_epochs=2", f"ckpt={file}"], tmp_path / "old")
    best, last = (restore(tmp_path / "old/checkpoints" / f"{which}.ckpt") for which in ("best", "last"))
    assert best.step == last.step


def test_early_stopping_starts_anew_if_the_error_measures_something_else(tiny, tmp_path):
    """Two validations without improvement stop the run. They are made again after a change of the validation."""
    words = [*tiny, "samples.n=0", "callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    words += ["callbacks.early_stopping.min_delta=1000", "trainer.max_epochs=5"]
    train(words, tmp_path / "a")
    assert record(tmp_path / "a")["steps"] == 12
    train([*words, "validation.draws=2", f"ckpt={tmp_path}/a/checkpoints/last.ckpt"], tmp_path / "b")
    assert record(tmp_path / "b")["steps"] == 24


def test_the_guard_forgets_losses_of_another_objective():
    guard = settings(["guard.spikes=5"]).guard
    clock = Clock(1, 100)
    before = Guard(guard, clock)
    before.usual.extend([0.1, 0.2])
    before.high, before.warned = 3, True
    for same_loss in (True, False):
        resumed = Guard(guard, clock, same_loss)
        resumed.load_state_dict(before.state_dict())
        assert [*resumed.usual] == ([0.1, 0.2] if same_loss else [])
        assert (resumed.high, resumed.warned) == ((3, True) if same_loss else (0, False))


@pytest.mark.parametrize(
    ("word", "same"),
    [
        ("objective.weighting.gamma=3", False), ("data.seed=1", False), ("label_dropout=0.2", False),
        ("data.root=elsewhere", True), ("data.num_workers=1", True), ("optimizer.lr=0.1", True),
    ],
)  # fmt: skip
def test_losses_are_compared_only_if_they_measure_the_same(tiny, word, same):
    words = [*tiny, "weighting@objective.weighting=min_snr"]
    resumed = SimpleNamespace(config=settings(words).model_dump(mode="json"))
    assert has_same_loss(config_text(settings([*words, word])), resumed) == same


def test_fewer_epochs_than_made_with_larger_steps_are_refused(tiny, tmp_path, capsys):
    train([*tiny, *LOGGED, "trainer.max_epochs=4", "data.batch_size=24"], tmp_path / "a")
    with pytest.raises(UserError, match="nothing is left to train"):
        train([*tiny, *LOGGED, "trainer.max_epochs=2", f"ckpt={tmp_path}/a/checkpoints/last.ckpt"], tmp_path / "b")
    assert "before trainer.max_steps" not in capsys.readouterr().out


def test_a_complete_run_with_adapted_settings_is_not_run_again(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "launch", launch_here)
    early = ["guidance=early", "guidance.step=0.5", "sampler.steps=2", "samples.n=2", "trainer.max_steps=4"]
    sweep, alone = ["-m", *tiny, *early, "hydra.sweep.dir=sweep"], ["hydra.run.dir=sweep/0", "ckpt=auto"]
    status, out, err = command("train", sweep)
    assert status == 0, out + err
    run = tmp_path / "sweep/0"
    (run / "run.json").write_text(json.dumps(record(run) | {"state": "died"}))
    status, out, err = command("train", alone)
    assert status == 0, out + err
    assert "already complete" not in out
    for again in (alone, sweep):
        status, out, err = command("train", again)
        assert status == 0, out + err
        assert "sweep/0 is already complete" in out


def test_logging_can_be_turned_off(tiny, tmp_path):
    train([*tiny, "samples.n=0", "trainer.max_steps=1", "trainer.log_every_n_steps=0"], tmp_path)


def test_a_validation_of_less_than_a_batch_is_refused(command, tiny):
    status, out, err = command("train", [*tiny, "trainer.limit_val_batches=0.01"])
    assert status == 2, out + err
    assert err.startswith("error: trainer.limit_val_batches=0.01: this is less than one of")


def test_changed_settings_of_validation_and_guard_are_reported(tiny, tmp_path, capsys):
    train([*tiny, "samples.n=0", "trainer.max_steps=1"], tmp_path / "a")
    capsys.readouterr()
    words = ["validation.draws=2", "guard.action=skip", "trainer.max_steps=2", "samples.n=0"]
    train([*tiny, *words, f"ckpt={tmp_path}/a/checkpoints/last.ckpt"], tmp_path / "b")
    said = " ".join(capsys.readouterr().out.split())
    assert "other settings than the checkpoint's: " in said
    assert "guard.action stop → skip" in said
    assert "→ 2" in said.partition("validation.draws")[2][:8]
