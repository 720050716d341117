"""The report of a run: its figures, and a README that says what was run and with what result."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from diffusion.config.quoting import override, resume_command
from diffusion.console import count, duration
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import figures, style
from diffusion.report.formatting import (
    describe,
    markdown_table,
    number_protocols,
    protocol_text,
    sampler_text,
    value_text,
)
from diffusion.runs.folder import Run
from diffusion.runs.metrics import Metrics, Series, bin_names, validated_weights

BASELINES = ("untrained", "noise", "real", "floor")


def write_report(folder: str | Path, schedule: figures.Schedule | None = None, images: Tensor | None = None) -> Path:
    """Draw the figures of the run in `folder` and write its README.md; returns the README's path.

    Args:
        schedule: the run's noise schedule. Without it the noising strip, β_t and √ᾱ_t are not drawn anew.
        images: uint8 (N, 3, H, W) of the run's data, of which the first three are shown in the noising strip.

    A figure that can't be drawn, because data are missing, leaves an earlier file of its name in place; the README
    names the figures that are missing and why.
    """
    run = Run(Path(folder))
    missing = draw(run, schedule, images)
    readme = run.folder / "README.md"
    replace(readme, compose(run, missing))
    return readme


CAPTIONS = {
    "samples.png": "Samples as training proceeds (memoir, Fig. 8): a column per training step, each row from one and "
    "the same noise.",
    "mse.png": "Denoising MSE over training (memoir, Fig. 9), on the frozen validation images and on as many training "
    "images; where the shaded gap widens, the network memorizes its images. Lines: %s; grey: the objective of "
    "single batches (in its own units, where it is not the simple loss of ε).",
    "copies.png": "The samples that are most like a training image, above that image (mirrored where that is nearer). "
    "r is the distance to it in units of the mean distance to the 50 nearest: near 0 for a copy.",
    "bins.png": "The validation MSE by time t, in tenths of [0, T], early in training to late.",
    "gap.png": "The generalisation gap by noise level: denoising MSE on held-out images less that on training images, "
    "at the same times and noises, with 95% intervals. Where it rises the network memorizes its training images; "
    "its level also tells which of the two sets is harder.",
    "noising.png": "The forward process on images of this run's data (memoir, Fig. 1): "
    "x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε with one ε for all t.",
    "beta.png": "The variance that each step adds, β_t = 1 − ᾱ_t/ᾱ_{t−1} (memoir, Fig. 2); log-SNR on a schedule that "
    "does not preserve variance, which has no β_t.",
    "signal.png": "What x_t holds of the image, √ᾱ_t, and of the noise, √(1−ᾱ_t) (memoir, Fig. 10).",
}


def draw(run: Run, schedule: figures.Schedule | None, images: Tensor | None) -> dict[str, str]:
    """Write to figures/ what can be drawn; returns name -> reason for each figure neither drawn nor there."""
    metrics, no_schedule = run.metrics, "no noise schedule was at hand"
    drawn: dict[str, Callable[[], Figure] | str] = {
        "samples.png": (lambda: figures.samples_over_training(run.grids))
        if run.grids
        else "no samples/step-*.png was written",
        "mse.png": (lambda: figures.mse(metrics, run.steps_per_epoch))
        if {"val/mse", "fit/mse", "train/loss"} & metrics.keys()
        else "metrics.csv holds no losses",
        "bins.png": (lambda: figures.bins(metrics))
        if bin_names(metrics)
        else "metrics.csv holds no MSE by time (val/mse_bin0, …)",
        "gap.png": (lambda: figures.gap(metrics, schedule))
        if "gap/mse_bin0" in metrics
        else "metrics.csv holds no gap by time (gap/mse_bin0, …)",
        "noising.png": no_schedule
        if schedule is None
        else "no images of the data were at hand"
        if images is None
        else lambda: figures.noising(images[:3], schedule),
        "beta.png": no_schedule if schedule is None else lambda: figures.beta(schedule),
        "signal.png": no_schedule if schedule is None else lambda: figures.signal(schedule),
    }
    missing = {}
    for name, job in drawn.items():
        path = run.folder / "figures" / name
        if not isinstance(job, str):
            style.save(job(), path)
        elif not path.is_file():
            missing[name] = job
    return missing


def compose(run: Run, missing: Mapping[str, str]) -> str:
    """The README of a run as Markdown; `missing` names the figures that are not there, with the reason."""
    name = run.config.get("name") or run.info.get("name") or run.folder.resolve().name
    sections = [
        f"# Run {name}",
        summary(run),
        picture(run),
        "## Recipe\n\n" + recipe(run.settings),
        "## Scores\n\n" + scores_section(run.scores),
        "## Denoising error\n\n" + mse_section(run.metrics),
        "## Figures\n\n" + figures_section(run, missing),
        "## Files\n\n" + files_section(run),
        "## What to do with it\n\n" + commands(run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary(run: Run) -> str:
    """One paragraph: state, how much, how long, on what, and the command."""
    info = run.info
    if not info:
        return "run.json is missing: when this run was made, for how long and on what device is not known."
    state = {
        "complete": "This run is complete.",
        "running": "**This run is not finished** (or was killed): its state is `running`.",
        "failed": "**This run failed**; what follows is what there is of it.",
    }.get(str(info.get("state")), f"The state of this run is `{info.get('state', 'not recorded')}`.")
    reason = str(info.get("reason", "")).strip(" :")
    sentences = [f"{state} The reason: `{reason}`." if reason else state]
    if info.get("steps") is not None:
        epochs = f" ({count(info['epochs'], 'epoch')})" if info.get("epochs") is not None else ""
        sentences.append(f"It made {count(info['steps'], 'training step')}{epochs}.")
    if info.get("parameters") is not None:
        sentences.append(f"The network has {info['parameters']:,} parameters.")
    if isinstance(info.get("images"), Mapping):
        counts = ", ".join(f"{count:,} {split}" for split, count in info["images"].items())
        sentences.append(f"Images: {counts}.")
    took = (
        f"It took {duration(info['seconds'])}" if info.get("seconds") is not None else "How long it took is not known"
    )
    device = f"on {info['device']}" if info.get("device") else "on a device that was not recorded"
    cores = f", in a machine of {info['host_cores']} CPU cores" if info.get("host_cores") else ""
    dates = " to ".join(str(info[key]).replace("T", " ") for key in ("started", "finished") if info.get(key))
    sentences.append(f"{took} {device}{cores}{f' ({dates})' if dates else ''}.")
    if isinstance(info.get("versions"), Mapping) and info["versions"]:
        sentences.append("Versions: " + ", ".join(f"{key} {value}" for key, value in info["versions"].items()) + ".")
    text = " ".join(sentences)
    return f"{text}\n\n```bash\n{info['command']}\n```" if info.get("command") else text


def picture(run: Run) -> str:
    """The last samples, embedded."""
    last = run.folder / "samples" / "final.png"
    if last.is_file():
        return "![Samples at the end of the run](samples/final.png)\n\n*Samples at the end of the run.*"
    if run.grids:
        step, path = run.grids[-1]
        return f"![Samples](samples/{path.name})\n\n*Samples at step {step:,}; samples/final.png was not written.*"
    return "No samples were written."


def recipe(config: Mapping[str, Any]) -> str:
    """A row per group of the config, in its own order."""
    if not config:
        return "config.yaml is missing: the recipe is not known."
    rows = [(f"`{key}`", describe(value)) for key, value in config.items() if value is not None]
    return markdown_table(("part", "choice"), rows)


def scores_section(scores: Sequence[Score]) -> str:
    """A row per score with its baselines beside it, and the protocols in words.

    A baseline stands beside a score only under the score's own protocol, and `untrained` samples only under the same
    sampler. A baseline that fits no score has a row of its own, so that every score is shown.
    """
    if not scores:
        return "No scores were computed."
    protocols = number_protocols(scores)
    rows: list[list[str]] = []
    used: set[int] = set()
    for score in scores:
        if score.what not in BASELINES:
            beside = {what: _baseline(what, score, scores) for what in BASELINES}
            used |= {id(baseline) for baseline in beside.values()}
            rows.append(_score_row(score, beside, protocols))
    for score in scores:
        if score.what in BASELINES and id(score) not in used:
            rows.append(_score_row(score, {score.what: score}, protocols))
    head = ("score", "value", "untrained network", "pure noise", "real images", "floor", "protocol", "of what, how")
    words = {score.protocol_key: f"{score.metric}: {protocol_text(score)}" for score in reversed(scores)}
    listed = "\n".join(f"- [{i}] {words[key]}." for key, i in protocols.items())
    return (
        markdown_table(head, rows, right=range(1, 6))
        + "\n\nLower is closer to the reference, except for precision, recall, coverage and the Inception Score, where "
        "higher is better; density and the Vendi score have no better end. In brackets: 95% intervals over draws of as "
        "many samples. The floor is what two sets of real images have that differ by chance alone. Only numbers of one "
        "protocol may be compared:\n\n" + listed
    )


def _baseline(what: str, score: Score, scores: Sequence[Score]) -> Score | None:
    """The latest of `scores` that may stand beside `score`."""
    for other in reversed(scores):
        same_sampler = what != "untrained" or other.source.get("sampler") == score.source.get("sampler")
        if other.what == what and same_sampler and other.protocol_key == score.protocol_key:
            return other
    return None


def _score_row(score: Score, baselines: Mapping[str, Score | None], protocols: Mapping[str, int]) -> list[str]:
    source, how = score.source, [score.what]
    if source.get("step") is not None:
        how.append(f"step {source['step']:,}")
    if source.get("weights"):
        how.append(f"{source['weights']} weights")
    if source.get("sampler"):
        how.append(sampler_text(source["sampler"]))
    if source.get("seed") is not None:
        how.append(f"seed {source['seed']}")
    return [
        score.metric,
        "—" if score.what in BASELINES else f"**{value_text(score)}**",
        *(value_text(baselines.get(name)) for name in BASELINES),
        f"[{protocols[score.protocol_key]}]",
        ", ".join(how),
    ]


def mse_section(metrics: Metrics) -> str:
    """val, fit and their gap, of the average and of the raw weights, at the end and at the validation optimum."""
    quantities = [
        ("validation images", "val/mse"),
        ("validation images, raw weights", "val/mse_raw"),
        ("as many training images", "fit/mse"),
        ("as many training images, raw weights", "fit/mse_raw"),
        ("gap (validation − training)", "gap/mse"),
    ]
    present = [(label, metrics[name]) for label, name in quantities if name in metrics]
    if not present:
        return "No validation was logged."
    rows = []
    head = ["mean ‖ε − ε_θ(x_t, t)‖²/d", "last"]
    best = None
    if "val/mse" in metrics:
        val = metrics["val/mse"]
        best = int(val.step[val.value.argmin()])
        head = [head[0], f"last (step {val.step[-1]:,})", f"at the best validation (step {best:,})"]
    for label, series in present:
        at_best = [_at(series, best)] if best is not None else []
        rows.append([label, f"{series.value[-1]:.5g}", *at_best])
    absent = [f"`{name}`" for _, name in quantities if name not in metrics]
    note = f"\n\nNot logged: {', '.join(absent)}." if absent else ""
    return (
        markdown_table(head, rows, right=(1, 2))
        + f"\n\nOf the {validated_weights([metrics])} unless stated otherwise."
        + note
    )


def _at(series: Series, step: int) -> str:
    return "—" if step not in series.step else f"{series.value[series.step == step][-1]:.5g}"


def figures_section(run: Run, missing: Mapping[str, str]) -> str:
    lines = validated_weights([run.metrics]) + ("; dashed: raw weights" if "val/mse_raw" in run.metrics else "")
    shown = [
        f"![{name.removesuffix('.png')}](figures/{name})\n\n*{caption.replace('%s', lines)}*"
        for name, caption in CAPTIONS.items()
        if (run.folder / "figures" / name).is_file()
    ]
    absent = [f"- `figures/{name}` is missing: {reason}." for name, reason in missing.items()]
    return "\n\n".join([*shown, "\n".join(absent)] if absent else shown)


FILES = {
    "config.yaml": "every setting of the run, resolved",
    "run.json": "state, duration, device, sizes, versions, command",
    "metrics.csv": "everything logged, by step (counted from 0)",
    "scores.json": "the scores, each with its protocol",
    "samples": "grids of samples from the same fixed noise, one per logged time",
    "checkpoints/last.ckpt": "the last state of training, to resume from",
    "checkpoints/best.ckpt": "the state with the lowest validation MSE",
    "figures": "the figures above",
}


def files_section(run: Run) -> str:
    there = {name: what for name, what in FILES.items() if (run.folder / name).exists()}
    absent = [f"`{name}`" for name in FILES if name not in there]
    listed = markdown_table(("file", "what it is"), [(f"[{name}]({name})", what) for name, what in there.items()])
    return listed + (f"\n\nMissing: {', '.join(absent)}." if absent else "")


def commands(run: Run) -> str:
    """How to sample, score, resume and report, for the checkpoints that are there."""
    near = os.path.relpath(run.folder)
    place = run.folder.resolve() if near.startswith("..") else Path(near)
    checkpoints = [name for name in ("best", "last") if (run.folder / f"checkpoints/{name}.ckpt").is_file()]
    lines = []
    if checkpoints:
        ckpt = override("ckpt", f"{place}/checkpoints/{checkpoints[0]}.ckpt")
        lines += [
            "# more samples, by the run's own sampler unless another is chosen",
            f"python -m diffusion.sample {ckpt} n=64 seed=1",
        ]
    if "last" in checkpoints:
        lines += [
            "# the scores again, or on another split",
            f"python -m diffusion.evaluate {override('ckpt', f'{place}/checkpoints/last.ckpt')} split=val",
            "# resume it; to train beyond its end, raise trainer.max_epochs or trainer.max_steps",
            resume_command(place),
        ]
    lines += ["# this page and its figures again", f"python -m diffusion.report {shlex.quote(str(place))}"]
    note = "" if checkpoints else "There is no checkpoint: nothing to sample from, evaluate or resume.\n\n"
    return note + "```bash\n" + "\n".join(lines) + "\n```"
