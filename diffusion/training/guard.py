"""Stops a run whose values are not finite or diverge, before a bad checkpoint replaces a good one.

After every optimizer step the loss, the gradient norm and the norm of the averaged weights (of the raw ones if there is
no average) must be finite. A NaN weight makes the average NaN immediately, so one norm covers both. On a GPU the three
numbers are read one step later, when they have arrived, to avoid a synchronization at every step.
"""

import math
from collections import deque
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
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


class Measured(NamedTuple):
    """The loss, the gradient norm and the norm of the weights of a step."""

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
    """

    def __init__(self, settings: schema.Guard, clock: Clock):
        self.action, self.spikes, self.clock = settings.action, settings.spikes, clock
        self.skipped = self.skipped_in_a_row = self.high = 0  # `high`: consecutive spikes
        self.losses: list[Tensor] = []  # of the batches of this step
        self.index: list[Tensor] = []
        self.gradient: Tensor | None = None
        self.waiting: deque[Measured] = deque()
        self.usual: deque[float] = deque(maxlen=WINDOW)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors to measure once: walking the module takes as long as the norm."""
        self.files = trainer.datamodule.splits["train"].names  # type: ignore[attr-defined]
        self.parameters = list(pl_module.parameters())
        average = average_of(trainer)
        self.weights = [p.detach() for p in self.parameters] if average is None else average.averages[0]

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
            console.print(f"step {trainer.global_step + 1} skipped: its gradient is not finite ({self.names()})")
            self.skipped += 1
            self.note_skipped(
                trainer.global_step + 1, MOST_SKIPPED, "lower optimizer.lr, or resume from an older checkpoint"
            )
            self.gradient = None
            for parameter in self.parameters:
                parameter.grad = None

    def note_skipped(self, step: int, most: int, advice: str) -> None:
        """Count a skipped step. Raises NotFinite after too many in a row."""
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= most:
            raise NotFinite(
                f"step {step}: {most} steps in a row were skipped, because their gradients were not finite (the last "
                f"with {self.names()}); {advice}"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the step when it is complete."""
        # The mean over all devices: the processes see the same spikes, and stop together.
        self.losses.append(trainer.callback_metrics["train/loss"].detach())
        if not self.clock.completes_step(batch_idx):
            return
        step, stepped = trainer.global_step, cast(Diffusion, pl_module).stepped
        if stepped:
            self.skipped_in_a_row = 0
        elif scales(trainer):
            self.note_skipped(step, MOST_OVERFLOWS, "use trainer.precision=bf16-mixed or 32-true")
        if stepped or (scales(trainer) and self.action != "skip"):
            loss = self.losses[-1] if self.clock.together > 1 else torch.stack(self.losses).mean()
            gradient = torch.zeros_like(loss) if self.gradient is None else self.gradient
            numbers = torch.stack([loss, gradient, norm_of(self.weights)])
            self.waiting.append(Measured(Reading(numbers), step, self.index))
        self.losses, self.index, self.gradient = [], [], None
        self.check(keep=0 if pl_module.device.type == "cpu" else 1)

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
            self.compare(abs(loss), measured)

    def compare(self, loss: float, measured: Measured) -> None:
        """Compare a loss with the previous ones."""
        ordered = sorted(self.usual)
        if len(ordered) < LEAST or loss <= FACTOR * ordered[int(0.9 * (len(ordered) - 1))]:
            self.usual.append(loss)
            self.high = 0
            return
        self.high += 1
        if self.spikes is not None and self.high >= self.spikes:
            raise Diverged(
                f"step {measured.step}: the loss has been far above its usual level for {self.high} steps, now "
                f"{loss:.4g} with {self.names(measured.images)}; lower optimizer.lr, set trainer.gradient_clip_val=1, "
                "or guard.spikes=null"
            )

    def names(self, images: list[Tensor] | None = None) -> str:
        """The files of a step's images on this device, by default of this step: `a.png, b.png and 6 more`."""
        index = torch.cat(self.index if images is None else images).tolist()
        more = f" and {len(index) - NAMED} more" if len(index) > NAMED else ""
        return ", ".join(self.files[i] for i in index[:NAMED]) + more

    def state_dict(self) -> dict[str, Any]:
        """Check all pending measurements before saving, and save the counts for a resumed run."""
        self.check(keep=0)
        return {"usual": list(self.usual), "high": self.high, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.high = state_dict["skipped"], state_dict["high"]
        self.usual.extend(state_dict["usual"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the number of skipped steps."""
        self.check(keep=0)
        if self.skipped:
            console.print(f"skipped {count(self.skipped, 'step')} with non-finite gradients")


def scales(trainer: pl.Trainer) -> bool:
    """Whether gradients are scaled, as with float16, where overflows are normal."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm over all elements of the tensors (at least one), which are on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
