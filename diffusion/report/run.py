"""The report of a run: its figures, and a README with the recipe and the results."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.config.quoting import override, resume_command
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import figures, style
from diffusion.report.formatting import (
    MISSING,
    describe,
    escaped,
    markdown_table,
    number,
    protocol_text,
    sampler_text,
    value_text,
)
from diffusion.report.page.document import write_page
from diffusion.report.page.run import FILES, facts, run_page
from diffusion.report.page.study import is_study, study_page
from diffusion.runs.folder import Run, epoch_lengths
from diffusion.runs.metrics import Metrics, bins_of, validated_weights

BASELINES = {"untrained": "untrained network", "noise": "pure noise", "real": "real images", "floor": "floor"}
CAPTIONS = {
    "samples.png": "Samples during training (memoir, Fig. 8): one column per training step; each row starts from "
    "the same noise.",
    "mse.png": "Denoising MSE during training (memoir, Fig. 9), on the frozen validation images and on equally many "
    "training images; where the shaded gap widens, the network memorizes its images. Lines: %s; grey: the objective of "
    "single batches (in its own units, unless it is the simple loss of ε).",
    "copies.png": "The samples most similar to a training image, each above that image (mirrored if that is closer). "
    "r is the distance to it divided by the mean distance to the 50 nearest: near 0 for a copy.",
    "bins.png": "The validation MSE by time t, in tenths of [0, T], from early to late in training.",
    "gap.png": "The generalisation gap by noise level: denoising MSE on held-out images minus that on training images, "
    "at the same times and noises, with 95% intervals. Where it rises, the network memorizes its training images; "
    "its level also depends on which of the two sets is harder.",
    "noising.png": "The forward process on images of this run's data (memoir, Fig. 1): "
    "x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε with one ε for all t.",
    "beta.png": "The variance added by each step, β_t = 1 − ᾱ_t/ᾱ_{t−1} (memoir, Fig. 2); the log-SNR for a schedule "
    "that does not preserve variance, because it has no β_t.",
    "signal.png": "The factors of the image, √ᾱ_t, and of the noise, √(1−ᾱ_t), in x_t (memoir, Fig. 10).",
}
NEEDS = {
    "samples.png": "no samples/step-*.png was written",
    "mse.png": "metrics.csv contains no losses",
    "bins.png": "metrics.csv contains no MSE by time (val/mse_bin0, …)",
    "gap.png": "metrics.csv contains no gap by time (gap/mse_bin0, …)",
    "noising.png": "the data's images or the noise schedule were not available",
    "beta.png": "the noise schedule was not available",
    "signal.png": "the noise schedule was not available",
}


def write_report(
    folder: Path,
    schedule: figures.Schedule | None = None,
    images: Tensor | None = None,
    state: str | None = None,
) -> Path:
    """Draw the figures of the run in `folder`, write its report.html and README.md, and return the README's path.

    If a figure cannot be drawn because data are missing, an existing file is kept. The README lists the missing figures
    with the reasons.

    Args:
        schedule: The run's noise schedule. Without it, the noising figure, β_t and √ᾱ_t are not drawn.
        images: Images of the run's data, uint8 (N, C, H, W); the noising figure shows the first three.
        state: The state of the run, if run.json does not contain it yet.
    """
    run = Run(folder)
    missing = draw(run, schedule, images)
    write_page(run.folder, study_page(run) if is_study(run) else run_page(run, state))
    readme = run.folder / "README.md"
    replace(readme, compose(run, missing, state))
    return readme


def draw(run: Run, schedule: figures.Schedule | None, images: Tensor | None) -> dict[str, str]:
    """Draw into figures/ what the data allow. Returns name -> reason for each figure that is missing there."""
    metrics, folder = run.metrics, run.folder / "figures"
    if run.grids:
        style.save(figures.samples_over_training(run.grids), folder / "samples.png")
    if {"val/mse", "fit/mse", "train/loss"} & metrics.keys():
        style.save(figures.mse(metrics, epoch_lengths(run.info)), folder / "mse.png")
    if bins_of(metrics, "val/mse"):
        style.save(figures.bins(metrics), folder / "bins.png")
    if bins_of(metrics, "gap/mse"):
        style.save(figures.gap(metrics, schedule), folder / "gap.png")
    if schedule is not None:
        style.save(figures.beta(schedule), folder / "beta.png")
        style.save(figures.signal(schedule), folder / "signal.png")
        if images is not None:
            style.save(figures.noising(images[:3], schedule), folder / "noising.png")
    return {name: reason for name, reason in NEEDS.items() if not (folder / name).is_file()}


def compose(run: Run, missing: Mapping[str, str], state: str | None = None) -> str:
    """The README of a run as Markdown. `missing` maps the names of missing figures to the reasons."""
    sections = [
        f"# Run {escaped(run.name)}",
        summary(run, state),
        picture(run),
        "## Recipe\n\n" + recipe(run.settings),
        "## Scores\n\n" + scores_section(run.scores),
        "## Denoising error\n\n" + mse_section(run.metrics),
        "## Figures\n\n" + figures_section(run, missing),
        "## Files\n\n" + files_section(run),
        "## Next steps\n\n" + commands(run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary(run: Run, state: str | None = None) -> str:
    """The state of the run in words, a table of the other facts in run.json, and the command."""
    info = run.info
    if not info:
        return "run.json is missing: the date, duration and device of this run are unknown."
    state = state or str(info.get("state", "not recorded"))
    opening = {
        "complete": "This run is complete.",
        "running": "**This run is not finished** (or was killed): its state is `running`.",
        "failed": "**This run failed**; its partial results are below.",
    }.get(state, f"The state of this run is `{state}`.")
    reason = str(info.get("reason", "")).strip(" :")
    rows = [(name, escaped(text)) for name, text in facts(run, state) if name not in ("state", "reason")]
    parts = [
        f"{opening} The reason: `{reason}`." if reason else opening,
        markdown_table(("fact", "value"), rows) if rows else "",
        f"```bash\n{info['command']}\n```" if info.get("command") else "",
    ]
    return "\n\n".join(part for part in parts if part)


def picture(run: Run) -> str:
    """The latest samples, as an embedded image."""
    if (run.folder / "samples/final.png").is_file():
        return "![Samples at the end of the run](samples/final.png)\n\n*Samples at the end of the run.*"
    if run.grids:
        step, path = run.grids[-1]
        return f"![Samples](samples/{path.name})\n\n*Samples at step {step:,}; samples/final.png was not written.*"
    return "No samples were written."


def recipe(config: Mapping[str, Any]) -> str:
    """A table with a row per top-level key of the configuration, in its order."""
    if not config:
        return "config.yaml is missing: the recipe is unknown."
    rows = [(f"`{key}`", escaped(describe(value))) for key, value in config.items() if value is not None]
    return markdown_table(("part", "choice"), rows)


def scores_section(scores: Sequence[Score]) -> str:
    """A table with a row per score and its baselines, and the protocols as text.

    A baseline is shown next to a score only if their protocols are equal; `untrained` samples also need the same
    sampler. A baseline that belongs to no score gets its own row, so every score is shown.
    """
    if not scores:
        return "No scores were computed."
    keys = dict.fromkeys(score.protocol_key for score in scores)
    protocols = {key: f"[{i}]" for i, key in enumerate(keys, start=1)}
    rows: list[list[str]] = []
    used: set[int] = set()
    for score in scores:
        if score.what not in BASELINES:
            found = {what: _baseline(what, score, scores) for what in BASELINES}
            used |= {id(baseline) for baseline in found.values()}
            rows.append(_score_row(score, found, protocols))
    for score in scores:
        if score.what in BASELINES and id(score) not in used:
            rows.append(_score_row(score, {score.what: score}, protocols))
    words = {score.protocol_key: f"{score.name}: {protocol_text(score)}" for score in reversed(scores)}
    listed = "\n".join(f"- {number} {words[key]}." for key, number in protocols.items())
    return (
        markdown_table(("score", "value", *BASELINES.values(), "protocol", "source"), rows, right=range(1, 6))
        + "\n\nLower is closer to the reference, except for precision, recall, coverage and the Inception Score, where "
        "higher is better; density and the Vendi score have no better direction. In brackets: 95% intervals over "
        "resamples of the same size. The floor is the score of two sets of real images that differ by chance alone. "
        "Only compare numbers of the same protocol:\n\n" + listed
    )


def _baseline(what: str, score: Score, scores: Sequence[Score]) -> Score | None:
    """The latest of `scores` that is the baseline `what` for `score`."""
    for other in reversed(scores):
        same_sampler = what != "untrained" or other.source.get("sampler") == score.source.get("sampler")
        if other.what == what and same_sampler and other.protocol_key == score.protocol_key:
            return other
    return None


def _score_row(score: Score, baselines: Mapping[str, Score | None], protocols: Mapping[str, str]) -> list[str]:
    source, how = score.source, [score.what]
    if source.get("step") is not None:
        how.append(f"step {source['step']:,}")
    if source.get("weights"):
        how.append(f"{source['weights']} weights")
    if source.get("sampler"):
        how.append(sampler_text(source["sampler"]))
    if source.get("guidance"):
        how.append(sampler_text(source["guidance"]))
    if source.get("precision"):
        how.append(source["precision"])
    if source.get("seed") is not None:
        how.append(f"seed {source['seed']}")
    return [
        score.name,
        MISSING if score.what in BASELINES else f"**{value_text(score)}**",
        *(value_text(baselines.get(name)) for name in BASELINES),
        protocols[score.protocol_key],
        ", ".join(how),
    ]


def mse_section(metrics: Metrics) -> str:
    """Validation and training error and their gap, for averaged and raw weights, at the end and at the best step."""
    quantities = {
        "val/mse": "validation images",
        "val/mse_raw": "validation images, raw weights",
        "fit/mse": "equally many training images",
        "fit/mse_raw": "equally many training images, raw weights",
        "gap/mse": "gap (validation − training)",
    }
    if not quantities.keys() & metrics.keys():
        return "No validation was logged."
    head, best = ["mean ‖ε − ε_θ(x_t, t)‖²/d", "last"], None
    if "val/mse" in metrics:
        val = metrics["val/mse"]
        best = int(val.step[val.value.argmin()])
        head = [head[0], f"last (step {val.step[-1]:,})", f"at the best validation (step {best:,})"]
    rows = []
    for name, label in quantities.items():
        if name in metrics:
            values = [metrics[name].value[-1], *([] if best is None else [metrics[name].at(best)])]
            rows.append([label, *(MISSING if math.isnan(value) else number(value) for value in values)])
    absent = [f"`{name}`" for name in quantities if name not in metrics]
    note = f"\n\nNot logged: {', '.join(absent)}." if absent else ""
    weights = validated_weights([metrics])
    return f"{markdown_table(head, rows, right=(1, 2))}\n\nFor the {weights} unless stated otherwise.{note}"


def figures_section(run: Run, missing: Mapping[str, str]) -> str:
    """The figures with their captions, and the reasons for missing ones."""
    lines = validated_weights([run.metrics]) + ("; dashed: raw weights" if "val/mse_raw" in run.metrics else "")
    shown = [
        f"![{name.removesuffix('.png')}](figures/{name})\n\n*{caption.replace('%s', lines)}*"
        for name, caption in CAPTIONS.items()
        if (run.folder / "figures" / name).is_file()
    ]
    absent = [f"- `figures/{name}` is missing: {reason}." for name, reason in missing.items()]
    return "\n\n".join([*shown, "\n".join(absent)] if absent else shown)


def files_section(run: Run) -> str:
    """A table of the files that exist, and the names of the missing ones."""
    there = {name: what for name, what in FILES.items() if (run.folder / name).exists()}
    absent = [f"`{name}`" for name in FILES if name not in there]
    listed = markdown_table(("file", "contents"), [(f"[{name}]({name})", what) for name, what in there.items()])
    return listed + (f"\n\nMissing: {', '.join(absent)}." if absent else "")


def commands(run: Run) -> str:
    """Commands to sample, score, resume and report, for the checkpoints that exist."""
    near = os.path.relpath(run.folder)
    place = run.folder.resolve() if near.startswith("..") else Path(near)
    checkpoints = [name for name in ("best", "last") if (run.folder / f"checkpoints/{name}.ckpt").is_file()]
    lines = []
    if checkpoints:
        ckpt = override("ckpt", f"{place}/checkpoints/{checkpoints[0]}.ckpt")
        lines += [
            "# draw more samples; with the run's sampler by default",
            f"python -m diffusion.sample {ckpt} n=64 seed=1",
        ]
    if "last" in checkpoints:
        split = (run.config.get("score") or {}).get("split", "val")
        lines += [
            "# score it again, on the same split",
            f"python -m diffusion.evaluate {override('ckpt', f'{place}/checkpoints/last.ckpt')} split={split}",
            "# resume; to train beyond the end, raise trainer.max_epochs or trainer.max_steps",
            resume_command(place),
        ]
    lines += ["# recreate this page and its figures", f"python -m diffusion.report {shlex.quote(str(place))}"]
    note = "" if checkpoints else "There is no checkpoint: nothing to sample from, evaluate or resume.\n\n"
    return note + "```bash\n" + "\n".join(lines) + "\n```"
