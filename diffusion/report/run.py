"""The report of a run: its figures, its README, and report.html, which have the same sections."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from diffusion.base.console import console, duration
from diffusion.config.build import check_targets, make
from diffusion.errors import command_line, first_line, override
from diffusion.pixels import grid, save_png, spread
from diffusion.report import figures, images
from diffusion.report.compare import from_default
from diffusion.report.faults import FIGURES, SHOWN, words_of
from diffusion.report.floor import floor_blocks, write_floor
from diffusion.report.page import SHELL, Block, Chart, Picture, Section, Table, escaped, picture, write_files
from diffusion.report.scores import describe, number, plus_minus, protocols, score_table
from diffusion.report.study import is_study, write_study
from diffusion.report.verdict import onward, place_of, recipe_command, verdict
from diffusion.runs.folder import FLOOR, Run, bins_of, holds_checkpoints, validated_weights
from diffusion.runs.record import CONFIG, read_json

FACTS = {  # of run.json, with their names
    "steps": "steps", "total_steps": "steps of the whole run", "epochs": "epochs",
    "images": "images", "classes": "training images by class", "left_out": "files left out (data_report.json)",
    "parameters": "parameters", "seconds": "time", "seconds_of": "time of the parts", "peak_gb": "peak memory in GB",
    "devices": "devices", "device": "device", "host_cores": "CPU cores", "started": "started", "finished": "finished",
    "versions": "versions",
}  # fmt: skip
SAMPLES, COPIES, GIVEN = "figures/samples.png", "figures/copies.png", "samples/conditions.png"
PATHS, DENSITIES = "figures/paths.png", "figures/densities.png"
ASKED = "asked.json"  # with condition=facts: the facts that samples were asked for, and those that they have
ROWS, COLUMNS = 4, 8  # of the samples during training
CAPTIONS = {
    SAMPLES: "Samples during training, each row from one noise, a column for each of these steps: ",
    COPIES: "The samples that a training or held-out image, moved and recoloured, predicts best, the best first, each "
    "above that image.",
    "mse": "Denoising MSE during training, on the frozen validation images and on equally many training images. Shaded "
    "where it is higher on the former: where this gap widens, the network memorizes its images. Dashed: raw weights; "
    "grey: the objective of single batches (in its own units, unless it is the simple loss of ε). The other lines: ",
    "bins": "The validation MSE by time t, in tenths of [0, T], from early to late in training.",
    "regret": "The squared difference of the network's estimate of ε from the best one, on validation data, by time t.",
    PATHS: "Paths from the same noise to the data: by the exact score, and by the network.",
    DENSITIES: "The density of the data, and that of the network's probability flow.",
    "gap": "MSE on held-out images minus that on training images by noise level, at the same times and noises, with "
    "95% intervals. Where it rises, the network memorizes; its level also depends on which set is harder.",
    "others": "The other logged quantities.",
    "asked": "The facts that the samples were asked for, those of held-out images, and those that they have.",
    "signal": "The factors of the image, √ᾱ_t, and of the noise, √(1−ᾱ_t), in x_t.",
}
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


def chart(there: object, draw: Callable[..., Figure], *data: Any, more: str = "") -> Chart | None:
    """The chart of a function of `figures` with its caption and file, if its data is `there`."""
    name = draw.__name__
    return Chart(CAPTIONS[name] + more, draw(*data), f"figures/{name}.png") if there else None


def write_report(folder: Path, schedule: figures.Schedule | None = None, state: str | None = None) -> list[Path]:
    """Draw the figures of the run in `folder`, write its README.md and report.html, and return their paths.

    Args:
        schedule: the run's noise schedule; by default, it is built from the configuration.
        state: the state of the run, if run.json does not contain it yet.
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
    columns = ", ".join(f"{run.grids[i][0]:,}" for i in spread(len(run.grids), COLUMNS))
    strip = picture(SAMPLES, f"{CAPTIONS[SAMPLES]}{columns}.") if run.grids else None  # a page has it in "Training"
    trained = run.command == "train" and run.settings
    asked = read_json(folder / ASKED)
    rows = [[f"`{key}`", *pair] for key, pair in from_default(run).items()] if trained else []
    (name, *last) = run.commands[-1] if run.commands else ["train"]
    commands = [SHELL.format(recipe_command(run)) if trained else None]
    if any(word.startswith("ckpt=") for word in last):
        commands += ["The run was resumed by:", SHELL.format(command_line(name, [*run.own, *last]))]
    details: dict[str, Sequence[Block | None]] = {
        "More samples": [images.gallery(run, "Samples after those at the top.", images.FIRST, images.MORE)],
        "Nearest real images": images.figure(folder, COPIES, CAPTIONS[COPIES]),
        "Recipe": [*commands, Table(("setting", "this run", "default"), rows) if rows else None],
        "Facts": [facts(run)],
        "Noise schedule": [chart(schedule, figures.signal, schedule)],
        "What the referee has seen": eyes(run.referee),
        "Protocols of the scores": protocols(run.scores),
        "More commands": [more_commands(run)],
    }
    return [
        Section("", pictures(run, state)),
        Section("Before and after", images.before_and_after(run)),
        *verdict(run, state).sections,
        Section("What is wrong", faults(run)),
        Section("Training", [strip, *training(run, schedule)]),
        Section("Where the loss is", floor_blocks(folder)),
        Section("Asked for", [chart(asked, figures.asked, asked)]),
        Section("Denoising", images.film(folder / "samples/film.png")),
        Section("Against the truth", truth(run)),
        Section("Scores", [score_table(run.scores), NOTES] if run.scores else []),
        *(Section(title, blocks, folded=True) for title, blocks in details.items()),
    ]


