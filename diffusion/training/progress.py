"""Progress of a training run, on the first process: the bar, and the run's record."""

import os
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from diffusion.console import console, progress_bar
from diffusion.evaluation.together import device_name
from diffusion.files import versions
from diffusion.training.prepared import Run

EVERY = 30.0  # seconds between updates of run.json


class Progress(Callback):
    """One bar for the whole run (steps, loss, rate, time left), a line for every validation, and run.json."""

    def __init__(self, run: Run) -> None:
        assert run.record is not None
        self.run, self.record, self.clock, self.noted = run, run.record, run.clock, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what is known by now, and show the bar from this step on."""
        step, splits = trainer.global_step, self.run.recipe.data.splits
        lengths = [(start, length) for start, length in self.record.content.get("epoch_lengths", ()) if start < step]
        if not lengths or lengths[-1][1] != self.clock.epoch:
            lengths.append((step, self.clock.epoch))
        self.record.update(
            host_cores=os.cpu_count(), images={name: len(split.images) for name, split in splits.items()},
            versions=versions(), device=device_name(pl_module.device), devices=trainer.world_size,
            parameters=sum(p.numel() for p in pl_module.parameters()), precision=str(trainer.precision),
            total_steps=self.clock.total, first_step=step, epoch_lengths=lengths,
        )  # fmt: skip
        self.start, self.began, self.bar = step, time.monotonic(), progress_bar()
        self.task = self.bar.add_task("training", total=self.clock.total, completed=step, unit="step", note="")
        self.bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Update the bar; the record about every `EVERY` seconds and after each epoch."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.bar.update(self.task, completed=step)
        # The loss is read only when it is logged, to avoid waiting for a GPU at every step.
        if every and step % every == 0 and (loss := trainer.logged_metrics.get("train/loss")) is not None:
            epoch = 1 + self.clock.epoch_after(max(0, step - 1))
            self.bar.update(self.task, note=f"loss {float(loss):.4f} · epoch {epoch}")
        if time.monotonic() - self.noted > EVERY or self.clock.every(1, step):
            self.note(step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the results of the validation."""
        logged, step = {name: float(value) for name, value in trainer.logged_metrics.items()}, trainer.global_step
        rate = (step - self.start) / max(1e-9, time.monotonic() - self.began)
        raw = f" (raw weights {logged['val/mse_raw']:.5f})" if "val/mse_raw" in logged else ""
        console.print(
            f"epoch {1 + self.clock.epoch_after(step - 1):4d} · step {step:6d} · val mse {logged['val/mse']:.5f}{raw}"
            f" · train mse {logged['fit/mse']:.5f} · gap {logged['gap/mse']:+.5f} · {rate:.2f} steps/s"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Release the terminal, and record the last step."""
        self.bar.stop()
        self.note(trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As after training."""
        if hasattr(self, "bar"):
            self.on_train_end(trainer, pl_module)

    def note(self, step: int) -> None:
        """Record the number of complete steps and epochs."""
        self.noted = time.monotonic()
        self.record.update(steps=step, epochs=self.clock.epoch_after(step), seconds_of=self.run.spent.rounded)
