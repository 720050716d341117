"""The report of a run: its figures, its README, and report.html, which have the same sections."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import check_targets, make, model_of
from diffusion.console import console, duration
from diffusion.errors import command_line, first_line, override, resume_command, shown
from diffusion.pixels import height_width
from diffusion.report import figures, images, style
from diffusion.report.compare import from_default
from diffusion.report.page import Block, Chart, Picture, Section, Table, escaped, listed, picture, write_files
from diffusion.report.scores import BASELINES, alike, describe, number, protocol_text, score_table, source_text
from diffusion.report.study import is_study, write_study
from diffusion.report.verdict import EXPLAINED, Verdict, place_of, recipe_command, resumable, verdict
from diffusion.runs.folder import Run, bins_of, holds_checkpoints, validated_weights
from diffusion.runs.record import CONFIG

FACTS = {  # of run.json, with their names
    "steps": "steps", "total_steps": "steps of the whole run", "epochs": "epochs",
    "images": "images", "parameters": "parameters", "seconds": "time", "seconds_of": "time of the parts",
    "peak_gb": "peak memory in GB", "devices": "devices", "device": "device", "host_cores": "CPU cores",
    "started": "started", "finished": "finished", "versions": "versions",
}  # fmt: skip
SHELL = "```bash\n{}\n```"
SAMPLES, NOISING, COPIES = (f"figures/{name}.png" for name in ("samples", "noising", "copies"))
CAPTIONS = {
    SAMPLES: "Samples during training: a column per training step; each row is from one noise.",
    NOISING: "The forward process on images of this run: x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε, one ε for all t.",
    COPIES: "The samples most similar to a training image, each above that image. r is "
    "the distance to it divided by the mean distance to the 50 nearest: near 0 for a copy.",
    "mse": "Denoising MSE during training, on the frozen validation images and on equally many "
    "training images; where the shaded gap widens, the network memorizes its images. Dashed: raw weights; grey: the "
    "objective of single batches (in its own units, unless it is the simple loss of ε). The other lines: ",
    "bins": "The validation MSE by time t, in tenths of [0, T], from early to late in training.",
    "gap": "MSE on held-out images minus that on training images by noise level, at the same times and noises, with "
    "95% intervals. Where it rises, the network memorizes; its level also depends on which set is harder.",
    "others": "The other logged quantities.",
    "signal": "The factors of the image, √ᾱ_t, and of the noise, √(1−ᾱ_t), in x_t.",
    "beta": "The variance added by each step, β_t = 1 − ᾱ_t/ᾱ_{t−1}, or the log-SNR of a schedule "
    "that does not preserve variance.",
}


def chart(there: object, draw: Callable[..., Figure], *data: Any, more: str = "") -> Chart | None:
    """The chart of a function of `figures` with its caption and file, if its data is `there`."""
    name = draw.__name__
    return Chart(CAPTIONS[name] + more, draw(*data), f"figures/{name}.png") if there else None


def write_report(
    folder: Path, schedule: figures.Schedule | None = None, data: Tensor | None = None, state: str | None = None
) -> list[Path]:
    """Draw the figures of the run in `folder`, write its README.md and report.html, and return their paths.

    Args:
        schedule: the run's noise schedule; by default, it is built from the configuration.
        data: images of the run's data, uint8 (N, C, H, W); the noising figure shows the first three. Without them, an
            earlier figure is kept.
        state: the state of the run, if run.json does not contain it yet.
    """
    run = Run(folder)
    if is_study(run):
        return write_study(run)
    schedule = schedule or built(run, "schedule")
    if run.grids:
        style.save(figures.samples_over_training(run.grids), folder / SAMPLES)
    if data is not None and schedule is not None:
        style.save(figures.noising(data[:3], schedule), folder / NOISING)
    return write_files(folder, "README.md", f"Run {run.name}", run_sections(run, schedule, state), state or run.state)


def run_sections(run: Run, schedule: figures.Schedule | None = None, state: str | None = None) -> list[Section]:
    """The sections of a run's report; those without data are empty. A page shows the details folded."""
    folder, schedule, state = run.folder, schedule or built(run, "schedule"), state or run.state
    found = verdict(run, state)
    strip = picture(SAMPLES, CAPTIONS[SAMPLES]) if run.grids else None  # the page has it in the section below
    trained = run.command == "train" and run.settings
    rows = [[f"`{key}`", *pair] for key, pair in from_default(run).items()] if trained else []
    last = str(run.info.get("command", ""))
    commands = [SHELL.format(recipe_command(run)) if trained else None]
    if "ckpt=" in last:
        commands += ["The run was resumed by:", SHELL.format(last)]
    details: dict[str, Sequence[Block | None]] = {
        "All samples": [images.all_samples(folder / "samples/all.png")],
        "Nearest training images": images.figure(folder, COPIES, CAPTIONS[COPIES]),
        "Recipe": [*commands, Table(("setting", "this run", "default"), rows) if rows else None],
        "Facts": [facts(run)],
        "Noising": images.figure(folder, NOISING, CAPTIONS[NOISING]),
        "Noise schedule": [chart(schedule, draw, schedule) for draw in (figures.signal, figures.beta)],
        "Protocols of the scores": protocols(run),
        "More commands": [more_commands(run)],
    }
    return [
        Section("", pictures(run, state)),
        Section("Before and after", [images.before_and_after(run)]),
        Section("How good is it?", judgement(run, found)),
        Section("Next step", [found.step, SHELL.format(found.command)]),
        Section("Training", [strip, *training(run, schedule)]),
        Section("Denoising", images.film(folder / "samples/film.png")),
        Section("Scores", scores(run)),
        *(Section(title, blocks, folded=True) for title, blocks in details.items()),
    ]


