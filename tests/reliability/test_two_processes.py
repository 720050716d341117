"""T10. Two processes equal one: the same global batch yields the same numbers, and each image is scored once."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composing import train
from torch import Tensor

from diffusion.errors import UserError
from diffusion.runs.metrics import Metrics, read_metrics
from diffusion.training import processes

pytestmark = pytest.mark.reliability

LAYOUTS = {  # a global batch of 8, divided in different ways
    "one": ["data.batch_size=8"],
    "two": ["data.batch_size=4", "trainer.devices=2"],
    "accumulating": ["data.batch_size=2", "trainer.devices=2", "trainer.accumulate_grad_batches=2"],
    "two, of a whole": ["data.global_batch_size=8", "data.batch_size=2", "trainer.devices=2"],
}
COMMON = (
    "trainer.max_steps=10",
    "trainer.max_epochs=4",
    "trainer.precision=64-true",
    "trainer.gradient_clip_val=0.1",
    "ema.decay=0.9",
    "model.dropout=0.2",
    "data.flip=true",
    "augmentation=edm",
    "augmentation.probability=0.5",
)


def states(tmp_path: Path, name: str, overrides: list[str]) -> tuple[dict[str, Tensor], Metrics]:
    """A run's raw weights, averaged weights and Adam moments, and its metrics.csv."""
    folder = tmp_path / name
    train(overrides, folder)
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"
    contents = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert contents["global_step"] == 10
    flat = {f"{kind} {name}": v for kind in ("state_dict", "current_model_state") for name, v in contents[kind].items()}
    for i, moments in contents["optimizer_states"][0]["state"].items():
        flat |= {f"{name} {i}": v for name, v in moments.items()}
    return flat, read_metrics(folder / "metrics.csv")


def test_two_processes_give_the_same_training_as_one(tiny, tmp_path, figure):
    common = [*tiny, *COMMON]
    common += ["data.val=7"]  # which two processes cannot share equally
    runs = {name: states(tmp_path, name, [*common, *layout]) for name, layout in LAYOUTS.items()}
    whole, log = runs.pop("one")
    worst = max(float((state[key] - whole[key]).abs().max()) for state, _ in runs.values() for key in whole)
    assert worst <= 1e-12
    two = runs["two"][1]
    assert two.keys() == log.keys()
    for name, series in log.items():  # rank 0 logs for both: the loss of all images, each counted once
        assert list(two[name].step) == list(series.step), name
        assert list(two[name].value) == pytest.approx(list(series.value), rel=1e-5, abs=1e-7, nan_ok=True), name
    figure("two processes against one, 10 steps in float64, largest difference", f"{worst:.1e}")


def test_a_run_resumes_with_another_number_of_devices(tiny, tmp_path, figure, capfd):
    common = [*tiny, *COMMON]
    common += ["checkpoint.every_n_steps=4", "checkpoint.keep=9"]  # 3 steps per epoch: step 4 is in the second one
    runs, worst = {}, 0.0
    for first, then in (("one", "two"), ("two", "one")):
        if first not in runs:
            runs[first], _ = states(tmp_path, first, [*common, *LAYOUTS[first]])
        ckpt = tmp_path / first / "checkpoints/step-00000004.ckpt"
        resumed, _ = states(tmp_path, f"{first}, then {then}", [*common, *LAYOUTS[then], f"ckpt={ckpt}"])
        said = capfd.readouterr().out.replace("\n", "")
        assert f"resuming from {ckpt}, step 4" in said
        assert "from here on" not in said
        worst = max(worst, *(float((resumed[key] - value).abs().max()) for key, value in runs[first].items()))
    assert worst <= 1e-12
    figure("resumed with another number of processes, largest difference", f"{worst:.1e}")


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def test_torchrun_starts_a_single_run(tiny, tmp_path):
    """All processes use the folder and configuration of rank 0."""
    command = [*TORCHRUN, "--standalone", "-m", "diffusion.train", *tiny, "trainer.max_steps=2", "name=run"]
    done = subprocess.run([*command, "trainer.devices=2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("outputs/run/*/run.json")
    assert json.loads(record.read_text())["devices"] == 2
    assert [path.name for path in record.parent.parent.iterdir()] == [record.parent.name]


@pytest.mark.timeout(150)  # the second one would wait for days
def test_torchruns_other_processes_end_if_the_first_one_starts_no_run(tmp_path):
    command = [*TORCHRUN, "--standalone", "-m", "diffusion.train", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_fewer_trainer_devices_than_torchrun_processes_are_refused(monkeypatch):
    """Each of the two processes would be a separate run."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match=r"trainer\.devices=2"):
        processes.check_processes(SimpleNamespace(world_size=1))  # type: ignore[arg-type]
