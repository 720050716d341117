"""A training run from its settings: build, check, fit, sample, score, report; and Lightning's Trainer for it."""

import contextlib
import copy
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from rich.filesize import decimal

from diffusion.base.console import console, count, quiet_libraries
from diffusion.checkpoint import storage
from diffusion.config.build import make
from diffusion.config.schema import INSTEAD, Train
from diffusion.errors import UserError, first_line, refusing
from diffusion.metric.precision import set_precision
from diffusion.model.network import to_channels_last
from diffusion.randomness import Streams
from diffusion.runs.folder import discard, holds_checkpoints, read_scores
from diffusion.runs.processes import TRIAL, is_rank
from diffusion.runs.record import RunRecord
from diffusion.training.callbacks import Guard, Progress
from diffusion.training.ending import closing_logs, conclude, conclude_pruned, draw_last
from diffusion.training.loggers import MetricsFile, dashboards
from diffusion.training.module import Diffusion
from diffusion.training.parts import Parts
from diffusion.training.periodic import KeepEarlyWeights, SampleGrid, ScoreSamples
from diffusion.training.pruning import Pruning
from diffusion.training.resume import Resumed, resumed_from, start_from
from diffusion.training.saving import Checkpoints, catching_signals

FIXED = {  # arguments of the Trainer that the user cannot set: see `training.clock`
    "max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": None, "val_check_interval": 1,
    "limit_train_batches": None, "use_distributed_sampler": False, "num_sanity_val_steps": 0,
    "enable_model_summary": False, "enable_checkpointing": False, "enable_progress_bar": False,
}  # fmt: skip
SEVERAL = 1000  # images that are looked at
USUAL = 0.25, 1.0  # standard deviations of images that need no `data.scale`


def train(settings: Train, folder: Path, record: RunRecord | None) -> Any:
    """Train with these settings and write all output to `folder`; returns the last `sweep.score` on the first process.

    Args:
        record: On the first process, the run's record, which says how it ends; None on the others.

    Raises UserError before training starts for problems that the user can fix: until all parts of the run are built and
    fit together, nothing is written.
    """
    with record.running() if record else contextlib.nullcontext(), catching_signals():
        quiet_libraries()
        resumed = resumed_from(settings, folder)
        trainer = make_trainer(settings, folder, resumed)
        device = trainer.strategy.root_device
        run = Parts(settings, folder, record, resumed, trainer.world_size, device)  # reads the images
        module = Diffusion(run)
        check_parts(run, module)
        if resumed is not None:
            resumed.check(module.state_dict(), run.data.keys, run.clock.total, folder)
        elif settings.init is not None:
            command = RunRecord(folder).content["command"]
            start_from(settings.init, module.denoiser.network, settings.model_dump(), command)

        if not run.facts.ends:  # in forward mode, torch's group norm needs contiguous images
            to_channels_last(run.network)
        # Before a checkpoint is loaded and the average is copied: Lightning would convert afterwards, and round.
        trainer.precision_plugin.convert_module(module)
        if settings.compile:
            run.network.compile()  # in place: the keys of the weights stay as they are
        if run.scorer is not None:
            run.scorer.extractor.to(trainer.strategy.root_device)

        data, clock = run.data, run.clock
        data.batches_per_epoch, data.batches = clock.epoch * clock.accumulate, clock.total * clock.accumulate
        trainer.accumulate_grad_batches = clock.accumulate
        # After the last step of a complete run, Lightning would make another one if it did not validate there.
        ended = resumed is not None and resumed.step >= clock.total
        trainer.val_check_interval = (clock.total if ended else clock.validate_every) * clock.accumulate
        trainer.callbacks.extend(callbacks_of(run))  # type: ignore[attr-defined]

        if record is not None:
            start_writing(run, record, trainer)
        with closing_logs(run, trainer):
            start = None if resumed is None else resumed.path
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
            if reason := "".join(each.reason for each in trainer.callbacks if isinstance(each, Pruning)):  # type: ignore[attr-defined]
                return conclude_pruned(run, reason)
            samples = draw_last(run, trainer, module)
            return None if record is None else conclude(run, record, trainer, samples)


def check_parts(run: Parts, module: Diffusion) -> None:
    """Reject parts that do not fit together: pass an image through the objective, twice, and draw one sample."""
    first, drawing = run.data.splits["train"].take(torch.tensor([0, 0])), run.drawing
    given = {} if first.labels is None else {"classes": first.labels}
    if given and run.settings.label_dropout:
        given["classes"] = torch.tensor([int(given["classes"][0]), len(run.data.classes)])  # the second one: no class
    try:
        with torch.no_grad():
            x0 = run.data.kind.inside(first.images)
            module.values(x0, given, lambda use: Streams([0, 0]), first.stored)
    except (RuntimeError, IndexError) as error:
        raise UserError(f"model: it does not fit the images or the objective ({first_line(error)})") from error
    with refusing("optimizer", "; --help optimizer lists settings that work"):
        optimizer = module.new_optimizer()
    module.lr_scheduler(optimizer, run.clock.total)
    short = copy.copy(drawing.sampler)
    short.steps = min(2, short.steps)
    module.denoiser.eval()
    drawing.check(module.denoiser, run.settings.label_dropout)
    replace(drawing, sampler=short)(module.denoiser, 1, torch.device("cpu"))
    module.denoiser.train()


