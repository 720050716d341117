"""The end of a run: all processes draw the last samples, and the first process scores them and writes the report."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import lightning.pytorch as pl
from torch import Tensor

from diffusion.checkpoint.find import prune
from diffusion.checkpoint.restore import build_denoiser, file_hash, network_hash
from diffusion.console import console, count, duration
from diffusion.errors import Interrupted, UserError, first_line, resume_command
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
from diffusion.runs.metrics import read_metrics
from diffusion.runs.record import now
from diffusion.training import loggers
from diffusion.training.ema import average_of
from diffusion.training.periodic import with_worse
from diffusion.training.prepared import SHOWN, Run, peak_bytes

SHEET = 1 << 24  # maximum number of pixels in samples/all.png: 16,384 samples of 32×32
SAMPLES, UNTRAINED = "samples", "untrained"  # names of the sets of samples
Samples = dict[str, tuple[Denoiser, Tensor]]  # name -> the denoiser and its samples, all on the first process


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
        loggers.close(run.trainer.loggers, status)


def draw_last(run: Run) -> tuple[Drawing, Samples]:
    """Draw the last samples, if any are requested, and those of an untrained network if it is a baseline.

    All processes of the run must call this. Afterwards the module holds its averaged weights. Samples drawn before a
    run was killed are not drawn again.

    Returns how they were drawn, and the samples.
    """
    settings, score, trainer, module = run.settings, run.settings.score, run.trainer, run.module
    drawing, first, size = with_worse(run), trainer.is_global_zero, score.batch_size
    run.spent.mark("training")
    module.to(run.device).eval()
    if (average := average_of(trainer)) is not None:
        average.swap(module)
    n, untrained = max(run.scored, run.shown), run.scored if UNTRAINED in score.baselines else 0
    wanted = [(SAMPLES, module.denoiser, drawing, n)] if n else []
    if untrained:
        pl.seed_everything(settings.seed, verbose=False)
        fresh = build_denoiser(settings.model_dump(), run.facts).to(run.device).eval()
        wanted.append((UNTRAINED, fresh, drawing.unguided, untrained))
    samples: Samples = {}
    for what, denoiser, how, number in wanted:
        files = how.files(run.folder / "samples", denoiser, number, size, run.source(drawing))
        label = f"sampling {count(number, 'image')}" if what == SAMPLES else "sampling untrained"
        frames, share = Frames(how.sampler, denoiser.schedule), (trainer.global_rank, trainer.world_size)
        how(denoiser, number, run.device, size, label if first else None, frames.watch, share, files)
        trainer.strategy.barrier()
        samples[what] = denoiser, how(denoiser, number if first else 0, run.device, size, files=files)
        if first and what == SAMPLES:
            if not frames.pairs:  # the first batch was drawn before
                how(denoiser, min(number, FILMED), run.device, watch=frames.watch)
            frames.save_film(run.folder / "samples" / "film.png")
    run.spent.mark("last samples")
    return drawing, samples


def conclude(run: Run, drawing: Drawing, samples: Samples) -> float | None:
    """Score the last samples, and complete the logs, the record and the report; returns the last `sweep.score`."""
    folder, trainer, record, data = run.folder, run.trainer, run.record, run.recipe.data
    assert record is not None
    if table := trainer.profiler.summary():  # type: ignore[attr-defined]
        console.print(table, markup=False, highlight=False)  # Lightning logs it where `quiet_libraries` hides it
    if samples:
        _, images = samples[SAMPLES]
        most = max(1, SHEET // (images.shape[-2] * images.shape[-1]))
        save_png(grid(images[:most]), folder / "samples" / "all.png", **{DRAWN: str(len(images))})
        picture = grid(images[: run.shown or SHOWN], large=True)
        save_png(picture, folder / "samples" / "final.png")
        loggers.log_image(trainer, "samples/final", picture)
        if run.scorer is not None:
            score_last(run, run.scorer, drawing, samples)
        remove(folder / "samples")
        run.spent.mark("last scores")
    peak = round(peak_bytes(run.device) / 1e9, 2)
    record.update(finished=now(), seconds_of=run.spent.rounded, peak_gb=peak, **ended_early(run))
    write_report(folder, run.recipe.schedule.cpu(), data.splits["val"].images, state="complete")
    series = read_metrics(folder / "metrics.csv").get(run.settings.sweep.score)
    result = None if series is None else float(series.value[-1])
    record.finish("complete", result=result)
    kept = run.settings.checkpoint.finished
    if kept != "all":
        try:
            prune(folder, weights=kept == "weights")
        except (UserError, OSError) as error:
            console.print(f"keeping all checkpoints: {first_line(error)}", style="yellow")
    earlier = f", after {duration(record.earlier)} before it was resumed" if record.earlier else ""
    console.print(f"done in {duration(record.session)}{earlier}: {folder / 'report.html'}")
    return result


def ended_early(run: Run) -> dict[str, str]:
    """Return, for the record, why a complete run made fewer steps than planned; empty if it made all of them."""
    step, total = run.trainer.global_step, run.clock.total
    if step >= total:
        return {}
    why = [c.stopping_reason_message for c in run.trainer.early_stopping_callbacks if c.stopping_reason_message]
    said = " ".join(why).removesuffix(" Signaling Trainer to stop.") or "A callback asked to stop."
    reason = f"ended at step {step} of {total}. {said}"
    console.print(reason)
    return {"reason": reason}


def score_last(run: Run, scorer: Scorer, drawing: Drawing, samples: Samples) -> None:
    """Score the last samples, against each reference, with those of the baselines."""
    score, scored, source = run.settings.score, run.scored, run.source(drawing)
    (denoiser, images), file = samples[SAMPLES], run.folder / "checkpoints" / "last.ckpt"
    of_samples = source | {"step": run.trainer.global_step, "network_hash": network_hash(denoiser.network)}
    if file.is_file():
        of_samples["checkpoint"] = {"path": str(file), "sha256": file_hash(file)}
    if score.split == "test":
        ledger.check(run.folder, again=True)
    for each in [replace(scorer, split=split) for split in score.references]:
        own = each.score(images[:scored], **of_samples)
        others = each.baselines([name for name in score.baselines if name != UNTRAINED], scored)
        if UNTRAINED in samples:
            fresh, blank = samples[UNTRAINED]
            of_blank = source | {"weights": "raw", "step": 0, "network_hash": network_hash(fresh.network)}
            others += each.score(blank, UNTRAINED, **of_blank)
        each.write([*own, *others])
        loggers.log_scores(run.trainer, own, each.split)
        print_scores([*own, *others])
    if score.audit:
        scorer.write(scorer.audit(images[:scored], score.audit, **of_samples))