def built(run: Run, part: str, use: Callable[[Any], Any] = lambda built: built) -> Any:
    """What `use` makes of a part of the run's configuration; None without one.

    It is also None, with a message, if this fails: a class may not be named by any config choice (the folder may come
    from someone else), and a custom part may not support this use. The network is on the meta device, without weights.
    """
    if not run.settings.get(part):
        return None
    try:
        node = model_of(run.settings, run.info.get("facts") or {}) if part == "model" else run.settings[part]
        check_targets(node, part, run.folder / CONFIG)
        with torch.device("meta" if part == "model" else "cpu"):
            return use(make(node, part))
    except Exception as error:
        console.print(f"the report does not show the {part}: {first_line(error)}", style="yellow", soft_wrap=True)
        return None


def pictures(run: Run, state: str) -> list[Block | None]:
    """What the run is and its state; the first of its latest samples."""
    info, final = run.info, "samples/final.png"
    reason = str(info.get("reason", "")).strip(" :")
    made = "Samples of the network."
    if "images" in info:
        made = f"Samples of a network that has learned from {info['images']['train']:,} images"
        made += f" in {info.get('steps', 0):,} steps, {duration(info['seconds'])}."
    ended = {"failed": "has failed", "died": "has died: its process is gone", "interrupted": "was interrupted"}
    words = f"This run {ended.get(state, f'is {state}')}." + f" The reason: {escaped(reason)}." * bool(reason)
    return [
        words if reason or state != "complete" else Picture(words),
        images.gallery(run, made),
        picture(final, made) if (run.folder / final).is_file() else None,
    ]


def judgement(run: Run, found: Verdict) -> list[Block | None]:
    """The verdict: its headline, what was found, what a distance is, and what the numbers do not show."""
    if not found.findings:
        return []
    return [
        f"**{escaped(found.headline)}**" if found.headline else None,
        listed(found.findings.values()),
        EXPLAINED if found.limits else None,
        "What these numbers do not show:" if found.limits else None,
        listed(found.limits),
    ]


