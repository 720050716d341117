"""The page data of a run, collected from the files of its folder."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from diffusion.config.quoting import resume_command
from diffusion.console import console, count, duration
from diffusion.errors import UserError, first_line
from diffusion.metric.record import Score
from diffusion.pixels import height_width
from diffusion.report.differences import from_default
from diffusion.report.formatting import describe, protocol_text, sampler_text, value_text
from diffusion.report.images import FILM_TIMES, opened, spread, tiles
from diffusion.report.page import pictures
from diffusion.report.page.recipe import built, network_table, schedule_curves
from diffusion.runs.folder import Run, command_of
from diffusion.runs.metrics import Metrics, validated_weights
from diffusion.runs.record import RunRecord

FILES = {
    "config.yaml": "every setting of the run, resolved",
    "run.json": "state, duration, device, sizes, versions, command",
    "metrics.csv": "everything logged, by step (counted from 0)",
    "scores.json": "the scores, each with its protocol",
    "samples": "grids of samples from the same noise at different steps",
    "checkpoints/last.ckpt": "the last training state, to resume from",
    "checkpoints/best.ckpt": "the state with the lowest validation MSE",
    "figures": "the figures above",
    "report.html": "this run as a page: open it in a browser",
}
STRIP_STEPS, STRIP_IMAGES = 24, 8
POINTS = 1500  # maximum per curve: about the number of pixel columns of a screen
CAPTIONS = {
    "noising.png": ("Noising", "The forward process on images of this run's data, with the same noise at all times."),
    "copies.png": (
        "Nearest training images",
        "The samples most similar to a training image, each above that image. r is near 0 for a copy.",
    ),
}


def recipe_of(run: Run) -> dict[str, Any]:
    """The part of the page that depends only on the configuration, which does not change during the run."""
    config, folder = run.settings, run.folder
    parts = built(config, folder / "config.yaml")
    shape = image_shape(config)
    trained = command_of(folder) == "train"
    return {
        "recipe": [[key, describe(value)] for key, value in config.items() if value is not None],
        "differences": [[key, *pair] for key, pair in from_default(run).items()] if trained and config else None,
        "network": shown("network", lambda: network_table(parts["model"], shape))
        if "model" in parts and shape
        else None,
        "schedule": shown("noise schedule", lambda: schedule_curves(parts)),
    }


def shown(what: str, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """The result of `make`, or None with a console message if it fails, since custom parts may not support this use.

    For example, a network may need more inputs than x and the label, or a device with actual values.
    """
    try:
        return make()
    except Exception as error:
        console.print(f"report.html does not show the {what}: {first_line(error)}", style="yellow", soft_wrap=True)
        return None


def run_page(run: Run, state: str | None = None, recipe: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All data of a run's page; parts that the folder does not contain are null.

    Args:
        state: The state of the run, if run.json does not contain it yet.
        recipe: The result of `recipe_of` for this run, if already known.
    """
    folder = run.folder
    state = state or (RunRecord(folder).state if run.info else run.state)
    resumable = state not in ("complete", "running") and (folder / "checkpoints/last.ckpt").is_file()
    return {
        "kind": "run",
        "title": f"Run {run.name}",
        "state": state,
        "facts": facts(run, state),
        "command": run.info.get("command"),
        "resume": resume_command(folder) if resumable else None,
        **(recipe_of(run) if recipe is None else recipe),
        "metrics": curves(run.metrics),
        "weights": validated_weights([run.metrics]),
        "strip": pictures.strip(run.grids, STRIP_IMAGES, STRIP_STEPS),
        "film": film(folder / "samples/film.png"),
        "samples": pictures.contact_sheet(folder / "samples/all.png"),
        "scores": [score_row(score) for score in run.scores],
        "figures": figures(folder),
        "costs": costs(run.info),
        "files": [[name, what, quote(name)] for name, what in FILES.items() if (folder / name).exists()],
    }


