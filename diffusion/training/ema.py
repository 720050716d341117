"""The exponential moving average of the weights, as Lightning's callback with a warm-up of the decay."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from diffusion.errors import UserError


class EMA(WeightAveraging):
    """w̄ ← w̄ + (1 − d_n)(w − w̄) after optimizer step n, with d_n = min(decay, (1 + n)/(10 + n)).

    Without the warm-up, a decay of 0.9995 would keep 60% of the initial weights after 1000 steps, and samples would
    look untrained long after the raw weights work. Validation and, after the last step, the module hold w̄.
    """

    def __init__(self, decay: float = 0.9995):
        if not 0 <= decay <= 1:
            raise UserError(f"ema.decay={decay}: expected a number from 0 to 1, such as ema.decay=0.999")
        self.decay = decay
        self.swapped = False  # whether the module holds w̄, and `stored` the raw weights
        # Tensors of w̄ and w in one order, and of both modules' buffers, listed once: to walk the modules at every step
        # would take longer than to average.
        self.averages: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []
        super().__init__(use_buffers=False)

    def decay_at(self, n: int) -> float:
        """d_n, the decay used at optimizer step n = 1, 2, …"""
        return min(self.decay, (1 + n) / (10 + n))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the copy, which is only ever evaluated: dropout must not disturb the raw weights' validation."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.eval()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything is on its device now."""
        self.averages = [p.detach() for p in self.stored.parameters()]
        self.weights = [p.detach() for p in pl_module.parameters()]
        self.buffers = list(zip(self.stored.buffers(), pl_module.buffers(), strict=True))

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Average after the optimizer's step (Lightning calls this after each batch).

        The recurrence starts from the initial weights. Buffers (tables, histories) are copied, not averaged. torch's
        `AveragedModel.update_parameters` does the same but walks the modules and reads a count from the device.
        """
        n = trainer.global_step
        if n == self._latest_update_step:
            return
        self._latest_update_step = n
        torch._foreach_lerp_(self.averages, self.weights, 1 - self.decay_at(n))
        for average, current in self.buffers:
            average.copy_(current)

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


def average_of(trainer: pl.Trainer) -> EMA | None:
    """The run's moving average; None where it keeps none."""
    return next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