class Replicas(DDPStrategy):
    """Lightning's `ddp`, under the same name, which `trainer.strategy=auto` chooses for several devices.

    A batch stays where it is: Lightning lets DistributedDataParallel move it to the GPU, together with the image
    indices, which seed the noise. Reading them back would wait for the previous step.
    """

    def determine_ddp_device_ids(self) -> None:
        """No devices: inputs are not moved. The module is on its device already."""
        return


def make_trainer(settings: Train, folder: Path, resumed: Resumed | None) -> pl.Trainer:
    """Create Lightning's Trainer with metrics.csv as its only logger, without callbacks yet.

    Raises UserError for settings that a run decides itself, an endless run, or another size than that of torchrun.
    """
    given = settings.trainer
    for key in (f"trainer.{name}" for name in given.model_extra or {}):
        if key in INSTEAD:
            raise UserError(f"{key}: it is set by the run itself; {INSTEAD[key]}")
    if given.max_epochs in (None, -1) and given.max_steps == -1:
        raise UserError("trainer.max_epochs and trainer.max_steps are both unlimited: set trainer.max_epochs=250")
    set_precision(settings.matmul_precision)
    # Gradients are views of the buckets that are sent, which saves a copy of them.
    StrategyRegistry.register("ddp", Replicas, override=True, gradient_as_bucket_view=True)
    plugins: list[Any] = [storage.Storage(None if resumed is None else resumed.contents)]
    if not is_rank():
        plugins.append(LightningEnvironment())  # Lightning assumes that `srun` started every run under SLURM
    trainer: pl.Trainer = make(
        given.model_dump() | FIXED, "trainer", logger=[MetricsFile(folder)], default_root_dir=str(folder),
        plugins=plugins,
    )  # fmt: skip
    if trainer.world_size != (started := int(os.environ["WORLD_SIZE"]) if is_rank() else 1):  # each would train alone
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        several = "; several machines need torchrun on each" if trainer.world_size > started else ""
        raise UserError(
            f"trainer.devices × trainer.num_nodes is {trainer.world_size}, but the number of processes is {started}: "
            f"set trainer.devices={local} trainer.num_nodes={started // local}{several}"
        )
    # Its handler of SIGTERM would end a step in its middle, and broadcasts, for which processes may wait for each other
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def start_writing(run: Parts, record: RunRecord, trainer: pl.Trainer) -> None:
    """Start to write in the run's folder, which goes on from the checkpoint that is resumed; print two lines.

    Raises UserError for what would end the run only after hours: a disk too small, or scores that cannot be read.
    """
    resumed, data, network = run.resumed, run.data, run.network
    if resumed is not None or not holds_checkpoints(run.folder):  # otherwise they will be discarded
        read_scores(run.folder)
    weights = sum(value.nbytes for value in network.state_dict().values())
    size = weights * (3 + (run.ema is not None))  # with the two averages of Adam, and that of the weights
    if (free := shutil.disk_usage(run.folder).free) < size:
        raise UserError(
            f"{run.folder}: a checkpoint of this run needs about {decimal(size)}, with {decimal(free)} free; "
            "free some space, or choose another place (hydra.run.dir=…)"
        )
    (curves,) = trainer.loggers
    assert isinstance(curves, MetricsFile)
    trainer.loggers = [curves, dashboards(run.settings, run.folder, resumed)]  # they may begin a run on a server
    record.continue_from(None if resumed is None else resumed.folder)
    if resumed is None:
        discard(run.folder)
    else:
        curves.keep(resumed.folder, resumed.step)
    record.update(facts=run.facts.written())
    counts = ", ".join(f"{len(split.images)} {name}" for name, split in data.splits.items())
    parameters = count(sum(p.numel() for p in network.parameters()), "parameter")
    console.print(f"{data.kind.described(data.shape)}: {counts} · network with {parameters}")
    deviation = 0.5
    if not data.kind.of_usual_deviation:
        deviation = float(data.kind.inside(data.splits["train"].images[:SEVERAL]).std())
    if not USUAL[0] <= data.scale * deviation <= USUAL[1]:
        console.print(
            f"the images' standard deviation is {deviation:.2g}; noise levels and networks are made for about 0.5: "
            f"data.scale={0.5 / deviation:.2g} makes it so in training, and samples have the contrast of the images",
            style="yellow",
        )
    console.print(f"run folder: {run.folder}")


def callbacks_of(run: Parts) -> list[Callback]:
    """The callbacks of a run, in the order in which they work after a step."""
    settings, chosen = run.settings, run.settings.callbacks or {}
    used: list[Callback] = [] if run.record is None else [Progress(run, run.record)]
    if run.ema is not None:
        used.append(run.ema)
    used.append(Guard(run.settings.guard.spikes, run.clock))
    used += [make(chosen[name], f"callbacks.{name}", Callback) for name in chosen]
    if run.shown and settings.samples.every_n_epochs:
        used.append(SampleGrid(run, settings.samples.every_n_epochs))
    if run.scorer is not None and settings.score.every_n_epochs:
        used.append(ScoreSamples(run, settings.score.every_n_epochs))
    if run.facts.guidance_step:
        used.append(KeepEarlyWeights(run))
    if TRIAL in os.environ and len(settings.sweep.scores) == 1:  # Optuna prunes by one score
        used.append(Pruning(run))
    return [*used, Checkpoints(run)]  # at the end, so that they save the final state of the other callbacks