def facts(run: Run) -> Table:
    """The facts of run.json, and the cost of the network."""
    info = run.info
    found = [(name, fact(key, info[key])) for key, name in FACTS.items() if info.get(key) not in (None, "", {})]
    return Table(("fact", "value"), [*found, ("network", built(run, "model", partial(network, run)) or "unknown")])


def fact(key: str, value: Any) -> str:
    """A value of run.json as text."""
    if key == "seconds_of":
        return ", ".join(f"{part} {duration(seconds)}" for part, seconds in value.items())
    if key in ("started", "finished"):
        return str(value)[:19].replace("T", " ")
    return duration(value) if key == "seconds" else f"{value:,}" if isinstance(value, int) else describe(value)


def network(run: Run, model: Any) -> str:
    """The parameters of a network on the meta device, and the cost of one image."""
    channels = model_of(run.settings, run.info.get("facts") or {}).get("in_channels", 3)
    shape = (channels, *height_width(run.settings["data"]["resolution"]))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta"))
    flops, n = number(counter.get_total_flops() / 1e9), sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}: {n:,} parameters; {flops} GFLOP for one image (a multiply-add is two operations)"


def training(run: Run, schedule: figures.Schedule | None) -> list[Block | None]:
    """The curves of training, with the samples at the step that the reader selects."""
    metrics = run.metrics
    names = {name for name in metrics if "_bin" not in name and not name.startswith(("gap/half", "gap/se"))}
    errors = names & {*figures.ERRORS}
    if "train/loss" in names and (metrics["train/loss"].value > 0).all():  # not with learned weights
        errors.add("train/loss")
    left = sorted(name for name in names - errors if len(metrics[name].step) > 1)
    more = f"{validated_weights(metrics)}."
    if "val/mse" in metrics:
        step, value = metrics["val/mse"]
        more += f" The best validation MSE is {number(value.min())}, at step {step[value.argmin()]:,}."
    return [
        *images.training_strip(run),
        chart(errors, figures.mse, {each: metrics[each] for each in errors}, run.info.get("epoch_length"), more=more),
        chart(bins_of(metrics, "val/mse"), figures.bins, metrics),
        chart(schedule and bins_of(metrics, "gap/mse"), figures.gap, metrics, schedule),
        chart(left, figures.others, metrics, left),
    ]


def scores(run: Run) -> list[Block]:
    """The latest scores with their baselines."""
    if not run.scores:
        return []
    return [
        score_table(run.scores),
        "The reference are held-out images, or for `train/` the training images. Brackets are 95% intervals over other "
        "samples of the same model. Real images are as many of another split. The floor is the score of two sets of "
        "real images that differ by chance alone. Lower is closer to the reference, except for precision, recall and "
        "coverage, where higher is better; for density, neither is.",
    ]


def protocols(run: Run) -> list[Block]:
    """How the scored samples were made, and how each score was measured."""
    made = alike((score.name, source_text(score)) for score in run.scores if score.what not in BASELINES)
    measured = alike((score.name, protocol_text(score)) for score in run.scores)
    words = listed(f"{words}." for words in [*made, *measured])
    return ["Only compare numbers of the same protocol.", words] if words else []


def more_commands(run: Run) -> str:
    """Commands to report, sample, score and resume."""
    place, lines = place_of(run), [f"{command_line('report', [str(place_of(run))])}   # this page again"]
    if holds_checkpoints(run.folder):
        ckpt = override("ckpt", place)
        lines += [
            f"{command_line(name, [])} {ckpt}{more}" for name, more in (("sample", " n=64 seed=1"), ("evaluate", ""))
        ]
        if resumable(run):
            lines += [f"{resume_command(place)}   # to train beyond the end, raise trainer.max_steps"]
        else:
            again = recipe_command(run, f"init={shown(place)}")
            lines += [f"{again}   # only the weights were kept: a new run that starts from them"]
    return SHELL.format("\n".join(lines))
