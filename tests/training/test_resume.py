"""Resuming: with the run's recipe, never silently with another one, and never if nothing is left to train."""

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from composing import train
from PIL import Image

from diffusion.checkpoint import storage
from diffusion.errors import UserError
from diffusion.runs.command import resumed_run
from diffusion.runs.folder import read_metrics, read_rows
from diffusion.training.resume import flat
from tests.conftest import TINY

RUN = ["hydra.run.dir=run", "ckpt=auto"]
LOGGED = ["samples.n=0", "trainer.log_every_n_steps=1", "least_interval=1"]


@pytest.fixture(scope="module")
def first(photos, tmp_path_factory) -> Path:
    """The folder of a run of two steps with a recipe other than the default."""
    root = tmp_path_factory.mktemp("first")
    shutil.copytree(photos, root / "images")
    train([*recipe(root / "run"), "trainer.max_steps=2"], root / "run")
    return root / "run"


def recipe(run: Path) -> list[str]:
    """The overrides of such a run, on the images next to its folder."""
    rate = ["optimizer.lr=0.001", "lr_scheduler=warmup", "lr_scheduler.warmup=3"]
    return [*TINY, f"data.root={run.parent}/images", *rate, "samples.n=0"]


@pytest.fixture
def run(first, tmp_path) -> Path:
    """A copy of this folder, in the folder of the commands."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_is_resumed_with_its_saved_settings(ran, run):
    before = config(run)
    out = ran("train", [*RUN, "trainer.max_steps=4"])
    assert "resuming with the settings in" in out
    assert "other settings" not in out
    after = config(run)
    assert (before["trainer"].pop("max_steps"), after["trainer"].pop("max_steps")) == (2, 4)
    assert (before.pop("ckpt"), after.pop("ckpt")) == (None, "auto")
    assert before == after
    assert (record(run)["steps"], record(run)["first_step"], record(run)["epoch_length"]) == (4, 2, 6)
    assert "run is already complete" in ran("train", RUN)


@pytest.mark.parametrize("content", [b"", b"name: \xff\n"])
def test_a_run_with_damaged_settings_is_not_resumed(refused, tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    (tmp_path / "run.json").write_text('{"command": ["diffusion", "train"]}')
    err = refused("train", [f"hydra.run.dir={tmp_path}", "ckpt=auto"])
    assert f"{tmp_path}/config.yaml: its configuration can't be read" in err


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("schedule.last=0.03", "schedule.last 0.02 → 0.03"),
        ("prediction=v", "prediction._target_ "),
        ("optimizer=sgd", "optimizer._target_ torch.optim.AdamW → torch.optim.SGD"),
        ("ema=none", "ema._target_ diffusion.training.ema.EMA → null"),
        ("timesteps@objective.timesteps=loss_second_moment", "objective.timesteps._target_ "),
    ],
)
def test_incompatible_settings_are_refused_without_changing_the_run(refused, run, word, change):
    files = [run / name for name in ("config.yaml", "run.json")]
    kept = [file.read_text() for file in files]
    line = refused("train", [*RUN, word, "trainer.max_steps=4"])
    assert line.startswith("error: ckpt=")
    assert change in line
    assert line.count("→") == 1
    assert [file.read_text() for file in files] == kept


def test_changed_optimizer_settings_are_used_on_resume(ran, run):
    words = ["optimizer.lr=0.01", "optimizer.betas=[0.5,0.6]", "optimizer.weight_decay=0.3", "trainer.max_steps=4"]
    ran("train", [*RUN, *words])
    rates = read_metrics(run / "metrics.csv")["lr"]
    assert rates.value[-2:].tolist() == pytest.approx([0.01 * 3 / 4, 0.01])  # the warmup takes 3 steps
    saved = storage.load(run / "checkpoints/last.ckpt")
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert (*group["betas"], group["weight_decay"], group["initial_lr"]) == (0.5, 0.6, 0.3, 0.01)
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.01]


@pytest.mark.parametrize("steps", [1, 2])
def test_resuming_is_refused_if_no_steps_are_left(first, steps, tmp_path):
    with pytest.raises(UserError, match=f"at step 2 and the run ends at step {steps}"):
        train([*recipe(first), f"ckpt={first}", f"trainer.max_steps={steps}"], tmp_path)


CHOSEN = {  # overrides when resuming -> the differences from the run's own settings
    "schedule.steps=500 schedule=linear": {"schedule.steps": 500},
    "weighting@objective.weighting=min_snr": {"objective.weighting.gamma": 5.0},
    "grid@sampler.grid=karras": {"sampler.grid.rho": 7.0},
    "data=landscapes seed=4": {"data.seed": 4},
    "logger=[tensorboard,wandb]": {"logger.wandb.job_type": "train"},
    "optimizer.lr=0.5": {"optimizer.lr": 0.5},
}


@pytest.mark.parametrize("words", CHOSEN)
def test_overrides_replace_single_saved_settings(run, words, monkeypatch):
    monkeypatch.chdir(run.parent)
    changed, launch = resumed_run(["hydra.run.dir=run", "ckpt=auto", *words.split()])
    before, after = flat(config(run)), flat(changed)
    assert launch.folder.samefile(run)
    for key, value in CHOSEN[words].items():
        assert after.get(key) == value
    groups = {key.partition(".")[0] for key in before | after if before.get(key) != after.get(key)}
    assert groups <= {word.rpartition("@")[2].partition("=")[0].partition(".")[0] for word in words.split()} | {"ckpt"}


@pytest.mark.parametrize(
    ("before", "now"), [("torch.optim.AdamW", "doubles.signalling"), ("name: test", "name: ${oc.env:FOREIGN}")]
)
def test_an_untrusted_class_or_an_interpolation_in_a_saved_configuration_is_refused(
    command, run, monkeypatch, before, now
):
    monkeypatch.setenv("FOREIGN", "canary")
    file = run / "config.yaml"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, now))
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 2, out + err
    assert "doubles.signalling" in err or "interpolation" in err
    assert "canary" not in out + err


def test_changed_images_are_refused_in_the_same_folder_and_said_in_another(ran, refused, run, tmp_path):
    images = Path(shutil.copytree(config(run)["data"]["root"], tmp_path / "images"))
    Image.new("RGB", (24, 24), (1, 2, 3)).save(images / "05.png")
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "checkpoints/last.ckpt")}
    err = refused("train", [*RUN, f"data.root={images}", "trainer.max_steps=4"])
    assert "are not those it was trained with" in err
    assert before == {name: (run / name).read_bytes() for name in before}
    other = [*recipe(run), f"ckpt={run}", "trainer.max_steps=3", "hydra.run.dir=other"]
    out = ran("train", other)
    assert "held-out images may have been training images" in " ".join(out.split())


def test_a_complete_run_that_is_made_longer_counts_its_steps_on(first, tmp_path):
    """It validates every six steps: the last validation of the first run, after two, does not count."""
    train([*recipe(first), *LOGGED, "trainer.max_steps=8", "trainer.max_epochs=-1", f"ckpt={first}"], tmp_path)
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [*range(8)]
    assert [row["step"] for row in rows if "val/mse" in row] == [1, 5, 7]


def test_epochs_are_counted_in_images_after_a_change_of_the_batch_size(first, tmp_path):
    """Two steps of 4 of 24 images, and five of 8."""
    train([*recipe(first), *LOGGED, "data.batch_size=8", "trainer.max_epochs=2", f"ckpt={first}"], tmp_path)
    assert (record(tmp_path)["steps"], record(tmp_path)["epochs"]) == (7, 2)
    assert record(tmp_path)["epoch_length"] is None
    epochs = defaultdict(set)
    for row in read_rows(tmp_path / "metrics.csv"):
        epochs[row["step"]] |= {row["epoch"]} if "epoch" in row else set()
    assert [*epochs.values()] == [{0}, {0}, {0}, {0}, {1}, {1}, {1}]


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
