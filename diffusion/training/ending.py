"""The end of a run: all processes draw the last samples, and the first process scores them and writes the report."""

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from torch import Tensor

from diffusion.base.console import console, count, duration
from diffusion.base.pixels import grid, save_png
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import prune
from diffusion.checkpoint.restore import file_hash, network_hash
from diffusion.errors import Interrupted, UserError, command_line, first_line
from diffusion.findings.verdict import verdict
from diffusion.report.figures import draw_judged
from diffusion.report.run import write_report
from diffusion.report.tables import print_scores
from diffusion.runs.again import resumed
from diffusion.runs.folder import Run, read_metrics
from diffusion.runs.record import RunRecord, now
from diffusion.sampling.drawing import Drawing, Frames
from diffusion.sampling.parallel import remove
from diffusion.scoring.errors_by_level import measure
from diffusion.scoring.pipeline import Scorer, check_test
from diffusion.training import loggers
from diffusion.training.callbacks import peak_gb
from diffusion.training.ema import average_of
from diffusion.training.module import Diffusion
from diffusion.training.parts import SHOWN, Parts

SHEET = 1 << 24  # maximum number of pixels in samples/all.png: 16,384 samples of 32×32
Samples = tuple[Tensor, dict[str, Any]] | None
"""The last images and their source; None on other processes, or if n is 0."""


@contextlib.contextmanager
def closing_logs(run: Parts, trainer: pl.Trainer) -> Iterator[None]:
    """Context of a run: its dashboards show how it ended, and a stopped run prints how to resume it."""
    status = 1
    try:
        yield
        status = 0
    except Interrupted as stop:
        status = stop.status
        if run.record is not None:
            console.print(f"stopped by {stop}; to resume: {command_line(resumed(Run(run.folder)))}")
            if str(stop) == "SIGINT":  # from a user, who has the time to look at it
                write_report(run.folder, run.denoiser.schedule.cpu(), state="interrupted")
                console.print(f"its page: {run.folder / 'report.html'}")
        raise
    finally:
        for dashboards in trainer.loggers[1:]:
            dashboards.each("end", status)  # type: ignore[attr-defined]


def draw_last(run: Parts, trainer: pl.Trainer, module: Diffusion) -> Samples:
    """Draw the last samples, if any are requested.

    All processes of the run must call this; the first one then goes on alone. Afterwards the module holds its averaged
    weights. Samples drawn before a run was killed are not drawn again.
    """
    device, size, n = trainer.strategy.root_device, run.settings.score.batch_size, max(run.scored, run.shown)
    first, share = trainer.is_global_zero, (trainer.global_rank, trainer.world_size)
    module.to(device).eval()
    if (average := average_of(trainer)) is not None:
        average.swap(module)
    denoiser, drawing, samples = module.denoiser, guided_by_early(run, trainer, module), None
    if n:
        source = run.source(drawing) | {"step": trainer.global_step}
        files = drawing.files(run.folder / "samples", denoiser, n, size, source)
        frames = Frames(drawing.sampler, denoiser.schedule, drawing.kind)
        label = f"sampling {count(n, 'image')}" if first else None
        drawing(denoiser, n, device, size, label, frames.watch, share, files)
        trainer.strategy.barrier()
        if first:
            images = drawing(denoiser, n, device, size, files=files)
            samples = images, source | {"network_hash": network_hash(denoiser.network)}
            if not frames.steps:  # the first batch was drawn before
                drawing(denoiser, min(n, drawing.kind.filmed), device, watch=frames.watch)
            frames.save_film(run.folder / "samples" / "film.png")
            if module.exact is not None:
                drawing.kind.draw_truth(denoiser, module.exact, drawing, device, run.folder / "figures")
            drawing.warn_of_saturated(images, run.data.splits["train"].images)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return samples


def guided_by_early(run: Parts, trainer: pl.Trainer, module: Diffusion) -> Drawing:
    """How the last samples are drawn: with `guidance.step`, guided by the weights of that step, if it was reached."""
    if (step := run.facts.guidance_step) is None:
        return run.drawing
    if trainer.global_step <= step:
        words = f"guidance.step={step}: the run ended before this step; its samples are drawn without guidance"
        console.print(words, style="yellow")
        return run.drawing
    weak = copy.deepcopy(module.denoiser)
    file = storage.early_file(run.folder / "checkpoints", step)
    weak.network.load_state_dict(storage.exported(file, "")["state_dict"])
    return replace(run.drawing, guidance=run.guidance, weak=weak.eval())


