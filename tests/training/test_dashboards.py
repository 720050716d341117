"""Dashboards show what a run did, and cannot end it."""

import csv
from importlib import metadata

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import recorded

from diffusion.base.files import code_version
from diffusion.pixels import GAP
from diffusion.runs.folder import read_scores
from diffusion.training import loggers

RUN = ["samples.n=0", "hydra.run.dir=run"]


@pytest.fixture(autouse=True)
def environment():
    """Let wandb read its variables again, in the test and after it."""
    wandb.teardown()
    yield
    wandb.teardown()


def test_wandb_records_the_run_and_continues_it_on_resume(ran, tiny, tmp_path):
    words = [*tiny, "logger=wandb", "logger.wandb.tags=[a,b]", "samples.every_n_epochs=1", "samples.n=2", "score.n=8"]
    words += ["features=lite0", "score.baselines=[]", "hydra.run.dir=run", "ckpt=auto"]
    for more in ("trainer.max_epochs=1", "trainer.max_epochs=2"):
        assert "wandb sync" in ran("train", [*words, more])
    first, second = recorded(tmp_path / "run")
    assert first.run.run_id == second.run.run_id
    assert (second.run.project, second.run.job_type, [*second.run.tags]) == ("diffusion", "train", ["a", "b"])
    assert second.config["code"] == code_version()
    assert second.config["versions"]["torch"] == metadata.version("torch")
    assert [row["trainer/global_step"] for row in second.history if "train/loss" in row] == [*range(6, 12)]
    assert [row["samples"]["width"] for row in second.history if "samples" in row] == [16 * (2 * 8 + GAP)]
    (fd,) = (s for s in read_scores(tmp_path / "run") if s.metric == "fd_lite0" and s.source["step"] == 12)
    shown = [second.summary[f"val/fd_lite0{end}"] for end in ("", "_low", "_high")]
    assert shown == pytest.approx([fd.value, *fd.interval])
    ran("train", [*tiny, *RUN, "logger=wandb", "trainer.max_steps=1", "ckpt=null"])  # another run
    assert len({each.run.run_id for each in recorded(tmp_path / "run")}) == 2


def test_wandb_shows_a_failed_run_as_failed(command, tiny, tmp_path):
    status, _, _ = command("train", [*tiny, *RUN, "logger=wandb", "optimizer.lr=1e30", "guard.spikes=null"])
    (found,) = recorded(tmp_path / "run")
    assert (status, found.ended, found.status) == (3, True, 1)
    assert found.run.host == ""


def test_tensorboard_shows_each_step_of_a_resumed_run_once(ran, tiny, tmp_path):
    words = [*tiny, *RUN, "logger=tensorboard", "trainer.max_steps=4", "checkpoint.every_n_steps=2"]
    words += ["samples.n=2", "samples.every_n_epochs=1", "trainer.limit_train_batches=2", "least_interval=1"]
    for more in ([], ["ckpt=run/checkpoints/step-00000002.ckpt"]):
        ran("train", [*words, *more])
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert [event.step for event in events.Images("samples")] == [1, 3]


def test_a_lightning_logger_of_ones_own_logs_until_it_fails(ran, tiny, tmp_path):
    own = ["+logger.own._target_=doubles.Lost", "+logger.own.save_dir=own", "+logger.own.flush_logs_every_n_steps=1"]
    out = ran("train", [*tiny, *RUN, "trainer.max_steps=4", *own])
    (file,) = (tmp_path / "own").rglob("metrics.csv")
    assert [row["step"] for row in csv.DictReader(file.open())] == ["0", "1"]
    assert "optimizer" in (file.parent / "hparams.yaml").read_text()
    assert out.count("own: no answer from http://server; the run continues without it") == 1


def test_a_missing_package_is_one_line_before_a_dashboard_begins(refused, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None if name == "mlflow" else name)
    err = refused("train", [*tiny, *RUN, "logger=[tensorboard,mlflow]"])
    assert "logger=mlflow: it is not installed; " in err
    assert "[mlflow]" in err
    assert not (tmp_path / "run/tensorboard").exists()
