"""Everything works on a device other than the CPU, with the CPU's numbers, and a training step never waits."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from diffusion import randomness
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import restore
from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.config.choices import choices as chosen
from diffusion.metric.features import Lite0
from diffusion.process import grid
from diffusion.process.consistency import ConsistencyTuning
from diffusion.process.denoiser import Denoiser, dynamic
from diffusion.process.objective import Hybrid, Simple, Uncertainty
from diffusion.process.prediction import Eps
from diffusion.process.sampler import Ancestral, Heun, PredictorCorrector, UniPC
from diffusion.process.schedule import linear
from diffusion.process.timesteps import LossSecondMoment, Uniform
from diffusion.process.variance import learned_range
from diffusion.randomness import Streams
from diffusion.runs.folder import read_metrics
from diffusion.sampling.drawing import Drawing
from diffusion.training import callbacks, ending, run
from diffusion.training.module import Diffusion
from tests.conftest import thumbnails

NAME = "away"
AWAY = ("trainer.accelerator=away", "trainer.strategy=away")


def scores(folder: Path) -> list[tuple[str, str, float]]:
    return [(r["what"], r["metric"], r["value"]) for r in json.loads((folder / "scores.json").read_text())]


@pytest.mark.slow
def test_a_run_on_another_device_gives_the_results_of_the_cpu_and_its_steps_do_not_wait(
    ran, tiny, away, monkeypatch, tmp_path
):
    used: list[str] = []  # devices
    monkeypatch.setattr(Lite0, "features", lambda self, x: used.append(x.device.type) or thumbnails(self, x))
    monkeypatch.setattr(ending, "write_report", lambda _, schedule, **__: schedule(torch.tensor([0.5])))  # on the CPU
    waits: list[int] = []
    begin = Diffusion.on_train_batch_start
    monkeypatch.setattr(Diffusion, "on_train_batch_start", lambda *args: waits.append(len(away.waits)) or begin(*args))
    rows = [f"{i:02d}.png,{'odd' if i % 2 else 'even'}" for i in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    whole = (
        f"data.labels={tmp_path}/labels.csv", "condition=lowres", "trainer.gradient_clip_val=1",
        "trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.log_every_n_steps=3", "least_interval=1",
        "features=lite0", "metrics=full", "score.n=8", "score.every_n_epochs=1", "samples.every_n_epochs=1",
        "samples.n=2", "score.baselines=[split_half]", "score.audit=[pixels]", "sampler.steps=2",
    )  # fmt: skip
    for folder, device in (("there", AWAY), ("here", ())):
        ran("train", [*tiny, *whole, *device, f"hydra.run.dir={folder}"])
        assert {*used} == {"away" if device else "cpu"}  # also for the reference
        used.clear()
        if device:
            assert len(waits) == 3
            assert away.waits[waits[0] : waits[-1]] == []  # between logs
    metrics = [read_metrics(tmp_path / folder / "metrics.csv") for folder in ("here", "there")]
    for name in ("train/loss", "val/mse", "val/mse_raw", "gap/se", "gap/se_raw"):
        assert list(metrics[1][name].value) == pytest.approx(list(metrics[0][name].value), rel=1e-3)
    for mine, theirs in zip(*(scores(tmp_path / folder) for folder in ("here", "there")), strict=True):
        assert theirs == (*mine[:2], pytest.approx(mine[2], rel=1e-2, abs=1e-3))
    assert json.loads((tmp_path / "there/run.json").read_text())["device"] == "away"
    weight = restore(tmp_path / "there/checkpoints/last.ckpt").denoiser.network.stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for name, more in (("sample", ["n=3"]), ("evaluate", ["n=8", "features=lite0", "split=val"])):
        ran(name, [f"ckpt={tmp_path}/there/checkpoints/last.ckpt", f"hydra.run.dir={name}", *more])


class Small(nn.Module):
    """A network with one parameter and a spread."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.3))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y = torch.tanh(self.weight * x + label[:, None, None, None] / 2000)
        return torch.cat([y, y / 2], dim=1)


def choices(group: str) -> dict[str, Callable[[], Any]]:
    return {f"{group}={name}": partial(make, choice(group, name), group) for name in chosen(group)}


OBJECTIVES: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda of=of: Simple(of()) for name, of in choices("timesteps").items()},
    **{name: lambda of=of: Simple(Uniform(first=0.01), of()) for name, of in choices("weighting").items()},
    **{name: lambda of=of: Simple(noise=of()) for name, of in choices("noise").items()},
    "hybrid": lambda: Hybrid(LossSecondMoment(1000)),
    "uncertainty": lambda: Uncertainty(Simple()),
    "consistency": lambda: tried(ConsistencyTuning(stages=2)),
}


