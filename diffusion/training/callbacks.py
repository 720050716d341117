"""Callbacks of the config group `callbacks`: values that are logged every `trainer.log_every_n_steps` optimizer steps.

Lightning's callbacks, or your own, are added by their full name: `+callbacks.NAME._target_=my_package.MyCallback`.
"""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from diffusion.training.guard import norm_of
from diffusion.training.prepared import peak_bytes


def is_due(trainer: pl.Trainer) -> bool:
    """Whether the step just completed has a row of metrics.csv."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and trainer.global_step % every == 0


class Throughput(Callback):
    """Logs train/images_per_second, over all devices, and train/steps_per_second, since the last row or validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start an interval, as after each row and each validation."""
        self.began, self.step, self.images = time.monotonic(), trainer.global_step, 0

    on_validation_end = on_train_start

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log if the step has a row."""
        self.images += len(batch.index) * trainer.world_size
        if is_due(trainer) and trainer.global_step > self.step:
            amounts = {"images": self.images, "steps": trainer.global_step - self.step}
            seconds = max(1e-9, time.monotonic() - self.began)
            pl_module.log_dict({f"train/{each}_per_second": n / seconds for each, n in amounts.items()}, batch_size=1)
            self.on_train_start(trainer, pl_module)


class GradientNorm(Callback):
    """Logs train/gradient_norm: the norm of the whole gradient of a step, before clipping."""

    norm: torch.Tensor | None = None

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        """Measure the norm."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = norm_of(gradients) if gradients else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Log if the step has a row."""
        if self.norm is not None and is_due(trainer):
            pl_module.log("train/gradient_norm", self.norm, batch_size=1)


class Memory(Callback):
    """Logs memory/peak_gb: peak memory so far (10⁹ bytes), of the GPU's tensors or, without a GPU, of the process."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Log if the step has a row."""
        if is_due(trainer):
            pl_module.log("memory/peak_gb", peak_bytes(pl_module.device) / 1e9, batch_size=1)
