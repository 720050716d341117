"""The work of `diffusion.study`: samplers or scales of a guidance draw from the same noise, are scored and timed."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.checkpoint import early
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import RUN, choice
from diffusion.config.schema import GuidanceStudy, Study
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.evaluation import ledger
from diffusion.evaluation.commands import (
    begin,
    counts_of,
    make_sampler,
    make_scorer,
    warn_of_other_images,
    write_configuration,
)
from diffusion.evaluation.devices import choose_devices, device_name
from diffusion.evaluation.drawing import Drawing, batches_of, evaluations, seconds_of, source_of
from diffusion.evaluation.guided import guidance_of, parts_of
from diffusion.evaluation.inherited import of_run
from diffusion.evaluation.together import Task, draw, remove
from diffusion.process.guidance import Guidance
from diffusion.process.schedule import Schedule
from diffusion.report.study import save_picture, study_of, write
from diffusion.runs.folder import Run

Node = dict[str, Any]  # a configuration


class Trial(NamedTuple):
    """One setting of a study: the words of its sampler, how it draws, its network evaluations per image, its source."""

    words: str
    drawing: Drawing
    nfe: int
    source: Mapping[str, Any]

    def __str__(self) -> str:
        guidance = self.drawing.guidance
        return f"{self.words}, {f'scale {guidance.scale:g}, ' if guidance else ''}{self.nfe} NFE"


def study(settings: Study | GuidanceStudy, folder: Path) -> None:
    """Score every setting into scores.json, and write the tables, charts and page of the study in `folder`.

    All settings draw from the same noise and for the same classes. All are drawn before the first is scored, so a study
    that was interrupted goes on from the samples that it has drawn.
    """
    settings, restored = begin(settings)
    n, batch_size, run = settings.n, settings.batch_size, early.run_of(restored.path)
    devices = choose_devices(settings.device, settings.devices, len(batches_of(n, batch_size)))
    device = devices[0]
    write_configuration(folder, settings, restored)
    found = sampler_trials(settings, restored) if isinstance(settings, Study) else guidance_trials(settings, restored)
    trials = [*found]
    scorer = make_scorer(settings, n, folder, run, device)
    warn_of_other_images(restored, settings.data, scorer.data)
    if settings.split == "test":
        ledger.check(run, again=True)
        console.print(
            f"warning: choosing among {len(trials)} settings by the test split makes the chosen one's score too good; "
            "use split=val, and score the chosen one on test, once"
        )
    counts, denoiser, tasks = counts_of(scorer.data, settings.split, restored), restored.denoiser, []
    for i, trial in enumerate(trials, start=1):
        drawing = replace(trial.drawing, counts=counts)
        files = drawing.files(folder, denoiser, n, batch_size, trial.source)
        tasks.append(Task(drawing, n, batch_size, files, f"{i}/{len(trials)} {trial}"))
    draw(tasks, denoiser, devices, folder)
    scorer.write(scorer.baselines(settings.baselines, n))
    for trial, task in zip(trials, tasks, strict=True):
        made: Node = {"seed": settings.seed, **restored.source, **trial.drawing.weak_source, **trial.source}
        seconds, name = seconds_of(task.files) / len(devices) / n, device_name(device, len(devices))
        cost: Node = {"nfe": trial.nfe, "seconds_per_image": seconds, "device": name}
        images = task.images(denoiser, device)
        scorer.write(scorer.score(images, **made, **cost, words=trial.words))
        save_picture(images, made, folder)
    remove(folder)
    for path in write(study_of(Run(folder)), folder):
        console.print(f"  {path}")


def node_of(words: str, steps: int | None = None, recipe: Mapping[str, Any] | None = None) -> Node:
    """The configuration of a sampler: a choice with overrides, as for `python -m diffusion.sample`, or `run`.

    Args:
        steps: instead of its own, unless they are among the overrides.
        recipe: of the run.
    """
    name, *overrides = words.split()
    more = [] if steps is None else [f"sampler.steps={steps}"]
    if name == RUN:
        node: Node = {**of_run("sampler", recipe or {}), **({} if steps is None else {"steps": steps})}
    else:
        node = choice("sampler", name, [*more, *overrides])
    if make(node, "sampler").adaptive:
        raise UserError(
            f"samplers: {words} chooses its own number of evaluations, so a study can't compare its settings"
        )
    return node


def sampler_trials(settings: Study, restored: Restored) -> Iterator[Trial]:
    """Every sampler at every budget of evaluations."""
    guidance, weak = guidance_of(settings.guidance, restored)
    for words, node, nfe in within_budgets(settings.samplers, settings.nfe, restored.denoiser.schedule, guidance):
        sampler = make_sampler(node, restored)
        drawing = Drawing(sampler, restored.shape, settings.seed, guidance, weak, precision=settings.precision)
        yield Trial(words, drawing, nfe, source_of(node, settings.guidance, settings.precision))


def within_budgets(
    samplers: str | Sequence[str], budgets: Sequence[int], schedule: Schedule, guidance: Guidance | None = None
) -> list[tuple[str, Node, int]]:
    """(words, configuration, evaluations) of every sampler at every budget of evaluations, without duplicates.

    Args:
        samplers: Choices from conf/sampler, each with optional overrides: `dpm_3m grid@sampler.grid=karras`. `all`
            means every choice; those that do not fit the schedule are left out, and printed with the reason.
    """
    found: dict[tuple[str, int], tuple[str, Node, int]] = {}
    for words in choices("sampler") if samplers == "all" else samplers:
        try:
            node = node_of(words)
            for budget in sorted(budgets):
                steps, nfe = most_steps(node, budget, schedule, guidance)
                if steps:
                    found[words, steps] = words, {**node, "steps": steps}, nfe
                else:
                    console.print(f"{words}: does not run within {budget} evaluations; skipped")
        except UserError as error:
            if samplers != "all":
                raise
            console.print(f"{words}: skipped ({error})")
    if not found:
        raise UserError(f"nfe={list(budgets)}: no sampler runs within so few evaluations; raise nfe")
    return [*found.values()]


def most_steps(node: Node, budget: int, schedule: Schedule, guidance: Guidance | None = None) -> tuple[int, int]:
    """The most steps that a budget and the schedule allow, and their evaluations; (0, 0) if one step is too many.

    Raises UserError for a sampler that does not fit the schedule, however many steps it makes.
    """

    def cost(steps: int) -> int:
        return evaluations(make({**node, "steps": steps}, "sampler"), schedule, guidance)

    def cost_or_more(steps: int) -> int:
        try:
            return cost(steps)
        except UserError:  # more steps than the schedule has
            return budget + 1

    cost(1)
    steps = bisect_right(range(1, budget + 1), budget, key=cost_or_more)
    return (steps, cost(steps)) if steps else (0, 0)


def guidance_trials(settings: GuidanceStudy, restored: Restored) -> Iterator[Trial]:
    """Each sampler first without guidance, then with every other scale in every interval.

    If no step of a sampler lies in an interval, guidance changes nothing, and the trial is left out.
    """
    if not settings.guidance:
        raise UserError("guidance: nothing to study; choose one, such as guidance=cfg (--help guidance lists all)")
    own, weak = guidance_of(settings.guidance, restored)
    assert own is not None  # because settings.guidance is not empty
    ends = dict.fromkeys(map(tuple, settings.intervals or [[own.low, own.high]]))
    scales = sorted({*settings.scales} - {1})
    tried = [(1.0, None, None), *((scale, low, high) for low, high in ends for scale in scales)]
    guided = False
    for words in settings.samplers:
        node, unguided = node_of(words, settings.steps, restored.config), 0
        sampler = make_sampler(node, restored)
        name = f"{RUN} ({type(sampler).__name__})" if words == RUN else words
        for scale, low, high in tried:
            configured = {**settings.guidance, "scale": scale, "low": low, "high": high}
            guidance, _ = parts_of(configured)
            drawing = Drawing(
                sampler, restored.shape, settings.seed, guidance, weak, restored.labels, precision=settings.precision
            )
            drawing.check(restored.denoiser, restored.label_dropout)
            nfe = drawing.evaluations(restored.denoiser.schedule)
            trial = Trial(name, drawing, nfe, source_of(node, configured, settings.precision))
            unguided = unguided or nfe
            if scale != 1 and nfe == unguided:
                console.print(f"{trial}: no step of the sampler is between {low} and {high}; skipped")
                continue
            guided = guided or scale != 1
            yield trial
    if not guided:
        raise UserError("only scale 1 (no guidance) is left; add others, such as scales=[1.5,2,3]")
