"""A run with bad numbers stops within a step, and keeps no bad checkpoint."""

import json
import math
from pathlib import Path

import pytest
import torch

from diffusion.checkpoint import storage
from diffusion.errors import UserError
from diffusion.training.callbacks import FACTOR, Guard
from diffusion.training.clock import Clock
from diffusion.training.ema import EMA
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

RUN = ("trainer.accumulate_grad_batches=3", "trainer.max_epochs=4", "checkpoint.every_n_steps=1", "hydra.run.dir=run")
BAD = 3  # the bad step


def check_all_finite(folder: Path) -> None:
    """Every checkpoint has finite weights and moments."""
    for file in storage.numbered_files(folder):
        contents = storage.load(file)
        moments = [value for each in contents["optimizer_states"][0]["state"].values() for value in each.values()]
        weights = [*contents["state_dict"].values(), *contents.get("current_model_state", {}).values()]
        assert all(torch.isfinite(value.float()).all() for value in (*weights, *moments))


def plant(monkeypatch: pytest.MonkeyPatch, fault: str, value: float) -> None:
    """In the second of three batches of step BAD, put `value` into a place."""
    step, average, note = Diffusion.training_step, EMA.on_train_batch_end, Diffusion.note_step

    def planted(self, batch, batch_idx):
        here = batch_idx == 3 * (BAD - 1) + 1
        if here and fault == "weight":
            next(self.parameters()).data.view(-1)[0] = value
        loss = step(self, batch, batch_idx)
        if here and fault == "loss":
            self.log("train/loss", value * loss.detach(), on_step=True, on_epoch=False, batch_size=4)
            return loss * value
        if here and fault == "gradient":
            loss.register_hook(lambda g: g * value)
        return loss

    def averaged(self, trainer, module, *batch):
        average(self, trainer, module, *batch)
        if fault == "ema" and trainer.global_step == BAD:
            next(self.average.parameters()).data.view(-1)[0] = value

    def noted(self, optimizer, *arguments):
        note(self, optimizer, *arguments)
        if fault == "update" and self.global_step == BAD - 1:  # the loss and the gradient are finite
            list(self.parameters())[-1].data.view(-1)[-1] = value

    monkeypatch.setattr(Diffusion, "training_step", planted)
    monkeypatch.setattr(Diffusion, "note_step", noted)
    monkeypatch.setattr(EMA, "on_train_batch_end", averaged)


@pytest.mark.parametrize(
    ("fault", "value", "word", "ema"),
    [
        ("loss", math.nan, "weights", "warm"),
        ("gradient", math.inf, "weights", "warm"),
        ("weight", math.nan, "loss", "none"),
        ("update", math.nan, "weights", "none"),
        ("ema", math.nan, "weights", "warm"),
    ],
)
def test_a_non_finite_number_stops_the_run(command, tiny, tmp_path, monkeypatch, fault, value, word, ema):
    plant(monkeypatch, fault, value)
    status, out, err = command("train", [*tiny, *RUN, f"ema={ema}"])
    assert status == 3, out + err
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"error: step {BAD}: the {word} became ")
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == BAD - 1
    check_all_finite(tmp_path / "run/checkpoints")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["state"], record["steps"]) == ("failed", BAD)


def follow(losses: list[float]) -> None:
    guard = Guard(6, Clock(10, 100))
    for step, loss in enumerate(losses, start=1):
        guard.compare(loss, step)


def test_spikes_stop_a_run_only_if_they_follow_each_other():
    usual, spike = [1.0] * 30, 2 * FACTOR
    follow([*usual, *[*[spike] * 5, 1.0] * 3])
    with pytest.raises(UserError, match="step 36") as caught:
        follow([*usual, *[spike] * 6])
    assert caught.value.status == 4
