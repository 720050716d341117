"""`Run`: a run before its first step, and what its parts share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from diffusion.config.schema import Train
from diffusion.config.untrusted import Facts
from diffusion.evaluation.drawing import Drawing, source_of
from diffusion.evaluation.pipeline import Scorer
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.recipe import Recipe
from diffusion.training.resume import Resumed
from diffusion.training.timing import Spent


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
