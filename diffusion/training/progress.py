"""Progress of a training run: the progress bar, and the run's record."""

import os
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.progress import Progress, TaskID

from diffusion.checkpoint.provenance import versions
from diffusion.console import console, progress_bar
from diffusion.data import ImageData
from diffusion.evaluation.devices import device_name
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.timing import Spent

EVERY = 30.0  # seconds between updates of run.json


class RunProgress(ProgressBar):
    """One bar for the whole run (steps, loss, rate, time left), and a line for every validation."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.progress: Progress | None = None  # None on every process but the first
        self.task = TaskID(0)
        self.disabled = False

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self.disabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar from the step where training starts."""
        if self.disabled:
            return
        self.start, self.began, self.progress = trainer.global_step, time.monotonic(), progress_bar()
        self.progress.start()
        self.task = self.progress.add_task(
            "training", total=self.clock.total, completed=self.start, unit="step", note=""
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Update the bar. The loss is read only when it is logged, to avoid waiting for a GPU at every step."""
        if self.progress is None:
            return
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.progress.update(self.task, completed=step)
        if every and step % every == 0 and (loss := trainer.logged_metrics.get("train/loss")) is not None:
            epoch = 1 + self.clock.epoch_after(max(0, step - 1))
            self.progress.update(self.task, note=f"loss {float(loss):.4f} · epoch {epoch}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show that a validation runs."""
        if self.progress is not None:
            self.progress.update(self.task, note="validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the results of the validation."""
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        if self.progress is None or "val/mse" not in logged:
            return
        step = trainer.global_step
        rate = (step - self.start) / max(1e-9, time.monotonic() - self.began)
        raw = f" (raw weights {logged['val/mse_raw']:.5f})" if "val/mse_raw" in logged else ""
        console.print(
            f"epoch {1 + self.clock.epoch_after(step - 1):4d} · step {step:6d} · val mse {logged['val/mse']:.5f}{raw}"
            f" · train mse {logged['fit/mse']:.5f} · gap {logged['gap/mse']:+.5f} · {rate:.2f} steps/s"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the bar, and release the terminal."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As after training."""
        self.on_train_end(trainer, pl_module)


class RecordProgress(Callback):
    """Keeps run.json up to date: the device, and the progress of the run."""

    def __init__(self, record: RunRecord, data: ImageData, clock: Clock, spent: Spent):
        self.record, self.data, self.clock, self.spent, self.noted = record, data, clock, spent, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the device, the size of the network and the length of epochs from here on."""
        step = trainer.global_step
        lengths = [(start, length) for start, length in self.record.content.get("epoch_lengths", ()) if start < step]
        if not lengths or lengths[-1][1] != self.clock.epoch:
            lengths.append((step, self.clock.epoch))
        self.record.update(
            host_cores=os.cpu_count(), images={name: len(split.images) for name, split in self.data.splits.items()},
            versions=versions(), device=device_name(pl_module.device), devices=trainer.world_size,
            parameters=sum(p.numel() for p in pl_module.parameters()), precision=str(trainer.precision),
            total_steps=self.clock.total, first_step=step, epoch_lengths=lengths,
        )  # fmt: skip

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Record the progress about every `EVERY` seconds and after each epoch."""
        if time.monotonic() - self.noted > EVERY or self.clock.every(1, trainer.global_step):
            self.note(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record that all steps are done."""
        self.note(trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Record where the run stopped."""
        self.note(trainer.global_step)

    def note(self, step: int) -> None:
        """Record the number of complete steps and epochs."""
        self.noted = time.monotonic()
        self.record.update(steps=step, epochs=self.clock.epoch_after(step), seconds_of=self.spent.rounded)
