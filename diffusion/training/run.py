"""A training run from its settings: build, check, fit, sample, score, report."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.checkpoint.pruning import prune
from diffusion.config.build import make
from diffusion.config.quoting import resume_command
from diffusion.config.schema import SCORED, Train
from diffusion.console import console, count, duration, quiet_libraries
from diffusion.data import ImageData
from diffusion.errors import Interrupted, UserError, first_line
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.ledger import Ledger
from diffusion.evaluation.pipeline import Scorer, make_metrics
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.precision import set_precision
from diffusion.metric.score import distances
from diffusion.model.network import to_channels_last
from diffusion.process.denoiser import Denoiser
from diffusion.report.run import write_report
from diffusion.runs.jobs import asked_for, config_text, discard, still_asked, write_config
from diffusion.runs.metrics import last_value
from diffusion.runs.record import RunRecord, now
from diffusion.training import loggers, processes, signals
from diffusion.training.batch import check_batch, clock_of, divide
from diffusion.training.callbacks import supported
from diffusion.training.checks import (
    check_recipe,
    check_sweep_score,
    check_trainer,
    check_validation,
    is_error,
    read_images,
)
from diffusion.training.clock import Clock
from diffusion.training.compilation import is_compiled
from diffusion.training.ending import SHOWN, Last, draw_last, finish, run_source
from diffusion.training.forecast import STEP, Forecast, Plan
from diffusion.training.guard import Guard
from diffusion.training.initial import start_from, with_initial
from diffusion.training.module import Diffusion
from diffusion.training.overfitting import OverfittingNotice
from diffusion.training.periodic import LearningRate, SampleGrid, ScoreSamples, StopAfterLastStep
from diffusion.training.progress import RecordProgress, RunProgress
from diffusion.training.recipe import Recipe, with_classes, with_inputs, with_times
from diffusion.training.resume import (
    Resumed,
    check_images,
    check_noise,
    check_resumed,
    check_step_images,
    check_steps_left,
    continuing,
    has_same_error,
    has_same_loss,
    resumed_from,
)
from diffusion.training.saving import Checkpoints
from diffusion.training.schedule_free import with_average
from diffusion.training.sharding import check_sharding, in_channels_last, is_sharded
from diffusion.training.spent import Mark, MarkSteps, Spent, peak_bytes
from diffusion.training.worse import KeepEarlyWeights, with_step, with_worse

FIXED = {  # arguments of the Trainer that the user cannot set: see `training.clock`
    "max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": None, "limit_train_batches": None,
    "use_distributed_sampler": False, "num_sanity_val_steps": 0, "enable_model_summary": False, "max_time": None,
}  # fmt: skip
FILES = {
    "samples": "samples/final.png",
    "curves": "figures/mse.png",
    "gap": "figures/gap.png",
    "copies": "figures/copies.png",
    "scores": "scores.json",
    "checkpoint": "checkpoints/last.ckpt",
    "best": "checkpoints/best.ckpt",
    "weights": "checkpoints/last.safetensors",
    "report": "README.md",
    "page": "report.html",  # printed last
}


@dataclass
class Prepared:
    """A run before its first step. Its parts fit together."""

    settings: Train
    recipe: Recipe
    module: Diffusion
    trainer: pl.Trainer
    clock: Clock
    last: Drawing  # how the last samples are drawn
    scorer: Scorer | None
    checkpoints: Checkpoints
    resumed: Resumed | None

    @property
    def start(self) -> Path | None:
        """The checkpoint that the run resumes from."""
        return None if self.resumed is None else self.resumed.path


@signals.catching()
def train(settings: Train, folder: Path, record: RunRecord | None) -> float | None:
    """Train with these settings and write all output to `folder`; returns the last `sweep.score` on the first process.

    Args:
        record: The run's record on the first process; None on the others.

    Raises UserError before training starts for problems that the user can fix.
    """
    spent = Spent()
    run = prepare(settings, folder, record, spent)
    status = 1
    try:
        settings, drawn = fit(run, folder, spent)
        if record is None:
            return None
        result = conclude(run, settings, drawn, folder, record, spent)
        status = 0
    except Interrupted as stop:
        status = stop.status
        if record is not None:
            console.print(f"stopped by {stop}; to resume: {resume_command(folder)}")
        raise
    finally:
        loggers.finish(run.trainer.loggers, status)
    keep_finished(settings.checkpoint.finished, folder)
    print_files(folder, record)
    return result


def prepare(asked: Train, folder: Path, record: RunRecord | None, spent: Spent) -> Prepared:
    """Build the parts of a run, check them, and adapt the settings `asked` for to each other and to the data.

    Raises UserError for problems that the user can fix.
    """
    quiet_libraries()
    check_trainer(asked.trainer)
    check_batch(asked)
    pl.seed_everything(asked.seed, verbose=False)
    set_precision(asked.matmul_precision)
    settings = with_average(with_inputs(asked))
    check_sharding(settings)
    recipe = Recipe.build(settings)
    settings = with_times(settings, recipe)
    resumed = resumed_from(settings, folder)
    settings = settings if resumed else with_initial(settings)
    scorer = prepare_data(settings, recipe, folder)
    settings, recipe = with_classes(settings, recipe)
    check_sweep_score(settings, scorer)
    trainer = make_trainer(settings, folder, resumed)
    check_validation(settings.trainer, recipe.data, trainer.world_size)
    done = (0, 0) if resumed is None else (resumed.step, resumed.seen.get(type(recipe.data).__qualname__, 0))
    clock = clock_of(settings, recipe.data, trainer.world_size, done)
    drawing = recipe.drawing(settings.seed, settings.samples.precision)
    settings, last = with_step(settings, drawing, clock, resumed)
    module = Diffusion(settings, recipe, clock)
    check_recipe(module, recipe.data, last.in_training)
    processes.check_processes(trainer)
    if resumed is not None:
        check_resumed(module.state_dict(), config_text(settings), resumed)
        check_images(recipe.data.keys, resumed, folder)
        check_noise(resumed)
        check_steps_left(clock.total, resumed, folder)
    elif settings.init is not None:
        start_from(settings.init, module.denoiser.network, settings.model_dump(), recipe.data)
    chosen = {f"callbacks.{name}": node for name, node in (settings.callbacks or {}).items()}
    own = [supported(make(node, where, Callback), where) for where, node in chosen.items()]
    trainer.loggers = [*trainer.loggers, *dashboards(settings, folder, resumed)]
    if record is not None:
        if resumed is None:
            record.start_over()
        else:
            record.resume(resumed.folder, resumed.step)
        spent.seconds = dict(record.content.get("seconds_of", {}))
        kept = {} if resumed is None else still_asked(record.previous.get("asked", {}), asked, resumed.config)
        record.update(asked=kept | asked_for(asked, settings))
    if trainer.is_global_zero:
        if resumed is None:
            discard(folder)
        write_config(settings, folder)
    prepare_network(module, settings, trainer)
    averages, before = recipe.ema.copies if recipe.ema else 0, None if resumed is None else resumed.batch_size
    if division := divide(module, recipe.data, trainer, averages, folder, record, before):
        recipe.data.batch_size = division.size
        clock = module.clock = replace(clock, accumulate=division.accumulate, together=division.accumulate)
    was, made = (None, 0) if resumed is None else (resumed.compiled, resumed.step)
    module.compiled = is_compiled(settings, module, recipe.data, trainer, clock, folder, record, was, made)
    if module.compiled:
        module.denoiser.network.compile()  # in place: the keys of the weights stay as they are
    settings = with_affordable_samples(settings, recipe, last, clock, trainer.world_size)
    scorer = scorer if settings.score.n else None
    if scorer is not None:
        scorer.extractor.to(trainer.strategy.root_device)
    set_clock(trainer, recipe.data, clock, made)
    if resumed is not None:
        check_step_images(recipe.data.batch_size * clock.accumulate * trainer.world_size, trainer.world_size, resumed)
        if not has_same_error(config_text(settings), recipe.data.keys, resumed):
            resumed.forget_errors()
    checkpoints = Checkpoints(folder, settings.checkpoint, clock, record, resumed.path if resumed else None)
    run = Prepared(settings, recipe, module, trainer, clock, last, scorer, checkpoints, resumed)
    add_callbacks(run, own, folder, record, spent)
    if trainer.is_global_zero:
        if resumed is not None:
            Ledger(folder).inherit(Ledger.of(resumed.path))
            metrics_file = trainer.loggers[0]
            assert isinstance(metrics_file, loggers.MetricsFile)
            metrics_file.copy_earlier()
        print_run(folder, recipe)
    return run


def fit(run: Prepared, folder: Path, spent: Spent) -> tuple[Train, Last]:
    """Train, and draw the last samples; returns the settings with which they were drawn, and the samples."""
    with processes.together(run.trainer, folder, run.start):
        with continuing(run.resumed, run.checkpoints, folder / "train.log"):
            run.trainer.fit(run.module, datamodule=run.recipe.data, ckpt_path=run.start, weights_only=True)
        if run.trainer.is_global_zero and (table := run.trainer.profiler.summary()):  # type: ignore[attr-defined]
            console.print(table, markup=False, highlight=False)  # Lightning logs it where `quiet_libraries` hides it
        settings, last = with_worse(run.settings, run.last, folder, run.module)
        return settings, draw_last(settings, last, folder, run.trainer, run.module, spent)


def conclude(
    run: Prepared, settings: Train, drawn: Last, folder: Path, record: RunRecord, spent: Spent
) -> float | None:
    """Score the last samples, and complete the logs, the record and the report; returns the last `sweep.score`."""
    trainer, data, checkpoints = run.trainer, run.recipe.data, run.checkpoints
    finish(settings, folder, trainer, run.scorer, drawn, spent)
    loggers.summarize(trainer.loggers, folder, checkpoints.best)
    peak = peak_bytes(trainer.strategy.root_device)
    record.update(
        finished=now(), seconds_of=spent.rounded, peak_gb=round(peak / 1e9, 2), bytes_of=spent.bytes_up_to(peak),
        **ended_early(trainer, run.clock),
    )  # fmt: skip
    write_report(folder, run.recipe.schedule.cpu(), data.splits["val"].images, state="complete")
    name, known = settings.sweep.score, {"val/mse": checkpoints.latest}
    result = known[name] if name in known else last_value(name, folder / "metrics.csv")
    record.finish("complete", result=result)
    return result


def keep_finished(what: str, folder: Path) -> None:
    """Delete the files that `checkpoint.finished` does not keep; a failure only prints a warning."""
    if what == "all":
        return
    try:
        prune(folder, weights=what == "weights")
    except (UserError, OSError) as error:
        console.print(f"keeping all checkpoints: {first_line(error)}", style="yellow")


def prepare_data(settings: Train, recipe: Recipe, folder: Path) -> Scorer | None:
    """Read the images and check that they suffice for the requested scores; returns the scorer, if any."""
    score = settings.score
    extractor: FeatureExtractor | None = make(settings.features, "features", FeatureExtractor) if score.n != 0 else None
    read_images(recipe.data, folder)
    if extractor is None:
        return None
    metrics = make_metrics(settings.metrics)
    scorer = Scorer(recipe.data, score.split, extractor, metrics, folder, Ledger(folder))
    try:
        scorer.check(SCORED if score.n is None else score.n, score.baselines, score.audit)
    except UserError as error:
        if str(error).startswith("features:"):
            raise
        raise UserError(f"score.{error}".replace("such as n=", "such as score.n=")) from error
    return scorer


def with_affordable_samples(settings: Train, recipe: Recipe, drawing: Drawing, clock: Clock, devices: int) -> Train:
    """Return the settings with values for `score.n` and `samples.n` where they are not set.

    Sampling must not take more network evaluations than training. So either `SCORED` samples are scored or none (always
    `SCORED` if a sweep optimizes a score), and pictures show at most `SHOWN` samples.
    """
    nfe, score, samples = drawing.evaluations(recipe.schedule), settings.score, settings.samples
    training = round(STEP * clock.total * clock.accumulate * recipe.data.batch_size * devices * recipe.share)
    if score.n is None:
        affordable = SCORED * nfe <= training or not is_error(settings.sweep.score)
        if not affordable:
            console.print(
                f"no scores: {SCORED} samples need {SCORED * nfe:,} network evaluations, more than the training "
                f"({training:,}); score=quick or score=full enables them"
            )
        score = score.model_copy(update={"n": SCORED if affordable else 0})
    if samples.n is None:
        pictures = 1 + clock.times(samples.every_n_epochs, 0)
        n = min(SHOWN, training // (nfe * pictures))
        if n < SHOWN:
            console.print(
                f"pictures of {count(n, 'sample')}: {SHOWN} would cost more than the training; samples.n={SHOWN} draws "
                "them anyway"
            )
        samples = samples.model_copy(update={"n": n})
    return settings.model_copy(update={"score": score, "samples": samples})


def prepare_network(module: Diffusion, settings: Train, trainer: pl.Trainer) -> None:
    """Set the memory layout and precision of the network."""
    if settings.channels_last and is_sharded(settings):
        module.denoiser.network.register_forward_pre_hook(in_channels_last)
    elif settings.channels_last:
        to_channels_last(module.denoiser.network)
    # Before a checkpoint is loaded and the average is copied: Lightning would convert afterwards, and round.
    trainer.precision_plugin.convert_module(module)


def make_trainer(settings: Train, folder: Path, resumed: Resumed | None) -> pl.Trainer:
    """Create Lightning's Trainer with the run's loggers, without callbacks yet."""
    logs: list[Logger] = [loggers.MetricsFile(folder, None if resumed is None else (resumed.folder, resumed.step))]
    # Parameters that fully_shard gathers in inference mode cannot be trained afterwards.
    validating = {"inference_mode": False} if is_sharded(settings) else {}
    trainer: pl.Trainer = make(
        settings.trainer.model_dump() | FIXED | {"val_check_interval": 1} | validating, "trainer", logger=logs,
        default_root_dir=str(folder),
        plugins=[storage.Storage() if resumed is None else resumed.storage, *processes.environment()],
        enable_checkpointing=False, enable_progress_bar=False,
        profiler=settings.trainer.profiler or Unprofiled(),
    )  # fmt: skip
    return trainer


def dashboards(settings: Train, folder: Path, resumed: Resumed | None) -> list[Logger]:
    """Create the run's dashboards. Only a run that has passed all checks may begin or continue one."""
    # Older runs, which could have only one logger, store it without a name.
    chosen = settings.logger or {}
    chosen = {"": chosen} if "_target_" in chosen else chosen
    # W&B continues the folder's earlier run only if a checkpoint was found; TensorBoard hides its later steps.
    given = {"ckpt": settings.ckpt if resumed else None, "first_step": resumed.step if resumed else 0}
    recipe = settings.model_dump(mode="json") | given
    # W&B comes after TensorBoard, which may be missing: it begins a run on a server.
    return [make(chosen[name], f"logger.{name}")(folder, recipe) for name in sorted(chosen)]


