"""The work of `diffusion study`: samplers or scales of a guidance draw from the same noise, are scored and timed."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.base.console import console
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import RUN, choice
from diffusion.config.schema import GuidanceStudy, Study
from diffusion.errors import UserError
from diffusion.process.schedule import Schedule
from diffusion.report.study import write_study
from diffusion.runs.folder import Run
from diffusion.sampling import commands
from diffusion.sampling.drawing import Drawing, evaluations, make_guidance, parts_of, seconds_of
from diffusion.sampling.inheritance import of_run
from diffusion.sampling.parallel import Task, device_name, draw, remove
from diffusion.scoring.commands import counts_of, make_scorer, write_configuration

Node = dict[str, Any]  # a configuration


class Trial(NamedTuple):
    """A setting to try: the words and the configuration of its sampler, its guidance, evaluations per image (NFE)."""

    words: str
    sampler: Node
    guidance: Node | None
    nfe: int


def study(settings: Study | GuidanceStudy, folder: Path) -> None:
    """Score every setting into scores.json, and write the tables, charts and page of the study in `folder`.

    All settings draw from the same noise and for the same classes. All are drawn before the first is scored, so a study
    that was interrupted goes on from the samples that it has drawn.
    """
    settings, restored, devices = commands.opened_model(settings)
    n, batch_size, denoiser = settings.n, settings.batch_size or 1, restored.denoiser
    _, worse = make_guidance(settings.guidance, restored)
    weak = None if worse is None else worse.denoiser
    if isinstance(settings, Study):
        trials = within_budgets(settings.samplers, settings.nfe, denoiser.schedule, settings.guidance)
    else:
        trials = with_guidance(settings, restored)
    write_configuration(folder, settings, restored)
    scorer = make_scorer(settings, n, folder, devices[0], restored)
    counts, tasks = counts_of(scorer.data, settings.split, restored), []
    given = commands.make_given(settings, restored, scorer.data)
    for i, trial in enumerate(trials, start=1):
        sampler = make(trial.sampler, "sampler")
        guidance = parts_of(trial.guidance)[0] if trial.guidance else None
        drawing = Drawing(
            sampler, restored.shape, settings.seed, guidance, weak, counts, precision=settings.precision, given=given
        )
        drawing.check(denoiser, restored.label_dropout)
        files = drawing.files(folder, denoiser, n, batch_size, drawing.source(trial.sampler, trial.guidance))
        tasks.append(Task(drawing, n, batch_size, files, f"{i}/{len(trials)} {trial.words}, {trial.nfe} NFE"))
    draw(tasks, denoiser, devices, folder)
    scorer.write(scorer.baselines(settings.baselines, n))
    for trial, task in zip(trials, tasks, strict=True):
        source: Node = task.drawing.source(trial.sampler, trial.guidance) | restored.source
        source |= {"words": trial.words, "nfe": trial.nfe, "device": device_name(devices[0], len(devices))}
        seconds = seconds_of(task.files) / len(devices) / n
        scorer.write(scorer.score(task(denoiser, devices[0]), **source, seconds_per_image=seconds))
    remove(folder)
    for path in write_study(Run(folder)):
        console.print(f"  {path}")


def within_budgets(
    samplers: Sequence[str], budgets: Sequence[int], schedule: Schedule, guidance: Node | None = None
) -> list[Trial]:
    """Every sampler with the most steps within every budget of evaluations, without duplicates."""
    found = [most_steps(words, budget, schedule, guidance) for words in samplers for budget in sorted(budgets)]
    return [*{(trial.words, trial.nfe): trial for trial in found}.values()]


def most_steps(words: str, budget: int, schedule: Schedule, guidance: Node | None) -> Trial:
    """A sampler with the most steps that a budget and the schedule allow.

    Raises UserError for a sampler that does not fit the schedule or the budget, however many steps it makes.
    """
    node, part = node_of(words), parts_of(guidance)[0] if guidance else None

    def cost(steps: int) -> int:
        try:
            return evaluations(make({**node, "steps": steps}, "sampler"), schedule, part)
        except UserError:
            if steps == 1:
                raise
            return budget + 1  # more steps than the schedule has

    steps = bisect_right(range(1, budget + 1), budget, key=cost)
    if steps == 0:
        raise UserError(f"{words}: does not run within {budget} evaluations; raise nfe")
    return Trial(words, {**node, "steps": steps}, guidance, cost(steps))


def with_guidance(settings: GuidanceStudy, restored: Restored) -> list[Trial]:
    """Each sampler first without guidance, then with every other scale in every interval.

    If no step of a sampler lies in an interval, guidance changes nothing, and the trial is left out.
    """
    if not settings.guidance:
        raise UserError("guidance: nothing to study; choose one, such as guidance=cfg (--help guidance lists all)")
    intervals = settings.intervals or [[settings.guidance.get("low"), settings.guidance.get("high")]]
    scales, found = sorted({*settings.scales} - {1}), list[Trial]()
    tried = [(1.0, None, None), *((scale, *ends) for ends in intervals for scale in scales)]
    for words in settings.samplers:
        node = node_of(words, settings.steps, restored.config)
        sampler, least = make(node, "sampler"), 0
        name = f"{RUN} ({type(sampler).__name__})" if words == RUN else words
        for scale, low, high in tried:
            guidance = {**settings.guidance, "scale": scale, "low": low, "high": high}
            nfe = evaluations(sampler, restored.denoiser.schedule, parts_of(guidance)[0])
            if nfe > least:
                found.append(Trial(name, node, guidance, nfe))
            else:
                console.print(f"{name}, scale {scale:g}: no step is between {low} and {high}; skipped")
            least = least or nfe
    if len(found) == len(settings.samplers):
        raise UserError("only scale 1 (no guidance) is left; add others, such as scales=[1.5,2,3]")
    return found


def node_of(words: str, steps: int | None = None, recipe: Mapping[str, Any] | None = None) -> Node:
    """The configuration of a sampler: a choice with overrides, as for `diffusion sample`, or `run`.

    Args:
        steps: instead of its own, unless they are among the overrides.
        recipe: of the run.
    """
    name, _, overrides = words.partition(" ")
    if name == RUN:
        node: Node = of_run("sampler", recipe or {}) | ({"steps": steps} if steps else {})
    else:
        node = choice("sampler", f"{name} sampler.steps={steps} {overrides}" if steps else words)
    if make(node, "sampler").adaptive:
        raise UserError(f"samplers: {words} chooses its own number of evaluations, so a study cannot compare it")
    return node
