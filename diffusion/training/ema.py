"""The exponential moving average of the weights, as Lightning's callback with a warm-up of the decay."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


class EMA(WeightAveraging):
    """w̄ ← w̄ + (1 − d_n)(w − w̄) after optimizer step n, with d_n = min(decay, (1 + n)/(10 + n)).

    Without the warm-up, a decay of 0.9995 would keep 60% of the initial weights after 1000 steps, and samples would
    look untrained long after the raw weights work. Validation and, after the last step, the module hold w̄.
    """

    def __init__(self, decay: float = 0.9995):
        self.decay = decay
        self.swapped = False  # whether the module holds w̄, and `stored` the raw weights
        # Buffers are the schedule's tables: copied, not averaged.
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    def decay_at(self, n: int) -> float:
        """d_n, the decay used at optimizer step n = 1, 2, …"""
        return min(self.decay, (1 + n) / (10 + n))

    def _average(self, averaged: list[Tensor], current: list[Tensor], num_averaged: Any) -> None:
        # The step is read from the callback's own count, since `num_averaged` may lie on a GPU and force a wait.
        torch._foreach_lerp_(averaged, current, 1 - self.decay_at(self._step))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the copy, which is only ever evaluated: dropout must not disturb the raw weights' validation."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.eval()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Average after the optimizer's step (Lightning calls this after each batch)."""
        self._step = trainer.global_step
        super().on_train_batch_end(trainer, *args, **kwargs)

    @property
    def stored(self) -> nn.Module:
        """The module beside the trained one: w̄ while training, the raw weights while validating."""
        assert self._average_model is not None
        return self._average_model.module

    def swap(self, module: pl.LightningModule) -> None:
        """Exchange the weights of `module` with the stored ones; a second call undoes it."""
        self._swap_models(module)

    def settle(self, module: pl.LightningModule) -> None:
        """Leave w̄ in `module`, as at the end of training; a run resumed at its last step has no such end."""
        self._copy_average_to_current(module)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped
