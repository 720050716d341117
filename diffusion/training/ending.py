"""The end of a run: all processes draw the last samples, and the first process scores them."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
from torch import Tensor

from diffusion.checkpoint.provenance import file_hash, network_hash
from diffusion.checkpoint.pruning import prune
from diffusion.checkpoint.restore import build_denoiser
from diffusion.config.quoting import resume_command
from diffusion.console import console, count, duration
from diffusion.errors import Interrupted, UserError, first_line, nearest
from diffusion.evaluation import ledger
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.frames import SHOWN as FILMED
from diffusion.evaluation.frames import Frames
from diffusion.evaluation.pipeline import Scorer
from diffusion.evaluation.together import remove
from diffusion.process.denoiser import Denoiser
from diffusion.report.images import DRAWN, grid, save_png
from diffusion.report.run import write_report
from diffusion.report.scores import print_scores
from diffusion.runs.metrics import read_rows
from diffusion.runs.record import RunRecord, now
from diffusion.training import loggers
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of
from diffusion.training.periodic import log_image
from diffusion.training.saving import Checkpoints
from diffusion.training.timing import SHOWN, peak_bytes
from diffusion.training.trainer import Run
from diffusion.training.worse import with_worse

SHEET = 1 << 24  # maximum number of pixels in samples/all.png: 16,384 samples of 32×32
SAMPLES, UNTRAINED = "samples", "untrained"  # names of the sets of samples
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


class Last(NamedTuple):
    """The last samples of a run."""

    drawing: Drawing  # how they were drawn
    sets: Mapping[str, tuple[Denoiser, Tensor]]  # name -> the denoiser and its samples, all on the first process


@contextlib.contextmanager
def closing_logs(run: Run) -> Iterator[None]:
    """Context of a run: its dashboards show how it ended, and a stopped run prints how to resume it."""
    status = 1
    try:
        yield
        status = 0
    except Interrupted as stop:
        status = stop.status
        if run.record is not None:
            console.print(f"stopped by {stop}; to resume: {resume_command(run.folder)}")
        raise
    finally:
        loggers.finish(run.trainer.loggers, status)


def draw_last(run: Run) -> Last:
    """Draw the last samples, if any are requested, and those of an untrained network if it is a baseline.

    All processes of the run must call this. Afterwards the module holds its averaged weights. Samples drawn before a
    run was killed are not drawn again.
    """
    settings, folder, trainer, module, spent = run.settings, run.folder, run.trainer, run.module, run.spent
    drawing = with_worse(run.drawing, run.facts.get("guidance_step"), folder, module)
    spent.mark("other")
    device, score, first = trainer.strategy.root_device, settings.score, trainer.is_global_zero
    rank, world = trainer.global_rank, trainer.world_size
    module.to(device).eval()
    if (average := average_of(trainer)) is not None:
        average.swap(module)
    scored = run.amounts.scored
    n, untrained = max(scored, run.amounts.shown), scored if UNTRAINED in score.baselines else 0
    if first:
        print_gap(trainer.logged_metrics)
    wanted = [(SAMPLES, module.denoiser, drawing, n)] if n else []
    if untrained:
        pl.seed_everything(settings.seed, verbose=False)
        fresh = build_denoiser(settings.model_dump(), run.facts).to(device).eval()
        wanted.append((UNTRAINED, fresh, drawing.unguided, untrained))
    source, last = run.recipe.drawn_by(drawing, run.facts), {}
    for what, denoiser, how, number in wanted:
        files = how.files(folder / "samples", denoiser, number, score.batch_size, source)
        label = f"sampling {count(number, 'image')}" if what == SAMPLES else "sampling untrained"
        frames = Frames(how.sampler, denoiser.schedule)
        shown = label if first else None
        how(denoiser, number, device, score.batch_size, shown, frames.watch, (rank, world), files)
        trainer.strategy.barrier()
        last[what] = denoiser, how(denoiser, number if first else 0, device, score.batch_size, files=files)
        if first and what == SAMPLES:
            if not frames.pairs:  # the first batch was drawn before
                how(denoiser, min(number, FILMED), device, watch=frames.watch)
            frames.save_film(folder / "samples" / "film.png")
    spent.mark("last samples")
    return Last(drawing, last)


def print_gap(logged: Mapping[str, Tensor]) -> None:
    """Print the last errors on held-out and on training images, and their gap with its interval, after the run."""
    if "gap/half" not in logged:
        return
    val, fit, gap, half = (float(logged[name]) for name in ("val/mse", "fit/mse", "gap/mse", "gap/half"))
    interval = "" if math.isnan(half) else f" [{gap - half:+.5f}, {gap + half:+.5f}]"  # none for a single image
    console.print(
        f"denoising MSE: {val:.5f} on validation images · {fit:.5f} on training images · gap {gap:+.5f}{interval}",
        markup=False,
    )


def conclude(run: Run, last: Last) -> float | None:
    """Score the last samples, and complete the logs, the record and the report; returns the last `sweep.score`."""
    settings, folder, trainer, spent, record = run.settings, run.folder, run.trainer, run.spent, run.record
    assert record is not None
    if table := trainer.profiler.summary():  # type: ignore[attr-defined]
        console.print(table, markup=False, highlight=False)  # Lightning logs it where `quiet_libraries` hides it
    finish(run, last)
    (checkpoints,) = (callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))  # type: ignore[attr-defined]
    loggers.summarize(trainer.loggers, folder, checkpoints.best)
    peak = peak_bytes(trainer.strategy.root_device)
    record.update(
        finished=now(), seconds_of=spent.rounded, peak_gb=round(peak / 1e9, 2),
        **ended_early(trainer, run.clock),
    )  # fmt: skip
    write_report(folder, run.recipe.schedule.cpu(), run.recipe.data.splits["val"].images, state="complete")
    rows, name = read_rows(folder / "metrics.csv"), settings.sweep.score
    values = [checkpoints.latest] if name == "val/mse" else [row[name] for row in rows if name in row]
    if not values:
        raise UserError(
            f"sweep.score={name}: the run did not log it{nearest(name, {key for row in rows for key in row})}"
        )
    result = values[-1]
    record.finish("complete", result=result)
    keep_finished(settings.checkpoint.finished, folder)
    print_files(folder, record)
    return result


def keep_finished(what: str, folder: Path) -> None:
    """Delete the files that `checkpoint.finished` does not keep; a failure only prints a warning."""
    if what == "all":
        return
    try:
        prune(folder, weights=what == "weights")
    except (UserError, OSError) as error:
        console.print(f"keeping all checkpoints: {first_line(error)}", style="yellow")


def ended_early(trainer: pl.Trainer, clock: Clock) -> dict[str, str]:
    """Return, for the record, why a complete run made fewer steps than planned; empty if it made all of them."""
    if trainer.global_step >= clock.total:
        return {}
    why = [c.stopping_reason_message for c in trainer.early_stopping_callbacks if c.stopping_reason_message]
    said = " ".join(why).removesuffix(" Signaling Trainer to stop.") or "A callback asked to stop."
    reason = f"ended at step {trainer.global_step} of {clock.total}. {said}"
    console.print(reason)
    return {"reason": reason}


def print_files(folder: Path, record: RunRecord) -> None:
    """Print the time that the run took, and the paths of the output files."""
    earlier = f", after {duration(record.earlier)} before it was resumed" if record.earlier else ""
    console.print(f"done in {duration(record.session)}{earlier}")
    trainable = (folder / FILES["checkpoint"]).exists()
    for what, name in FILES.items():
        if (folder / name).exists() and not (what == "weights" and trainable):  # which may be an older export
            console.print(f"  {what:<11}{folder / name}")


def finish(run: Run, last: Last) -> None:
    """Write pictures of the last samples, and their scores with those of the baselines."""
    if not last.sets:
        return
    images, folder, trainer = last.sets[SAMPLES][1], run.folder, run.trainer
    most = max(1, SHEET // (images.shape[-2] * images.shape[-1]))
    save_png(grid(images[:most]), folder / "samples" / "all.png", **{DRAWN: str(len(images))})
    picture = grid(images[: run.amounts.shown or SHOWN], large=True)
    save_png(picture, folder / "samples" / "final.png")
    log_image(trainer, "samples/final", picture)
    if run.scorer is not None:
        score_last(run, run.scorer, last)
    remove(folder / "samples")
    run.spent.mark("last scores")


def score_last(run: Run, scorer: Scorer, last: Last) -> None:
    """Score the last samples."""
    score, scored, trainer = run.settings.score, run.amounts.scored, run.trainer
    denoiser, images = last.sets[SAMPLES]
    images = images[:scored]
    source, file = run.recipe.source(last.drawing, run.facts), run.folder / "checkpoints" / "last.ckpt"
    scorers = [replace(scorer, split=split) for split in score.references]
    of_samples = source | {"step": trainer.global_step, "network_hash": network_hash(denoiser.network)}
    if file.is_file():
        of_samples["checkpoint"] = {"path": str(file), "sha256": file_hash(file)}
    if score.split == "test":
        ledger.check(run.folder, again=True)
    for each in scorers:
        new = each.score(images, **of_samples)
        new += each.baselines([name for name in score.baselines if name != UNTRAINED], scored)
        if UNTRAINED in last.sets:
            fresh, blank = last.sets[UNTRAINED]
            of_blank = source | {"weights": "raw", "step": 0, "network_hash": network_hash(fresh.network)}
            new += each.score(blank, UNTRAINED, **of_blank)
        each.write(new)
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"{each.split}/{s.metric}": s.value for s in new if s.what == "samples"}, trainer.global_step - 1
            )
            logger.save()
        print_scores(new)
    if score.audit:
        scorer.write(scorer.audit(images, score.audit, **of_samples))
