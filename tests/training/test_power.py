"""ema=power: the tracked averages, the snapshots, and that a resumed run is the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from outcomes import same, state
from torch import Tensor

from diffusion.checkpoint import averages, storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.process.averaging import decay, gamma_of
from diffusion.training.power import PowerEMA
from tests.support.composing import train

OVERRIDES = ("ema=power", "samples.n=0", "trainer.max_epochs=8", "trainer.check_val_every_n_epoch=8")  # 48 steps
RESUMED = ("ema=power", "ema.snapshots=4", "samples.n=0", "trainer.max_steps=12", "checkpoint.every_n_steps=1",
           "checkpoint.keep=20", "optimizer.lr=0.01")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Skip the figures after a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.training.ending.write_report", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny) -> Path:
    """The last checkpoint of a run of 48 steps that tracks 0.05 and 0.1 and keeps 16 snapshots."""
    folder: Path = tmp_path_factory.mktemp("runs") / "run"
    train([*tiny, *OVERRIDES], folder)
    return folder / "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def other(tmp_path_factory, tiny) -> Path:
    """The last checkpoint of the same run, but with 0.08 and 0.2."""
    folder: Path = tmp_path_factory.mktemp("runs") / "other"
    train([*tiny, *OVERRIDES, "ema.lengths=[0.08,0.2]"], folder)
    return folder / "checkpoints/last.ckpt"


def held(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = storage.load(path)["callbacks"]["PowerEMA"]
    return found


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for name, value in sorted(tensors.items()) if name.startswith(PREFIX)])


def test_the_averages_follow_their_recurrence_and_the_first_is_used(tiny, tmp_path, monkeypatch):
    weights: list[Tensor] = []
    step = PowerEMA.on_train_batch_end

    def seen(self, trainer, module, *args, **kwargs):
        step(self, trainer, module, *args, **kwargs)
        weights.append(flat(dict(module.named_parameters())).detach())

    monkeypatch.setattr(PowerEMA, "on_train_batch_end", seen)
    train([*tiny, *RESUMED], tmp_path / "run")
    found = held(tmp_path / "run/checkpoints/last.ckpt")
    assert (found["updates"], len(weights)) == (12, 12)
    for length in (0.05, 0.1):
        average = torch.zeros_like(weights[0])
        for n, w in enumerate(weights, start=1):
            average += (1 - decay(gamma_of(length), n)) * (w - average)
        assert torch.allclose(flat(found["averages"][str(length)]), average, rtol=0, atol=1e-6)
    contents = storage.load(tmp_path / "run/checkpoints/last.ckpt")
    first = found["averages"]["0.05"]
    assert all(torch.equal(value, contents["state_dict"][name]) for name, value in first.items())
    raw = {name: contents["current_model_state"][name] for name in first}
    assert torch.equal(flat(raw), weights[-1])
    network = restore(tmp_path / "run/checkpoints/last.ckpt", "ema").denoiser.network
    assert all(torch.equal(value, first[PREFIX + name]) for name, value in network.named_parameters())


def test_a_snapshot_holds_the_averages_of_its_step(tiny, tmp_path):
    train([*tiny, *RESUMED], tmp_path / "run")
    inside = tmp_path / "run/checkpoints"
    assert list(averages.snapshots(inside)) == [3, 6, 9, 12]
    for step, file in averages.snapshots(inside).items():
        found = storage.load(file)
        assert found["updates"] == step
        assert same(found["averages"], held(storage.numbered(inside, step))["averages"])


@pytest.mark.parametrize(("length", "bound"), [("0.08", 3e-4), ("0.2", 3e-2)])
def test_an_average_reconstructed_from_snapshots_equals_a_tracked_one(run, other, length, bound):
    """`bound` is relative to the distance between the averages of 0.05 and 0.1; relative to the weights: 7e-7, 7e-5."""
    own, tracked = held(run)["averages"], held(other)["averages"][length]
    made = averages.of_length(storage.load(run), run, float(length))
    apart = (flat(own["0.05"]) - flat(own["0.1"])).norm()
    assert made.keys() == tracked.keys()
    assert (flat(made) - flat(tracked)).norm() < bound * apart
    assert (flat(made) - flat(tracked)).norm() < bound / 400 * flat(tracked).norm()


def test_resuming_in_another_folder_gives_the_same_run_and_snapshots(tiny, tmp_path):
    whole = tmp_path / "whole"
    train([*tiny, *RESUMED], whole)
    for step in (2, 7, 9):
        folder = tmp_path / f"from {step}"
        ckpt = storage.numbered(whole / "checkpoints", step)
        train([*tiny, *RESUMED, f"ckpt={ckpt}"], folder)
        assert same(state(folder), state(whole)), step
        assert same(held(folder / "checkpoints/last.ckpt"), held(whole / "checkpoints/last.ckpt")), step
        ours, theirs = averages.snapshots(folder / "checkpoints"), averages.snapshots(whole / "checkpoints")
        assert {n: file.read_bytes() for n, file in ours.items()} == {n: f.read_bytes() for n, f in theirs.items()}


def test_resuming_from_an_earlier_step_removes_later_snapshots(tiny, tmp_path):
    folder = tmp_path / "run"
    train([*tiny, *RESUMED], folder)
    kept = {step: file.read_bytes() for step, file in averages.snapshots(folder / "checkpoints").items()}
    ckpt = storage.numbered(folder / "checkpoints", 7)
    before = restore(folder / "checkpoints/last.ckpt", 0.08).denoiser.network.state_dict()
    train([*tiny, *RESUMED, "optimizer.lr=0.02", "trainer.max_steps=8", f"ckpt={ckpt}"], folder)
    assert list(averages.snapshots(folder / "checkpoints")) == [3, 6, 8]
    assert all(averages.snapshots(folder / "checkpoints")[step].read_bytes() == kept[step] for step in (3, 6))
    now = restore(folder / "checkpoints/last.ckpt", 0.08).denoiser.network.state_dict()
    assert not same(dict(now), dict(before))
