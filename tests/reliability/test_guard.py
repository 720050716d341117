"""T6: a run with bad numbers stops within a step, names the images, and keeps no bad checkpoint."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusion.checkpoint import storage
from diffusion.config import schema
from diffusion.training import guard as guards
from diffusion.training.clock import Clock
from diffusion.training.ema import EMA
from diffusion.training.guard import FACTOR, WINDOW, Guard, Measured
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

RECIPE = ("trainer.accumulate_grad_batches=3", "trainer.max_epochs=4", "checkpoint.every_n_steps=2")  # 2 steps an epoch
BAD = 3  # the bad step; it is not followed by a save or a validation, which would be a check by itself


def finite(folder: Path) -> bool:
    """Whether every tensor in every checkpoint is finite."""

    def tensors(node):
        if isinstance(node, torch.Tensor):
            yield node
        elif isinstance(node, dict | list | tuple):
            for item in node.values() if isinstance(node, dict) else node:
                yield from tensors(item)

    files = storage.numbered_files(folder)
    assert files
    contents = [storage.load(file) for file in files]
    kept = [
        {k: v for k, v in c.items() if k in ("state_dict", "current_model_state", "optimizer_states")} for c in contents
    ]
    return all(torch.isfinite(t.float()).all() for c in kept for t in tensors(c))


def plant(monkeypatch, fault: str, accumulation: int, value: float) -> list[str]:
    """In one batch of step BAD, put `value` into the place named by `fault`. Returns the names of the step's files."""
    step = Diffusion.training_step
    average = EMA.on_train_batch_end
    named: list[str] = []

    def here(batch_idx):
        return batch_idx == 3 * (BAD - 1) + accumulation

    def planted(self, batch, batch_idx):
        if self.global_step == BAD - 1:
            named.extend(self.trainer.datamodule.splits["train"].names[i] for i in batch.index.tolist())
        if here(batch_idx) and fault == "weight":
            next(self.parameters()).data.view(-1)[0] = value
        loss = step(self, batch, batch_idx)
        if here(batch_idx) and fault == "loss":
            self.log("train/loss", value * loss.detach(), on_step=True, on_epoch=False, batch_size=4)
            return loss * value
        if here(batch_idx) and fault == "gradient":
            loss.register_hook(lambda g: g * value)
        return loss

    def averaged(self, trainer, module, outputs, batch, batch_idx):
        average(self, trainer, module, outputs, batch, batch_idx)
        if fault == "ema" and trainer.global_step == BAD:
            next(self.average.parameters()).data.view(-1)[0] = value

    monkeypatch.setattr(Diffusion, "training_step", planted)
    monkeypatch.setattr(EMA, "on_train_batch_end", averaged)
    return named


CASES = [(f, a, v) for f in ("loss", "gradient", "weight") for a in (0, 1, 2) for v in (math.nan, math.inf)]
CASES = [c for c in CASES if c[0] != "weight" or c[2] != math.inf or c[1] == 0] + [("ema", 2, math.nan)]


@pytest.mark.parametrize(("fault", "accumulation", "value"), CASES)
def test_t6_a_non_finite_number_stops_the_run(command, tiny, tmp_path, monkeypatch, figure, fault, accumulation, value):
    named = plant(monkeypatch, fault, accumulation, value)
    status, out, err = command("train", [*tiny, *RECIPE, "hydra.run.dir=run"])
    assert status == 3, out + err
    line = err.strip().splitlines()[-1]
    word = {"loss": "loss", "gradient": "gradient", "weight": "loss", "ema": "weights"}[fault]
    assert line.startswith(f"error: step {BAD}: the {word} became ")
    assert all(Path(name).name in line for name in named[:8])
    assert finite(tmp_path / "run/checkpoints")
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == BAD - 1
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["state"], record["steps"]) == ("failed", BAD)
    stopped.add((fault, accumulation, value))
    figure("numbers not finite", f"{len(stopped)}, {len(stopped)} stopped within a step, with their files' names")


stopped: set[tuple[str, int, float]] = set()


@pytest.mark.parametrize("ema", ["none", "warm"])
def test_t6_a_non_finite_weight_stops_the_run_with_and_without_ema(command, tiny, tmp_path, monkeypatch, ema):
    """The weight goes bad in an optimizer step with finite loss and gradient."""
    note = Diffusion.note_step

    def noted(self, optimizer, *arguments):
        note(self, optimizer, *arguments)
        if self.global_step == BAD - 1:
            list(self.parameters())[-1].data.view(-1)[-1] = math.nan

    monkeypatch.setattr(Diffusion, "note_step", noted)
    status, out, err = command("train", [*tiny, *RECIPE, "hydra.run.dir=run", f"ema={ema}"])
    assert status == 3, out + err
    assert err.splitlines()[-1].startswith(f"error: step {BAD}: the weights became nan")
    assert "guard.action=skip" not in err  # which skips only gradients
    assert finite(tmp_path / "run/checkpoints")


