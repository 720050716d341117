"""Which sampler, with how many network evaluations? Every one of them from the same noise, scored and timed."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from diffusion.checkpoint.restore import restore
from diffusion.config.build import make
from diffusion.config.choices import conf_dir
from diffusion.console import console, count, duration
from diffusion.errors import UserError
from diffusion.evaluation import pipeline as scoring
from diffusion.evaluation.commands import choose_device, keep_configuration, reference_data, shape_of
from diffusion.evaluation.cost import evaluations, seconds_per_evaluation
from diffusion.evaluation.generate import generate
from diffusion.evaluation.test_ledger import LooksAtTest
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.report.study import Point, write
from diffusion.training.callbacks import device_name
from diffusion.training.summary import quiet_libraries

ALL = "all"  # samplers=all


@dataclass(frozen=True)
class Setting:
    """A sampler with as many steps as a budget of evaluations allows."""

    name: str
    node: Mapping[str, Any]
    sampler: Sampler
    nfe: int


def study(cfg: DictConfig, folder: Path) -> None:
    """Score every sampler at every NFE; leave scores.json, study.md, study.csv and pareto.png in `folder`."""
    quiet_libraries()
    device = choose_device(cfg.device)
    restored = restore(cfg.ckpt, cfg.weights)
    keep_configuration(folder, cfg, restored)
    budgets = list(cfg.nfe)
    found = settings(cfg.samplers, budgets, restored.denoiser.schedule)
    extractor = make(cfg.features, "features").to(device)
    data = reference_data(restored.config["data"])
    metrics = scoring.chosen(cfg.metrics)
    scoring.check(cfg.split, cfg.n, cfg.yardsticks, data)
    looks = LooksAtTest.beside(restored.path)
    if cfg.split == "test":
        looks.warn()
        console.print(
            f"warning: choosing among {len(found)} settings by the test split makes the chosen one's score too good; "
            "use split=val, and score the one chosen on test, once"
        )
    denoiser, shape = restored.denoiser.to(device), shape_of(restored)
    batch = min(cfg.n, cfg.batch_size)
    each = seconds_per_evaluation(denoiser, shape, batch, device) * cfg.n / batch
    total = sum(setting.nfe for setting in found)
    console.print(
        f"{count(len(found), 'setting')} × {count(cfg.n, 'sample')}, {total} network evaluations an image: about "
        f"{duration(each * total)} of sampling on {device_name(device)} (a batch of {batch} was timed), then scoring"
    )
    against = scoring.reference(data, cfg.split, extractor, metrics)
    beside = scoring.yardsticks(cfg.yardsticks, data, cfg.n, extractor, against, metrics)
    scoring.append(folder, beside)
    points = []
    for i, setting in enumerate(found, start=1):
        label = f"{i}/{len(found)} {setting.name}, {setting.nfe} NFE"
        began = time.perf_counter()
        images = generate(denoiser, setting.sampler, cfg.n, shape, cfg.seed, device, cfg.batch_size, label)
        seconds = (time.perf_counter() - began) / cfg.n
        new = scoring.score_samples(
            images, extractor, against, metrics=metrics, sampler=scoring.describe_sampler(setting.node), seed=cfg.seed,
            nfe=setting.nfe, seconds_per_image=seconds, **restored.told,
        )  # fmt: skip
        scoring.append(folder, looks.add(new))
        points.append(Point(setting.name, setting.sampler.steps, setting.nfe, seconds, {r["metric"]: r for r in new}))
    for path in write(points, budgets, folder, against.name, device_name(device), beside):
        console.print(f"  {path}")


def settings(samplers: Sequence[str], budgets: list[int], schedule: Schedule) -> list[Setting]:
    """Every sampler at every budget that it can use, with the most steps that it allows; each setting once.

    A sampler is a choice of conf/sampler, and overrides of its own after it: `dpm_3m grid@sampler.grid=karras`. `all`
    is every choice; what does not fit the schedule is then named with the reason, and left out.
    """
    every = samplers == ALL
    found: dict[str, Setting] = {}
    for words in choices() if every else samplers:
        base = node_of(words)
        for budget in sorted(budgets):
            try:
                setting = within(budget, words, base, schedule)
            except UserError as error:
                if not every:
                    raise
                console.print(f"{words}: left out from {budget} evaluations on ({error})")
                break  # more steps do not fit either
            if setting is None:
                console.print(f"{words}: not within {budget} evaluations, left out")
                continue
            found.setdefault(json.dumps([words, setting.sampler.steps]), setting)
    if not found:
        raise UserError(f"nfe={budgets}: no sampler runs within so few evaluations; raise nfe")
    return list(found.values())


def choices() -> list[str]:
    """The choices of conf/sampler."""
    return sorted(file.stem for file in (conf_dir() / "sampler").glob("*.yaml"))


def within(budget: int, words: str, base: Mapping[str, Any], schedule: Schedule) -> Setting | None:
    """The sampler with the most steps within `budget` evaluations; None where one step is too many.

    UserError where it does not fit the schedule, or chooses its evaluations itself.
    """
    node = {**base, "steps": most_steps(base, budget, schedule, words)}
    if not node["steps"]:
        return None
    sampler: Sampler = make(node, "sampler")
    nfe = evaluations(sampler, schedule)
    return Setting(words, node, sampler, nfe) if nfe <= budget else None


def node_of(words: str) -> dict[str, Any]:
    """The configuration of a sampler, composed as `python -m diffusion.sample` does."""
    choice, *overrides = words.split()
    composed = compose("sample", overrides=[f"sampler={choice}", "ckpt=none", *overrides])
    node = OmegaConf.to_container(composed.sampler, resolve=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def most_steps(node: Mapping[str, Any], budget: int, schedule: Schedule, words: str) -> int:
    """The most steps N whose evaluations, which rise by the same number with each step, are within `budget`."""
    samplers: list[Sampler] = [make({**node, "steps": steps}, "sampler") for steps in (2, 3)]
    if samplers[0].adaptive:
        raise UserError(f"samplers: {words} chooses its own number of evaluations; a study by NFE can't have it")
    two, three = (evaluations(sampler, schedule) for sampler in samplers)
    return max(0, 2 + (budget - two) // (three - two))
