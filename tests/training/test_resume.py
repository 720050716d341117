"""Resuming: with the run's recipe, never silently with another one, and never if nothing is left to train."""

import json
import math
import shlex
import shutil

import pytest
import torch
import yaml
from composing import train

from diffusion.checkpoint import storage
from diffusion.config.composition import composed, plain
from diffusion.randomness import GENERATOR
from diffusion.runs.metrics import read_metrics, read_rows
from diffusion.runs.record import RunRecord
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
    assert "resuming with the settings in run/config.yaml" in out
    assert "other settings" not in out
    after = config(run)
    assert (before["trainer"].pop("max_steps"), after["trainer"].pop("max_steps")) == (2, 4)
    assert (before.pop("ckpt"), after.pop("ckpt")) == (None, "auto")
    assert before == after
    assert json.loads((run / "run.json").read_text())["steps"] == 4
    status, out, err = command("train", [*RUN, "trainer.max_steps=6"])  # and again, with both changes
    assert status == 0, out + err
    assert config(run)["optimizer"]["lr"] == 0.001


def test_a_run_that_stopped_before_training_is_not_started_with_other_settings(command, tiny, tmp_path):
    record = tmp_path / "run/.hydra/overrides.yaml"
    record.parent.mkdir(parents=True)
    words = [*tiny, "samples.n=0", "trainer.max_steps=1"]
    record.write_text(yaml.safe_dump([*words, "ckpt=auto"]))
    (tmp_path / "run/run.json").write_text('{"state": "interrupted"}')
    status, out, err = command("train", [*RUN, "trainer.max_steps=2"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert line.startswith("error: run: its run stopped before training began")
    repeated = shlex.split(line.partition("python -m diffusion.train ")[2].removesuffix("; or remove the folder"))
    assert repeated == [*words, "ckpt=auto", "hydra.run.dir=run"]
    assert yaml.safe_load(record.read_text()) == repeated[:-1]
    status, out, err = command("train", [*repeated, "trainer.max_steps=2"])
    assert status == 0, out + err
    assert config(tmp_path / "run")["trainer"]["max_steps"] == 2


def test_a_run_that_failed_before_training_can_be_started_with_fewer_settings(command, tiny, tmp_path):
    status, out, err = command("train", [*tiny, *RUN, "data.limit=1000", "samples.n=0"])
    assert status == 2, out + err
    assert "lower data.limit" in err
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "failed"
    status, out, err = command("train", [*tiny, *RUN, "trainer.max_steps=1"])
    assert status == 0, out + err


def test_the_checkpoint_is_read_only_once_on_resume(command, run, monkeypatch):
    reads, load = [], storage.load

    def counted(path):
        reads.append(path.name)
        return load(path)

    monkeypatch.setattr(storage, "load", counted)
    assert command("train", [*RUN, "trainer.max_steps=4"])[0] == 0
    assert len(reads) == 1, reads


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


def test_the_time_of_a_run_includes_that_of_the_run_it_resumes(command, run, tiny, tmp_path):
    def set_time(seconds):
        record = RunRecord(run)
        record.content |= {"seconds": seconds, "seconds_of": {"data": seconds / 2}}
        record.write()

    def recorded(folder):
        content = RunRecord(folder).content
        return content["seconds"], content["seconds_of"]["data"], sum(content["seconds_of"].values())

    set_time(1000.0)
    shutil.copy(run / "checkpoints/last.ckpt", run / "checkpoints/early.ckpt")
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 0, out + err
    assert "after 16 min 40 s before it was resumed" in out
    seconds, data, parts = recorded(run)
    assert 1000 < seconds < 1100
    assert 500 < data < parts < seconds - 400
    set_time(1000.0)
    words = [*tiny, "trainer.max_steps=5", "samples.n=0"]
    for name, earlier in (("last", 1000), ("early", 500)):
        chosen = [f"ckpt=run/checkpoints/{name}.ckpt", f"hydra.run.dir={name}"]
        status, out, err = command("train", [*words, "optimizer.lr=0.001", *chosen])
        assert status == 0, out + err
        seconds, data, _ = recorded(tmp_path / name)
        assert earlier < seconds < earlier + 100
        assert earlier / 2 < data < earlier / 2 + 50
    status, out, err = command("train", [*words, "ckpt=null", "hydra.run.dir=run"])
    assert status == 0, out + err
    assert "resumed" not in out
    seconds, data, parts = recorded(run)
    assert data < parts < 100
    assert seconds < 100


def test_a_job_that_is_resumed_has_the_time_and_the_epochs_of_its_first_start(command, tiny, tmp_path):
    words = ["-m", *tiny, "seed=0,1", "samples.n=0", "trainer.max_steps=2", "hydra.sweep.dir=sweep"]
    assert command("train", words)[0] == 0
    record = RunRecord(tmp_path / "sweep/0")
    record.content |= {"seconds": 1000.0, "state": "died", "epoch_lengths": [[0, 5]]}
    record.write()
    assert command("train", words)[0] == 0
    content = RunRecord(tmp_path / "sweep/0").content
    assert (content["state"], content["epoch_lengths"]) == ("complete", [[0, 5], [2, 6]])
    assert 1000 < content["seconds"] < 1100


@pytest.mark.parametrize("noise", [None, "threefry"])
def test_a_changed_noise_generator_is_reported_once_on_resume(command, run, noise):
    for path in (run / "checkpoints").glob("*.ckpt"):
        contents = storage.load(path)
        assert contents.pop("noise") == GENERATOR
        storage.save(contents if noise is None else {**contents, "noise": noise}, path)
    status, out, err = command("train", [*RUN, "trainer.max_steps=3"])
    assert status == 0, out + err
    said = f"its noise came from {noise or 'an older generator'}, and now comes from {GENERATOR}"
    assert said in " ".join(out.split())
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 0, out + err
    assert "noise came from" not in " ".join(out.split())


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


def test_changed_settings_are_reported_on_resume(command, run):
    words = ["optimizer.lr=0.01", "data.batch_size=8", "lr_scheduler=constant", "trainer.max_steps=4"]
    status, out, err = command("train", [*RUN, *words])
    assert status == 0, out + err
    line = next(line for line in out.splitlines() if line.startswith("other settings than the checkpoint's: "))
    for change in ("data.batch_size 4 → 8", "optimizer.lr 0.001 → 0.01", "lr_scheduler._target_ "):
        assert change in line
    assert config(run)["lr_scheduler"].keys() == {"_target_", "_partial_"}
    said = "a step had 4 images, and has 8 from here on (on 1 device); data.global_batch_size=4 keeps their number"
    assert said in " ".join(out.split())


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


def test_a_fused_optimizer_resumes_in_another_memory_format(tiny, tmp_path):
    words = [*tiny, "+optimizer.fused=true", "trainer.precision=64-true", "score=off", "samples.n=0"]
    train([*words, "trainer.max_steps=6"], tmp_path / "whole")
    train([*words, "trainer.max_steps=3"], tmp_path / "first")
    ckpt = f"ckpt={tmp_path}/first/checkpoints/last.ckpt"
    train([*words, "trainer.max_steps=6", "channels_last=false", ckpt], tmp_path / "rest")
    (expected, moments), (found, resumed) = (
        (saved["state_dict"], saved["optimizer_states"][0])
        for saved in (storage.load(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "rest"))
    )
    assert moments["param_groups"][0]["fused"] is resumed["param_groups"][0]["fused"] is True
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-9, msg=name)
    assert any(weight.stride() != found[name].stride() for name, weight in expected.items())


def test_a_learning_rate_that_jumps_on_resume_is_printed(command, tiny, tmp_path):
    words = [
        *tiny,
        "hydra.run.dir=run",
        "samples.n=0",
        "optimizer.lr=0.01",
        "lr_scheduler=cosine",
        "lr_scheduler.warmup=0",
    ]
    assert command("train", [*words, "trainer.max_steps=2"])[0] == 0
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 0, out + err
    said = "the learning rate was 0 and is 0.005 from here on: lr_scheduler is computed for a run of 4 steps"
    assert said in " ".join(out.split())
    rates = read_metrics(tmp_path / "run/metrics.csv")["lr-AdamW"]
    assert rates.value[-2:].tolist() == pytest.approx([0.005, 0.01 * (1 + math.cos(0.75 * math.pi)) / 2])
    status, out, err = command("train", [*RUN, "optimizer.lr=0.02", "lr_scheduler=constant", "trainer.max_steps=5"])
    assert "the learning rate was 0 and is 0.02" in out
    status, out, err = command("train", [*RUN, "optimizer.lr=0.01", "trainer.max_steps=6"])
    assert status == 0, out + err
    assert "the learning rate" not in out  # only optimizer.lr has changed, which is reported with the other settings


@pytest.mark.parametrize("steps", [1, 2])
def test_resuming_is_refused_if_no_steps_are_left(command, tiny, run, steps):
    words = ["ckpt=run/checkpoints/last.ckpt", f"trainer.max_steps={steps}", "hydra.run.dir=other"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert f"it is at step 2 and the run ends at step {steps}" in err
    assert "trainer.max_epochs" in err


def test_the_validation_interval_counts_batches_across_epochs(command, tiny, tmp_path):
    """An epoch has 6 batches."""
    words = ["trainer.val_check_interval=7", "trainer.max_epochs=3", "samples.n=0", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 0, out + err
    assert list(read_metrics(tmp_path / "run/metrics.csv")["val/mse"].step) == [7, 14, 18]


CHOSEN = {  # overrides when resuming -> the differences from the run's own settings
    "schedule.steps=500 schedule=linear": {"schedule.steps": 500},
    "experiment=min_snr": {"objective.weighting.gamma": 5.0},
    "grid@sampler.grid=karras": {"sampler.grid.rho": 7.0},
    "~logger": {"logger": None},
}


@pytest.mark.parametrize("words", CHOSEN)
def test_overrides_replace_single_saved_settings(run, words):
    from diffusion.runs.resume import resumed_run

    resumed = resumed_run(["hydra.run.dir=run", "ckpt=auto", *words.split()])
    changed = resumed.with_overrides(plain(composed("train", ["name=x", *resumed.choices, *words.split()])))
    before, after = flat(config(run)), flat(changed)
    assert after["optimizer.lr"] == 0.001
    for key, value in CHOSEN[words].items():
        assert after.get(key) == value
    groups = {key.partition(".")[0] for key in before | after if before.get(key) != after.get(key)}
    assert groups <= {key.partition(".")[0] for key in CHOSEN[words]} | {"ckpt", "name", "sampler"}


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


def test_a_sampler_incompatible_with_the_network_is_refused_before_training(command, tiny):
    words = ["sampler=ancestral", "sampler.steps=4", "variance@sampler.variance=learned_range"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert "learned" in err
    assert "Traceback" not in err
    assert "step" not in out


def test_a_complete_run_that_is_made_longer_counts_its_steps_on(tiny, tmp_path):
    """Its last validation is not one of the longer run, which validates every six steps."""
    words = [*tiny, "samples.n=0", "trainer.log_every_n_steps=1", "trainer.max_epochs=-1"]
    train([*words, "trainer.max_steps=4"], tmp_path / "a")
    train([*words, "trainer.max_steps=6", f"ckpt={tmp_path}/a/checkpoints/last.ckpt"], tmp_path / "b")
    rows = read_rows(tmp_path / "b/metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [*range(6)]
    assert [row["step"] for row in rows if "val/mse" in row] == [3, 5]
