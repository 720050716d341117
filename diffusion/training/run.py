"""A training run from its configuration: check, fit, sample, score, report."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion.checkpoint import restore as checkpoint
from diffusion.checkpoint import storage
from diffusion.config.build import make
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import Interrupted
from diffusion.evaluation import memorization as audit
from diffusion.evaluation import pipeline as scoring
from diffusion.evaluation.cost import say_cost
from diffusion.evaluation.generate import generate
from diffusion.evaluation.test_ledger import LooksAtTest, checkpoint_of, network_hash
from diffusion.files import replace
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.reference import ReferenceStatistics
from diffusion.process.sampler import Sampler
from diffusion.report.images import grid, save_png
from diffusion.report.run import write_report
from diffusion.training import callbacks as our
from diffusion.training import loggers, signals
from diffusion.training import processes as distributed
from diffusion.training.checks import (
    check_device,
    check_folder,
    check_length,
    check_recipe,
    check_resumed,
    check_settings,
    check_size,
    set_up,
)
from diffusion.training.ema import average_of
from diffusion.training.guard import Guard
from diffusion.training.module import Diffusion
from diffusion.training.overfitting import OverfittingNotice, say_gap
from diffusion.training.saving import Checkpoints, validate_after_steps
from diffusion.training.summary import quiet_libraries, say_scores, say_what_runs, say_where

FIXED = {"use_distributed_sampler": False, "num_sanity_val_steps": 0, "enable_model_summary": False}


@signals.catching()
def train(cfg: DictConfig, folder: Path) -> float | None:
    """Run the configuration, leaving everything in `folder`.

    Returns the last validation MSE, which is what a sweeper minimises, on the first process; None on others.

    Raises UserError, before any training, for what the user can mend.
    """
    quiet_libraries()
    config = OmegaConf.to_yaml(cfg, resolve=True)
    check_device(cfg.trainer)
    check_folder(folder)
    check_settings(cfg, folder)
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision(cfg.matmul_precision)

    data: ImageData = make(cfg.data, "data")
    network = make(cfg.model, "model")
    schedule, prediction = make(cfg.schedule, "schedule"), make(cfg.prediction, "prediction")
    sampler: Sampler = make(cfg.sampler, "sampler")
    sampler.grid(schedule, sampler.steps)  # raises where the table cannot give as many steps
    check_size(data.resolution, network)
    audit.check(cfg.score.audit)
    objective, optimizer = make(cfg.objective, "objective"), make(cfg.optimizer, "optimizer")
    lr_scheduler = make(cfg.lr_scheduler, "lr_scheduler")
    resumed = checkpoint.resumed(cfg.ckpt, folder)
    extractor: FeatureExtractor | None = make(cfg.features, "features") if cfg.score.n else None
    set_up(data, folder)
    if cfg.score.n:
        scoring.check(cfg.score.split, cfg.score.n, set(cfg.score.yardsticks) - {"untrained"}, data)
        scoring.chosen(cfg.metrics)
        audit.check(cfg.score.audit, data)

    module = Diffusion(
        network, schedule, prediction, objective, optimizer, lr_scheduler,
        seed=cfg.seed, draws=cfg.validation.draws, grid_seed=cfg.validation.seed, config=config,
    )  # fmt: skip
    check_recipe(module, data, sampler)
    if resumed is not None:
        check_resumed(module, config, resumed)
    if cfg.channels_last:
        module.denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if cfg.compile:
        module.denoiser.network.compile()  # in place: the keys of the weights stay as they are
    trainer, record, logs = make_trainer(cfg, folder, config, data, sampler, extractor, resumed)
    # Before a checkpoint is loaded and the average is copied: Lightning itself would convert after, and round.
    trainer.precision_plugin.convert_module(module)
    distributed.check_processes(trainer.world_size)
    check_length(trainer, data, resumed, folder)
    if trainer.is_global_zero:
        replace(folder / "config.yaml", config)
        if resumed is not None:
            LooksAtTest(folder).inherit(LooksAtTest.beside(resumed.path))
        say_what_runs(folder, data, module)
    start = None if resumed is None else resumed.path
    try:
        with distributed.leading(folder, start):
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        if not trainer.is_global_zero:
            return None
        finish(cfg, folder, trainer, module, data, sampler, extractor)
        record.finish("complete", steps=trainer.global_step, epochs=trainer.current_epoch)
    except BaseException as error:
        if trainer.is_global_zero:
            interrupted = isinstance(error, Interrupted)
            record.finish(
                "interrupted" if interrupted else "failed", steps=trainer.global_step,
                reason=f"{type(error).__name__}: {error}",
            )  # fmt: skip
            if interrupted:
                signals.say_how_to_go_on(error, folder)
        raise
    finally:
        loggers.finish(logs)
    write_report(folder, schedule.cpu(), data.splits["val"].images)
    say_where(folder, record.info["seconds"])
    assert isinstance(trainer.checkpoint_callback, Checkpoints)
    return trainer.checkpoint_callback.latest


def make_trainer(
    cfg: DictConfig,
    folder: Path,
    config: str,
    data: ImageData,
    sampler: Sampler,
    extractor: FeatureExtractor | None,
    resumed: checkpoint.Resumed | None,
) -> tuple[pl.Trainer, our.RunRecord, list[Logger]]:
    """Lightning's Trainer with this run's callbacks and loggers."""
    shape = (data.channels, data.resolution, data.resolution)
    images = {name: len(split.images) for name, split in data.splits.items()}
    record = our.RunRecord(folder, images)
    used: list[Callback] = [
        our.RunProgress(),
        our.Forecast(),
        our.ValidateAtEnd(),
        OverfittingNotice(),
        record,
        LearningRateMonitor("step"),
    ]
    if cfg.get("ema"):
        used.append(make(cfg.ema, "ema"))
    checkpoints = Checkpoints(folder, **cfg.checkpoint, resumed=None if resumed is None else resumed.path)
    used += [Guard(**cfg.guard), signals.Interruptible(checkpoints)]
    if cfg.samples.n and cfg.samples.every_n_epochs:
        used.append(our.SampleGrid(sampler, cfg.samples.n, cfg.samples.every_n_epochs, shape, cfg.seed, folder))
    if extractor is not None and cfg.score.every_n_epochs:
        reference = partial(scoring.reference, data, cfg.score.split)
        metrics, protocol = scoring.chosen(cfg.metrics), protocol_of(cfg)
        scores = our.ScoreSamples(
            sampler, cfg.score.n, cfg.score.every_n_epochs, shape, cfg.seed, folder, extractor, reference, metrics,
            protocol,
        )  # fmt: skip
        used.append(scores)
    step = None if resumed is None else (resumed.path.parent.parent, resumed.step)
    used.append(checkpoints)  # behind the others, so that their state is what is saved
    plain = OmegaConf.to_container(OmegaConf.create(config))
    logs: list[Logger] = [loggers.csv(folder, step)]
    if cfg.get("logger"):
        logs.append(make(cfg.logger, "logger")(folder, plain))
    trainer = make(
        cfg.trainer, "trainer", callbacks=used, logger=logs, default_root_dir=str(folder),
        plugins=[storage.Storage(), *distributed.environment()], **FIXED,
    )  # fmt: skip
    signals.ours_alone(trainer)
    validate_after_steps(trainer)
    return trainer, record, logs


def protocol_of(cfg: DictConfig) -> dict[str, Any]:
    """What a score of this run's samples carries besides the metric's own protocol."""
    return {
        "sampler": scoring.describe_sampler(cfg.sampler),
        "seed": cfg.seed,
        "weights": "ema" if cfg.get("ema") else "raw",
    }


def finish(
    cfg: DictConfig,
    folder: Path,
    trainer: pl.Trainer,
    module: Diffusion,
    data: ImageData,
    sampler: Sampler,
    extractor: FeatureExtractor | None,
) -> None:
    """The last samples and their scores, beside the yardsticks; the module holds its averaged weights."""
    say_gap(trainer.logged_metrics)
    device = trainer.strategy.root_device
    module.to(device).eval()
    if (average := average_of(trainer)) is not None:
        average.settle(module)
    shape = (data.channels, data.resolution, data.resolution)
    n = max(cfg.score.n, cfg.samples.n)
    if n == 0:
        return
    blanks = cfg.score.n if "untrained" in cfg.score.yardsticks else 0
    say_cost(module.denoiser, sampler, n + blanks, shape, cfg.score.batch_size, device, blanks)
    images = generate(
        module.denoiser, sampler, n, shape, cfg.seed, device, cfg.score.batch_size, f"sampling {count(n, 'image')}"
    )
    picture = grid(images[: cfg.samples.n or 16], scale=2)
    our.log_image(trainer, "samples/final", picture, save_png(picture, folder / "samples" / "final.png"))
    if extractor is not None:
        made = {"samples": (images[: cfg.score.n], network_hash(module.denoiser.network))}
        if blanks:
            made["untrained"] = untrained(cfg, module, sampler, shape, device)
        score(cfg, folder, trainer, data, made, extractor.to(device))


def untrained(
    cfg: DictConfig, module: Diffusion, sampler: Sampler, shape: tuple[int, int, int], device: torch.device
) -> tuple[Tensor, str]:
    """Samples of the run's network as it was before training, and the hash of its weights."""
    pl.seed_everything(cfg.seed, verbose=False)
    fresh = type(module.denoiser)(make(cfg.model, "model"), module.denoiser.schedule, module.denoiser.prediction)
    images = generate(
        fresh.to(device).eval(), sampler, cfg.score.n, shape, cfg.seed, device, cfg.score.batch_size,
        "sampling untrained",
    )  # fmt: skip
    return images, network_hash(fresh.network)


