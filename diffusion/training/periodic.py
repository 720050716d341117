"""Work during training: pictures and scores every few epochs, and the weights of an early step."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from diffusion.base.pixels import save_png
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import at_step
from diffusion.checkpoint.restore import network_hash, network_weights, read
from diffusion.errors import Interrupted
from diffusion.metric.score import DISTANCES
from diffusion.runs.folder import read_scores
from diffusion.training import saving
from diffusion.training.ema import average_of
from diffusion.training.loggers import log_image, log_scores
from diffusion.training.module import Diffusion
from diffusion.training.parts import Parts


@contextlib.contextmanager
def averaged_weights(module: pl.LightningModule) -> Iterator[None]:
    """Context in which the module holds its averaged weights, if there are any, and is in evaluation mode."""
    average = average_of(module.trainer)
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
    """Base class for work with the averaged weights after every `epochs` epochs; subclasses implement `work`.

    A run that starts from other weights (`init`) also does it with these, at step 0.

    A signal interrupts the work (`saving.Checkpoints` stops the run). The resumed run repeats it before its first step
    if `is_done` is false for the step where it starts.
    """

    def __init__(self, run: Parts, epochs: int):
        self.run, self.epochs, self.drawing = run, epochs, run.drawing

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Do the work that the resumed run did not finish."""
        if not self.is_done(trainer.global_step):
            self.work_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.run.clock.completes_step(batch_idx):
            self.work_if_due(trainer, pl_module)

    def work_if_due(self, trainer: pl.Trainer, module: Diffusion) -> None:
        begins = trainer.global_step == 0 and self.run.settings.init is not None
        if begins or self.run.clock.every(self.epochs, trainer.global_step):
            if self.run.record is not None:
                self.run.record.spent("training")
            with contextlib.suppress(Interrupted):
                self.work(trainer, module)
            if self.run.record is not None:
                self.run.record.spent("pictures and scores")

    def is_done(self, step: int) -> bool:
        raise NotImplementedError

    def work(self, trainer: pl.Trainer, module: Diffusion) -> None:
        """Do the work. Raises Interrupted if a signal interrupts it."""
        raise NotImplementedError


class SampleGrid(Periodic):
    """Draws a grid of samples from the same noise each time: samples/step-00001000.png, and in the dashboards."""

    def is_done(self, step: int) -> bool:
        return (self.run.folder / f"samples/step-{step:08d}.png").is_file()

    def work(self, trainer: pl.Trainer, module: Diffusion) -> None:
        if trainer.is_global_zero:
            with averaged_weights(module):
                images = self.drawing(module.denoiser, self.run.shown, module.device, watch=saving.poll)
            picture = self.run.data.kind.grid(images, self.run.data.splits["val"].images)
            save_png(picture, self.run.folder / f"samples/step-{trainer.global_step:08d}.png")
            log_image(trainer, "samples", picture)


class ScoreSamples(Periodic):
    """Computes the distances of samples to the reference, logs them and writes them to scores.json.

    On the test split each of them counts as an evaluation, which test.json records.
    """

    def __init__(self, run: Parts, epochs: int):
        super().__init__(run, epochs)
        assert run.scorer is not None
        quick = [metric for metric in run.scorer.metrics if isinstance(metric, tuple(map(type, DISTANCES)))]
        self.scorer = replace(run.scorer, metrics=quick or DISTANCES)

    def is_done(self, step: int) -> bool:
        return any(score.source.get("step") == step for score in read_scores(self.run.folder))

    def work(self, trainer: pl.Trainer, module: Diffusion) -> None:
        """Draw and score one share of the samples per process, and combine them into one score."""
        run, images = self.run, None
        size, share = run.settings.score.batch_size, (trainer.global_rank, trainer.world_size)
        with contextlib.suppress(Interrupted), averaged_weights(module):
            weights = network_hash(module.denoiser.network)
            images = self.drawing(module.denoiser, run.scored, module.device, size, watch=saving.poll, share=share)
        saving.stop_all(trainer)
        assert isinstance(images, Tensor)
        new = self.scorer.score(images, step=trainer.global_step, network_hash=weights, **run.source(self.drawing))
        if trainer.is_global_zero:
            log_scores(trainer, self.scorer.write(new), self.scorer.split)


class KeepEarlyWeights(Callback):
    """Saves the averaged weights of the step that is in the run's facts, in checkpoints/early.

    They guide the last samples (autoguidance with the run's own weights, `guidance.step`).
    """

    def __init__(self, run: Parts):
        self.run, self.step = run, run.facts.guidance_step or 0
        self.file = storage.early_file(run.folder / "checkpoints", self.step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights from the resumed run's folder if this run starts after that step."""
        if trainer.is_global_zero and trainer.global_step >= self.step and not self.file.is_file():
            assert self.run.resumed is not None
            found = read(at_step(self.run.resumed.path.parent, self.step))
            self.write(network_weights(found["state_dict"]), found)  # averaged, if there is an average

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and self.run.clock.completes_step(batch_idx):
            with averaged_weights(pl_module):
                if trainer.is_global_zero:
                    pl_module.on_save_checkpoint(contents := {"global_step": self.step})
                    self.write(pl_module.denoiser.network.state_dict(), contents)

    def write(self, weights: dict[str, Tensor], contents: dict[str, Any]) -> None:
        """Write the weights of a network, with what these contents of a checkpoint say."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        storage.export(self.file, weights, {"weights": "ema" if self.run.ema else "raw", **contents})
