"""Guidance study: scales and intervals of a guidance with each sampler, from the same noise and classes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion.checkpoint.restore import Restored
from diffusion.config.choices import choices
from diffusion.config.composition import RUN
from diffusion.config.inherit import of_run
from diffusion.config.schema import GuidanceStudy
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.evaluation.commands import make_sampler
from diffusion.evaluation.devices import device_name
from diffusion.evaluation.drawing import Drawing, source_of
from diffusion.evaluation.guided import guidance_of, parts_of
from diffusion.process.guidance import Guidance
from diffusion.report.study import Study, interval_text, write
from diffusion.study.samplers import Trial, measure, node_of, opened, print_files

Node = Mapping[str, Any]


def study_guidance(settings: GuidanceStudy, folder: Path) -> None:
    """Score every scale in every interval with every sampler: scores.json, guidance.md, .csv and .png in `folder`."""
    settings, restored, devices = opened(settings, folder)
    trials = [*trials_of(settings, restored)]
    points, baselines = measure(trials, settings, restored, folder, devices)
    what = type(trials[0].drawing.guidance).__name__
    device = device_name(devices[0], len(devices))
    print_files(write(Study(points, baselines, what, settings.split, device), folder))


def trials_of(settings: GuidanceStudy, restored: Restored) -> Iterator[Trial]:
    """Yield each sampler's trials: first without guidance, then every other scale in every interval.

    If no step of a sampler lies in an interval, guidance changes nothing, and the trial is left out. Raises UserError
    for settings that do not fit the model.
    """
    if not settings.guidance:
        named = ", ".join(name for name in choices("guidance") if name != "none")
        raise UserError(f"guidance: nothing to study; choose one of {named}, such as guidance=cfg")
    guidance, weak = guidance_of(settings.guidance, restored)
    assert guidance is not None  # because settings.guidance is not empty
    own = [[guidance.low, guidance.high]]
    nodes = guidance_nodes(settings.guidance, settings.scales, settings.intervals or own)
    schedule, guided = restored.denoiser.schedule, 0
    for name, node in sampler_nodes(settings, restored).items():
        sampler, unguided = make_sampler(dict(node), restored), 0
        if sampler.adaptive:
            raise UserError(f"samplers: {name} chooses its own number of evaluations; a study can't compare its scales")
        for guidance_node in nodes:
            guidance, _ = parts_of(guidance_node)
            drawing = Drawing(
                sampler, restored.shape, settings.seed, guidance, weak, restored.labels, precision=settings.precision
            )
            drawing.check(restored.denoiser, restored.label_dropout)
            nfe = drawing.evaluations(schedule)
            source = source_of(node, guidance_node, settings.precision)
            trial = Trial(name, title(name, guidance), drawing, nfe, source)
            if guidance.scale == 1:
                unguided = nfe
            elif nfe == unguided:
                console.print(f"{trial.title}: no step of the sampler is in the interval; skipped")
                continue
            else:
                guided += 1
            yield trial
    if not guided:
        raise UserError("only scale 1 (no guidance) is left; add others: scales=[1.5,2,3]")


def guidance_nodes(
    node: Node, scales: Sequence[float], intervals: Sequence[Sequence[float | None]]
) -> list[dict[str, Any]]:
    """The configurations of a guidance: scale 1 once, without an interval; every other scale in each interval."""
    found: list[dict[str, Any]] = [{**node, "scale": 1.0, "low": None, "high": None}]
    for low, high in intervals:
        found += [{**node, "scale": scale, "low": low, "high": high} for scale in sorted(scales) if scale != 1]
    return [each for i, each in enumerate(found) if each not in found[:i]]


def sampler_nodes(settings: GuidanceStudy, restored: Restored) -> dict[str, dict[str, Any]]:
    """Name -> the configuration of each sampler, with `settings.steps` if it is set."""
    found: dict[str, dict[str, Any]] = {}
    for words in settings.samplers:
        if settings.steps is not None and " sampler.steps=" in words:
            raise UserError(
                f"samplers: {words}: its steps are set twice, because steps={settings.steps} applies to every sampler; "
                "remove one of them"
            )
        if words == RUN:
            node = of_run("sampler", restored.config)
            name = f"{RUN} ({str(node['_target_']).rpartition('.')[2]})"
        else:
            name, node = words, node_of(words)
        found[name] = node if settings.steps is None else {**node, "steps": settings.steps}
    return found


def title(sampler: str, guidance: Guidance) -> str:
    """The title of a trial: `heun, scale 2 in (0.19, 1.61]`."""
    inside = f" in {interval_text(guidance.low, guidance.high)}" if guidance.limited else ""
    return f"{sampler}, scale {guidance.scale:g}{inside}"
