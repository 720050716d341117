"""Stops a run whose values are not finite or diverge, before a bad checkpoint replaces a good one.

After every optimizer step the loss, the gradient norm and the norm of the averaged weights (of the raw ones if there is
no average) must be finite. A NaN weight makes the average NaN immediately, so one norm covers both. On an accelerator
the three numbers are read one step later, when they have arrived, to avoid a synchronization at every step.
"""

import math
import statistics
from collections import deque
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from diffusion.config import schema
from diffusion.console import console, count
from diffusion.data import Batch
from diffusion.errors import Diverged, NotFinite
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of
from diffusion.training.module import Diffusion
from diffusion.training.reading import Reading

NAMED = 8  # maximum number of files of a batch in a message
WINDOW = 100  # number of previous losses that a new one is compared with
LEAST = 20  # losses needed for a meaningful comparison
# A spike is a loss above this multiple of their 90th percentile. Losses vary with t, most in small batches. In clean
# training, 1 step in 10,000 was a spike at batch size 4 and none at 8; never two in a row. (At factor 4, 5 in 10,000.)
FACTOR = 5
MOST_SKIPPED = 10  # consecutive skipped steps; with so many, the cause is not a single batch
MOST_OVERFLOWS = 50  # consecutive steps skipped by float16's scaler; each halves its scale, which starts at 2^16
COUNTED = ("high", "warned", "skipped", "skipped_in_a_row")  # a resumed run continues these counts


class Measured(NamedTuple):
    """Measurements of one optimizer step: the loss, the gradient norm and the norm of the weights."""

    numbers: Reading
    step: int
    images: list[Tensor]  # image indices of its batches