def image_shape(config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(C, H, W) of the images of a configuration, or None if it does not say."""
    size, channels = (config.get("data") or {}).get("resolution"), (config.get("model") or {}).get("in_channels", 3)
    return (channels, *height_width(size)) if isinstance(size, int | list) and isinstance(channels, int) else None


def facts(run: Run, state: str) -> list[list[str]]:
    """The content of run.json as (name, text) pairs."""
    info = run.info
    found: list[tuple[str, Any]] = [("state", state), ("reason", info.get("reason"))]
    if info.get("steps") is not None:
        total = f" of {info['total_steps']:,}" if info.get("total_steps") else ""
        epochs = f" ({count(info['epochs'], 'epoch')})" if info.get("epochs") else ""  # complete ones
        found.append(("training steps", f"{info['steps']:,}{total}{epochs}"))
    if isinstance(batch := info.get("batch"), Mapping):
        parts = f"{batch['size']} × {count(batch['accumulate'], 'batch')} on {count(batch['devices'], 'device')}"
        found.append(("images per step", f"{batch['images']:,}: {parts}"))
    if isinstance(info.get("images"), Mapping):
        found.append(("images", ", ".join(f"{n:,} {split}" for split, n in info["images"].items())))
    if info.get("parameters") is not None:
        found.append(("parameters", f"{info['parameters']:,}"))
    if info.get("seconds") is not None:
        found.append(("time", duration(info["seconds"])))
    if info.get("peak_gb") is not None:
        found.append(("peak memory", f"{info['peak_gb']:g} GB"))
    if isinstance(used := info.get("utilization"), Mapping):
        found.append(("utilization", utilization_text(used)))
    device, devices = info.get("device"), info.get("devices") or 1
    found.append(("device", f"{devices} × {device}" if device and devices > 1 else device))
    found.append(("CPU cores of the machine", info.get("host_cores")))
    found += [(key, moment(str(info[key]))) for key in ("started", "finished") if info.get(key)]
    if isinstance(info.get("versions"), Mapping):
        found.append(("versions", ", ".join(f"{key} {value}" for key, value in info["versions"].items())))
    return [[name, str(value)] for name, value in found if value not in (None, "")]


def utilization_text(node: Mapping[str, Any]) -> str:
    """The utilization of a run's devices: `0.13 TFLOP/s per device, 51% of its measured peak in float32`."""
    share = node["tflops"] / node["peak_tflops"]
    return f"{node['tflops']:.3g} TFLOP/s per device, {share:.0%} of its measured peak in {node['precision']}"


def moment(text: str) -> str:
    """A time in ISO format as `2026-01-02 03:04:05 UTC`, without `UTC` if its zone is unknown; other text unchanged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    known = time.tzinfo is not None
    return f"{time.astimezone(UTC) if known else time:%Y-%m-%d %H:%M:%S}{' UTC' * known}"


def curves(metrics: Metrics, most: int = POINTS) -> dict[str, Any]:
    """Steps and values of every logged quantity, thinned to at most `most` evenly spaced ones with both ends."""

    def thinned(values: np.ndarray) -> list[Any]:
        return values[spread(len(values), most)].tolist()

    return {name: {"step": thinned(s.step), "value": thinned(s.value)} for name, s in metrics.items()}


def film(path: Path) -> dict[str, Any] | None:
    """The denoising steps as a `sheet`: a row per time, with x_t of the images and then their estimates of x0."""
    if not path.is_file():
        return None
    picture = opened(path)
    if FILM_TIMES not in picture.info:
        raise UserError(f"{path}: not a film (its times are missing); delete it")
    times = json.loads(picture.info[FILM_TIMES])
    cut = tiles(picture)
    columns = len(cut) // len(times)
    rows = [cut[i : i + columns] for i in range(0, len(cut), columns)]
    return {**pictures.sheet(rows), "times": times}


def value_of(score: Score) -> dict[str, Any]:
    """The value of a score in the form that the page shows."""
    return {
        "metric": score.metric, "value": score.value, "low": score.low, "high": score.high, "text": value_text(score),
        "higher": score.higher_is_better,
    }  # fmt: skip


def score_row(score: Score) -> dict[str, Any]:
    """A score with its origin in the form that the page shows."""
    source = score.source
    return {
        **value_of(score),
        "metric": score.name,
        "what": score.what,
        "step": source.get("step"),
        "weights": source.get("weights"),
        "sampler": sampler_text(source["sampler"]) if source.get("sampler") else None,
        "protocol": protocol_text(score),
        "key": score.protocol_key,
    }


def figures(folder: Path) -> list[dict[str, Any]]:
    """The figures that the page shows as pictures instead of drawing them."""
    found = []
    for name, (title, caption) in CAPTIONS.items():
        if (drawn := pictures.figure(folder / "figures" / name)) is not None:
            found.append({**drawn, "title": title, "caption": caption})
    return found


def costs(info: Mapping[str, Any]) -> dict[str, list[list[Any]] | None] | None:
    """The seconds and bytes of each part of the run, in the order of run.json; None if not recorded."""

    def parts(key: str) -> list[list[Any]] | None:
        found = info.get(key)
        return [[part, float(value)] for part, value in found.items()] if isinstance(found, Mapping) else None

    seconds, sizes = parts("seconds_of"), parts("bytes_of")
    return {"seconds": seconds, "bytes": sizes} if seconds or sizes else None
