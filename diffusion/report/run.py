"""A run's folder: reading what training wrote, drawing its figures, writing its README."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from diffusion.errors import UserError
from diffusion.report import figures, style
from diffusion.report.metrics import Metrics, Series, bin_names, read_metrics
from diffusion.report.protocol import (
    Record,
    comparable,
    describe,
    number,
    number_protocols,
    protocol_line,
)

PARTS = ("config.yaml", "run.json", "metrics.csv", "scores.json")
YARDSTICKS = ("untrained", "noise", "real")


@dataclass(frozen=True)
class Run:
    """What lies in a run's folder, read when asked for; a part that is missing reads as empty.

    Raises UserError for a folder that holds none of a run's files, and for a file that can't be parsed.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not is_run(self.folder):
            raise UserError(
                f"{self.folder}: no run here; expected a folder with one of {', '.join(PARTS)}, "
                "as python -m diffusion.train writes it"
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        if not path.is_file():
            return {}
        try:
            config = OmegaConf.to_container(OmegaConf.load(path))
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{path}: not readable as yaml ({first_line(error)}); restore it") from error
        return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return _json(self.folder / "run.json", {})

    @cached_property
    def scores(self) -> list[Record]:
        return _json(self.folder / "scores.json", [])

    @cached_property
    def metrics(self) -> Metrics:
        path = self.folder / "metrics.csv"
        try:
            return read_metrics(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a table of numbers ({first_line(error)}); restore it") from error

    @cached_property
    def grids(self) -> list[tuple[int, Path]]:
        """(step, file) of samples/step-00001000.png, … in order of step."""
        found = ((re.fullmatch(r"step-(\d+)\.png", p.name), p) for p in self.folder.glob("samples/step-*.png"))
        return sorted((int(match[1]), path) for match, path in found if match)

    @property
    def steps_per_epoch(self) -> float | None:
        steps, epochs = self.info.get("steps"), self.info.get("epochs")
        return steps / epochs if steps and epochs else None


def is_run(folder: Path) -> bool:
    """True where `folder` holds at least one of a run's files."""
    return any((folder / part).is_file() for part in PARTS)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _json(path: Path, empty: Any) -> Any:
    if not path.is_file():
        return empty
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({first_line(error)}); restore it") from error
    if not isinstance(content, type(empty)):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a {type(empty).__name__}; restore it")
    return content


def write_report(folder: str | Path, schedule: figures.Schedule | None = None, images: Tensor | None = None) -> Path:
    """Draw the figures of the run in `folder` and write its README.md; returns the README's path.

    Args:
        schedule: the run's noise schedule. Without it the noising strip, β_t and √ᾱ_t are not drawn anew.
        images: uint8 (N, 3, H, W) of the run's data, of which the first three are shown in the noising strip.

    A figure that can't be drawn, for want of its data, leaves an earlier file of its name in place; the README
    names the figures that are missing and why.
    """
    run = Run(Path(folder))
    missing = draw(run, schedule, images)
    readme = run.folder / "README.md"
    readme.write_text(compose(run, missing), encoding="utf-8")
    return readme


CAPTIONS = {
    "samples.png": "Samples as training proceeds (memoir, Fig. 8): a column per training step, each row from one and "
    "the same noise.",
    "mse.png": "Denoising MSE over training (memoir, Fig. 9), on the frozen validation images and on as many training "
    "images; where the shaded gap widens, the network learns its images by heart. Lines: EMA weights; dashed: raw "
    "weights; grey: the loss of single batches.",
    "bins.png": "The validation MSE by time t, in tenths of [0, T], early in training to late.",
    "noising.png": "The forward process on images of this run's data (memoir, Fig. 1): "
    "x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε with one ε for all t.",
    "beta.png": "The variance that each step adds, β_t = 1 − ᾱ_t/ᾱ_{t−1} (memoir, Fig. 2).",
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
        "## Recipe\n\n" + recipe(run.config),
        "## Scores\n\n" + scores_section(run.scores),
        "## Denoising error\n\n" + mse_section(run.metrics),
        "## Figures\n\n" + figures_section(run.folder, missing),
        "## Files\n\n" + files_section(run),
        "## What to do with it\n\n" + commands(run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table; the columns whose indices are in `right` are aligned to the right."""
    right = set(right)
    lines = [head, ["--:" if i in right else "---" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def duration(seconds: float) -> str:
    """86.4 -> `1 min 26 s`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def summary(run: Run) -> str:
    """One paragraph: state, how much, how long, on what, and the command."""
    info = run.info
    if not info:
        return "run.json is missing: when this run was made, for how long and on what device is not known."
    state = {
        "complete": "This run is complete.",
        "running": "**This run is not finished** (or was stopped without a word): its state is `running`.",
        "failed": "**This run failed**; what follows is what it left.",
    }.get(str(info.get("state")), f"The state of this run is `{info.get('state', 'not recorded')}`.")
    sentences = [state]
    if info.get("steps") is not None:
        epochs = f" ({info['epochs']:,} epochs)" if info.get("epochs") is not None else ""
        parameters = f" of a network with {info['parameters']:,} parameters" if info.get("parameters") else ""
        sentences.append(f"It made {info['steps']:,} training steps{epochs}{parameters}.")
    if isinstance(info.get("images"), Mapping):
        counts = ", ".join(f"{count:,} {split}" for split, count in info["images"].items())
        sentences.append(f"Images: {counts}.")
    took = (
        f"It took {duration(info['seconds'])}" if info.get("seconds") is not None else "How long it took is not known"
    )
    device = f"on {info['device']}" if info.get("device") else "on a device that was not recorded"
    cores = f" ({info['host_cores']} CPU cores in the host)" if info.get("host_cores") else ""
    dates = " to ".join(str(info[key]) for key in ("started", "finished") if info.get(key))
    sentences.append(f"{took} {device}{cores}{': ' + dates if dates else ''}.")
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
    return table(("part", "choice"), rows) + "\n\nEvery value stands in [config.yaml](config.yaml)."


def scores_section(records: Sequence[Record]) -> str:
    """A row per score of samples with its yardsticks beside it, and the protocols in words.

    A yardstick stands beside a score only under the score's own protocol; `untrained` images also by its sampler.
    """
    if not records:
        return "No scores were computed."
    protocols = number_protocols(records)
    samples = [r for r in records if r.get("what") == "samples"]
    beside: list[Record] = []
    rows = []

    def row(record: Record, yardsticks: Mapping[str, Record | None]) -> list[str]:
        generated = record.get("what") in ("samples", "untrained")
        how = [f"step {record['step']:,}"] if record.get("step") is not None and record["what"] == "samples" else []
        how += [f"{record['weights']} weights"] if record.get("weights") and record["what"] == "samples" else []
        how += [describe(record["sampler"])] if record.get("sampler") and generated else []
        how += [f"seed {record['seed']}"] if record.get("seed") is not None else []
        own = f"**{number(record)}**" if record.get("what") == "samples" else "—"
        return [
            str(record.get("metric")),
            own,
            *(number(yardsticks.get(what)) for what in YARDSTICKS),
            f"[{protocols[comparable(record)]}]",
            ", ".join(how) or "not recorded",
        ]

    for record in samples:
        near: dict[str, Record | None] = {}
        for what in YARDSTICKS:
            same = [
                r
                for r in records
                if r.get("what") == what
                and comparable(r) == comparable(record)
                and (what != "untrained" or r.get("sampler") == record.get("sampler"))
            ]
            near[what] = same[-1] if same else None
            beside += same[-1:]
        rows.append(row(record, near))
    for record in records:
        if record.get("what") != "samples" and not any(record is used for used in beside):
            rows.append(row(record, {str(record.get("what")): record}))
    head = ("score", "samples", "untrained network", "pure noise", "real images", "protocol", "how")
    words = {key: next(r for r in records if comparable(r) == key) for key in protocols}
    listed = "\n".join(
        f"- [{i}] {words[key].get('metric')}: {protocol_line(words[key])}." for key, i in protocols.items()
    )
    return (
        table(head, rows, right=range(1, 5))
        + "\n\nLower is closer to the reference. Only numbers of one protocol may be compared:\n\n"
        + listed
    )


def mse_section(metrics: Metrics) -> str:
    """val, fit and their gap, EMA and raw, at the end and at the validation optimum."""
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
    return table(head, rows, right=(1, 2)) + "\n\nEMA weights where not said otherwise." + note


def _at(series: Series, step: int) -> str:
    return "—" if step not in series.step else f"{series.value[series.step == step][-1]:.5g}"


def figures_section(folder: Path, missing: Mapping[str, str]) -> str:
    shown = [
        f"![{name.removesuffix('.png')}](figures/{name})\n\n*{caption}*"
        for name, caption in CAPTIONS.items()
        if (folder / "figures" / name).is_file()
    ]
    absent = [f"- `figures/{name}` is missing: {reason}." for name, reason in missing.items()]
    return "\n\n".join([*shown, "\n".join(absent)] if absent else shown)


FILES = {
    "config.yaml": "every setting of the run, resolved",
    "run.json": "state, duration, device, sizes, versions, command",
    "metrics.csv": "everything logged, by step",
    "scores.json": "the scores, each with its protocol",
    "samples": "grids of samples from the same fixed noise, one per logged time",
    "checkpoints/last.ckpt": "the last state of training, to resume from",
    "checkpoints/best.ckpt": "the state with the lowest validation MSE",
    "figures": "the figures above",
}


def files_section(run: Run) -> str:
    there = {name: what for name, what in FILES.items() if (run.folder / name).exists()}
    absent = [f"`{name}`" for name in FILES if name not in there]
    listed = table(("file", "what it is"), [(f"[{name}]({name})", what) for name, what in there.items()])
    return listed + (f"\n\nMissing: {', '.join(absent)}." if absent else "")


def commands(run: Run) -> str:
    """How to sample, score, resume and report, for the checkpoints that are there."""
    near = os.path.relpath(run.folder)
    place = run.folder.resolve() if near.startswith("..") else Path(near)
    checkpoints = [name for name in ("best", "last") if (run.folder / f"checkpoints/{name}.ckpt").is_file()]
    lines = []
    if checkpoints:
        ckpt = f"{place}/checkpoints/{checkpoints[0]}.ckpt"
        lines += [
            "# more samples",
            f"python -m diffusion.sample ckpt={ckpt} n=64 sampler=ddim sampler.steps=50 seed=0",
            "# the scores again, on any split",
            f"python -m diffusion.evaluate ckpt={ckpt} split=val",
        ]
    if "last" in checkpoints and run.info.get("command"):
        lines += ["# go on training", f"{run.info['command']} ckpt={place}/checkpoints/last.ckpt"]
    lines += ["# this page and its figures again", f"python -m diffusion.report {place}"]
    note = "" if checkpoints else "There is no checkpoint: nothing to sample from, evaluate or resume.\n\n"
    return note + "```bash\n" + "\n".join(lines) + "\n```"
