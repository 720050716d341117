"""Runs that are stopped at unusual moments, and continued later."""

import json

import pytest
import torch
import yaml

from diffusion.checkpoint import storage
from diffusion.errors import Interrupted
from diffusion.runs.folder import read_metrics
from diffusion.training import saving
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability
RUN = "hydra.run.dir=run"
WORDS = ("trainer.max_steps=2", "samples.n=0", "score.n=0", RUN)


@pytest.fixture
def record(tmp_path):
    return lambda: json.loads((tmp_path / "run/run.json").read_text())


@pytest.fixture
def train(command, tiny):
    """`train(overrides)` -> (exit status, output)."""

    def trained(*overrides):
        status, out, err = command("train", [*tiny, *WORDS, *overrides])
        return status, out + err

    return trained


@pytest.mark.parametrize(("number", "drawn"), [(2, ["interrupted"]), (15, [])])
def test_ctrl_c_leaves_a_page(train, monkeypatch, number, drawn):
    def stop(*_):
        raise Interrupted(number)

    states = []
    monkeypatch.setattr("diffusion.training.ending.write_report", lambda *_, state: states.append(state))
    monkeypatch.setattr(Diffusion, "training_step", stop)
    status, text = train()
    assert (status, states) == (128 + number, drawn)
    assert ("run/report.html" in text) == bool(drawn)


def interrupted(*_, **__):
    raise Interrupted(15)


def test_a_longer_run_that_is_stopped_before_its_first_step_is_not_complete(train, record, monkeypatch):
    assert train()[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "training_step", interrupted)
        assert train("ckpt=auto", "trainer.max_steps=4")[0] == 143
    assert record()["state"] == "interrupted"
    status, text = train("ckpt=auto", "trainer.max_steps=4")
    assert status == 0, text
    assert "already complete" not in text
    assert (record()["state"], record()["steps"]) == ("complete", 4)


def test_a_run_from_scratch_that_is_killed_early_does_not_resume_earlier_weights(train, record, tmp_path, monkeypatch):
    assert train("samples.n=2", "score.n=4", "score.baselines=[]")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "training_step", interrupted)
        assert train("ckpt=null", "seed=7")[0] == 143
    assert not (tmp_path / "run/scores.json").exists()
    assert not [*(tmp_path / "run/samples").iterdir()]
    status, text = train("ckpt=auto", "seed=7")
    assert status == 0, text
    resumed = storage.load(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    assert train("seed=7", "hydra.run.dir=alone")[0] == 0
    alone = storage.load(tmp_path / "alone/checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(weight, alone[name]) for name, weight in resumed.items())
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["seed"] == 7


def test_a_validation_that_was_interrupted_once_is_repeated_once(train, tmp_path, monkeypatch):
    words = ["trainer.max_steps=6", "least_interval=1", "trainer.val_check_interval=2", "data.eval_batch_size=2"]
    words += ["trainer.check_val_every_n_epoch=null"]
    whole, stopped = [*words, "hydra.run.dir=whole"], [*words, "ckpt=auto"]
    assert train(*whole)[0] == 0
    calls, validate = [], Diffusion.validation_step

    def stop_once(module, *args):
        calls.append(module.trainer.global_step)
        if len(calls) == 3:
            interrupted()
        validate(module, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "validation_step", stop_once)
        assert train(*words)[0] == 143
    assert train(*stopped)[0] == 0
    for more in (whole, stopped):
        assert train(*more, "trainer.max_steps=8", "ckpt=auto")[0] == 0
    curves = [read_metrics(tmp_path / folder / "metrics.csv")["val/mse"] for folder in ("whole", "run")]
    assert list(curves[0].step) == list(curves[1].step)
    assert list(curves[0].value) == list(curves[1].value)


def test_a_run_with_nothing_left_to_do_is_finished(train, record, tmp_path, monkeypatch):
    validate = Diffusion.validation_step

    def signalled(module, *args):
        if module.trainer.global_step == 3:
            saving.State.received = 15
        validate(module, *args)

    words = ["trainer.max_steps=3", "trainer.val_check_interval=2", "trainer.check_val_every_n_epoch=null"]
    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "validation_step", signalled)
        assert train(*words)[0] == 143
    before = storage.load(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    status, text = train(*words, "ckpt=auto")
    assert status == 0, text
    assert (record()["state"], record()["steps"]) == ("complete", 3)
    after = storage.load(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    validated = read_metrics(tmp_path / "run/metrics.csv")["val/mse"].step
    assert list(validated) == [2, 3]  # the last step has one only because it is the last
