"""The report of a run: its figures, its README, and report.html, which have the same sections."""

import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion.checkpoint.facts import model_of
from diffusion.config.build import make
from diffusion.config.quoting import override, resume_command
from diffusion.config.untrusted import check_targets
from diffusion.console import console, count, duration
from diffusion.errors import UserError, first_line
from diffusion.files import replace
from diffusion.pixels import height_width
from diffusion.report import figures, pictures, style
from diffusion.report.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Section,
    Table,
    bullets,
    code_block,
    either,
    facts,
    markdown,
    paragraph,
    save_charts,
)
from diffusion.report.differences import from_default
from diffusion.report.formatting import MISSING, alike, describe, number, plus_minus, protocol_text
from diffusion.report.images import spread
from diffusion.report.page import write_page
from diffusion.report.scores import latest, score_table
from diffusion.report.study import is_study, study_of, study_sections, title_of
from diffusion.runs.folder import SCORES, Run, command_of
from diffusion.runs.metrics import Metrics, bins_of, validated_weights
from diffusion.runs.record import CONFIG

FILES = {
    "config.yaml": "every setting of the run",
    "run.json": "state, duration, device, sizes, versions, command",
    "metrics.csv": "everything logged, by step (counted from 0)",
    "scores.json": "the scores, each with its protocol",
    "samples": "grids of samples from the same noise at different steps",
    "checkpoints/last.ckpt": "the last training state, to resume from",
    "checkpoints/best.ckpt": "the state with the lowest validation MSE",
    "figures": "the figures above",
    "report.html": "this run as a page: open it in a browser",
}
LISTED = 60  # validations in a table
COLUMNS = {
    "val/mse": "validation images",
    "val/mse_raw": "the same, raw weights",
    "fit/mse": "training images",
    "fit/mse_raw": "the same, raw weights ",
    "gap/mse": "gap",
}
SAMPLES, NOISING, COPIES = "figures/samples.png", "figures/noising.png", "figures/copies.png"
CAPTIONS = {
    SAMPLES: "Samples during training (memoir, Fig. 8): one column per training step; each row starts from the same "
    "noise.",
    NOISING: "The forward process on images of this run's data (memoir, Fig. 1): x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε with one "
    "ε for all t.",
    COPIES: "The samples most similar to a training image, each above that image (mirrored if that is closer). r is "
    "the distance to it divided by the mean distance to the 50 nearest: near 0 for a copy.",
}


def write_report(
    folder: Path,
    schedule: figures.Schedule | None = None,
    images: Tensor | None = None,
    state: str | None = None,
) -> Path:
    """Draw the figures of the run in `folder`, write its report.html and README.md, and return the README's path.

    Args:
        schedule: the run's noise schedule; by default, it is built from the configuration.
        images: images of the run's data, uint8 (N, C, H, W); the noising figure shows the first three. Without them, an
            earlier figure is kept.
        state: the state of the run, if run.json does not contain it yet.
    """
    run = Run(folder)
    if is_study(run):
        study = study_of(run)
        sections, title = study_sections(study), title_of(study)
    else:
        sections, title = run_sections(run, schedule, state), f"Run {run.name}"
        if run.grids:
            style.save(figures.samples_over_training(run.grids), folder / SAMPLES)
        if images is not None and (schedule := schedule or schedule_of(run)) is not None:
            style.save(figures.noising(images[:3], schedule), folder / NOISING)
    save_charts(sections, folder)
    write_page(folder, title, sections, None if is_study(run) else state or run.state)
    replace(folder / "README.md", markdown(title, sections))
    return folder / "README.md"


def part_of(run: Run, part: str) -> Any:
    """A part of the run's configuration, built; None without one. The network is on the meta device, without weights.

    Raises UserError for a class that no config choice names: the folder may come from someone else.
    """
    if not run.settings.get(part):
        return None
    node = model_of(run.settings, facts_of(run)) if part == "model" else run.settings[part]
    check_targets(node, part, run.folder / CONFIG)
    with torch.device("meta" if part == "model" else "cpu"):
        return make(node, part)


def facts_of(run: Run) -> dict[str, Any]:
    """What follows from the settings and the data, such as the channels of the images."""
    found = run.info.get("facts")
    return dict(found) if isinstance(found, Mapping) else {}


def schedule_of(run: Run) -> figures.Schedule | None:
    """The noise schedule of a run; None if it has none or cannot be built."""
    try:
        found: figures.Schedule | None = part_of(run, "schedule")
    except UserError:  # the section of the schedule says why
        return None
    return found


def shown(what: str, make: Callable[[], Sequence[Block | None]]) -> Sequence[Block | None]:
    """The result of `make`; [] with a console message if it fails, since custom parts may not support this use.

    For example, a network may need more inputs than x and the label, or a device with actual values.
    """
    try:
        return make()
    except Exception as error:
        console.print(f"the report does not show the {what}: {first_line(error)}", style="yellow", soft_wrap=True)
        return []


