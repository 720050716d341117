"""Stops a run whose values are not finite, before a bad checkpoint replaces a good one.

After every optimizer step the loss, the gradient norm and the norm of the averaged weights (of the raw ones if there is
no average) must be finite. A NaN weight makes the average NaN immediately, so one norm covers both. On a GPU, reading
waits for the step, so the numbers of several steps are read together, at the latest before a checkpoint is saved.
"""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from diffusion.errors import UserError
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of

READ = 50  # steps whose numbers are read together on a GPU
MOST_SKIPPED = 50  # consecutive skipped steps; each of float16's scaler halves its scale, which starts at 2^16


class Guard(Callback):
    """Checks every step. Its place is after the average and before the callbacks that save.

    With float16 mixed precision, gradients overflow occasionally, and the gradient scaler skips these steps; only too
    many in a row are an error. Raises UserError with exit status 3, naming the step.
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self.in_a_row = 0  # consecutive skipped steps
        self.gradient: Tensor | None = None  # its norm
        self.waiting: list[tuple[int, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors to measure once: walking the module takes as long as the norm."""
        self.parameters = list(pl_module.parameters())
        average = average_of(trainer)
        self.weights = [p.detach() for p in self.parameters] if average is None else average.averages[0]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        """Measure the gradient."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16, in which overflows are normal
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.gradient = norm_of(gradients) if gradients else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check the step when it is complete."""
        if not self.clock.completes_step(batch_idx):
            return
        step, self.in_a_row = trainer.global_step, 0 if pl_module.stepped else self.in_a_row + 1
        if self.in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"step {step}: {MOST_SKIPPED} steps in a row were skipped, because their gradients were not finite; "
                "lower optimizer.lr, or use trainer.precision=bf16-mixed or 32-true",
                status=3,
            )
        if pl_module.stepped:
            # The mean over all devices: the processes stop together.
            loss = trainer.callback_metrics["train/loss"].detach()
            gradient = torch.zeros_like(loss) if self.gradient is None else self.gradient
            self.waiting.append((step, torch.stack([loss, gradient, norm_of(self.weights)])))
        if pl_module.device.type == "cpu" or len(self.waiting) >= READ:
            self.check()

    def check(self) -> None:
        """Check all measurements so far."""
        while self.waiting:
            step, numbers = self.waiting.pop(0)
            loss, gradient, weights = numbers.tolist()
            for what, value in (("loss", loss), ("gradient", gradient), ("weights", weights)):
                if not math.isfinite(value):
                    raise UserError(
                        f"step {step}: the {what} became {value}; the checkpoints are from earlier steps; lower "
                        "optimizer.lr, or set trainer.gradient_clip_val=1",
                        status=3,
                    )

    def on_save_checkpoint(self, *_: Any) -> None:
        """Check what is still waiting, before it is saved."""
        self.check()


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm over all elements of the tensors (at least one), which are on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
