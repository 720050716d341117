"""Stops a run whose values are not finite or diverge, before a bad checkpoint replaces a good one.

After every optimizer step the loss, the gradient norm and the norm of the averaged weights (of the raw ones if there is
no average) must be finite. A NaN weight makes the average NaN immediately, so one norm covers both. On a GPU the three
numbers are read one step later, when they have arrived, to avoid a synchronization at every step.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from diffusion.config import schema
from diffusion.console import console
from diffusion.errors import Diverged, NotFinite
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of

WINDOW = 100  # number of previous losses that a new one is compared with
LEAST = 20  # losses needed for a meaningful comparison
FACTOR = 5  # a spike is a loss above this multiple of their 90th percentile: 1 of 10,000 clean steps at batch size 4
MOST_SKIPPED = 50  # consecutive skipped steps; each of float16's scaler halves its scale, which starts at 2^16


class Guard(Callback):
    """Checks every step. Its place is after the average and before the callbacks that save.

    With float16 mixed precision, gradients overflow occasionally, and the gradient scaler skips these steps; only too
    many in a row are an error. Raises NotFinite (exit status 3) and Diverged (4), naming the step.
    """

    def __init__(self, settings: schema.Guard, clock: Clock):
        self.action, self.spikes, self.clock = settings.action, settings.spikes, clock
        self.skipped = self.in_a_row = self.high = 0  # skipped steps; consecutive ones; consecutive spikes
        self.gradient: Tensor | None = None  # its norm
        self.waiting: list[tuple[int, Callable[[], list[float]]]] = []
        self.usual: deque[float] = deque(maxlen=WINDOW)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors to measure once: walking the module takes as long as the norm."""
        self.parameters = list(pl_module.parameters())
        average = average_of(trainer)
        self.weights = [p.detach() for p in self.parameters] if average is None else average.averages[0]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        """Measure the gradient; with `skip`, remove a non-finite one, so that no weight or moment changes."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16, in which overflows are normal
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.gradient = norm_of(gradients) if gradients else None
        if self.action == "skip" and self.gradient is not None and not math.isfinite(float(self.gradient)):
            self.skipped += 1
            console.print(f"step {trainer.global_step + 1}: its gradient is not finite; skipped {self.skipped} so far")
            for parameter in self.parameters:
                parameter.grad = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check the step when it is complete."""
        if not self.clock.completes_step(batch_idx):
            return
        step, self.in_a_row = trainer.global_step, 0 if pl_module.stepped else self.in_a_row + 1
        if self.in_a_row >= MOST_SKIPPED:
            raise NotFinite(
                f"step {step}: {MOST_SKIPPED} steps in a row were skipped, because their gradients were not finite; "
                "lower optimizer.lr, or use trainer.precision=bf16-mixed or 32-true"
            )
        if pl_module.stepped:
            # The mean over all devices: the processes see the same spikes, and stop together.
            loss = trainer.callback_metrics["train/loss"].detach()
            gradient = torch.zeros_like(loss) if self.gradient is None else self.gradient
            self.waiting.append((step, reading(torch.stack([loss, gradient, norm_of(self.weights)]))))
        self.check(keep=0 if pl_module.device.type == "cpu" else 1)

    def check(self, keep: int = 0) -> None:
        """Check all but the newest `keep` measurements."""
        while len(self.waiting) > keep:
            step, numbers = self.waiting.pop(0)
            loss, gradient, weights = numbers()
            for what, value in (("loss", loss), ("gradient", gradient), ("weights", weights)):
                if not math.isfinite(value):
                    raise NotFinite(
                        f"step {step}: the {what} became {value}; the checkpoints are from earlier steps; lower "
                        "optimizer.lr, set trainer.gradient_clip_val=1, or skip such gradients: guard.action=skip"
                    )
            self.compare(abs(loss), step)

    def compare(self, loss: float, step: int) -> None:
        """Compare a loss with the previous ones."""
        ordered = sorted(self.usual)
        if len(ordered) < LEAST or loss <= FACTOR * ordered[int(0.9 * (len(ordered) - 1))]:
            self.usual.append(loss)
            self.high = 0
            return
        self.high += 1
        if self.spikes is not None and self.high >= self.spikes:
            raise Diverged(
                f"step {step}: the loss has been far above its usual level for {self.high} steps, now {loss:.4g}; "
                "lower optimizer.lr, set trainer.gradient_clip_val=1, or guard.spikes=null"
            )

    def on_save_checkpoint(self, *_: Any) -> None:
        """Check what is still waiting, before it is saved."""
        self.check()


def reading(numbers: Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers to the CPU without delaying the next step; the returned function waits for them."""
    kind = numbers.device.type
    if kind in ("cpu", "mps"):  # MPS guarantees no non-blocking copies
        return numbers.tolist
    copied, arrived = numbers.to("cpu", non_blocking=True), getattr(torch, kind).Event()
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return copied.tolist()

    return read


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm over all elements of the tensors (at least one), which are on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
