"""Lightning's Trainer for a run, and what happens around each step, in order."""

from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.checkpoint.facts import Facts
from diffusion.config.build import make
from diffusion.config.schema import Train
from diffusion.console import console
from diffusion.data import ImageData
from diffusion.evaluation import ledger
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.pipeline import Scorer
from diffusion.metric.precision import set_precision
from diffusion.metric.score import distances
from diffusion.model.network import to_channels_last
from diffusion.process.denoiser import Denoiser
from diffusion.runs.jobs import discard
from diffusion.runs.record import RunRecord
from diffusion.training import loggers, processes, signals
from diffusion.training.clock import Clock
from diffusion.training.guard import Guard
from diffusion.training.module import Diffusion
from diffusion.training.periodic import LearningRate, SampleGrid, ScoreSamples, StopAfterLastStep
from diffusion.training.progress import RecordProgress, RunProgress
from diffusion.training.recipe import Recipe
from diffusion.training.resume import Resumed
from diffusion.training.saving import Checkpoints
from diffusion.training.timing import STEP_ENDS, Amounts, Forecast, Mark, Spent
from diffusion.training.worse import KeepEarlyWeights

FIXED = {  # arguments of the Trainer that the user cannot set: see `training.clock`
    "max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": None, "limit_train_batches": None,
    "use_distributed_sampler": False, "num_sanity_val_steps": 0, "enable_model_summary": False, "max_time": None,
}  # fmt: skip


@dataclass
class Run:
    """A run before its first step. Its parts fit together."""

    settings: Train  # what was asked for
    folder: Path
    record: RunRecord | None  # on the first process
    recipe: Recipe
    facts: Facts  # what follows from the settings and the data
    resumed: Resumed | None
    clock: Clock
    amounts: Amounts
    drawing: Drawing  # how the last samples are drawn, apart from the weights that guide them if it `waits`
    scorer: Scorer | None
    module: Diffusion
    trainer: pl.Trainer
    spent: Spent

    @property
    def start(self) -> Path | None:
        """The checkpoint that the run resumes from."""
        return None if self.resumed is None else self.resumed.path

    def begin(self, dashboards: list[Logger]) -> None:
        """Start to write in the run's folder, which goes on from the checkpoint that is resumed; print two lines."""
        record, resumed, data, trainer = self.record, self.resumed, self.recipe.data, self.trainer
        metrics_file, *_ = trainer.loggers = [*trainer.loggers, *dashboards]
        if record is None:
            return
        record.continue_from(None if resumed is None else resumed.folder)
        if resumed is None:
            discard(self.folder)
        else:
            ledger.inherit(self.folder, resumed.folder)
            assert isinstance(metrics_file, loggers.MetricsFile)
            metrics_file.keep(resumed.folder, resumed.step)
        record.update(facts=self.facts)
        self.spent.seconds = dict(record.content.get("seconds_of", {}))
        parameters = sum(p.numel() for p in self.recipe.network.parameters())
        (_, height, width), kind = data.shape, {1: ", grey", 4: ", RGBA"}.get(data.channels, "")
        counts = ", ".join(f"{len(split.images)} {name}" for name, split in data.splits.items())
        console.print(f"images {height}×{width}{kind}: {counts} · network with {parameters / 1e6:.2f} M parameters")
        console.print(f"run folder: {self.folder}")