class Unprofiled(PassThroughProfiler):
    """No profiler. Lightning enters a profiler's context for each hook of each callback, over 100 times per step.

    Lightning's own class makes a generator each time, which took a tenth of a step with a network that costs nothing.
    """

    nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context that does nothing."""
        return self.nothing


def set_clock(trainer: pl.Trainer, data: ImageData, clock: Clock, done: int = 0) -> None:
    """Set the length of the run in the trainer and the data.

    Args:
        done: Number of steps that the resumed run has completed. If none are left, the last step must be one after
            which Lightning would validate: otherwise it makes another step.
    """
    data.batches_per_epoch, data.batches = clock.epoch * clock.accumulate, clock.total * clock.accumulate
    trainer.accumulate_grad_batches = clock.accumulate
    every = clock.validate_every if done < clock.total else clock.total
    trainer.val_check_interval = every * clock.accumulate


def add_callbacks(run: Prepared, own: list[Callback], folder: Path, record: RunRecord | None, spent: Spent) -> None:
    """Add the run's callbacks to its trainer."""
    settings, trainer, clock, last, scorer = run.settings, run.trainer, run.clock, run.last, run.scorer
    plan = Plan(settings, run.recipe, last, clock, scorer, trainer.world_size)
    used: list[Callback] = [
        MarkSteps(spent), signals.DeferSignals(), RunProgress(clock), Forecast(clock, plan, record, spent),
        StopAfterLastStep(clock), OverfittingNotice(), LearningRate(clock),
    ]  # fmt: skip
    if settings.trainer.max_time is not None:
        used.append(signals.TimeLimit(settings.trainer.max_time))
    if record is not None:
        used.append(RecordProgress(record, run.recipe.data, clock, spent))
    used.append(Mark(spent, "other"))
    if run.recipe.ema is not None:
        used += [run.recipe.ema, Mark(spent, "average of weights")]
    same_loss = run.resumed is None or has_same_loss(config_text(settings), run.resumed)
    used += [Guard(settings.guard, clock, same_loss), Mark(spent, "guard")]
    if own:
        used += [*own, Mark(spent, "other")]
    samples, score, drawing = settings.samples, settings.score, last.in_training
    if (shown := samples.n) and samples.every_n_epochs:

        def draw(denoiser: Denoiser) -> Tensor:
            return drawing(denoiser, shown, trainer.strategy.root_device, watch=signals.poll)

        used += [SampleGrid(clock, samples.every_n_epochs, draw, folder), Mark(spent, "pictures")]
    if scorer is not None and score.every_n_epochs:
        quick = replace(scorer, metrics=distances(scorer.metrics))
        source = run_source(settings, guided=not last.waits)
        used.append(ScoreSamples(clock, score.every_n_epochs, drawing, score.n or 0, score.batch_size, quick, source))
        used.append(Mark(spent, "scores"))
    if last.waits:
        used.append(KeepEarlyWeights(last, folder, settings, clock, record, run.start))
    # Checkpoints come last, so that they save the final state of the other callbacks.
    used += [signals.StopOnSignal(clock, run.checkpoints), run.checkpoints, Mark(spent, "checkpoints")]
    trainer.callbacks.extend(used)  # type: ignore[attr-defined]


