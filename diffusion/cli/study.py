"""Study one trained model: samplers or guidance scales by scores and cost, or where its loss is.

diffusion study sampler ckpt=RUN                                    four samplers, 10 to 50 evaluations
diffusion study sampler ckpt=… samplers=[ddim,heun] nfe=[20,100]    other samplers and numbers
diffusion study sampler ckpt=… 'samplers=[dpm_2m,"dpm_2m grid@sampler.grid=karras"]'   one on two grids
diffusion study guidance ckpt=RUN guidance=cfg                      guidance scales: see guidance --help
diffusion study floor ckpt=RUN                                      errors by noise level: see floor --help
"""

import sys
from dataclasses import replace
from typing import Any

from diffusion.config.schema import FloorStudy, GuidanceStudy, Study
from diffusion.errors import UserError, nearest
from diffusion.runs.command import Command
from diffusion.runs.launch import Launch

ABOUT_GUIDANCE = """\
Compare scales of a guidance on one trained model: which is best, and at which cost.

diffusion study guidance ckpt=RUN guidance=cfg                      the run's sampler, scales from 1 to 3
diffusion study guidance ckpt=… guidance=cfg scales=[1.5,2] samplers=[ddim,heun] steps=20
diffusion study guidance ckpt=… guidance=cfg intervals=[[null,null],[0.2,1.6]]    also in an interval only
diffusion study guidance ckpt=… guidance=auto guidance.ckpt=WEAK   autoguidance, with labels or without
"""

ABOUT_FLOOR = """\
Compare the errors of one trained model, by noise level, with the floor: those of the best denoiser of its training
images, which is known. It shows where training still has something to give, and where it memorizes.

diffusion study floor ckpt=RUN                   13 noise levels, 256 training and 256 held-out images
diffusion study floor ckpt=RUN n=1000 levels=25  narrower intervals, more levels
"""


def study(settings: Study | GuidanceStudy, launch: Launch) -> None:
    """Score every setting into scores.json, and write the tables, charts and page of the study in the folder.

    All settings draw from the same noise and for the same classes. All are drawn before the first is scored, so a study
    that was interrupted goes on from the samples that it has drawn.
    """
    from diffusion.base.console import console
    from diffusion.config.build import make
    from diffusion.library.files import run_of, write_configuration
    from diffusion.library.opening import opened_model
    from diffusion.report.study import write_study
    from diffusion.runs.folder import Run
    from diffusion.sampling.drawing import parts_of, seconds_of
    from diffusion.sampling.parallel import Task, device_name, draw, remove
    from diffusion.sampling.request import Request
    from diffusion.scoring.classes import counts_of
    from diffusion.scoring.request import ScoreRequest
    from diffusion.scoring.trials import with_guidance, within_budgets

    settings, model, devices = opened_model(settings, launch.changes)
    folder = launch.folder
    n, batch_size, restored, denoiser = settings.n, settings.batch_size or 1, model.restored, model.denoiser
    if isinstance(settings, Study):
        trials = within_budgets(settings.samplers, settings.nfe, denoiser.schedule, settings.guidance)
    else:
        trials = with_guidance(settings, restored)
    write_configuration(folder, settings, restored)
    scorer = ScoreRequest.of(settings).scorer(n, folder, run_of(restored, folder), devices[0], restored)
    own = {"data": scorer.data, "counts": counts_of(scorer.data, settings.split, restored)}
    usual, tasks = Request.of(settings, sampler=trials[0].sampler, **own).drawing(restored), []
    for i, trial in enumerate(trials, start=1):
        guidance = parts_of(trial.guidance)[0] if trial.guidance else None
        drawing = replace(usual, sampler=make(trial.sampler, "sampler"), guidance=guidance)
        drawing.check(denoiser, restored.label_dropout)
        files = drawing.files(folder, denoiser, n, batch_size, drawing.source(trial.sampler, trial.guidance))
        tasks.append(Task(drawing, n, batch_size, files, f"{i}/{len(trials)} {trial.words}, {trial.nfe} NFE"))
    draw(tasks, denoiser, devices, folder)
    scorer.write(scorer.baselines(settings.baselines, n))
    for trial, task in zip(trials, tasks, strict=True):
        source: dict[str, Any] = task.drawing.source(trial.sampler, trial.guidance) | restored.source
        source |= {"words": trial.words, "nfe": trial.nfe, "device": device_name(devices[0], len(devices))}
        seconds = seconds_of(task.files) / len(devices) / n
        scorer.write(scorer.score(task(denoiser, devices[0]), **source, seconds_per_image=seconds))
    remove(folder)
    for path in write_study(Run(folder)):
        console.print(f"  {path}")


def study_floor(settings: FloorStudy, launch: Launch) -> None:
    """Measure a trained model into floor.csv, and write the chart and the page of the study in the folder."""
    from diffusion.base.console import console
    from diffusion.checkpoint.restore import what_changed
    from diffusion.config.build import check_targets, make
    from diffusion.data import ImageData
    from diffusion.library.files import write_configuration
    from diffusion.library.opening import opened_model
    from diffusion.report.noise_levels import write_floor
    from diffusion.runs.folder import Run
    from diffusion.scoring.errors_by_level import CONDITIONAL, measure

    settings, model, _ = opened_model(settings, launch.changes)
    folder, restored, data = launch.folder, model.restored, make(settings.data or {}, "data", ImageData)
    if restored.facts.condition is not None:
        raise UserError(CONDITIONAL)
    restored.kind.require("floor")
    data.setup()
    if changed := what_changed(restored.images, data.keys):
        console.print(f"warning: {changed} are not those of the training, whose floor is another", style="yellow")
    weighting = (restored.config.get("objective") or {}).get("weighting")
    check_targets(weighting, "weighting", restored.path)
    write_configuration(folder, settings, restored)
    measure(model.denoiser, weighting, data, folder, settings.n, settings.levels)
    for path in write_floor(Run(folder)):
        console.print(f"  {path}")


STUDIES = {  # by the first word of the command line
    "sampler": Command("study", Study, __doc__, f"{__name__}.study"),
    "guidance": Command("study_guidance", GuidanceStudy, ABOUT_GUIDANCE, f"{__name__}.study"),
    "floor": Command("study_floor", FloorStudy, ABOUT_FLOOR, f"{__name__}.study_floor"),
}


def main() -> None:
    words = sys.argv[1:] or ["--help"]
    kind = "sampler" if words[0].startswith("-") else words.pop(0)
    if kind not in STUDIES:
        sys.stderr.write(
            f"error: {kind}: no such study{nearest(kind, STUDIES)}; sampler, guidance or floor comes first\n"
        )
        sys.exit(2)
    STUDIES[kind](words)