class Guard(Callback):
    """Checks every step. Its place is after the average and before the callbacks that save.

    Raises NotFinite (exit status 3) and Diverged (4), naming the step and the files of its batch. With float16 mixed
    precision, gradients overflow occasionally and the gradient scaler skips these steps. This is an error only if more
    steps are skipped in a row than a too large scale can explain.

    Args:
        settings: The run's settings of the guard.
        clock: The run's clock.
        same_loss: Whether the losses before the run was resumed, if it was, are usual for this one.
    """

    def __init__(self, settings: schema.Guard, clock: Clock, same_loss: bool = True):
        self.same_loss = same_loss
        self.action, self.spikes, self.clock = settings.action, settings.spikes, clock
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.losses: list[Tensor] = []  # of the batches of this step
        self.index: list[Tensor] = []
        self.gradient: Tensor | None = None
        self.weights: list[Tensor] = []  # the averaged weights, or the raw ones without an average
        self.waiting: deque[Measured] = deque()
        self.usual: deque[float] = deque(maxlen=WINDOW)
        self.high = 0  # consecutive spikes
        self.warned = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors to measure once: walking the module takes as long as the norm."""
        self.files = trainer.datamodule.splits["train"].names  # type: ignore[attr-defined]
        self.parameters = list(pl_module.parameters())
        average = average_of(trainer)
        self.weights = [p.detach() for p in self.parameters] if average is None else average.averages

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        """Note which images the step uses."""
        assert isinstance(batch, Batch)
        self.index.append(batch.index)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the gradient; with `skip`, remove a non-finite one, so that no weight or moment changes."""
        if scales(trainer):
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.gradient = norm_of(gradients) if gradients else None
        if self.action == "skip" and self.gradient is not None and not math.isfinite(float(self.gradient)):
            self.skip(trainer)

    def skip(self, trainer: pl.Trainer) -> None:
        """Skip this step."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        names = self.names(self.index)
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise NotFinite(
                f"step {trainer.global_step + 1}: {MOST_SKIPPED} steps in a row had to be skipped (the last with "
                f"{names}); lower optimizer.lr, or resume from an older checkpoint"
            )
        console.print(f"step {trainer.global_step + 1} skipped: its gradient is not finite ({names})")
        self.gradient = None
        self.losses.clear()
        for parameter in self.parameters:
            parameter.grad = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the step when it is complete."""
        # The mean over all devices: the processes see the same spikes, and stop together.
        self.losses.append(trainer.callback_metrics["train/loss"].detach())
        if not self.clock.completes_step(batch_idx):
            return
        stepped = cast(Diffusion, pl_module).stepped
        step = trainer.global_step
        if stepped:
            self.skipped_in_a_row = 0
        elif scales(trainer):
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= MOST_OVERFLOWS:
                raise NotFinite(
                    f"step {step}: the gradient has overflowed {MOST_OVERFLOWS} times in a row (the last with "
                    f"{self.names(self.index)}); use trainer.precision=bf16-mixed or 32-true"
                )
        if stepped or (scales(trainer) and self.action != "skip"):
            loss = self.losses[-1] if self.clock.together > 1 else torch.stack(self.losses).mean()
            gradient = torch.zeros_like(loss) if self.gradient is None else self.gradient
            numbers = torch.stack([loss, gradient, norm_of(self.weights)])
            self.waiting.append(Measured(Reading(numbers), step, self.index))
        self.losses, self.index, self.gradient = [], [], None
        self.check(keep=0 if pl_module.device.type == "cpu" else 1)

    def state_dict(self) -> dict[str, Any]:
        """Check all pending measurements before saving, and save the counts for a resumed run."""
        self.check(keep=0)
        return {"usual": list(self.usual), **{name: getattr(self, name) for name in COUNTED}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        for name in COUNTED:
            setattr(self, name, state_dict[name])
        if self.same_loss:
            self.usual = deque(state_dict["usual"], maxlen=WINDOW)
        else:
            self.high, self.warned = 0, False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the number of skipped steps."""
        self.check(keep=0)
        if self.skipped:
            console.print(f"skipped {count(self.skipped, 'step')} with non-finite gradients")

    def names(self, images: list[Tensor]) -> str:
        """The files of a step's images: `a.png, b.png and 6 more`."""
        index = torch.cat(images).tolist()
        if dist.is_initialized():  # all processes measure the same numbers, so all call this
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, index)
            index = [i for part in parts for i in part]
        more = f" and {len(index) - NAMED} more" if len(index) > NAMED else ""
        return ", ".join(self.files[i] for i in index[:NAMED]) + more

    def check(self, keep: int) -> None:
        """Check all but the newest `keep` measurements."""
        while len(self.waiting) > keep:
            measured = self.waiting.popleft()
            loss, gradient, weights = measured.numbers.read()
            for what, value in (("loss", loss), ("gradient", gradient), ("weights", weights)):
                if not math.isfinite(value):
                    skip = "" if what == "weights" or self.action == "skip" else ", or set guard.action=skip"
                    raise NotFinite(
                        f"step {measured.step}: the {what} became {value} with {self.names(measured.images)}; the "
                        "checkpoints are from earlier steps; lower optimizer.lr or set trainer.gradient_clip_val=1"
                        f"{skip}"
                    )
            self.compare(loss, measured)

    def compare(self, loss: float, measured: Measured) -> None:
        """Compare a loss with the previous ones."""
        if self.spikes is None:
            return
        limit = FACTOR * percentile_90(self.usual) if len(self.usual) >= LEAST else math.inf
        if abs(loss) <= limit:
            self.usual.append(abs(loss))
            self.high = 0
            return
        self.high += 1
        if not self.warned:
            self.warned = True
            median = statistics.median(self.usual)
            console.print(
                f"step {measured.step}: the loss jumped to {loss:.4g} from a usual {median:.4g} "
                f"({self.names(measured.images)})",
                style="yellow",
            )
        if self.high >= self.spikes:
            raise Diverged(
                f"step {measured.step}: the loss has been far above its usual level for {self.high} steps, now "
                f"{loss:.4g} with {self.names(measured.images)}; lower optimizer.lr, set trainer.gradient_clip_val=1, "
                "or guard.spikes=null"
            )


def scales(trainer: pl.Trainer) -> bool:
    """Whether gradients are scaled, as with float16, where overflows are normal."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm over all elements of the tensors (at least one), which are on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def percentile_90(values: deque[float]) -> float:
    """The 90th percentile."""
    return sorted(values)[int(0.9 * (len(values) - 1))]
