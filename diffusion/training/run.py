"""A training run from its settings: build, check, fit, sample, score, report."""

import copy
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch

from diffusion.config.schema import Train
from diffusion.console import quiet_libraries
from diffusion.data import to_unit
from diffusion.errors import UserError, first_line
from diffusion.randomness import Streams
from diffusion.runs.record import RunRecord
from diffusion.training.ending import closing_logs, conclude, draw_last
from diffusion.training.module import Diffusion
from diffusion.training.parts import Run
from diffusion.training.resume import resumed_from, start_from
from diffusion.training.saving import catching_signals
from diffusion.training.trainer import begin, equip, make_trainer


@catching_signals()
def train(settings: Train, folder: Path, record: RunRecord | None) -> float | None:
    """Train with these settings and write all output to `folder`; returns the last `sweep.score` on the first process.

    Args:
        record: The run's record on the first process; None on the others.

    Raises UserError before training starts for problems that the user can fix.
    """
    run, module, trainer = prepare(settings, folder, record)
    with closing_logs(run, trainer):
        start = None if run.resumed is None else run.resumed.path
        trainer.fit(module, datamodule=run.data, ckpt_path=start, weights_only=True)
        samples = draw_last(run, trainer, module)
        return None if record is None else conclude(run, trainer, samples)


def prepare(settings: Train, folder: Path, record: RunRecord | None) -> tuple[Run, Diffusion, pl.Trainer]:
    """Build the parts of a run and check that they fit together, before anything is written."""
    quiet_libraries()
    resumed = resumed_from(settings, folder)
    trainer = make_trainer(settings, folder, resumed)
    run = Run(settings, folder, record, resumed, trainer.world_size)  # reads the images
    module = Diffusion(run)
    check_parts(run, module)
    if resumed is not None:
        resumed.check(module.state_dict(), run.data.keys, run.clock.total, folder)
    elif settings.init is not None:
        command = RunRecord(folder).content.get("command", "")
        start_from(settings.init, module.denoiser.network, settings.model_dump(), command)
    equip(trainer, run, module)
    begin(trainer, run)
    return run, module, trainer


def check_parts(run: Run, module: Diffusion) -> None:
    """Reject parts that do not fit together: pass an image through the objective, twice, and draw one sample."""
    first, drawing = run.data.splits["train"].take(torch.tensor([0, 0])), run.drawing
    given = {} if first.labels is None else {"classes": first.labels}
    if given and run.settings.label_dropout:
        given["classes"] = torch.tensor([int(given["classes"][0]), len(run.data.classes)])  # the second one: no class
    try:
        with torch.no_grad():
            module.values(to_unit(first.images), given, lambda use: Streams([0, 0]))
    except (RuntimeError, IndexError) as error:
        raise UserError(f"model: it does not fit the images or the objective ({first_line(error)})") from error
    try:
        optimizer = module.new_optimizer()
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {first_line(error)}; --help optimizer lists settings that work") from error
    module.lr_scheduler(optimizer, run.clock.total)
    short = copy.copy(drawing.sampler)
    short.steps = min(2, short.steps)
    module.denoiser.eval()
    drawing.check(module.denoiser, run.settings.label_dropout)
    replace(drawing, sampler=short)(module.denoiser, 1, torch.device("cpu"))
    module.denoiser.train()
