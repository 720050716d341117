"""Periodic work: pictures and scores every few epochs, and the stop after the last step."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.provenance import network_hash
from diffusion.console import console
from diffusion.errors import Interrupted
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.pipeline import Scorer
from diffusion.process.denoiser import Denoiser
from diffusion.report.images import enlarged, grid, save_png
from diffusion.runs.folder import read_scores
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of
from diffusion.training.module import Diffusion
from diffusion.training.signals import agreed, poll


class StopAfterLastStep(Callback):
    """Stops training after the last step. Lightning validates before it stops, whatever the validation interval."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Ask Lightning to stop at the last step."""
        if trainer.global_step >= self.clock.total:
            trainer.should_stop = True


class LearningRate(LearningRateMonitor):
    """Logs the learning rate once per step. (Lightning's own logs it for each batch of a step.)"""

    def __init__(self, clock: Clock):
        super().__init__("step")
        self.clock = clock

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Log at the first batch of a step."""
        if batch_idx % self.clock.accumulate == 0:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


@contextlib.contextmanager
def averaged_weights(trainer: pl.Trainer, module: Diffusion) -> Iterator[None]:
    """Context in which the module holds its averaged weights, if there are any, and is in evaluation mode."""
    average = average_of(trainer)
    module.eval()
    if average is not None:
        average.swap(module)
    try:
        yield
    finally:
        if average is not None:
            average.swap(module)
        module.train()


class Periodic(Callback):
    """Base class for work with the averaged weights after every `every_n_epochs` epochs; subclasses implement `work`.

    A signal interrupts the work. The resumed run repeats it before its first step if `is_done` is false for the step
    where it starts.
    """

    def __init__(self, clock: Clock, every_n_epochs: int):
        self.clock, self.every_n_epochs = clock, every_n_epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the work that the resumed run did not finish."""
        step = trainer.global_step
        if self.clock.every(self.every_n_epochs, step) and not self.is_done(step):
            self.run(trainer, pl_module, step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do the work if it is due."""
        step = trainer.global_step
        if self.clock.completes_step(batch_idx) and self.clock.every(self.every_n_epochs, step):
            self.run(trainer, pl_module, step)

    def run(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> None:
        assert isinstance(pl_module, Diffusion)
        with contextlib.suppress(Interrupted):  # the run is stopped by `signals.StopOnSignal`
            self.work(trainer, pl_module, step)

    def is_done(self, step: int) -> bool:
        raise NotImplementedError

    def work(self, trainer: pl.Trainer, module: Diffusion, step: int) -> None:
        """Do the work after `step` steps. Raises Interrupted if a signal interrupts it."""
        raise NotImplementedError


class SampleGrid(Periodic):
    """Draws a grid of samples from the same noise each time: samples/step-00001000.png, and in the dashboards.

    Args:
        draw: denoiser -> uint8 (n, C, H, W).
    """

    def __init__(self, clock: Clock, every_n_epochs: int, draw: Callable[[Denoiser], Tensor], folder: Path):
        super().__init__(clock, every_n_epochs)
        self.draw, self.folder = draw, folder / "samples"

    def path(self, step: int) -> Path:
        """Path of the picture after `step` steps."""
        return self.folder / f"step-{step:08d}.png"

    def is_done(self, step: int) -> bool:
        return self.path(step).is_file()

    def work(self, trainer: pl.Trainer, module: Diffusion, step: int) -> None:
        """Draw on the first process."""
        if not trainer.is_global_zero:
            return
        with averaged_weights(trainer, module):
            picture = grid(self.draw(module.denoiser))
        save_png(picture, self.path(step))
        log_image(trainer, "samples", picture)


class ScoreSamples(Periodic):
    """Computes the distances of `n` samples to the reference, logs them and writes them to scores.json.

    On the test split each of them counts as an evaluation: the start of the run warns about it, and test.json records
    it.
    """

    def __init__(
        self,
        clock: Clock,
        every_n_epochs: int,
        drawing: Drawing,
        n: int,
        batch_size: int,
        scorer: Scorer,
        source: dict[str, Any],
    ):
        super().__init__(clock, every_n_epochs)
        self.drawing, self.n, self.batch_size = drawing, n, batch_size
        self.scorer, self.source = scorer, source

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn about repeated evaluations on test."""
        if self.scorer.split == "test" and trainer.is_global_zero:
            console.print(
                "warning: score.every_n_epochs with score.split=test evaluates on the test split repeatedly, but only "
                "the first score is unbiased; use score.split=val, and test once, when all choices are made"
            )
        super().on_train_start(trainer, pl_module)

    def is_done(self, step: int) -> bool:
        return any(score.source.get("step") == step for score in read_scores(self.scorer.folder))

    def work(self, trainer: pl.Trainer, module: Diffusion, step: int) -> None:
        """Draw and score one share of the samples per process, and combine them into one score."""
        images: Tensor | None = None
        with contextlib.suppress(Interrupted), averaged_weights(trainer, module):
            weights = network_hash(module.denoiser.network)
            share = trainer.global_rank, trainer.world_size
            images = self.drawing(module.denoiser, self.n, module.device, self.batch_size, watch=poll, share=share)
        if agreed(trainer) or images is None:
            return
        new = self.scorer.score(images, step=step, network_hash=weights, **self.source)
        if not trainer.is_global_zero:
            return
        new = self.scorer.write(new)
        for logger in trainer.loggers:  # they count from 0: next to the loss and the validation of the last step
            logger.log_metrics({f"{self.scorer.split}/{s.metric}": s.value for s in new}, step - 1)


def log_image(trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
    """Log a picture to the run's dashboards, which count from 0; small ones are enlarged by a whole factor."""
    picture, step = enlarged(picture), trainer.global_step - 1
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step)
        elif isinstance(logger, TensorBoardLogger):
            pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
            shaped = pixels.reshape(picture.height, picture.width, 3)
            logger.experiment.add_image(name, shaped, step, dataformats="HWC")
