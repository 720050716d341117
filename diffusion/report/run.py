"""The report of a run: its figures, its README, and report.html, which have the same sections."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from diffusion.base.console import console, duration
from diffusion.base.pixels import grid, save_png, spread
from diffusion.config.build import check_targets, make
from diffusion.errors import command_line, first_line, shown
from diffusion.process.schedule import Scaled
from diffusion.report import figures, images
from diffusion.report.classes import NOTE, class_table
from diffusion.report.compare import from_default
from diffusion.report.faults import SHOWN, SPECTRUM, WORST, words_of
from diffusion.report.floor import floor_blocks, write_floor
from diffusion.report.numbers import plus_minus
from diffusion.report.page import Block, Cell, Section, Table, escaped, shell, write_files
from diffusion.report.scores import describe, protocols, score_table
from diffusion.report.study import is_study, write_study
from diffusion.report.verdict import verdict
from diffusion.runs import again
from diffusion.runs.folder import ENSEMBLE, FLOOR, Run, bins_of, holds_checkpoints
from diffusion.runs.record import CONFIG, read_json

FACTS = {  # of run.json, with their names
    "steps": "steps", "total_steps": "steps of the whole run", "epochs": "epochs",
    "images": "images", "classes": "training images by class", "left_out": "files left out (data_report.json)",
    "parameters": "parameters", "seconds": "time", "seconds_of": "time of the parts", "peak_gb": "peak memory in GB",
    "devices": "devices", "device": "device", "host_cores": "CPU cores", "started": "started", "finished": "finished",
    "versions": "versions",
}  # fmt: skip
Blocks = list[Block | str | None]
SAMPLES = "figures/samples.png"
ROWS, COLUMNS = 4, 8  # of the samples during training
COPIES = (
    "The samples that a training or held-out image, moved and recoloured, predicts best, the best first, each above "
    "that image."
)
MEASURED = (
    "Of each channel of samples and held-out measurements, standardised: the power by the number of periods, and the "
    "values. Lines are the same where both have the same statistics."
)
EYES = (
    "The energy distance of {n} samples from {train} training images, as each eye sees it, and the margins of both "
    "questions: real images are above any of them in at most 5% of cases."
)
NOTES = (  # below a table of scores
    "The reference are held-out images, or for `train/` the training images. Brackets are 95% intervals over other "
    "samples of the same model and, if the reference are tiles, the distances' over other photographs. Real images are "
    "as many of another split, or all of it (n). Split half is the score of two random parts of real images, which "
    "differ by chance alone. Lower is closer to the reference, except for precision, recall and coverage, where higher "
    "is better; for density, neither is."
)


def write_report(folder: Path, schedule: figures.Schedule | None = None, state: str | None = None) -> list[Path]:
    """Draw the figures of the run in `folder`, write its README.md and report.html, and return their paths.

    The noise schedule, if not given, is built from the configuration; the state is read from run.json.
    """
    run = Run(folder)
    if is_study(run):
        return write_study(run)
    if (folder / FLOOR).is_file() and run.command != "train":
        return write_floor(run)
    if run.grids:
        steps, rows = images.over_training(run, COLUMNS)
        by_noise = torch.from_numpy(rows[:, :ROWS]).swapaxes(0, 1).flatten(0, 1).permute(0, 3, 1, 2)
        save_png(grid(by_noise, len(steps), large=True), folder / SAMPLES)
    return write_files(folder, "README.md", f"Run {run.name}", run_sections(run, schedule, state), state or run.state)


def run_sections(run: Run, schedule: figures.Schedule | None = None, state: str | None = None) -> list[Section]:
    """The sections of a run's report; those without data are empty. A page shows the details folded."""
    folder, schedule, state = run.folder, schedule or schedule_of(run), state or run.state
    members, by_class = read_json(folder / ENSEMBLE), class_table(run.scores)
    return [
        Section("", beginning(run, state)),
        Section("Before and after", images.before_and_after(run)),
        *verdict(run, state).sections,
        Section("What is wrong", faults(run)),
        Section("Training", training(run, schedule)),
        Section("Where the loss is", floor_blocks(folder)),
        Section("Ensembles", [figures.ensembles(members)] if members else []),
        Section("Spectrum and values", [images.figure(folder, "figures/measurements.png", MEASURED)]),
        Section("Denoising", images.film(folder / "samples/film.png")),
        Section("Against the truth", truth(run)),
        Section("Scores", [score_table(run.scores), NOTES] if run.scores else []),
        Section("Scores by class", [by_class, NOTE] if by_class else []),
        Section(
            "More samples", [images.gallery(run, "Samples after those at the top.", images.FIRST, images.MORE)], True
        ),
        Section("Nearest real images", [images.figure(folder, "figures/copies.png", COPIES)], True),
        Section("Recipe", recipe(run), True),
        Section("Facts", [facts(run)], True),
        Section("Noise schedule", [figures.signal(schedule)] if schedule else [], True),
        Section("What the referee has seen", eyes(run.referee), True),
        Section("Protocols of the scores", protocols(run.scores), True),
        Section("More commands", [more_commands(run)], True),
    ]