def conclude(run: Parts, record: RunRecord, trainer: pl.Trainer, samples: Samples) -> Any:
    """Score the last samples, and complete the logs, the record and the report; returns the last `sweep.score`."""
    folder = run.folder
    if table := trainer.profiler.summary():  # type: ignore[attr-defined]
        console.print(table, markup=False, highlight=False)  # Lightning logs it where `quiet_libraries` hides it
    record.spent("last samples")
    if samples is not None:
        images, source = samples
        most = max(1, SHEET // math.prod(images.shape[2:]))
        real, step, kind = run.data.splits["val"].images, trainer.global_step, run.data.kind
        save_png(kind.grid(images[:most], real, drawn=len(images), step=step), folder / "samples/all.png")
        picture = kind.grid(images[: run.shown or SHOWN], real, large=True)
        save_png(picture, folder / "samples" / "final.png")
        loggers.log_image(trainer, "samples/final", picture)
        if (conditions := run.drawing.pictures(run.shown or SHOWN)) is not None:
            save_png(grid(conditions, large=True), folder / "samples/conditions.png")
        if run.scorer is not None:
            score_last(run, run.scorer, trainer, images[: run.scored], source)
        remove(folder / "samples")
    record.spent("last scores")
    record.update(finished=now(), peak_gb=round(peak_gb(trainer.strategy.root_device), 2))
    if (step := trainer.global_step) < run.clock.total:
        why = " ".join(callback.stopping_reason_message or "" for callback in trainer.early_stopping_callbacks)
        reason = f"ended at step {step} of {run.clock.total}. {why or 'A callback asked to stop.'}"
        console.print(reason)
        record.update(reason=reason)
    if run.settings.validation.floor:
        denoiser = trainer.lightning_module.denoiser
        measure(denoiser, run.settings.objective.get("weighting"), run.data, folder)  # type: ignore[arg-type]
        record.spent("floor")
    write_report(folder, run.denoiser.schedule.cpu(), state="complete")
    record.spent("report")
    metrics, seconds = read_metrics(folder / "metrics.csv"), record.content["seconds_of"].get("training")
    found = {name: float(series.value[-1]) for name, series in metrics.items()} | {"seconds": seconds}
    result: Any = found.get(score) if isinstance(score := run.settings.sweep.score, str) else [*map(found.get, score)]
    record.finish("complete", result=result)
    kept = run.settings.checkpoint.finished
    if kept != "all":
        try:
            prune(folder, weights=kept == "weights")
        except (UserError, OSError) as error:
            console.print(f"keeping all checkpoints: {first_line(error)}", style="yellow")
    console.print(str(verdict(Run(folder), "complete")))
    console.print(f"done in {duration(record.session)}: {folder / 'report.html'}")
    return result


def conclude_pruned(run: Parts, reason: str) -> None:
    """Complete the record and the report of a run that its search has ended: it draws no samples."""
    if run.record is not None:
        run.record.update(finished=now(), reason=reason)
        write_report(run.folder, run.denoiser.schedule.cpu(), state="pruned")
        run.record.finish("pruned")
        console.print(f"pruned: {reason}")


def score_last(run: Parts, scorer: Scorer, trainer: pl.Trainer, images: Tensor, source: dict[str, Any]) -> None:
    """Score the last samples, against each reference, with those of the baselines."""
    score, file = run.settings.score, run.folder / "checkpoints" / "last.ckpt"
    if file.is_file():  # none if the run ended before its first step
        source = source | {"checkpoint": {"path": str(file), "sha256": file_hash(file)}}
    if score.split == "test":
        check_test(run.folder, again=True)
    for each in [replace(scorer, split=split) for split in score.references]:
        own, others = each.score(images, **source), each.baselines(score.baselines, run.scored)
        if each.split == score.split:
            others += each.ensembles(images, run.drawing.given, source)
        each.write([*own, *others])
        loggers.log_scores(trainer, own, each.split)
        print_scores([*own, *others])
    draw_judged(scorer.judge(images), scorer.folder)
    if score.audit:
        scorer.write(scorer.audit(images, **source))
