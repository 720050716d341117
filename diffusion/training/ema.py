"""The exponential moving average of the weights, which validation and sampling use."""

import copy
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from annotated_types import Ge, Le
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class EMA(Callback):
    """w̄ ← w̄ + (1 − d_n)(w − w̄) after optimizer step n, with d_n = min(decay, (1 + n)/(10 + n)).

    The recurrence starts from the initial weights. Without the warm-up of d_n, a decay of 0.9995 would keep 60% of the
    initial weights after 1000 steps, and samples would look untrained long after the raw weights work. During
    validation, and for the last samples, the module holds w̄. Buffers (tables, histories) are copied, not averaged.

    With weights in half precision (`trainer.precision=bf16-true`), w̄ is computed in float32 and rounded to theirs:
    in bfloat16, updates of less than 1/512 of a weight would be lost, and w̄ would stop following w.

    A checkpoint's `state_dict` holds w̄, its `current_model_state` holds w, as with Lightning's WeightAveraging. (That
    callback has no warm-up, and reads a counter from the device at every step.)

    Args:
        decay: The largest d_n, close to 1. The averaging window is about 1/(1 − decay) steps.
    """

    def __init__(self, decay: Annotated[float, Ge(0), Le(1)] = 0.9995):
        self.decay = decay
        self.average: Any = None  # a copy of the module: w̄ while training, w while validating
        self.swapped = False  # whether the module holds w̄, and `average` holds w
        self.step = 0  # the last optimizer step
        self.updates = 0  # n: the steps so far, without skipped ones
        self.averages: list[list[Tensor]] = []  # w̄ in float32 or better; PowerEMA has several
        self.saved: list[dict[str, Tensor]] = []  # the same in the checkpoint that the run resumes from, by name

    def rates(self, n: int) -> list[float]:
        """1 − d_n for each average at optimizer step n = 1, 2, …"""
        return [1 - min(self.decay, (1 + n) / (10 + n))]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the module. The copy is only ever evaluated: dropout must not disturb the raw weights' validation."""
        self.average = copy.deepcopy(pl_module).requires_grad_(False).eval()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors, which are on their device now: walking the modules takes longer than averaging."""
        self.average.to(pl_module.device)
        self.weights = [p.detach() for p in pl_module.parameters()]
        self.copies = list(self.average.parameters())
        self.buffers = list(zip(self.average.buffers(), pl_module.buffers(), strict=True))
        self.half = any(weight.dtype.itemsize < 4 for weight in self.weights)
        first = [average.float() for average in self.copies] if self.half else self.copies
        self.averages = [first, *([average.clone() for average in first] for _ in self.rates(1)[1:])]
        for averages, saved in zip(self.averages, self.saved, strict=False):
            torch._foreach_copy_(averages, [saved[name] for name in self.names])
        self.saved = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Update the average after a batch that completed an optimizer step, unless the step was skipped."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if not pl_module.stepped:
            return
        self.updates += 1
        self.average_weights()
        if self.half:
            torch._foreach_copy_(self.copies, self.averages[0])
        for average, current in self.buffers:
            average.copy_(current)

    def average_weights(self) -> None:
        """Update w̄, in its own precision."""
        weights = [weight.float() for weight in self.weights] if self.half else self.weights
        for averages, rate in zip(self.averages, self.rates(self.updates), strict=True):
            torch._foreach_lerp_(averages, weights, rate)

    @property
    def names(self) -> list[str]:
        """Names of the module's parameters, in the order of the averages."""
        return [name for name, _ in self.average.named_parameters()]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap w̄ into the module for validation."""
        self.swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap w back into the module for training."""
        self.swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Undo the swap if a validation is interrupted: the state is saved next."""
        if self.swapped:
            self.swap(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save w̄ and w."""
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self.average.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore w̄ and w."""
        self.average.load_state_dict(checkpoint["state_dict"])
        pl_module.load_state_dict(checkpoint["current_model_state"])

    def state_dict(self) -> dict[str, Any]:
        exact = {"exact": dict(zip(self.names, self.averages[0], strict=True))} if self.half else {}
        return {"latest_update_step": self.step, "updates": self.updates, **exact}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts; `on_train_start` restores the averages, when everything is on its device."""
        self.step, self.updates = state_dict["latest_update_step"], state_dict["updates"]
        self.saved = [state_dict["exact"]] if "exact" in state_dict else []

    @torch.no_grad()
    def swap(self, module: pl.LightningModule) -> None:
        """Exchange the weights and buffers of the module with the copy's; a second call undoes it."""
        ours_all, theirs_all = ([*each.parameters(), *each.buffers()] for each in (self.average, module))
        for ours, theirs in zip(ours_all, theirs_all, strict=True):
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)
        self.swapped = not self.swapped


def average_of(trainer: pl.Trainer) -> EMA | None:
    """The run's moving average, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
