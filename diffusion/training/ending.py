"""The end of a run: all processes draw the last samples, and the first process scores them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from diffusion.checkpoint.provenance import file_hash, network_hash
from diffusion.checkpoint.restore import build_denoiser
from diffusion.config.schema import Train
from diffusion.console import count
from diffusion.evaluation.drawing import Drawing, source_of
from diffusion.evaluation.drawn import Drawn
from diffusion.evaluation.frames import SHOWN as FILMED
from diffusion.evaluation.frames import Frames
from diffusion.evaluation.pipeline import Scorer
from diffusion.process.denoiser import Denoiser
from diffusion.report.images import DRAWN, grid, save_png
from diffusion.report.scores import print_scores
from diffusion.training.ema import average_of
from diffusion.training.module import Diffusion
from diffusion.training.overfitting import print_gap
from diffusion.training.periodic import log_image
from diffusion.training.sharding import whole
from diffusion.training.spent import Spent

SHOWN = 16  # samples in a picture if samples.n is not set
SHEET = 1 << 24  # maximum number of pixels in samples/all.png: 16,384 samples of 32×32
SAMPLES, UNTRAINED = "samples", "untrained"  # names of the sets of samples
Last = Mapping[str, tuple[Denoiser, Drawn]]  # name -> the denoiser and the file of its samples


def draw_last(
    settings: Train, drawing: Drawing, folder: Path, trainer: pl.Trainer, module: Diffusion, spent: Spent
) -> Last:
    """Draw the last samples, if any are requested, and those of an untrained network if it is a baseline.

    All processes of the run must call this. Afterwards the module holds its averaged weights. Samples drawn before a
    run was killed are not drawn again.
    """
    spent.mark("other")
    device, score, first = trainer.strategy.root_device, settings.score, trainer.is_global_zero
    rank, world = trainer.global_rank, trainer.world_size
    module.to(device).eval()
    if (average := average_of(trainer)) is not None:
        average.swap(module)
    trained = whole(trainer, module.denoiser)
    n = max(score.n or 0, settings.samples.n or 0)
    untrained = (score.n or 0) if UNTRAINED in score.baselines else 0
    if first:
        print_gap(trainer.logged_metrics)
    if first and n:
        drawing.print_cost(trained, n, score.batch_size, device, untrained, world)
    wanted = [(SAMPLES, trained, drawing, n)] if n else []
    if untrained:
        pl.seed_everything(settings.seed, verbose=False)
        fresh = build_denoiser(settings.model_dump()).to(device).eval()
        wanted.append((UNTRAINED, fresh, drawing.unguided, untrained))
    source, last = source_of(settings.sampler, settings.guidance, settings.samples.precision), {}
    for what, denoiser, how, number in wanted:
        file = folder / "samples" / f"{what}.bin"
        if first:  # discards samples of an earlier end of the run
            how.begin(file, denoiser, number, score.batch_size, source, discard=True)
        trainer.strategy.barrier()
        drawn = Drawn(file, number, how.shape, score.batch_size)
        label = f"sampling {count(number, 'image')}" if what == SAMPLES else "sampling untrained"
        frames = Frames(how.sampler, denoiser.schedule)
        how.into(drawn, denoiser, device, label if first else None, frames.watch, (rank, world))
        last[what] = denoiser, drawn
        if first and what == SAMPLES:
            if not frames.pairs:  # the first batch was drawn before
                how(denoiser, min(number, FILMED), device, watch=frames.watch)
            frames.save_film(folder / "samples" / "film.png")
    spent.mark("last samples")
    return last


def finish(settings: Train, folder: Path, trainer: pl.Trainer, scorer: Scorer | None, last: Last, spent: Spent) -> None:
    """Write pictures of the last samples, and their scores with those of the baselines."""
    if not last:
        return
    images = last[SAMPLES][1].images()
    most = max(1, SHEET // (images.shape[-2] * images.shape[-1]))
    save_png(grid(images[:most]), folder / "samples" / "all.png", **{DRAWN: str(len(images))})
    shown = images[: settings.samples.n or SHOWN]
    picture = grid(shown, large=True)
    save_png(picture, folder / "samples" / "final.png")
    log_image(trainer, "samples/final", picture)
    if scorer is not None:
        score_last(settings, folder, trainer, scorer, last)
    for _, file in last.values():
        file.remove()
    spent.mark("last scores")


def score_last(settings: Train, folder: Path, trainer: pl.Trainer, scorer: Scorer, last: Last) -> None:
    """Score the last samples."""
    score, scored = settings.score, settings.score.n or 0
    denoiser, drawn = last[SAMPLES]
    images = drawn.images()[:scored]
    source, file = run_source(settings), folder / "checkpoints" / "last.ckpt"
    scorers = [replace(scorer, split=split) for split in score.references]
    of_samples = source | {"step": trainer.global_step, "network_hash": network_hash(denoiser.network)}
    if file.is_file():
        of_samples["checkpoint"] = {"path": str(file), "sha256": file_hash(file)}
    if score.split == "test":
        scorer.ledger.warn()
    for each in scorers:
        new = each.score(images, **of_samples)
        new += each.baselines([name for name in score.baselines if name != UNTRAINED], scored)
        if UNTRAINED in last:
            fresh, blank = last[UNTRAINED]
            of_blank = source | {"weights": "raw", "step": 0, "network_hash": network_hash(fresh.network)}
            new += each.score(blank.images(), UNTRAINED, **of_blank)
        each.write(new)
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"{each.split}/{s.metric}": s.value for s in new if s.what == "samples"}, trainer.global_step - 1
            )
            logger.save()
        print_scores(new)
    if score.audit:
        scorer.write([scorer.audit(images, score.audit, **of_samples)])


def run_source(settings: Train, guided: bool = True) -> dict[str, Any]:
    """The provenance that is stored with the scores of a run's samples."""
    drawn = source_of(settings.sampler, settings.guidance if guided else None, settings.samples.precision)
    return {**drawn, "seed": settings.seed, "weights": "ema" if settings.ema else "raw"}
