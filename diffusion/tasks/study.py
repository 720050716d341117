"""`diffusion study`: samplers or scales of a guidance draw from the same noise, are scored and timed."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.base.console import console
from diffusion.checkpoint.restore import Restored, what_changed
from diffusion.config.build import check_targets, make
from diffusion.config.choices import RUN, choice
from diffusion.config.inherit import changes_of, of_recipe
from diffusion.config.schema import FloorStudy, GuidanceStudy, Study
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.process.schedule import Schedule
from diffusion.report.floor import write_floor
from diffusion.report.study import write_study
from diffusion.runs.folder import Run
from diffusion.sampling.drawing import evaluations, parts_of, seconds_of
from diffusion.sampling.given import make_given
from diffusion.sampling.parallel import Task, device_name, draw, remove
from diffusion.scoring.floor import CONDITIONAL, measure
from diffusion.tasks.evaluate import counts_of, make_scorer, write_configuration
from diffusion.tasks.opening import opened_model

Node = dict[str, Any]  # a configuration


class Trial(NamedTuple):
    """A setting to try: the words and the configuration of its sampler, its guidance, evaluations per image (NFE)."""

    words: str
    sampler: Node
    guidance: Node | None
    nfe: int


def study(settings: Study | GuidanceStudy, folder: Path, words: Sequence[str]) -> None:
    """Score every setting into scores.json, and write the tables, charts and page of the study in `folder`.

    All settings draw from the same noise and for the same classes. All are drawn before the first is scored, so a study
    that was interrupted goes on from the samples that it has drawn.
    """
    settings, model, devices = opened_model(settings, changes_of(words))
    n, batch_size, restored, denoiser = settings.n, settings.batch_size or 1, model.restored, model.denoiser
    if isinstance(settings, Study):
        trials = within_budgets(settings.samplers, settings.nfe, denoiser.schedule, settings.guidance)
    else:
        trials = with_guidance(settings, restored)
    write_configuration(folder, settings, restored)
    scorer = make_scorer(settings, n, folder, devices[0], restored)
    counts, tasks = counts_of(scorer.data, settings.split, restored), []
    given = make_given(restored, settings.condition, scorer.data, split=settings.split)
    for i, trial in enumerate(trials, start=1):
        drawing = model.drawing(
            trial.sampler, settings.seed, guidance=trial.guidance or {}, precision=settings.precision, given=given,
            counts=counts,
        )  # fmt: skip
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


def study_floor(settings: FloorStudy, folder: Path, words: Sequence[str]) -> None:
    """Measure a trained model into floor.csv, and write the chart and the page of the study in `folder`."""
    settings, model, _ = opened_model(settings, changes_of(words))
    restored, data = model.restored, make(settings.data or {}, "data", ImageData)
    if "condition" in restored.facts:
        raise UserError(CONDITIONAL)
    data.setup()
    if changed := what_changed(restored.images, data.keys):
        console.print(f"warning: {changed} are not those of the training, whose floor is another", style="yellow")
    weighting = (restored.config.get("objective") or {}).get("weighting")
    check_targets(weighting, "weighting", restored.path)
    write_configuration(folder, settings, restored)
    measure(model.denoiser, weighting, data, folder, settings.n, settings.levels)
    for path in write_floor(Run(folder)):
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
        node: Node = of_recipe("sampler", recipe or {}) | ({"steps": steps} if steps else {})
    else:
        node = choice("sampler", f"{name} sampler.steps={steps} {overrides}" if steps else words)
    if make(node, "sampler").adaptive:
        raise UserError(f"samplers: {words} chooses its own number of evaluations, so a study cannot compare it")
    return node