def ended_early(trainer: pl.Trainer, clock: Clock) -> dict[str, str]:
    """Return, for the record, why a complete run made fewer steps than planned; empty if it made all of them."""
    if trainer.global_step >= clock.total:
        return {}
    why = [c.stopping_reason_message for c in trainer.early_stopping_callbacks if c.stopping_reason_message]
    said = " ".join(why).removesuffix(" Signaling Trainer to stop.") or "A callback asked to stop."
    reason = f"ended at step {trainer.global_step} of {clock.total}. {said}"
    console.print(reason)
    return {"reason": reason}


def print_run(folder: Path, recipe: Recipe) -> None:
    """Print two lines before the first step."""
    data, parameters = recipe.data, sum(p.numel() for p in recipe.network.parameters())
    (_, height, width), kind = data.shape, {1: ", grey", 4: ", RGBA"}.get(data.channels, "")
    counts = ", ".join(f"{len(split.images)} {name}" for name, split in data.splits.items())
    console.print(f"images {height}×{width}{kind}: {counts} · network with {parameters / 1e6:.2f} M parameters")
    console.print(f"run folder: {folder}")


def print_files(folder: Path, record: RunRecord) -> None:
    """Print the time that the run took, and the paths of the output files."""
    earlier = f", after {duration(record.earlier)} before it was resumed" if record.earlier else ""
    console.print(f"done in {duration(record.session)}{earlier}")
    trainable = (folder / FILES["checkpoint"]).exists()
    for what, name in FILES.items():
        if (folder / name).exists() and not (what == "weights" and trainable):  # which may be an older export
            console.print(f"  {what:<11}{folder / name}")