def score(
    cfg: DictConfig,
    folder: Path,
    trainer: pl.Trainer,
    data: ImageData,
    made: dict[str, tuple[Tensor, str]],
    extractor: FeatureExtractor,
) -> None:
    """Scores of what was `made`, images and the hash of the weights that made them, and of the yardsticks; the audit.

    Of `samples`, and where they were asked for of the `untrained` network's.
    """
    metrics, looks = scoring.chosen(cfg.metrics), LooksAtTest(folder)
    if cfg.score.split == "test":
        looks.warn()
    against: ReferenceStatistics = scoring.reference(data, cfg.score.split, extractor, metrics)
    plain, last = protocol_of(cfg), folder / "checkpoints" / "last.ckpt"
    common = plain | ({"checkpoint": checkpoint_of(last)} if last.is_file() else {})
    told = {"samples": common | {"step": trainer.global_step}, "untrained": plain | {"weights": "raw", "step": 0}}
    for what, (_, weights) in made.items():
        told[what]["network_hash"] = weights
    new = scoring.score_samples(made["samples"][0], extractor, against, metrics=metrics, **told["samples"])
    simple = [name for name in cfg.score.yardsticks if name != "untrained"]
    new += scoring.yardsticks(simple, data, cfg.score.n, extractor, against, metrics)
    if "untrained" in made:
        blank = made["untrained"][0]
        new += scoring.score_samples(blank, extractor, against, "untrained", metrics, **told["untrained"])
    scoring.append(folder, looks.add(new))
    for logger in trainer.loggers:
        logger.log_metrics(
            {f"{cfg.score.split}/{r['metric']}": r["value"] for r in new if r["what"] == "samples"}, trainer.global_step
        )
        logger.save()
    say_scores(new)
    if cfg.score.audit:
        copies = audit.audit_samples(made["samples"][0], data, cfg.score.audit, extractor, folder, **told["samples"])
        scoring.append(folder, copies)
