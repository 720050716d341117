"""What a study of a model tries: samplers within budgets of network evaluations, and scales of a guidance."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.base.console import console
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import RUN, choice
from diffusion.config.inherit import of_recipe
from diffusion.config.schema import GuidanceStudy
from diffusion.errors import UserError
from diffusion.process.schedule import Schedule
from diffusion.sampling.drawing import evaluations, parts_of

Node = dict[str, Any]  # a configuration


class Trial(NamedTuple):
    """A setting to try: the words and the configuration of its sampler, its guidance, evaluations per image (NFE)."""

    words: str
    sampler: Node
    guidance: Node | None
    nfe: int


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
        return of_recipe("sampler", recipe or {}) | ({"steps": steps} if steps else {})
    return choice("sampler", f"{name} sampler.steps={steps} {overrides}" if steps else words)
