"""Dashboards show what a run did, and cannot end it."""

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import recorded

from diffusion.runs.metrics import read_rows
from diffusion.training import loggers

RUN = ["samples.n=0", "hydra.run.dir=run"]


@pytest.fixture(autouse=True)
def environment():
    """Let wandb read its variables again, in the test and after it."""
    wandb.teardown()
    yield
    wandb.teardown()


def test_wandb_shows_a_failed_run_as_failed(command, tiny, tmp_path):
    status, _, _ = command("train", [*tiny, *RUN, "logger=wandb", "optimizer.lr=1e30", "guard.spikes=null"])
    (found,) = recorded(tmp_path / "run")
    assert (status, found.ended, found.status) == (3, True, 1)
    assert found.run.host == ""


@pytest.mark.parametrize("why", ["Failed to authenticate with the server.", "WANDB_API_KEY invalid"])
def test_without_a_network_or_a_valid_key_wandb_stores_the_run_locally(command, tiny, tmp_path, monkeypatch, why):
    def login(**_):
        raise wandb.errors.AuthenticationError(why)

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", login)
    status, out, err = command("train", [*tiny, *RUN, "logger=wandb", "trainer.max_steps=2"])
    assert status == 0, out + err
    assert f"wandb: {why.rstrip('.')}, so the run is stored locally" in out
    assert len(recorded(tmp_path / "run")) == 1


def test_wandb_mode_disabled_logs_nothing(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    status, out, err = command("train", [*tiny, *RUN, "logger=wandb", "trainer.max_steps=2"])
    assert status == 0, out + err
    assert "no key" not in out
    assert not [*(tmp_path / "run").rglob("*.wandb")]


def test_a_run_continues_without_wandb_if_its_process_dies(command, tiny, monkeypatch):
    def log_metrics(*_):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(WandbLogger, "log_metrics", log_metrics)
    status, out, err = command("train", [*tiny, *RUN, "logger=wandb", "trainer.max_steps=2"])
    assert status == 0, out + err
    assert out.count("wandb: Connection lost; the run continues without it") == 1


SWA = "+callbacks.swa._target_=lightning.pytorch.callbacks.StochasticWeightAveraging"


@pytest.mark.parametrize("wrong", [["trainer.limit_val_batches=0.01"], [SWA, "+callbacks.swa.swa_lrs=0.1"]])
def test_a_refused_run_does_not_touch_the_dashboards(command, tiny, tmp_path, wrong):
    words = [*tiny, *RUN, "logger=[wandb,tensorboard]", "trainer.max_steps=2"]
    assert command("train", words)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*id")}
    files = {*(tmp_path / "run/tensorboard").iterdir()}
    assert command("train", [*words, "ckpt=null", *wrong])[0] == 2
    assert before
    assert before == {path: path.read_bytes() for path in before}
    assert files == {*(tmp_path / "run/tensorboard").iterdir()}
    assert len(recorded(tmp_path / "run")) == 1
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_tensorboard_shows_each_step_of_a_resumed_run_once(command, tiny, tmp_path):
    words = [*tiny, *RUN, "logger=tensorboard", "trainer.max_steps=4", "checkpoint.every_n_steps=2"]
    words += ["samples.n=2", "samples.every_n_epochs=1", "trainer.limit_train_batches=2", "least_interval=1"]
    assert command("train", words)[0] == 0
    status, out, err = command("train", [*words, "ckpt=run/checkpoints/step-00000002.ckpt"])
    assert status == 0, out + err
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert [event.step for event in events.Images("samples")] == [1, 3]


def test_the_learning_rate_is_logged_once_per_step(command, tiny, tmp_path):
    words = [*tiny, *RUN, "trainer.accumulate_grad_batches=3", "trainer.max_epochs=1"]
    assert command("train", words)[0] == 0
    assert [row["step"] for row in read_rows(tmp_path / "run/metrics.csv") if "lr-AdamW" in row] == [0, 1]


@pytest.mark.parametrize("word", ["+logger.wandb.nonsense=1", "+logger.wandb.id=abc", "+logger.wandb.log_model=all"])
def test_a_setting_that_wandb_does_not_know_is_an_error_in_one_line(command, tiny, word):
    status, _, err = command("train", [*tiny, *RUN, "logger=wandb", "trainer.max_steps=2", word])
    assert (status, err.count("\n")) == (2, 1)
    assert "logger.wandb" in err


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("RichProgressBar", "its own progress bar"),
        ("TQDMProgressBar", "its own progress bar"),
        ("BatchSizeFinder", "data.batch_size=auto"),
        ("LearningRateFinder", "optimizer.lr"),
        ("EMAWeightAveraging", "ema="),
    ],
)
def test_a_callback_for_what_a_run_does_by_itself_is_refused(command, tiny, name, instead):
    word = f"+callbacks.mine._target_=lightning.pytorch.callbacks.{name}"
    status, _, err = command("train", [*tiny, *RUN, "trainer.max_steps=2", word])
    assert (status, err.count("\n")) == (2, 1)
    assert f"callbacks.mine: {name} does not work here" in err
    assert instead in err


def test_wandb_begins_no_run_if_tensorboard_is_missing(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    status, _, err = command("train", [*tiny, *RUN, "logger=[wandb,tensorboard]", "trainer.max_steps=2"])
    assert (status, err.count("\n")) == (2, 1)
    assert not (tmp_path / "run/wandb").exists()
