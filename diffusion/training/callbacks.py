"""Callbacks that measure, show and check: the progress of a run, its numbers, and the config group `callbacks`.

Those of the group log every `trainer.log_every_n_steps` optimizer steps. Lightning's callbacks, or your own, are added
by their full name: `+callbacks.NAME._target_=my_package.MyCallback`.
"""

import math
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from diffusion.base.console import console, progress_bar
from diffusion.base.files import versions
from diffusion.errors import UserError
from diffusion.runs.record import RunRecord
from diffusion.sampling.parallel import device_name
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of
from diffusion.training.parts import Parts

EVERY = 30.0  # seconds between updates of run.json
WINDOW = 100  # number of previous losses that a new one is compared with
LEAST = 20  # losses needed for a meaningful comparison
FACTOR = 5  # a spike is a loss above this multiple of their 90th percentile: 1 of 10,000 clean steps at batch size 4
MOST_SKIPPED = 50  # consecutive skipped steps; each of float16's scaler halves its scale, which starts at 2^16


class Progress(Callback):
    """One bar for the whole run (steps, loss, rate, time left), a line for every validation, and run.json."""

    def __init__(self, run: Parts, record: RunRecord) -> None:
        self.run, self.record, self.clock, self.noted = run, record, run.clock, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what is known by now, and show the bar from this step on."""
        step, splits = trainer.global_step, self.run.data.splits
        self.record.spent("preparation")
        self.record.update(
            host_cores=os.cpu_count(), images={name: len(split.images) for name, split in splits.items()},
            photographs={name: len({*split.sources}) for name, split in splits.items()},
            classes=dict(self.run.drawing.counts),
            left_out=sum(entry["action"] == "left out" for entry in self.run.data.report) or None,
            versions=versions(), device=device_name(pl_module.device), devices=trainer.world_size,
            parameters=sum(p.numel() for p in pl_module.parameters()), precision=str(trainer.precision),
            total_steps=self.clock.total, first_step=step,
            epoch_length=None if self.clock.shift else self.clock.epoch,
        )  # fmt: skip
        self.bar = progress_bar()
        self.task = self.bar.add_task("training", total=self.clock.total, completed=step, unit="step", note="")
        self.bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Update the bar; the record about every `EVERY` seconds and after each epoch."""
        step = trainer.global_step
        self.bar.update(self.task, completed=step)
        # The loss is read only when it is logged, to avoid waiting for a GPU at every step.
        if is_due(trainer) and (loss := trainer.logged_metrics.get("train/loss")) is not None:
            epoch = 1 + self.clock.epoch_after(max(0, step - 1))
            self.bar.update(self.task, note=f"loss {float(loss):.4f} · epoch {epoch}")
        if time.monotonic() - self.noted > EVERY or self.clock.every(1, step):
            self.note(step)

    def on_validation_start(self, *_: Any) -> None:
        self.record.spent("training")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record.spent("validation")
        logged, step = {name: float(value) for name, value in trainer.logged_metrics.items()}, trainer.global_step
        raw = f" (raw weights {logged['val/mse_raw']:.5f})" if "val/mse_raw" in logged else ""
        console.print(
            f"epoch {1 + self.clock.epoch_after(step - 1):4d} · step {step:6d} · val mse {logged['val/mse']:.5f}{raw}"
            f" · train mse {logged['fit/mse']:.5f} · gap {logged['gap/mse']:+.5f}"
        )

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.bar.stop()
        self.note(trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        if hasattr(self, "bar"):
            self.on_train_end(trainer)

    def note(self, step: int) -> None:
        """Record the number of complete steps and epochs, and the time left that the bar shows."""
        self.noted = time.monotonic()
        self.record.spent("training")
        left = self.bar.tasks[self.task].time_remaining
        self.record.update(steps=step, epochs=self.clock.epoch_after(step), left=left)


class Guard(Callback):
    """Stops a run whose values are not finite or whose loss diverges, before a bad checkpoint replaces a good one.

    After every optimizer step the loss and the norm of the averaged weights (of the raw ones if there is no average)
    must be finite. A NaN in the gradient makes the weights NaN, and these the average, so one norm covers all. On a
    GPU, the numbers are read one step later, when they have arrived. Its place is after the average and before the
    callbacks that save.

    With float16 mixed precision, gradients overflow occasionally, and the gradient scaler skips these steps; only too
    many in a row are an error. Raises UserError, naming the step, with exit status 3, or 4 for a loss that diverges:
    `spikes` losses in a row that are far above the usual.
    """

    def __init__(self, spikes: int | None, clock: Clock):
        self.spikes, self.clock = spikes, clock
        self.in_a_row = self.high = 0  # consecutive skipped steps, and consecutive spikes
        self.waiting: list[tuple[int, Callable[[], list[float]]]] = []
        self.usual: deque[float] = deque(maxlen=WINDOW)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors to measure once: walking the module takes as long as the norm."""
        average = average_of(trainer)
        self.weights = [p.detach() for p in pl_module.parameters()] if average is None else average.averages[0]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
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
            self.waiting.append((step, reading(torch.stack([loss, norm_of(self.weights)]))))
        self.check(keep=0 if pl_module.device.type == "cpu" else 1)

    def check(self, keep: int = 0) -> None:
        """Check all but the newest `keep` measurements."""
        while len(self.waiting) > keep:
            step, numbers = self.waiting.pop(0)
            loss, weights = numbers()
            for what, value in (("loss", loss), ("weights", weights)):
                if not math.isfinite(value):
                    raise UserError(
                        f"step {step}: the {what} became {value}; the checkpoints are from earlier steps; lower "
                        "optimizer.lr, or set trainer.gradient_clip_val=1",
                        status=3,
                    )
            self.compare(abs(loss), step)

    def compare(self, loss: float, step: int) -> None:
        ordered = sorted(self.usual)
        if len(ordered) < LEAST or loss <= FACTOR * ordered[int(0.9 * (len(ordered) - 1))]:
            self.usual.append(loss)
            self.high = 0
            return
        self.high += 1
        if self.spikes is not None and self.high >= self.spikes:
            raise UserError(
                f"step {step}: the loss has been far above its usual level for {self.high} steps, now {loss:.4g}; "
                "lower optimizer.lr, set trainer.gradient_clip_val=1, or guard.spikes=null",
                status=4,
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


class Throughput(Callback):
    """Logs train/images_per_second, over all devices, since the last row or validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start an interval, as after each row and each validation."""
        self.began, self.step, self.images = time.monotonic(), trainer.global_step, 0

    on_validation_end = on_train_start

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images += len(batch.index) * trainer.world_size
        if is_due(trainer) and trainer.global_step > self.step:
            seconds = time.monotonic() - self.began
            pl_module.log("train/images_per_second", self.images / seconds, batch_size=1)
            self.on_train_start(trainer, pl_module)


class GradientNorm(Callback):
    """Logs train/gradient_norm: the norm of the whole gradient of a step, before clipping."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        if gradients := [p.grad for p in pl_module.parameters() if p.grad is not None]:
            pl_module.log("train/gradient_norm", norm_of(gradients), batch_size=1)


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm over all elements of the tensors (at least one), which are on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def is_due(trainer: pl.Trainer) -> bool:
    """Whether the step just completed has a row of metrics.csv."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and trainer.global_step % every == 0


def peak_gb(device: torch.device) -> float:
    """Peak memory so far (10⁹ bytes), of the GPU's tensors or, without a CUDA GPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