def run_sections(run: Run, schedule: figures.Schedule | None = None, state: str | None = None) -> list[Section]:
    """The sections of a run's report; those without data are empty."""
    folder = run.folder
    return [
        Section("", partial(summary, run, state), ("run.json",)),
        Section("Samples", lambda: samples(run), ("samples",)),
        Section("Training", lambda: training(run, schedule or schedule_of(run)), ("metrics.csv", "samples")),
        Section("Denoising", lambda: [either(pictures.film(folder / "samples/film.png"))], ("samples",)),
        Section("Scores", lambda: scores_blocks(run), (SCORES,)),
        Section("Noising", lambda: picture(folder, NOISING), ("figures",)),
        Section("Nearest training images", lambda: picture(folder, COPIES), ("figures",)),
        Section("Noise schedule", lambda: shown("noise schedule", partial(schedule_blocks, run, schedule)), (CONFIG,)),
        Section("Network", lambda: shown("network", partial(network, run)), (CONFIG,)),
        Section("Recipe", lambda: recipe(run), (CONFIG,)),
        Section("Time and memory", lambda: costs(run.info), ("run.json",)),
        Section("Files", lambda: [facts([(k, v) for k, v in FILES.items() if (folder / k).exists()], linked=True)]),
        Section("Next steps", lambda: commands(run), ("run.json",)),
    ]


def summary(run: Run, state: str | None) -> list[Block | None]:
    """The state of the run, the facts of run.json, and the command."""
    info = run.info
    if not info:
        return [paragraph("run.json is missing: the date, duration and device of this run are unknown.")]
    state = state or run.state
    words = {
        "complete": "This run is complete.",
        "running": "This run is not finished.",
        "failed": "This run failed; its partial results are below.",
    }.get(state, f"The state of this run is `{state}`.")
    reason = str(info.get("reason", "")).strip(" :")
    final = "![Samples at the end of the run](samples/final.png)" * (run.folder / "samples/final.png").is_file()
    return [
        paragraph(f"{words} The reason: {reason}." if reason else words, None),
        facts(known(info)),
        code_block(info["command"]) if info.get("command") else None,
        either(text=final),
    ]


