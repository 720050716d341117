"""The exponential moving average of the weights, which validation and sampling use."""

import copy
from itertools import chain
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

    A checkpoint's `state_dict` holds w̄, its `current_model_state` holds w, as with Lightning's WeightAveraging.
    (That callback walks the modules and reads a counter from the device at every step, which takes longer than the
    average itself; it has no warm-up; and an exception during validation leaves its weights swapped.)

    Args:
        decay: The largest d_n, close to 1. The averaging window is about 1/(1 − decay) steps.
    """

    def __init__(self, decay: Annotated[float, Ge(0), Le(1)] = 0.9995):
        self.decay = decay
        self.average: Any = None  # a copy of the module: w̄ while training, w while validating
        self.swapped = False  # whether the module holds w̄, and `average` holds w
        self.step = 0  # the last optimizer step
        self.updates = 0  # n: the steps so far, without skipped ones
        # Tensors of w̄ and w in the same order, and buffers of both: walking the modules takes longer than averaging.
        self.averages: list[Tensor] = []
        self.exact = self.averages  # in half precision, w̄ before it is rounded
        self.saved_exact: dict[str, Tensor] = {}  # the same in the checkpoint that the run resumes from
        self.weights: list[Tensor] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []

    @property
    def copies(self) -> int:
        """Number of weight sets kept in addition to the module's."""
        return 1

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors kept in addition to the module's."""
        return [*_tensors(self.average), *([] if self.exact is self.averages else self.exact)]

    @property
    def names(self) -> list[str]:
        """Names of the module's parameters, in the order of the averages."""
        return [name for name, _ in self.average.named_parameters()]

    def decay_at(self, n: int) -> float:
        """d_n, the decay at optimizer step n = 1, 2, …"""
        return min(self.decay, (1 + n) / (10 + n))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the module. The copy is only ever evaluated: dropout must not disturb the raw weights' validation."""
        self.average = copy.deepcopy(pl_module).requires_grad_(False).eval()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors, which are on their device now."""
        self.average.to(pl_module.device)
        self.averages = list(self.average.parameters())
        half = any(average.dtype.itemsize < 4 for average in self.averages)
        self.exact = [average.float() for average in self.averages] if half else self.averages
        for exact, name in zip(self.exact, self.names, strict=True):
            if name in self.saved_exact:
                exact.copy_(self.saved_exact[name])
        self.saved_exact = {}
        self.weights = [p.detach() for p in pl_module.parameters()]
        self.buffers = list(zip(self.average.buffers(), pl_module.buffers(), strict=True))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Update the average after a batch that completed an optimizer step, unless the step was skipped."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if not pl_module.stepped:
            return
        self.updates += 1
        self.average_weights()
        for average, current in self.buffers:
            average.copy_(current)

    def average_weights(self) -> None:
        """Update w̄."""
        self.follow(self.exact, 1 - self.decay_at(self.updates))
        if self.exact is not self.averages:
            torch._foreach_copy_(self.averages, self.exact)

    def follow(self, averages: list[Tensor], rate: float) -> None:
        """w̄ ← w̄ + rate · (w − w̄), in the precision of w̄."""
        weights = self.weights if self.exact is self.averages else [weight.float() for weight in self.weights]
        torch._foreach_lerp_(averages, weights, rate)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap w̄ into the module for validation."""
        self.swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap w back into the module for training."""
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
        state: dict[str, Any] = {"latest_update_step": self.step, "updates": self.updates}
        if self.exact is not self.averages:
            state["exact"] = dict(zip(self.names, self.exact, strict=True))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["latest_update_step"]
        self.updates = state_dict["updates"]
        self.saved_exact = state_dict.get("exact", {})

    @torch.no_grad()
    def swap(self, module: pl.LightningModule) -> None:
        """Exchange the weights and buffers of the module with the copy's; a second call undoes it."""
        for ours, theirs in zip(_tensors(self.average), _tensors(module), strict=True):
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)
        self.swapped = not self.swapped


def _tensors(module: torch.nn.Module) -> chain[Tensor]:
    return chain(module.parameters(), module.buffers())


def average_of(trainer: pl.Trainer) -> EMA | None:
    """The run's moving average, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
