"""Resuming: with the run's recipe, never silently with another one, and never if nothing is left to train."""

import json

import pytest
import yaml
from composing import train

from diffusion.checkpoint import storage
from diffusion.runs.metrics import read_metrics, read_rows
from diffusion.runs.resume import resumed_run
from diffusion.training.resume import flat

RUN = ["hydra.run.dir=run", "ckpt=auto"]


@pytest.fixture
def run(command, tiny, tmp_path):
    """The folder of a run of two steps with a recipe other than the default."""
    words = [*tiny, "optimizer.lr=0.001", "lr_scheduler=warmup", "lr_scheduler.warmup=3", "samples.n=0"]
    status, out, err = command("train", [*words, "trainer.max_steps=2", "hydra.run.dir=run"])
    assert status == 0, out + err
    return tmp_path / "run"


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_is_resumed_with_its_saved_settings(command, run):
    before = config(run)
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 0, out + err
    assert "resuming with the settings in" in out
    assert "other settings" not in out
    after = config(run)
    assert (before["trainer"].pop("max_steps"), after["trainer"].pop("max_steps")) == (2, 4)
    assert (before.pop("ckpt"), after.pop("ckpt")) == (None, "auto")
    assert before == after
    assert json.loads((run / "run.json").read_text())["steps"] == 4
    status, out, err = command("train", [*RUN, "trainer.max_steps=6"])  # and again, with both changes
    assert status == 0, out + err
    assert config(run)["optimizer"]["lr"] == 0.001


def test_the_record_contains_the_resume_step_and_the_epoch_lengths(command, run, tiny, tmp_path):
    def said(folder):
        content = json.loads((folder / "run.json").read_text())
        return content["first_step"], content["epoch_lengths"]

    assert said(run) == (0, [[0, 6]])
    for steps, batch in ((4, 4), (5, 8)):
        assert command("train", [*RUN, f"data.batch_size={batch}", f"trainer.max_steps={steps}"])[0] == 0
    assert said(run) == (4, [[0, 6], [4, 3]])
    words = [*tiny, "data.batch_size=6", "trainer.max_steps=6", "samples.n=0"]
    assert command("train", [*words, "ckpt=run", "hydra.run.dir=other"])[0] == 0
    assert said(tmp_path / "other") == (5, [[0, 6], [4, 3], [5, 4]])


def test_a_complete_run_is_not_run_again(command, run):
    status, out, err = command("train", RUN)
    assert status == 0, out + err
    assert "run is already complete" in out
    assert "resuming from" not in out


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("schedule.last=0.03", "schedule.last 0.02 → 0.03"),
        ("schedule=cosine", "schedule._target_ "),
        ("prediction=v", "prediction._target_ "),
        ("optimizer=sgd", "optimizer._target_ torch.optim.AdamW → torch.optim.SGD"),
        ("ema=none", "ema._target_ diffusion.training.ema.EMA → null"),
    ],
)
@pytest.mark.parametrize("folder", ["same", "new"])
def test_incompatible_settings_on_resume_are_refused_without_changing_the_run(command, tiny, run, word, change, folder):
    files = [run / name for name in ("config.yaml", "run.json", ".hydra/hydra.yaml", ".hydra/overrides.yaml")]
    kept = [file.read_text() for file in files]
    words = [word, "trainer.max_steps=4"]
    words += RUN if folder == "same" else [*tiny, "ckpt=run/checkpoints/last.ckpt"]
    status, out, err = command("train", words)
    assert status == 2, out + err
    line = err.splitlines()[-1]
    assert line.startswith("error: ckpt=")
    assert f"it was trained with other settings: {change}" in line
    assert line.count("→") == 1
    assert [file.read_text() for file in files] == kept
    status, out, err = command("train", [*RUN, "trainer.max_steps=3"])
    assert status == 0, out + err
    assert config(run)["schedule"]["_target_"] == yaml.safe_load(kept[0])["schedule"]["_target_"]
    command = json.loads((run / "run.json").read_text())["command"]
    assert command == "python -m diffusion.train hydra.run.dir=run ckpt=auto trainer.max_steps=3"


def test_changed_optimizer_settings_are_used_on_resume(command, run):
    words = ["optimizer.lr=0.01", "optimizer.betas=[0.5,0.6]", "optimizer.weight_decay=0.3", "trainer.max_steps=4"]
    status, out, err = command("train", [*RUN, *words])
    assert status == 0, out + err
    rates = read_metrics(run / "metrics.csv")["lr-AdamW"]
    assert rates.value[-2:].tolist() == pytest.approx([0.01 * 3 / 4, 0.01])  # the warmup takes 3 steps
    saved = storage.load(run / "checkpoints/last.ckpt")
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert (*group["betas"], group["weight_decay"], group["initial_lr"]) == (0.5, 0.6, 0.3, 0.01)
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.01]


@pytest.mark.parametrize("steps", [1, 2])
def test_resuming_is_refused_if_no_steps_are_left(command, tiny, run, steps):
    words = ["ckpt=run/checkpoints/last.ckpt", f"trainer.max_steps={steps}", "hydra.run.dir=other"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert f"it is at step 2 and the run ends at step {steps}" in err
    assert "trainer.max_epochs" in err


CHOSEN = {  # overrides when resuming -> the differences from the run's own settings
    "schedule.steps=500 schedule=linear": {"schedule.steps": 500},
    "weighting@objective.weighting=min_snr": {"objective.weighting.gamma": 5.0},
    "grid@sampler.grid=karras": {"sampler.grid.rho": 7.0},
    "data=landscapes seed=4": {"data.seed": 4},
    "logger=[tensorboard,wandb]": {"logger.wandb.job_type": "train"},
    "optimizer.lr=0.5": {"optimizer.lr": 0.5},
}


@pytest.mark.parametrize("words", CHOSEN)
def test_overrides_replace_single_saved_settings(run, words):
    folder, changed = resumed_run(["hydra.run.dir=run", "ckpt=auto", *words.split()])
    before, after = flat(config(run)), flat(changed)
    assert folder.samefile(run)
    for key, value in CHOSEN[words].items():
        assert after.get(key) == value
    groups = {key.partition(".")[0] for key in before | after if before.get(key) != after.get(key)}
    assert groups <= {word.rpartition("@")[2].partition("=")[0].partition(".")[0] for word in words.split()} | {"ckpt"}


def test_an_untrusted_class_in_a_saved_configuration_is_refused(command, run):
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("torch.optim.AdamW", "doubles.signalling"))
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 2, out + err
    assert "its optimizer names doubles.signalling" in err


def test_interpolations_in_a_saved_configuration_are_refused(command, run, monkeypatch):
    monkeypatch.setenv("FOREIGN", "canary")
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("name: unet_tiny", "name: ${oc.env:FOREIGN}"))
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 2, out + err
    assert "contains the interpolation" in err
    assert "canary" not in out + err


def test_a_complete_run_that_is_made_longer_counts_its_steps_on(tiny, tmp_path):
    """Its last validation is not one of the longer run, which validates every six steps."""
    words = [*tiny, "samples.n=0", "trainer.log_every_n_steps=1", "trainer.max_epochs=-1"]
    train([*words, "trainer.max_steps=4"], tmp_path / "a")
    train([*words, "trainer.max_steps=6", f"ckpt={tmp_path}/a/checkpoints/last.ckpt"], tmp_path / "b")
    rows = read_rows(tmp_path / "b/metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [*range(6)]
    assert [row["step"] for row in rows if "val/mse" in row] == [3, 5]