def test_t6_nothing_is_saved_before_it_is_checked(command, tiny, tmp_path, monkeypatch):
    """Also if numbers are read one step later, as on an accelerator."""
    end = Guard.on_train_batch_end

    def late(self, trainer, module, *batch):
        end(self, trainer, SimpleNamespace(device=torch.device("meta"), stepped=module.stepped), *batch)

    monkeypatch.setattr(Guard, "on_train_batch_end", late)
    plant(monkeypatch, "loss", 0, math.nan)
    status, out, err = command("train", [*tiny, *RECIPE, "checkpoint.every_n_steps=1", "hydra.run.dir=run"])
    assert status == 3, out + err
    assert finite(tmp_path / "run/checkpoints")
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == BAD - 1


@pytest.mark.parametrize("clip", [[], ["trainer.gradient_clip_val=1", "trainer.gradient_clip_algorithm=value"]])
def test_t6_the_skip_action_skips_and_counts_a_bad_step(command, tiny, tmp_path, monkeypatch, clip):
    plant(monkeypatch, "gradient", 1, math.inf)
    status, out, err = command("train", [*tiny, *RECIPE, "hydra.run.dir=run", "guard.action=skip", *clip])
    assert status == 0, out + err
    assert f"step {BAD} skipped" in out
    assert "skipped 1 step with non-finite gradients" in out
    assert finite(tmp_path / "run/checkpoints")


def test_t6_the_images_of_all_processes_are_named(monkeypatch):
    def gather(parts, mine):
        parts[:] = mine, [4, 5]

    monkeypatch.setattr(guards.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(guards.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(guards.dist, "all_gather_object", gather)
    guard = Guard(schema.Guard(), Clock(10, 5))
    guard.files = [f"{i}.png" for i in range(6)]
    assert guard.names([torch.tensor([1]), torch.tensor([0])]) == "1.png, 0.png, 4.png, 5.png"


def spike(monkeypatch, spikes):
    """Report the losses of steps 31, 32, … as ten times their value."""
    step = Diffusion.training_step

    def spiked(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if 30 <= self.global_step < 30 + spikes:
            self.log("train/loss", 10 * loss.detach(), on_step=True, on_epoch=False, batch_size=4)
        return loss

    monkeypatch.setattr(Diffusion, "training_step", spiked)


@pytest.mark.parametrize(("spikes", "expected"), [(1, 0), (5, 0), (6, 4)])
def test_t6_a_loss_spike_warns_and_six_in_a_row_stop_the_run(command, tiny, monkeypatch, spikes, expected):
    spike(monkeypatch, spikes)
    status, out, err = command("train", [*tiny, "trainer.max_epochs=7", "hydra.run.dir=run"])
    assert status == expected, out + err
    assert out.count("the loss jumped") == 1
    if expected:
        assert "step 36: the loss has been far above" in err


def test_t6_a_resumed_guard_continues_its_counts(command, tiny, monkeypatch):
    """Stopped at step 33, among the spikes, and resumed: it stops where the uninterrupted run does, and warns once."""
    spike(monkeypatch, 6)
    recipe = [*tiny, "trainer.max_epochs=7", "lr_scheduler=constant", "hydra.run.dir=run"]
    status, out, err = command("train", [*recipe, "trainer.max_steps=33"])
    assert status == 0, out + err
    assert out.count("the loss jumped") == 1
    status, out, err = command("train", [*recipe, "ckpt=auto", "trainer.max_steps=-1"])
    assert status == 4, out + err
    assert "step 36: the loss has been far above" in err
    assert "the loss jumped" not in out


def test_t6_no_false_alarm_on_1000_clean_synthetic_losses(figure):
    """Losses like the demo's: at uniform t, E|eps_θ − eps|² falls from 1 at t = 0 as 1/SNR grows."""
    generator = torch.Generator().manual_seed(0)
    guard = Guard(schema.Guard(), Clock(epoch=1, total=1000))
    for step in range(1000):
        t = torch.rand(8, generator=generator)
        scale = 0.02 + 0.98 * torch.exp(-40 * t) + 0.5 * math.exp(-step / 50)
        noise = torch.randn(8, generator=generator).mul(0.2).exp()
        guard.compare(float((scale * noise).mean()), Measured(torch.zeros(3), step, []))
    assert not guard.warned
    figure(
        "losses along a synthetic clean curve",
        f"1000, 0 false alarms of the spike detector (above {FACTOR} × the 90th percentile)",
    )


def test_t6_no_false_alarm_in_a_training_of_1000_steps(command, tiny, tmp_path, figure):
    """With batches of four, which have widely scattered losses, from a new network until it denoises."""
    overrides = ["model.channels=[8]", "model.attention=[false]", "trainer.max_steps=1000", "trainer.max_epochs=200"]
    rarely = ["trainer.check_val_every_n_epoch=200", "trainer.log_every_n_steps=50", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *overrides, *rarely, "optimizer.lr=0.003"])
    assert status == 0, out + err
    assert "jumped" not in out
    state = storage.load(tmp_path / "run/checkpoints/last.ckpt")
    assert state["global_step"] == 1000
    guard = state["callbacks"]["Guard"]
    assert (guard["warned"], guard["high"], len(guard["usual"])) == (False, 0, WINDOW)
    assert sorted(guard["usual"])[WINDOW // 2] < 0.5  # it learned: losses start at 1
    figure("clean steps of a real training", f"1000, 0 false alarms (last losses up to {max(guard['usual']):.2f})")
