"""Two processes equal one: the same global batch yields the same numbers, and each image is scored once."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from composing import settings, train
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.errors import UserError
from diffusion.runs.folder import Metrics, read_metrics
from diffusion.training.run import make_trainer

pytestmark = pytest.mark.reliability

LAYOUTS = {  # a global batch of 8, divided in different ways
    "one": ["data.batch_size=8"],
    "two": ["data.batch_size=4", "trainer.devices=2"],
    "one, accumulating": ["data.batch_size=2", "trainer.accumulate_grad_batches=4"],
    "two, accumulating": ["data.global_batch_size=8", "data.batch_size=2", "trainer.devices=2"],
}
COMMON = (  # 25 images, which no layout divides: 3 steps per epoch
    "data.val=7", "trainer.max_steps=8", "trainer.max_epochs=4", "trainer.precision=64-true",
    "trainer.gradient_clip_val=0.1", "ema=power", "ema.snapshots=2", "model.dropout=0.2", "data.flip=true",
    "augmentation=edm", "augmentation.probability=0.5", "condition=lowres", "label_dropout=0.3",
    "checkpoint.every_n_steps=4", "checkpoint.keep=9", "samples.n=0",
)  # fmt: skip


class Outcome(NamedTuple):
    """A run's raw weights, averaged weights and Adam moments, and its metrics.csv."""

    weights: dict[str, Tensor]
    metrics: Metrics

    def distance(self, other: "Outcome") -> float:
        assert self.weights.keys() == other.weights.keys()
        return max(float((value - other.weights[name]).abs().max()) for name, value in self.weights.items())


@pytest.fixture(scope="module")
def outcome(tiny, tmp_path_factory) -> Callable[..., Outcome]:
    """Train once with a layout, in the folder of its name."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def trained(name: str, after: str | None = None) -> Outcome:
        run, more = folder / f"{name} after {after}", []
        if after is not None:
            trained(after)
            more = [f"ckpt='{storage.numbered(folder / f'{after} after None' / 'checkpoints', 4)}'"]
        train([*tiny, *COMMON, *LAYOUTS[name], *more], run)
        contents = storage.load(run / "checkpoints/last.ckpt")
        assert contents["global_step"] == 8
        kept = {"raw": contents["current_model_state"], "averaged": contents["state_dict"]}
        kept |= {f"moments {i}": moments for i, moments in contents["optimizer_states"][0]["state"].items()}
        for step, file in storage.snapshots(run / "checkpoints").items():
            kept |= {f"{step} {length}": values for length, values in storage.load(file)["averages"].items()}
        flat = {f"{kind} {name}": value for kind, values in kept.items() for name, value in values.items()}
        return Outcome(flat, read_metrics(run / "metrics.csv"))

    return trained


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
def test_two_processes_give_the_same_training_as_one(outcome, layout):
    one, other = outcome("one"), outcome(layout)
    assert other.distance(one) <= 1e-12
    if layout != "two":
        return
    assert other.metrics.keys() == one.metrics.keys()
    for name, series in one.metrics.items():  # rank 0 logs for both: the loss of all images, each counted once
        assert list(other.metrics[name].step) == list(series.step), name
        expected = pytest.approx(list(series.value), rel=1e-5, abs=1e-7, nan_ok=True)
        assert list(other.metrics[name].value) == expected, name


@pytest.mark.parametrize(
    ("first", "then"), [("one", "two"), ("two", "one"), ("one", "one, accumulating"), ("one, accumulating", "one")]
)
def test_a_run_resumes_with_another_number_of_devices(outcome, capfd, first, then):
    """Step 4 is within the second epoch."""
    resumed = outcome(then, first)
    assert resumed.distance(outcome("one")) <= 1e-12
    assert "step-00000004.ckpt, step 4" in capfd.readouterr().out.replace("\n", "")


@pytest.mark.timeout(150)  # processes that wait for a first one that has ended would wait for days
def test_torchrun_starts_a_single_run_and_ends_if_it_is_complete(tiny, tmp_path):
    """All processes use the folder and configuration of rank 0."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "diffusion.train", *tiny, "trainer.max_steps=2", "trainer.devices=2", "samples.n=0"]
    for _ in range(2):
        words = [*command, "hydra.run.dir=run", "ckpt=auto"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / "run/run.json").read_text())
        assert (record["state"], record["devices"]) == ("complete", 2)
    assert "already complete" in done.stdout


KILL = """
import os, signal
from lightning.pytorch import Callback

class Kill(Callback):
    def on_train_batch_end(self, trainer, *_):
        if (os.environ["TORCHELASTIC_RESTART_COUNT"], trainer.global_rank, trainer.global_step) == ("0", 1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(150)
def test_torchrun_starts_a_run_again_after_a_process_was_killed(tiny, tmp_path):
    """torch 2.13 finds the first attempt's addresses in its store; a script that does not care fails, or waits."""
    (tmp_path / "kill.py").write_text(KILL)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["--max-restarts=1", "-m", "diffusion.train", *tiny, "trainer.max_steps=4", "trainer.devices=2"]
    command += ["samples.n=0", "checkpoint.every_n_steps=2", "+callbacks.kill._target_=kill.Kill", "hydra.run.dir=run"]
    done = subprocess.run([*command, "ckpt=auto"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step-00000002.ckpt, step 2" in done.stdout.replace("\n", "")


def test_fewer_trainer_devices_than_torchrun_processes_are_refused(monkeypatch):
    """Each of the two processes would be a separate run."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match=r"is 2: set trainer\.devices=2 trainer\.num_nodes=1$"):
        make_trainer(settings([]), Path(), None)