def schedule_of(run: Run) -> figures.Schedule | None:
    """The schedule that the run's configuration describes; None, with a message, if it cannot be built.

    No config choice may name its class, for the folder may come from someone else.
    """
    try:
        if node := run.settings.get("schedule"):
            check_targets(node, "schedule", run.folder / CONFIG)
            made, scale = make(node, "schedule"), (run.settings.get("data") or {}).get("scale", 1.0)
            return made if scale == 1 else Scaled(made, scale)
    except Exception as error:
        console.print(f"the report does not show the schedule: {first_line(error)}", style="yellow", soft_wrap=True)
    return None


def beginning(run: Run, state: str) -> Blocks:
    """What the run is and its state; the first of its latest samples."""
    info, made = run.info, "Samples of the network."
    if "images" in info:
        step, _ = images.drawn(run) or (0, None)
        seconds = info.get("seconds_of", {}).get("training", info["seconds"])
        time = f", {duration(seconds)}" if step == info.get("steps") else ""
        made = f"Samples of a network that has learned from {info['images']['train']:,} images in {step:,} steps{time}."
    reason = escaped(str(info.get("reason", "")).strip(" :"))
    words = f"This run {doing(info, state)}." + (f" The reason: {reason}." if reason else "")
    return [
        Block(words, Markup() if state == "complete" and not reason else None),
        images.gallery(run, made),
        images.in_files(run.folder, "samples/final.png", made),
        images.figure(run.folder, "samples/conditions.png", "What these samples were drawn from."),
    ]


def doing(info: Mapping[str, Any], state: str) -> str:
    """What a run in this state does, or has done."""
    ended = {"failed": "has failed", "died": "has died: its process is gone", "interrupted": "was interrupted"}
    if state == "running" and "steps" in info and info["steps"] == info.get("total_steps"):
        return "has trained, and is computing its last samples and scores"
    if state == "running" and info.get("left"):
        return f"is at step {info['steps']:,} of {info['total_steps']:,}, {duration(info['left'])} left"
    return {**ended, "pruned": "was ended by its search"}.get(state, f"is {state}")


def recipe(run: Run) -> Blocks:
    """The command of the recipe, the one that resumed the run, and the settings that differ from the defaults."""
    if run.command != "train" or not run.settings:
        return []
    (name, *typed) = run.commands[-1] if run.commands else ["train"]
    resumed = any(word.startswith("ckpt=") for word in typed)
    rows = [[f"`{key}`", *pair] for key, pair in from_default(run).items()]
    return [
        shell(command_line(again.recipe(run))),
        "The run was resumed by:" if resumed else None,
        shell(command_line([name, *run.own, *typed])) if resumed else None,
        Table(("setting", "this run", "default"), rows) if rows else None,
    ]


