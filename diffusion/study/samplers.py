"""Sampler study: samplers with different numbers of network evaluations draw from the same noise, scored and timed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from diffusion.checkpoint import find
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import choice
from diffusion.config.schema import AnyStudy, Study
from diffusion.console import console, count, log_to, quiet_libraries
from diffusion.errors import UserError
from diffusion.evaluation.commands import counts_of, make_scorer, warn_of_other_images, write_configuration
from diffusion.evaluation.cost import evaluations, print_estimate
from diffusion.evaluation.devices import choose_devices, device_name
from diffusion.evaluation.drawing import Drawing, most_of, source_of
from diffusion.evaluation.drawn import batches_of
from diffusion.evaluation.guided import guidance_of
from diffusion.evaluation.inherited import completed_by
from diffusion.evaluation.ledger import Ledger
from diffusion.evaluation.together import Task, draw
from diffusion.metric.record import Score
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.report.study import Point, save_picture, write
from diffusion.report.study import Study as Report

S = TypeVar("S", bound=AnyStudy)


@dataclass(frozen=True)
class Setting:
    """A sampler with the most steps that fit into a budget of evaluations."""

    name: str
    node: Mapping[str, Any]
    sampler: Sampler
    nfe: int


@dataclass(frozen=True)
class Trial:
    """One drawing that a study scores: its sampler's name, a title, network evaluations per image, the source."""

    sampler: str
    title: str
    drawing: Drawing
    nfe: int
    source: Mapping[str, Any]


def study_samplers(settings: Study, folder: Path) -> None:
    """Score every sampler at every budget: scores.json, study.md, study.csv, pareto.png and report.html in `folder`."""
    settings, restored, devices = opened(settings, folder)
    guidance, weak = guidance_of(settings.guidance, restored)
    trials = [
        Trial(
            setting.name,
            setting.name,
            Drawing(setting.sampler, restored.shape, settings.seed, guidance, weak, precision=settings.precision),
            setting.nfe,
            source_of(setting.node, settings.guidance, settings.precision),
        )
        for setting in settings_of(settings.samplers, settings.nfe, restored.denoiser.schedule, guidance)
    ]
    points, baselines = measure(trials, settings, restored, folder, devices)
    device = device_name(devices[0], len(devices))
    print_files(write(Report(points, baselines, None, settings.split, device, settings.nfe), folder))


def opened(settings: S, folder: Path) -> tuple[S, Restored, list[torch.device]]:
    """Open a study's log and write config.yaml. Returns the settings completed by the run, the model and devices."""
    quiet_libraries()
    log_to(folder / "study.log")
    devices = choose_devices(settings.device, settings.devices, len(batches_of(settings.n, settings.batch_size)))
    restored = find.opened(settings.ckpt, settings.weights)
    settings = completed_by(settings, restored)
    write_configuration(folder, settings, restored)
    return settings, restored, devices