def schedule_of(run: Run) -> figures.Schedule | None:
    """The schedule that the run's configuration describes; None, with a message, if it cannot be built.

    No config choice may name its class, for the folder may come from someone else.
    """
    try:
        if node := run.settings.get("schedule"):
            check_targets(node, "schedule", run.folder / CONFIG)
            return make(node, "schedule")
    except Exception as error:
        console.print(f"the report does not show the schedule: {first_line(error)}", style="yellow", soft_wrap=True)
    return None


def pictures(run: Run, state: str) -> list[Block | None]:
    """What the run is and its state; the first of its latest samples."""
    info, final, (step, _) = run.info, "samples/final.png", images.drawn(run) or (0, None)
    reason = str(info.get("reason", "")).strip(" :")
    made = "Samples of the network."
    if "images" in info:
        seconds = info.get("seconds_of", {}).get("training", info["seconds"])
        made = f"Samples of a network that has learned from {info['images']['train']:,} images in {step:,} steps"
        made += f", {duration(seconds)}." if step == info.get("steps") else "."
    ended = {"failed": "has failed", "died": "has died: its process is gone", "interrupted": "was interrupted"}
    if "steps" in info and info["steps"] == info.get("total_steps"):
        ended["running"] = "has trained, and is computing its last samples and scores"
    elif left := info.get("left"):
        ended["running"] = f"is at step {info['steps']:,} of {info['total_steps']:,}, {duration(left)} left"
    ended["pruned"] = "was ended by its search"
    words = f"This run {ended.get(state, f'is {state}')}." + f" The reason: {escaped(reason)}." * bool(reason)
    return [
        words if reason or state != "complete" else Picture(words),
        images.gallery(run, made),
        picture(final, made) if (run.folder / final).is_file() else None,
        *images.figure(run.folder, GIVEN, "What these samples were drawn from."),
    ]


def facts(run: Run) -> Table | None:
    """The facts of run.json."""
    rows = [[name, fact(key, run.info[key])] for key, name in FACTS.items() if run.info.get(key) not in (None, "", {})]
    return Table(("fact", "value"), rows) if rows else None


def fact(key: str, value: Any) -> str:
    """A value of run.json as text."""
    if key == "seconds_of":
        return ", ".join(f"{part} {duration(seconds)}" for part, seconds in value.items())
    if key in ("started", "finished"):
        return str(value)[:19].replace("T", " ")
    return duration(value) if key == "seconds" else f"{value:,}" if isinstance(value, int) else describe(value)


def faults(run: Run) -> list[Block | None]:
    """The figures of what is wrong with the samples, if anything is."""
    names = ", ".join(words_of(fault)[0] for fault in run.faults[:SHOWN])
    found = [images.figure(run.folder, file, caption.format(names)) for file, caption in FIGURES.items()]
    return [block for blocks in found for block in blocks] if names else []


def training(run: Run, schedule: figures.Schedule | None = None) -> list[Block | None]:
    """The curves of training, with the samples at the step that the reader selects."""
    metrics = run.metrics
    names = {name for name in metrics if "_bin" not in name and not name.startswith(("gap/half", "gap/se"))}
    errors = names & {*figures.ERRORS}
    if "train/loss" in names and (metrics["train/loss"].value <= 0).any():  # with learned weights
        errors.remove("train/loss")
    left = sorted(name for name in names - errors if len(metrics[name].step) > 1)
    more = f"{validated_weights(metrics)}."
    if "val/mse" in metrics:
        step, value = metrics["val/mse"]
        more += f" The best validation MSE is {number(value.min())}, at step {step[value.argmin(axis=0)]:,}."
    return [
        *images.training_strip(run),
        chart(errors, figures.mse, {each: metrics[each] for each in errors}, more=more),
        chart(bins_of(metrics, "val/mse"), figures.bins, metrics),
        chart(schedule and bins_of(metrics, "gap/half"), figures.gap, metrics, schedule),
        chart(left, figures.others, metrics, left),
    ]


def truth(run: Run) -> list[Block | None]:
    """For data whose distribution is known: the field of the score with a slider, paths, densities; errors by time."""
    return [
        *images.film(run.folder / "figures/field.png", "time", ["the field of the score: exact, and by the network"]),
        *images.figure(run.folder, PATHS, CAPTIONS[PATHS]),
        *images.figure(run.folder, DENSITIES, CAPTIONS[DENSITIES]),
        chart(bins_of(run.metrics, "regret/mse"), figures.regret, run.metrics),
    ]


def eyes(found: Mapping[str, Any]) -> list[Block]:
    """The distance that each of the referee's eyes has seen, and the margins beyond which it tells samples apart."""
    answers = [found[name] for name in ("further", "others") if name in found]
    if not answers:
        return []
    seen = answers[0]["eyes"]
    rows = [
        [name, plus_minus(eye["distance"], 1.96 * eye["error"]), *(number(a["eyes"][name]["margin"]) for a in answers)]
        for name, eye in seen.items()
    ]
    head = ("eye", "distance", *("further images", "other photographs")[: len(answers)])
    return [EYES.format(n=found["n"], train=found["train"]), Table(head, rows, range(1, len(head)))]


def more_commands(run: Run) -> str:
    """Commands to report, sample, score and train on."""
    place, ckpt = place_of(run), override("ckpt", place_of(run))
    lines = [f"{command_line('report', [*run.own, str(place)])}   # this page again"]
    if holds_checkpoints(run.folder):
        draw, score = (f"{command_line(name, run.own)} {ckpt}" for name in ("sample", "evaluate"))
        of_class = [f"{draw} n=64 {override('label', name)}" for name in run.info.get("classes", {})]
        lines += [f"{draw} n=64 seed=1", *of_class[:1], score, f"{onward(run)}   # train on"]
    return SHELL.format("\n".join(lines))
