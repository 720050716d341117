"""A study of samplers by network evaluations: each draws from the same noise, and is scored and timed."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import restore
from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import choice
from diffusion.config.inherit import completed
from diffusion.config.schema import Study
from diffusion.console import console, count, log_to, quiet_libraries
from diffusion.errors import UserError
from diffusion.evaluation.commands import counts_of, make_scorer, warn_of_other_images, write_configuration
from diffusion.evaluation.cost import evaluations, print_estimate
from diffusion.evaluation.devices import choose_device, device_name
from diffusion.evaluation.drawing import Drawing, make_guidance, source_of
from diffusion.evaluation.ledger import Ledger
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.report.study import Point, write


@dataclass(frozen=True)
class Setting:
    """A sampler with as many steps as a budget of evaluations allows."""

    name: str
    node: Mapping[str, Any]
    sampler: Sampler
    nfe: int


def study_samplers(settings: Study, folder: Path) -> None:
    """Score every sampler at every budget: scores.json, study.md, study.csv and pareto.png in `folder`."""
    quiet_libraries()
    log_to(folder / "study.log")
    device = choose_device(settings.device)
    restored = restore(trained(settings.ckpt), settings.weights)
    write_configuration(folder, settings, restored)
    n, seed, batch_size = settings.n, settings.seed, settings.batch_size
    settings = completed(settings, restored.config, restored.path)
    guidance, weak = make_guidance(settings.guidance, restored.shape, restored.label_dropout, restored.path)
    found = settings_of(settings.samplers, settings.nfe, restored.denoiser.schedule, guidance)
    scorer = make_scorer(settings, restored.config["data"], n, folder, Ledger.of(restored.path), device)
    warn_of_other_images(restored, restored.config["data"], scorer.data)
    if settings.split == "test":
        scorer.ledger.warn()
        console.print(
            f"warning: choosing among {len(found)} settings by the test split makes the chosen one's score too good; "
            "use split=val, and score the chosen one on test, once"
        )
    denoiser, shape = restored.denoiser.to(device), restored.shape
    total = sum(setting.nfe for setting in found)
    work = f"{count(len(found), 'setting')} × {count(n, 'sample')}, {total} network evaluations per image"
    print_estimate(work, denoiser, shape, n, n * total, batch_size, device)
    scorer.make_reference()
    baselines = scorer.write(scorer.baselines(settings.baselines, n))
    counts, points = counts_of(scorer.data, settings.split, restored), []
    for i, setting in enumerate(found, start=1):
        label = f"{i}/{len(found)} {setting.name}, {setting.nfe} NFE"
        began = time.perf_counter()
        drawing = Drawing(setting.sampler, shape, seed, guidance, weak, counts)
        images = drawing(denoiser, n, device, batch_size, label)
        seconds = (time.perf_counter() - began) / n
        source = {**source_of(setting.node, settings.guidance, None), "seed": seed, **restored.source}
        new = scorer.write(scorer.score(images, nfe=setting.nfe, seconds_per_image=seconds, **source))
        scores = {score.metric: score for score in new}
        points.append(Point(setting.name, setting.sampler.steps, setting.nfe, seconds, scores))
    for path in write(points, settings.nfe, folder, settings.split, device_name(device), baselines):
        console.print(f"  {path}")


def settings_of(
    samplers: str | Sequence[str], budgets: Sequence[int], schedule: Schedule, guidance: Guidance | None = None
) -> list[Setting]:
    """Every sampler at every budget, with the most steps that the budget allows; each setting once.

    Args:
        samplers: Choices of conf/sampler, each followed by overrides: `dpm_3m grid@sampler.grid=karras`. `all` is every
            choice; those that do not fit the schedule are left out, and printed with the reason.
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
                console.print(f"{words}: left out from {budget} evaluations on ({error})")
                break  # more steps do not fit either
            if setting is None:
                console.print(f"{words}: not within {budget} evaluations, left out")
            else:
                found.setdefault(json.dumps([words, setting.sampler.steps]), setting)
    if not found:
        raise UserError(f"nfe={list(budgets)}: no sampler runs within so few evaluations; raise nfe")
    return list(found.values())


def node_of(words: str) -> dict[str, Any]:
    """The configuration of a sampler, composed as `python -m diffusion.sample` does."""
    name, *overrides = words.split()
    return choice("sampler", name, overrides)


def within_budget(
    budget: int, words: str, base: Mapping[str, Any], schedule: Schedule, guidance: Guidance | None = None
) -> Setting | None:
    """The sampler with the most steps within `budget` evaluations; None where one step is too many.

    Raises UserError where it does not fit the schedule, or chooses its evaluations itself.
    """
    for steps in range(most_steps(base, budget, schedule, words), 0, -1):  # the first one, unless there is guidance
        node = {**base, "steps": steps}
        sampler: Sampler = make(node, "sampler")
        if (nfe := evaluations(sampler, schedule, guidance)) <= budget:
            return Setting(words, node, sampler, nfe)
    return None


def most_steps(node: Mapping[str, Any], budget: int, schedule: Schedule, words: str) -> int:
    """The most steps within `budget` without guidance: each step takes as many evaluations as the others."""
    samplers: list[Sampler] = [make({**node, "steps": steps}, "sampler") for steps in (2, 3)]
    if samplers[0].adaptive:
        raise UserError(f"samplers: {words} chooses its own number of evaluations; a study by NFE can't have it")
    two, three = (evaluations(sampler, schedule) for sampler in samplers)
    return max(0, 2 + (budget - two) // (three - two))
