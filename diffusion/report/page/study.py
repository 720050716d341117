"""The page data of a study: sampling settings with their costs, scores and pictures."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.metric.record import Score
from diffusion.report.formatting import protocol_text, sampler_text
from diffusion.report.images import grid, save_png
from diffusion.report.page import pictures
from diffusion.report.page.run import value_of
from diffusion.runs.folder import Run

IMAGES = 8
VARIED = ("sampler", "guidance", "nfe", "seconds_per_image", "test_evaluation", "checkpoint")  # within one study


def is_study(run: Run) -> bool:
    """Whether the folder contains scores by sampling cost (NFE)."""
    return any("nfe" in score.source for score in run.scores)


def latest(scores: Sequence[Score]) -> list[Score]:
    """The scores of settings by the latest of the studies in a folder.

    They have the model, the seed, the program, n and the reference of the last score, and each has the protocol of the
    last score of its metric.
    """
    settings = [score for score in scores if "nfe" in score.source]
    protocols = {score.metric: score.protocol_key for score in settings}
    return [s for s in settings if _study(s) == _study(settings[-1]) and s.protocol_key == protocols[s.metric]]


def _study(score: Score) -> tuple[Any, ...]:
    """What the scores of one study have in common."""
    source = {key: value for key, value in score.source.items() if key not in VARIED}
    return score.code, score.n, score.reference, source


def save_picture(images: Tensor, source: Mapping[str, Any], folder: Path) -> Path:
    """Save the first samples of a setting, uint8 (n, 3, H, W), for the page, and return the path of the file."""
    return save_png(grid(images[:IMAGES], IMAGES), picture_file(folder, source))


def picture_file(folder: Path, source: Mapping[str, Any]) -> Path:
    """The path of the picture with the samples for a score's source."""
    made = json.dumps([source.get("sampler"), source.get("guidance")], sort_keys=True, default=str)
    return folder / "samples" / f"{hashlib.sha256(made.encode()).hexdigest()[:12]}.png"


def study_page(run: Run) -> dict[str, Any]:
    """The page data of the latest study in a folder: each setting with its cost, scores and samples; the baselines."""
    settings: dict[str, dict[str, Any]] = {}
    shown = latest(run.scores)
    ended = [i for i, score in enumerate(run.scores, start=1) if "nfe" in score.source and score not in shown]
    later = run.scores[max(ended, default=0) :]  # those written after the last earlier study
    baselines = {(score.what, score.metric): score for score in later if "nfe" not in score.source}
    for score in shown:
        source = score.source
        key = str(picture_file(run.folder, source))
        setting = settings.setdefault(
            key,
            {
                "sampler": _named(source["sampler"]),
                "guidance": sampler_text(source["guidance"]) if source.get("guidance") else None,
                "steps": source["sampler"].get("steps"),
                "nfe": source["nfe"],
                "seconds": source.get("seconds_per_image"),
                "scores": {},
                "picture": pictures.strip([(0, Path(key))], IMAGES, 1) if Path(key).is_file() else None,
            },
        )
        setting["scores"][score.metric] = value_of(score)
    metrics = list(dict.fromkeys(metric for setting in settings.values() for metric in setting["scores"]))
    protocols = {score.metric: protocol_text(score) for score in shown}
    return {
        "kind": "study",
        "title": f"Study {run.folder.resolve().name}",
        "metrics": metrics,
        "protocols": protocols,
        "settings": list(settings.values()),
        "baselines": [{"what": score.what, **value_of(score)} for score in baselines.values()],
    }


def _named(sampler: Mapping[str, Any]) -> str:
    """The sampler without its number of steps, which varies along one curve."""
    return sampler_text({key: value for key, value in sampler.items() if key != "steps"})
