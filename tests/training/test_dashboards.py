"""Dashboards show what a run did, and cannot end it."""

import csv
from importlib import metadata
from types import SimpleNamespace

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion.base.files import code_version
from diffusion.base.pixels import GAP
from diffusion.runs.folder import read_scores
from diffusion.training import loggers

RUN = ["samples.n=0", "hydra.run.dir=run"]


@pytest.fixture
def finished(monkeypatch):
    """What W&B has of each run when it ends, offline."""
    found, finish = [], wandb.Run.finish

    def noted(self, status):
        about = {name: getattr(self, name) for name in ("id", "project", "job_type", "tags", "settings")}
        found.append(SimpleNamespace(**about, config=dict(self.config), summary=dict(self.summary), status=status))
        finish(self, status)

    monkeypatch.setattr(wandb.Run, "finish", noted)
    wandb.teardown()  # it reads its variables again, in the test and after it
    yield found
    wandb.teardown()


def test_wandb_records_the_run_and_continues_it_on_resume(ran, command, tiny, tmp_path, finished):
    words = [*tiny, "logger=wandb", "logger.wandb.tags=[a,b]", "samples.every_n_epochs=1", "samples.n=2", "score.n=8"]
    words += ["features=lite0", "score.baselines=[]", "hydra.run.dir=run", "ckpt=auto"]
    for more in ("trainer.max_epochs=1", "trainer.max_epochs=2"):
        assert "wandb sync" in ran("train", [*words, more])
    first, second = finished
    assert first.id == second.id
    assert (second.project, second.job_type, second.tags) == ("diffusion", "train", ("a", "b"))
    assert second.config["code"] == code_version()
    assert second.config["versions"]["torch"] == metadata.version("torch")
    assert {"train/loss", "val/mse"} <= second.summary.keys()
    assert second.summary["trainer/global_step"] == 11
    assert second.summary["samples"]["width"] == 16 * (2 * 8 + GAP)
    (fd,) = (s for s in read_scores(tmp_path / "run") if s.metric == "fd_lite0" and s.source["step"] == 12)
    shown = [second.summary[f"val/fd_lite0{end}"] for end in ("", "_low", "_high")]
    assert shown == pytest.approx([fd.value, *fd.interval])
    assert (second.status, second.settings.host) == (0, "")  # of the machine
    diverging = ["ckpt=null", "optimizer.lr=1e30", "guard.spikes=null"]
    assert command("train", [*tiny, *RUN, "logger=wandb", *diverging])[0] == 3
    assert finished[2].id != first.id  # another run, which has failed
    assert finished[2].status == 1


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