def known(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The content of run.json as pairs of a name and a text."""
    total = f" of {info['total_steps']:,}" if info.get("total_steps") else ""
    epochs = f" ({count(info['epochs'], 'epoch')})" if info.get("epochs") else ""  # complete ones
    batches = lambda b: f"{count(b['accumulate'], 'batch')} on {count(b['devices'], 'device')}"  # noqa: E731
    texts: dict[str, tuple[str, Callable[[Any], str]]] = {
        "steps": ("training steps", lambda n: f"{n:,}{total}{epochs}"),
        "batch": ("images per step", lambda b: f"{b['images']:,}: {b['size']} × {batches(b)}"),
        "images": ("images", lambda images: ", ".join(f"{n:,} {split}" for split, n in images.items())),
        "parameters": ("parameters", "{:,}".format),
        "seconds": ("time", duration),
        "peak_gb": ("peak memory", "{:g} GB".format),
        "device": ("device", lambda name: f"{info['devices']} × {name}" if (info.get("devices") or 1) > 1 else name),
        "host_cores": ("CPU cores of the machine", str),
        "started": ("started", lambda time: time[:19].replace("T", " ")),
        "finished": ("finished", lambda time: time[:19].replace("T", " ")),
        "versions": ("versions", lambda found: ", ".join(f"{key} {value}" for key, value in found.items())),
    }
    return [(name, text(info[key])) for key, (name, text) in texts.items() if info.get(key) not in (None, "")]


def samples(run: Run) -> list[Block]:
    """All last samples, and those during training, which the page shows at each step of the next section."""
    link = f"![Samples during training]({SAMPLES})\n\n*{CAPTIONS[SAMPLES]}*" * bool(run.grids)
    return [either(pictures.all_samples(run.folder / "samples/all.png"), link)]


def picture(folder: Path, file: str) -> list[Block]:
    """A figure of the run that consists of pictures."""
    link = f"![{CAPTIONS[file]}]({file})\n\n*{CAPTIONS[file]}*" * (folder / file).is_file()
    return [either(pictures.figure(folder / file, CAPTIONS[file]), link)]


def training(run: Run, schedule: figures.Schedule | None) -> list[Block | None]:
    """The curves of training with the samples at the step that the reader selects, and the errors as a table."""
    metrics = run.metrics
    names = {name for name in metrics if "_bin" not in name and not name.startswith(("gap/half", "gap/se"))}
    in_units = "train/loss" in names and bool((metrics["train/loss"].value > 0).all())  # not with learned weights
    errors = names & {*figures.ERRORS, *(["train/loss"] if in_units else [])}
    left = sorted(name for name in names - errors if len(metrics[name].step) > 1)
    lines = validated_weights([metrics]) + ("; dashed: raw weights" if "val/mse_raw" in metrics else "")
    charts = []
    if errors:
        charts.append(Chart(
            "Denoising MSE during training (memoir, Fig. 9), on the frozen validation images and on equally many "
            "training images; where the shaded gap widens, the network memorizes its images. "
            f"Lines: {lines}; grey: the objective of single batches (in its own units, unless it is the simple loss of "
            "ε).",
            lambda: figures.mse({name: metrics[name] for name in errors}, run.info.get("epoch_lengths", ())),
            "figures/mse.png",
        ))  # fmt: skip
    if bins_of(metrics, "val/mse"):
        caption = "The validation MSE by time t, in tenths of [0, T], from early to late in training."
        charts.append(Chart(caption, lambda: figures.bins(metrics), "figures/bins.png"))
    if bins_of(metrics, "gap/mse"):
        charts.append(Chart(
            "The generalisation gap by noise level: denoising MSE on held-out images minus that on training images, at "
            "the same times and noises, with 95% intervals. Where it rises, the network memorizes its training images; "
            "its level also depends on which of the two sets is harder.",
            lambda: figures.gap(metrics, schedule),
            "figures/gap.png",
        ))  # fmt: skip
    if left:
        charts.append(Chart("The other logged quantities.", lambda: figures.others(metrics, left)))
    validated = {step for name in names if name.startswith("val/") for step in metrics[name].step.tolist()}
    steps = sorted(validated | {step for step, _ in run.grids})
    strip = pictures.training(run, steps) if run.grids else None
    return [Charts(charts, strip, "step", [f"step {step:,}" for step in steps], steps), numbers(metrics)]


def numbers(metrics: Metrics) -> Table | None:
    """The errors at the validations, of which at most `LISTED` and the best one are listed."""
    if "val/mse" not in metrics:
        return None
    kept = {name: head for name, head in COLUMNS.items() if name in metrics}
    steps, values = metrics["val/mse"]
    best = int(steps[values.argmin()])
    rows = []
    for step in sorted({best, *(int(steps[i]) for i in spread(len(steps), LISTED))}):
        cells = [Cell(f"{step:,}", step)]
        for name in kept:
            value = metrics[name].at(step)
            half = metrics["gap/half"].at(step) if name == "gap/mse" and "gap/half" in metrics else math.nan
            text = MISSING if math.isnan(value) else plus_minus(value, half)
            cells.append(Cell(text, value, bold=step == best and name == "val/mse"))
        rows.append(cells)
    about = {head: name for name, head in kept.items()}
    return Table(["step", *about], rows, "Denoising MSE", range(1 + len(kept)), about, "The numbers")


def scores_blocks(run: Run) -> list[Block | None]:
    """The latest scores as charts, and all of them as a table with their protocols."""
    scores = run.scores
    if not scores:
        return [paragraph("No scores were computed.")]
    rows = latest(scores)
    parts = [{m: found for m, found in rows.items() if m.startswith("train/") == trained} for trained in (False, True)]
    words = ("Scores of the latest samples.", "Distances to the training images.")
    charts = [Chart(text, partial(figures.scores, part)) for text, part in zip(words, parts, strict=True) if part]
    protocols = alike((score.name, protocol_text(score)) for score in scores)
    return [
        Charts(charts),
        paragraph(
            "Intervals are 95% intervals over resamples of the same size. The floor is the score of two sets of real "
            "images that differ by chance alone. Lower is closer to the reference, except for precision, recall, "
            "coverage and the Inception Score, where higher is better; density and the Vendi score have no better "
            "direction. Only compare numbers of the same protocol."
        ),
        score_table(scores, folded="All scores with their protocols"),
        bullets(f"[{i}] {words}." for i, words in enumerate(protocols, start=1)),
    ]


def schedule_blocks(run: Run, schedule: figures.Schedule | None) -> list[Block | None]:
    """The charts of the noise schedule and of the training times."""
    schedule = schedule or part_of(run, "schedule")
    if schedule is None:
        return []
    preserving = figures.preserving(schedule)
    factors = "The factors of the image, √ᾱ_t, and of the noise, √(1−ᾱ_t), in x_t (memoir, Fig. 10)."
    added = "The variance added by each step, β_t = 1 − ᾱ_t/ᾱ_{t−1} (memoir, Fig. 2)."
    other = "The log-SNR; the schedule does not preserve variance, so it has no β_t."
    charts = [
        Chart(factors, partial(figures.signal, schedule), "figures/signal.png"),
        Chart(added if preserving else other, partial(figures.beta, schedule), "figures/beta.png"),
    ]
    if preserving:
        charts.append(Chart("The log signal-to-noise ratio.", partial(figures.log_snr, schedule)))
    objective, prediction = (part_of(run, part) for part in ("objective", "prediction"))
    if hasattr(objective, "timesteps"):
        caption = "The density of the times drawn in training, and the weight of the loss."
        charts.append(Chart(caption, partial(figures.times, schedule, objective, prediction)))
    return [Charts(charts)]


def network(run: Run) -> list[Block]:
    """The network's parts and their cost."""
    size = (run.settings.get("data") or {}).get("resolution")
    if not run.settings.get("model") or not isinstance(size, int | list):
        return []
    channels = model_of(run.settings, facts_of(run)).get("in_channels", 3)
    return network_blocks(part_of(run, "model"), (channels, *height_width(size)))


def network_blocks(network: nn.Module, shape: tuple[int, int, int]) -> list[Block]:
    """The parts of a network on the meta device, in module order: class, parameters and GFLOP.

    The cost is that of one forward pass for one image of `shape` (C, H, W). Layers without parameters and without cost
    are left out.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inside = isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        parts |= {f"{name}.{k}": part for k, part in child.named_children()} if inside else {name: child}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta"))
    found = counter.get_flop_counts()
    counts = {name.partition(".")[2]: sum(ops.values()) / 1e9 for name, ops in found.items()}
    rows: list[Any] = []
    for name, module in parts.items():
        if (size := parameters(module)) or counts.get(name):
            flop = counts.get(name, 0.0)
            cells = [Cell(f"{size:,}", size), Cell(f"{flop:.4f}", flop)]
            rows.append([name, type(module).__name__, *cells])
    total = counter.get_total_flops() / 1e9
    words = (
        f"{type(network).__name__}: {parameters(network):,} parameters; one evaluation of one image takes "
        f"{number(total)} GFLOP (a multiply-add counts as two operations)."
    )
    head = ("part", "class", "parameters", "GFLOP")
    return [paragraph(words, None), Table(head, rows, "Parts of the network", (2, 3), folded="Parts")]


def parameters(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters())


def recipe(run: Run) -> list[Block]:
    """The settings that differ from the defaults, and all settings."""
    config, blocks = run.settings, list[Block]()
    if not config:
        return [paragraph("config.yaml is missing: the recipe is unknown.")]
    if command_of(run.folder) == "train":
        rows = [[f"`{key}`", *pair] for key, pair in from_default(run).items()]
        head = ("setting", "this run", "default")
        words = "Settings that differ from the defaults:" if rows else "All settings have their default values."
        blocks += [paragraph(words, None), *([Table(head, rows, words)] if rows else [])]
    rows = [[f"`{key}`", describe(value)] for key, value in config.items() if value is not None]
    return [*blocks, Table(("part", "choice"), rows, "All settings", folded="All settings")]


def costs(info: Mapping[str, Any]) -> list[Block]:
    """The time of each part of the run."""
    spent = {part: seconds for part, seconds in (info.get("seconds_of") or {}).items() if seconds > 0}
    if not spent:
        return []
    total = sum(spent.values())
    cells = [[part, Cell(duration(s), s), Cell(f"{s / total:.0%}", s)] for part, s in spent.items()]
    words = (
        f"{duration(total)} in all starts of the run. This is wall time from training to report: GPU work is counted "
        "where the process waits for it."
    )
    return [Table(("part", "time", "share"), cells, "Time", (1, 2)), paragraph(words)]


def commands(run: Run) -> list[Block]:
    """Commands to sample, score, resume and report, for the checkpoints that exist."""
    near = os.path.relpath(run.folder)
    place = run.folder.resolve() if near.startswith("..") else Path(near)
    ckpt = {name: f"{place}/checkpoints/{name}.ckpt" for name in ("best", "last")}
    there = [name for name in ckpt if (run.folder / f"checkpoints/{name}.ckpt").is_file()]
    split = (run.config.get("score") or {}).get("split", "val")
    lines = []
    if there:
        lines += [
            "# draw more samples; with the run's sampler by default",
            f"python -m diffusion.sample {override('ckpt', ckpt[there[0]])} n=64 seed=1",
        ]
    if "last" in there:
        lines += [
            "# score it again, on the same split",
            f"python -m diffusion.evaluate {override('ckpt', ckpt['last'])} split={split}",
            "# resume; to train beyond the end, raise trainer.max_epochs or trainer.max_steps",
            resume_command(place),
        ]
    lines += ["# recreate this page and its figures", f"python -m diffusion.report {shlex.quote(str(place))}"]
    return [code_block("\n".join(lines))]