def make_trainer(settings: Train, folder: Path, resumed: Resumed | None) -> pl.Trainer:
    """Create Lightning's Trainer with metrics.csv as its only logger, without callbacks yet."""
    set_precision(settings.matmul_precision)
    logs: list[Logger] = [loggers.MetricsFile(folder)]
    trainer: pl.Trainer = make(
        settings.trainer.model_dump() | FIXED | {"val_check_interval": 1}, "trainer", logger=logs,
        default_root_dir=str(folder),
        plugins=[storage.Storage() if resumed is None else resumed.storage, *processes.environment()],
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    return trainer


def make_callbacks(settings: Train) -> list[Callback]:
    """Build the callbacks that the user has chosen."""
    chosen = {f"callbacks.{name}": node for name, node in (settings.callbacks or {}).items()}
    return [make(node, where, Callback) for where, node in chosen.items()]


def dashboards(settings: Train, folder: Path, resumed: Resumed | None) -> list[Logger]:
    """Create the run's dashboards. Only a run that has passed all checks may begin or continue one."""
    # W&B continues the folder's earlier run only if a checkpoint was found; TensorBoard hides its later steps.
    given = {"ckpt": settings.ckpt if resumed else None, "first_step": resumed.step if resumed else 0}
    recipe = settings.model_dump(mode="json") | given
    chosen = settings.logger or {}
    # W&B comes after TensorBoard, which may be missing: it begins a run on a server.
    return [make(chosen[name], f"logger.{name}")(folder, recipe) for name in sorted(chosen)]


def prepare_network(module: Diffusion, settings: Train, trainer: pl.Trainer) -> None:
    """Set the memory layout and precision of the network, and compile it if asked to."""
    network = module.denoiser.network
    to_channels_last(network)
    # Before a checkpoint is loaded and the average is copied: Lightning would convert afterwards, and round.
    trainer.precision_plugin.convert_module(module)
    if settings.compile:
        network.compile()  # in place: the keys of the weights stay as they are


def set_clock(trainer: pl.Trainer, data: ImageData, clock: Clock, done: int) -> None:
    """Set the length of the run in the trainer and the data.

    Args:
        done: Number of steps that the resumed run has completed. If none are left, the last step must be one after
            which Lightning would validate: otherwise it makes another step.
    """
    data.batches_per_epoch, data.batches = clock.epoch * clock.accumulate, clock.total * clock.accumulate
    trainer.accumulate_grad_batches = clock.accumulate
    every = clock.validate_every if done < clock.total else clock.total
    trainer.val_check_interval = every * clock.accumulate


def callbacks_of(run: Run, own: list[Callback], checkpoints: Checkpoints) -> list[Callback]:
    """The callbacks of a run, in the order in which they work after a step; `own` are those that the user chose."""
    settings, clock, spent, record, recipe = run.settings, run.clock, run.spent, run.record, run.recipe
    drawing, scorer, device = run.drawing.in_training, run.scorer, run.trainer.strategy.root_device
    forecast = Forecast(recipe, run.amounts, run.drawing, clock, record, spent)
    used: list[Callback] = [
        *(Mark(spent, part, hook) for hook, part in STEP_ENDS.items()),
        signals.DeferSignals(settings.trainer.max_time), RunProgress(clock), forecast, StopAfterLastStep(clock),
        LearningRate(clock),
    ]  # fmt: skip
    if record is not None:
        used.append(RecordProgress(record, recipe.data, clock, spent))
    used.append(Mark(spent, "other"))
    if recipe.ema is not None:
        used += [recipe.ema, Mark(spent, "average of weights")]
    used += [Guard(settings.guard, clock), Mark(spent, "guard")]
    used += [*own, Mark(spent, "other")]
    if run.amounts.shown and (every := settings.samples.every_n_epochs):

        def draw(denoiser: Denoiser) -> Tensor:
            return drawing(denoiser, run.amounts.shown, device, watch=signals.poll)

        used += [SampleGrid(clock, every, draw, run.folder), Mark(spent, "pictures")]
    if scorer is not None and (every := settings.score.every_n_epochs):
        quick, source = replace(scorer, metrics=distances(scorer.metrics)), recipe.source(drawing, run.facts)
        scored = ScoreSamples(clock, every, drawing, run.amounts.scored, settings.score.batch_size, quick, source)
        used += [scored, Mark(spent, "scores")]
    if (step := run.facts.get("guidance_step")) is not None:
        used.append(KeepEarlyWeights(step, run.folder, recipe, run.facts, clock, run.start, record is not None))
    # Checkpoints come last, so that they save the final state of the other callbacks.
    return [*used, signals.StopOnSignal(clock, checkpoints), checkpoints, Mark(spent, "checkpoints")]
