"""`diffusion study`: samplers or scales of a guidance draw from the same noise, are scored and timed."""

from dataclasses import replace
from typing import Any

from diffusion.base.console import console
from diffusion.checkpoint.restore import what_changed
from diffusion.config.build import check_targets, make
from diffusion.config.schema import FloorStudy, GuidanceStudy, Study
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.report.floor import write_floor
from diffusion.report.study import write_study
from diffusion.runs.folder import Run
from diffusion.runs.launch import Launch
from diffusion.sampling.drawing import parts_of, seconds_of
from diffusion.sampling.parallel import Task, device_name, draw, remove
from diffusion.scoring.floor import CONDITIONAL, measure
from diffusion.scoring.trials import with_guidance, within_budgets
from diffusion.tasks.evaluate import counts_of, make_scorer, write_configuration
from diffusion.tasks.opening import opened_model, options_of


def study(settings: Study | GuidanceStudy, launch: Launch) -> None:
    """Score every setting into scores.json, and write the tables, charts and page of the study in the folder.

    All settings draw from the same noise and for the same classes. All are drawn before the first is scored, so a study
    that was interrupted goes on from the samples that it has drawn.
    """
    settings, model, devices = opened_model(settings, launch.changes)
    folder = launch.folder
    n, batch_size, restored, denoiser = settings.n, settings.batch_size or 1, model.restored, model.denoiser
    if isinstance(settings, Study):
        trials = within_budgets(settings.samplers, settings.nfe, denoiser.schedule, settings.guidance)
    else:
        trials = with_guidance(settings, restored)
    write_configuration(folder, settings, restored)
    scorer = make_scorer(settings, n, folder, devices[0], restored)
    own = {"data": scorer.data, "split": settings.split, "counts": counts_of(scorer.data, settings.split, restored)}
    usual, tasks = model.drawing(**options_of(settings) | own | {"sampler": trials[0].sampler}), []
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
    """Measure a trained model into floor.csv, and write the chart and the page of the study in `folder`."""
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
