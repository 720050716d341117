"""Dashboards show what a run did, and cannot end it."""

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import recorded

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
