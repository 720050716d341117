"""Autoguidance with the run's own weights: the averaged weights after `guidance.step` steps guide its last samples."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from diffusion.checkpoint import early, exported
from diffusion.checkpoint.restore import contents_of, network_weights
from diffusion.config.schema import Train
from diffusion.console import console, count
from diffusion.evaluation.drawing import Drawing
from diffusion.process.denoiser import Denoiser
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.periodic import averaged_weights
from diffusion.training.resume import Resumed
from diffusion.training.saving import unwritable
from diffusion.training.sharding import whole


class KeepEarlyWeights(Callback):
    """Saves the averaged weights of one step, in checkpoints/early.

    Args:
        drawing: How the last samples will be drawn.
        folder: The run's folder.
        settings: The run's settings; the file stores those that build the network.
        record: The run's record on the first process: nothing is written in a folder that another run has taken over.
        resumed: The checkpoint that the run resumes from.

    If the run does not reach that step, a warning is printed.
    """

    def __init__(
        self,
        drawing: Drawing,
        folder: Path,
        settings: Train,
        clock: Clock,
        record: RunRecord | None,
        resumed: Path | None,
    ):
        step = step_of(drawing)
        if step >= clock.total and record is not None:
            console.print(
                f"guidance.step={step}: the run has {count(clock.total, 'step')}, so its last samples will be drawn "
                "without guidance; a fraction, such as guidance.step=0.4, fits a run of any length",
                style="yellow",
            )
        self.step, self.file, self.settings = step, early.file_of(folder / "checkpoints", step), settings
        self.labels, self.clock, self.record, self.resumed = drawing.counts, clock, record, resumed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights from the resumed run's folder if this run starts after that step."""
        if not trainer.is_global_zero or trainer.global_step < self.step or self.file.is_file():
            return
        assert self.resumed is not None  # the run is past the step
        found = contents_of(early.find(self.resumed.parent, self.step))
        self.write(network_weights(found["state_dict"]))  # averaged, if there is an average

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the weights on the first process."""
        if trainer.global_step != self.step or not self.clock.completes_step(batch_idx):
            return
        assert isinstance(pl_module, Diffusion)
        with averaged_weights(trainer, pl_module):
            denoiser = whole(trainer, pl_module.denoiser)
            if trainer.is_global_zero:
                self.write(denoiser.network.state_dict())

    def write(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of a network. Raises UserError if they cannot be written."""
        if self.record is not None:
            self.record.check_owner()
        kind, epoch = "ema" if self.settings.ema else "raw", self.clock.epoch_after(self.step)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            exported.write(self.file, weights, self.settings.model_dump(), self.step, epoch, kind, self.labels)
        except OSError as error:
            raise unwritable(self.file, self.file.parents[2], error) from error


def with_step(settings: Train, drawing: Drawing, clock: Clock, resumed: Resumed | None) -> tuple[Train, Drawing]:
    """Convert a fractional `guidance.step` to a number: the resumed run's, else this fraction of this run's steps."""
    guidance = drawing.guidance
    if not drawing.waits or guidance is None or not isinstance(guidance.step, float):
        return settings, drawing
    step = early.resolved_step(guidance.step, clock.total, {} if resumed is None else resumed.config)
    node = {**(settings.guidance or {}), "step": step}
    return settings.model_copy(update={"guidance": node}), replace(drawing, guidance=replace(guidance, step=step))


def step_of(drawing: Drawing) -> int:
    """`guidance.step` of a drawing that waits for it."""
    assert drawing.guidance is not None
    assert isinstance(drawing.guidance.step, int)  # see `with_step`
    return drawing.guidance.step


def with_worse(settings: Train, drawing: Drawing, folder: Path, module: Diffusion) -> tuple[Train, Drawing]:
    """Return how the last samples are drawn after training: guided by the weaker model that the run has saved.

    If the run ended before that step, they are drawn without guidance, and a warning is printed.
    """
    if not drawing.waits:
        return settings, drawing
    step = step_of(drawing)
    file = early.file_of(folder / "checkpoints", step)
    if module.trainer.global_step <= step:
        if module.trainer.is_global_zero:
            words = f"guidance.step={step}: the run ended before this step; its samples are drawn without guidance"
            console.print(words, style="yellow")
        return settings.model_copy(update={"guidance": {}}), drawing.unguided
    module.to(module.trainer.strategy.root_device)  # Lightning has moved it to the CPU, but shards are gathered there
    weak: Denoiser = copy.deepcopy(whole(module.trainer, module.denoiser))
    weak.network.load_state_dict(exported.read(file, "")["state_dict"])
    return settings, replace(drawing, weak=weak.eval())