def tried(objective: nn.Module) -> nn.Module:
    """Make the first call, on the CPU, as `check_parts` does."""
    objective(Denoiser(Small(), linear(), Eps()), torch.zeros(1, 3, 2, 2), Streams([0]))
    return objective


def trained(name: str, device: Any, away: Any) -> Tensor:
    """The losses of two steps and the gradient, (9,), copied to the CPU; nothing waits in between."""
    denoiser, objective = Denoiser(Small(), linear(), Eps()).to(device), OBJECTIVES[name]().to(device)
    x0 = torch.linspace(-1, 1, 4 * 12).reshape(4, 3, 2, 2).to(device)
    losses, before = [], len(away.waits)
    for step in range(2):
        streams = Streams([step, 1, 2, 3], device, batch_seed=step, first=4, batch_size=8)
        objective.begin(step, 2)
        result = objective(denoiser, x0, streams)
        objective.update(result["t"], result["term"])
        result["loss"].mean().backward()
        losses.append(result["loss"].detach())
    assert name in ("noise=immiscible", "noise=ot") or away.waits[before:] == []  # these two say that they wait
    return torch.cat([*losses, denoiser.network.weight.grad[None]]).cpu()


SAMPLERS = {
    "ancestral": Ancestral(3, variance=learned_range, threshold=dynamic),
    "unipc": UniPC(3, grid.log_snr, order=3),
    "heun": Heun(3, grid.karras, churn=1.0),
    "corrector": PredictorCorrector(3),
}


def drawn(name: str, device: Any, away: Any) -> Tensor:
    """Five images, without a wait in between."""
    denoiser, waits = Denoiser(Small(), linear(), Eps()).to(device), list[int]()
    drawing = Drawing(SAMPLERS[name], (3, 4, 4), 1)
    images = drawing(denoiser, 5, device, watch=lambda *_: waits.append(len(away.waits)))
    assert away.waits[waits[0] : waits[-1]] == []
    return images.int()


@pytest.mark.parametrize("name", [*OBJECTIVES, *SAMPLERS])
def test_objectives_and_samplers_equal_the_cpu_without_device_synchronization(name, away, monkeypatch):
    """Without float64, as on Apple's devices, times are rounded: samples are nearly the same, and losses finite."""
    made = drawn if name in SAMPLERS else trained
    expected = made(name, torch.device("cpu"), away)
    torch.testing.assert_close(made(name, away.name, away), expected)
    monkeypatch.setattr(randomness, "SINGLE", {NAME})
    away.float64 = False
    found = made(name, away.name, away)
    assert (found - expected).abs().max() <= 1 if name in SAMPLERS else found.isfinite().all()


SKIPPING = ("lr_scheduler=cosine", "lr_scheduler.warmup=2", "hydra.run.dir=run", "samples.n=0")


def steps_and_updates(run_folder: Path) -> tuple[set[int], set[int]]:
    """The steps of a run's clock and the updates of its weights, according to everything that counts them."""
    contents = storage.load(run_folder / "checkpoints/last.ckpt")
    validated = read_metrics(run_folder / "metrics.csv")["val/mse"].step[-1]
    recorded = json.loads((run_folder / "run.json").read_text())["steps"]
    moments = {int(state["step"]) for state in contents["optimizer_states"][0]["state"].values()}
    averaged, rate = contents["callbacks"]["EMA"]["updates"], contents["lr_schedulers"][0]["last_epoch"]
    return {contents["global_step"], int(validated), recorded}, {*moments, averaged, rate}


def test_a_step_skipped_by_the_float16_grad_scaler_updates_nothing(ran, tiny, monkeypatch, tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-16)
    monkeypatch.setattr(run, "LightningEnvironment", lambda: MixedPrecision("16-mixed", "cpu", scaler))
    monkeypatch.setattr(ending, "write_report", lambda *_, **__: None)
    update, scales = scaler.update, []
    monkeypatch.setattr(scaler, "update", lambda: scales.append((scaler.get_scale(), update(), scaler.get_scale())))
    ran("train", [*tiny, *SKIPPING, "trainer.precision=null"])
    overflows = [after < before for before, _, after in scales]
    assert len(overflows) == 12
    assert overflows[0]
    assert steps_and_updates(tmp_path / "run") == ({12}, {12 - sum(overflows)})


def test_a_gradient_that_always_overflows_ends_the_run(command, tiny, monkeypatch):
    scaler = torch.amp.GradScaler("cpu")
    monkeypatch.setattr(run, "LightningEnvironment", lambda: MixedPrecision("16-mixed", "cpu", scaler))
    monkeypatch.setattr(callbacks, "MOST_SKIPPED", 5)
    step = Diffusion.training_step

    def planted(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    monkeypatch.setattr(Diffusion, "training_step", planted)
    status, out, err = command("train", [*tiny, *SKIPPING, "trainer.precision=null"])
    assert status == 3, out + err
    assert "error: step 5: 5 steps in a row were skipped" in err
