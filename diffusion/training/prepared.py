"""`Run`: a run before its first step; its time, its record and its progress bar.

Costs are compared in evaluations of the network on one image. A training step counts as three per image, because the
backward pass costs as much as two.
"""

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from diffusion.config.build import Facts
from diffusion.config.schema import SCORED, Train
from diffusion.console import console, count, progress_bar
from diffusion.evaluation.drawing import Drawing, evaluations, source_of
from diffusion.evaluation.pipeline import Scorer
from diffusion.evaluation.together import device_name
from diffusion.files import versions
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.recipe import Recipe
from diffusion.training.resume import Resumed

SHOWN = 16  # samples in a picture if samples.n is not set
STEP = 3  # evaluations per image in a training step
EVERY = 30.0  # seconds between updates of run.json


def affordable(recipe: Recipe, drawing: Drawing, clock: Clock, devices: int) -> tuple[int, int]:
    """The numbers of samples to score and to show: where they are not set, they cost no more than the training.

    So either `SCORED` samples are scored or none (always `SCORED` if a sweep optimizes a score), and pictures show at
    most `SHOWN` samples.
    """
    settings, nfe = recipe.settings, evaluations(drawing.sampler, recipe.schedule, drawing.guidance)
    training = round(STEP * clock.total * clock.accumulate * recipe.data.batch_size * devices * recipe.share)
    scored, shown = settings.score.n, settings.samples.n
    if scored is None:
        scored = SCORED if SCORED * nfe <= training or not is_error(settings.sweep.score) else 0
        if not scored:
            console.print(
                f"no scores: {SCORED} samples need {SCORED * nfe:,} network evaluations, more than the training "
                f"({training:,}); score=quick or score=full enables them"
            )
    if shown is None:
        shown = min(SHOWN, training // (nfe * (1 + clock.times(settings.samples.every_n_epochs, 0))))
        if shown < SHOWN:
            console.print(
                f"pictures of {count(shown, 'sample')}: {SHOWN} would cost more than the training; samples.n={SHOWN} "
                "draws them anyway"
            )
    return scored, shown


def is_error(name: str) -> bool:
    """Whether this is the name of an error, such as val/mse, for which nothing is sampled."""
    split, _, metric = name.partition("/")
    return split in ("val", "fit", "gap", "train") and metric.startswith(("mse", "loss"))


class Spent(Callback):
    """Wall time by part of the run, without gaps: the time between two marks belongs to the part of the later one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Add the time since the last mark to `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    @property
    def rounded(self) -> dict[str, float]:
        """The seconds by part, rounded to hundredths."""
        return {part: round(seconds, 2) for part, seconds in self.seconds.items()}

    def on_train_start(self, *_: Any) -> None:
        self.mark("preparation")

    def on_validation_start(self, *_: Any) -> None:
        self.mark("training")

    def on_validation_end(self, *_: Any) -> None:
        self.mark("validation")


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far in bytes, of the GPU's tensors or, without a CUDA GPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Run:
    """A run before its first step. Its parts fit together."""

    settings: Train  # what was asked for
    folder: Path
    record: RunRecord | None  # on the first process
    resumed: Resumed | None
    recipe: Recipe
    facts: Facts  # what follows from the settings and the data
    clock: Clock
    drawing: Drawing  # how the last samples are drawn, apart from the weights that guide them if it `waits`
    scorer: Scorer | None
    scored: int  # samples to score,
    shown: int  # and to show in a picture
    module: Diffusion
    trainer: pl.Trainer
    spent: Spent

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.trainer.strategy.root_device

    def source(self, drawing: Drawing) -> dict[str, Any]:
        """The provenance that is stored with the scores of samples drawn so."""
        guidance, settings = self.settings.guidance if drawing.guidance else None, self.settings
        if guidance and (step := self.facts.get("guidance_step")) is not None:
            guidance = {**guidance, "step": step}
        source = source_of(settings.sampler, guidance, settings.samples.precision)
        return {**source, "seed": settings.seed, "weights": "ema" if self.recipe.ema else "raw"}


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

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Release the terminal, and record the last step."""
        self.bar.stop()
        self.note(trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        """As after training."""
        if hasattr(self, "bar"):
            self.on_train_end(trainer)

    def note(self, step: int) -> None:
        """Record the number of complete steps and epochs."""
        self.noted = time.monotonic()
        self.record.update(steps=step, epochs=self.clock.epoch_after(step), seconds_of=self.run.spent.rounded)