def measure(
    trials: Sequence[Trial], settings: AnyStudy, restored: Restored, folder: Path, devices: Sequence[torch.device]
) -> tuple[list[Point], list[Score]]:
    """Measure seconds per image and scores by metric for each trial, and the baselines' scores; also in scores.json.

    All trials draw from the same noise and for the same classes. The cost is printed first. All are drawn before the
    first is scored, so a study that was interrupted goes on from the samples that it has drawn.
    """
    n, batch_size, device, denoiser = settings.n, settings.batch_size, devices[0], restored.denoiser
    scorer = make_scorer(settings, settings.data, n, folder, Ledger.of(restored.path), device)
    warn_of_other_images(restored, settings.data, scorer.data)
    if settings.split == "test":
        scorer.ledger.check(again=True)
        console.print(
            f"warning: choosing among {len(trials)} settings by the test split makes the chosen one's score too good; "
            "use split=val, and score the chosen one on test, once"
        )
    counts, tasks = counts_of(scorer.data, settings.split, restored), []
    for i, trial in enumerate(trials, start=1):
        drawing = replace(trial.drawing, counts=counts)
        drawn = drawing.begin(folder, denoiser, n, batch_size, trial.source)
        tasks.append(Task(drawing, drawn, f"{i}/{len(trials)} {trial.title}, {trial.nfe} NFE"))
    left = [trial for trial, task in zip(trials, tasks, strict=True) if task.drawn.missing()]
    if left:
        total = sum(trial.nfe for trial in left)
        work = f"{count(len(left), 'setting')} × {count(n, 'sample')}, {total} network evaluations per image"
        total *= most_of(n, batch_size, len(devices))
        denoise = trials[0].drawing.in_precision(denoiser.to(device))
        print_estimate(work, denoise, restored.shape, n, total, batch_size, device)
    scorer.make_reference()
    draw(tasks, denoiser, devices, folder)
    baselines = scorer.write(scorer.baselines(settings.baselines, n))
    points = []
    for trial, (drawing, drawn, _) in zip(trials, tasks, strict=True):
        images, seconds = drawn.images(), drawn.seconds() / len(devices) / n
        source = {**trial.source, "seed": settings.seed, **restored.source, **drawing.weak_source, "nfe": trial.nfe}
        scored = scorer.write(scorer.score(images, seconds_per_image=seconds, **source))
        scores, guidance = {score.metric: score for score in scored}, drawing.guidance
        guided = (guidance.scale, guidance.low, guidance.high) if guidance else (1.0, None, None)
        cost = (drawing.sampler.steps, trial.nfe, seconds)
        points.append(Point(trial.sampler, *cost, scores, *guided, save_picture(images, source, folder)))
    tasks[0].drawn.remove()
    return points, baselines


def print_files(written: Sequence[Path]) -> None:
    """Print the paths of a study's files."""
    for path in written:
        console.print(f"  {path}")


def settings_of(
    samplers: str | Sequence[str], budgets: Sequence[int], schedule: Schedule, guidance: Guidance | None = None
) -> list[Setting]:
    """Every sampler at every budget, with the most steps that the budget allows, without duplicates.

    Args:
        samplers: Choices from conf/sampler, each with optional overrides: `dpm_3m grid@sampler.grid=karras`. `all`
            means every choice; those that do not fit the schedule are left out, and printed with the reason.
    """
    every = samplers == "all"
    found: dict[str, Setting] = {}
    for words in choices("sampler") if every else samplers:
        base = node_of(words)
        for budget in sorted(budgets):
            try:
                setting = within_budget(budget, words, base, schedule, guidance)
            except UserError as error:
                if not every:
                    raise
                console.print(f"{words}: skipped from {budget} evaluations on ({error})")
                break  # more steps do not fit either
            if setting is None:
                console.print(f"{words}: does not run within {budget} evaluations; skipped")
            else:
                found.setdefault(json.dumps([words, setting.sampler.steps]), setting)
    if not found:
        raise UserError(f"nfe={list(budgets)}: no sampler runs within so few evaluations; raise nfe")
    return list(found.values())


def node_of(words: str) -> dict[str, Any]:
    """The configuration of a sampler, composed as in `python -m diffusion.sample`."""
    name, *overrides = words.split()
    return choice("sampler", name, overrides)


def within_budget(
    budget: int, words: str, base: Mapping[str, Any], schedule: Schedule, guidance: Guidance | None = None
) -> Setting | None:
    """The sampler with the most steps within `budget` evaluations; None if even one step exceeds it.

    Raises UserError if the sampler does not fit the schedule, or chooses its number of evaluations itself.
    """
    for steps in range(most_steps(base, budget, schedule, words), 0, -1):  # without guidance, the first one fits
        node = {**base, "steps": steps}
        sampler: Sampler = make(node, "sampler")
        if (nfe := evaluations(sampler, schedule, guidance)) <= budget:
            return Setting(words, node, sampler, nfe)
    return None


def most_steps(node: Mapping[str, Any], budget: int, schedule: Schedule, words: str) -> int:
    """The most steps within `budget` without guidance. Assumes the same number of evaluations for each added step."""
    samplers: list[Sampler] = [make({**node, "steps": steps}, "sampler") for steps in (2, 3)]
    if samplers[0].adaptive:
        raise UserError(f"samplers: {words} chooses its own number of evaluations; a study by NFE can't include it")
    two, three = (evaluations(sampler, schedule) for sampler in samplers)
    return max(0, 2 + (budget - two) // (three - two))