def facts(run: Run) -> Table | None:
    rows = [[name, fact(key, run.info[key])] for key, name in FACTS.items() if run.info.get(key) not in (None, "", {})]
    return Table(("fact", "value"), rows) if rows else None


def fact(key: str, value: Any) -> str:
    if key == "seconds_of":
        return ", ".join(f"{part} {duration(seconds)}" for part, seconds in value.items())
    if key in ("started", "finished"):
        return str(value)[:19].replace("T", " ")
    return duration(value) if key == "seconds" else f"{value:,}" if isinstance(value, int) else describe(value)


def faults(run: Run) -> Blocks:
    """The figures of what is wrong with the samples, if anything is."""
    if not run.faults:
        return []
    names = ", ".join(words_of(fault)[0] for fault in run.faults[:SHOWN])
    worst = images.figure(run.folder, "figures/faults.png", WORST.format(names))
    return [worst, images.figure(run.folder, "figures/spectrum.png", SPECTRUM)]


def training(run: Run, schedule: figures.Schedule | None = None) -> Blocks:
    """The curves of training, with the samples at the step that the reader selects."""
    metrics = run.metrics
    names = {name for name in metrics if not re.search("_bin|_half|gap/(half|se)", name)}
    errors = names & {*figures.ERRORS}
    if "train/loss" in names and (metrics["train/loss"].value <= 0).any():  # with learned weights
        errors.remove("train/loss")
    left = sorted(name for name in names - errors if len(metrics[name].step) > 1)
    steps = ", ".join(f"{run.grids[i][0]:,}" for i in spread(len(run.grids), COLUMNS))
    strip = f"Samples during training, each row from one noise, a column for each of these steps: {steps}."
    return [
        images.in_files(run.folder, SAMPLES, strip) if run.grids else None,
        *images.training_strip(run),
        figures.mse({each: metrics[each] for each in errors}) if errors else None,
        figures.bins(metrics) if bins_of(metrics, "val/mse") else None,
        figures.gap(metrics, schedule) if schedule and bins_of(metrics, "gap/half") else None,
        figures.others(metrics, left) if left else None,
    ]


def truth(run: Run) -> Blocks:
    """For data whose distribution is known: the field of the score with a slider, paths, densities; errors by time."""
    paths = "Paths from the same noise to the data: by the exact score, and by the network."
    densities = "The density of the data, and that of the network's probability flow."
    return [
        *images.film(run.folder / "figures/field.png", "time", ["the field of the score: exact, and by the network"]),
        images.figure(run.folder, "figures/paths.png", paths),
        images.figure(run.folder, "figures/densities.png", densities),
        figures.regret(run.metrics) if bins_of(run.metrics, "regret/mse") else None,
    ]


def eyes(found: Mapping[str, Any]) -> Blocks:
    """The distance that each of the referee's eyes has seen, and the margins beyond which it tells samples apart."""
    questions = {"further": "further images", "others": "other photographs"}
    answers = [found[name]["eyes"] for name in questions if name in found]
    if not answers:
        return []
    rows = []
    for name, eye in answers[0].items():
        distance = Cell(plus_minus(eye["distance"], 1.96 * eye["error"]), eye["distance"])
        rows.append([name, distance, *(seen[name]["margin"] for seen in answers)])
    head = ["eye", "distance", *(words for name, words in questions.items() if name in found)]
    return [EYES.format(n=found["n"], train=found["train"]), Table(head, rows)]


def more_commands(run: Run) -> str:
    """Commands to report, sample, score and train on."""
    place = again.place_of(run)
    lines = [f"{command_line(['report', *run.own, str(place)])}   # this page again"]
    if holds_checkpoints(run.folder):
        model = [*run.own, f"ckpt={shown(place)}"]
        of_class = [["sample", *model, "n=64", f"label={shown(name)}"] for name in run.info.get("classes", {})]
        commands = [["sample", *model, "n=64", "seed=1"], *of_class[:1], *again.enlarged(run), ["evaluate", *model]]
        lines += [*map(command_line, commands), f"{command_line(again.onward(run))}   # train on"]
    return shell(*lines)
