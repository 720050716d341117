"""Scores of a denoiser's samples, with their protocol and yardsticks, as records for scores.json."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.config.build import make
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.test_ledger import code_version
from diffusion.files import replace
from diffusion.metric.baselines import divide, draw, noise_images
from diffusion.metric.extract import extract
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.reference import ReferenceStatistics, reference_statistics
from diffusion.metric.score import DISTANCES, Factory, Score, score, score_features, wants_spatial

Record = dict[str, Any]


def reference(
    data: ImageData, split: str, extractor: FeatureExtractor, metrics: Sequence[Factory] = DISTANCES
) -> ReferenceStatistics:
    """The statistics of one split of the data, as `metrics` need them."""
    spatial = wants_spatial(metrics, extractor)
    return reference_statistics(data.splits[split].images, extractor, name=split, spatial=spatial)


YARDSTICKS = ("noise", "real", "floor")  # and, where there is a recipe to make it from, the untrained network


def others(split: str) -> str:
    """The split that real images to compare with a split are drawn from."""
    return "val" if split == "train" else "train"


def check(split: str, n: int | None, names: Iterable[str], data: ImageData) -> None:
    """Refuse what can't be scored before anything is spent on it: `n` images against a split, beside yardsticks."""
    having = len(data.splits.get(split, ()))
    if having < 4:
        raise UserError(
            f"split={split}: the data has {count(having, 'image')} of it, and scores need at least 4; set "
            f"data.{split} to a number such as 250, or choose another split of {', '.join(data.splits)}"
        )
    if n is not None and n < 4:
        raise UserError(f"n={n}: scores need at least 4 images; use as many as time allows, such as n=250")
    names = list(names)
    if {"real", "floor"} & set(names) and len(data.splits[others(split)]) < 4:
        raise UserError(
            f"yardsticks: real and floor want at least 4 images of {others(split)}; set data.{others(split)} to a "
            f"number such as 250, or leave them out"
        )
    unknown = [name for name in names if name not in YARDSTICKS]
    if unknown:
        raise UserError(f"yardsticks: {unknown[0]} is none of {', '.join(YARDSTICKS)}, and in a run untrained")


def chosen(metrics: Mapping[str, Any]) -> list[Factory]:
    """The metrics that a configuration's group names."""
    return [make(node, f"metrics.{name}") for name, node in metrics.items() if node]


def records(scores: Mapping[str, Score], what: str, **protocol: Any) -> list[Record]:
    """Plain records of `scores`; `what` was scored: samples, noise, untrained, real, floor or images."""
    return [
        {
            "metric": s.metric,
            "value": s.value,
            "error": s.error,
            "low": s.low,
            "high": s.high,
            "level": s.level,
            "std": s.std,
            "what": what,
            "n": s.n,
            "settings": s.settings,
            "features": s.extractor,
            "weights_hash": s.weights_hash,
            "resize": s.resize,
            "resolution": s.resolution,
            "reference": {"split": s.reference, "n": s.reference_n, "key": s.reference_key},
            "code": code_version(),
            **protocol,
        }
        for s in scores.values()
    ]


def yardsticks(
    names: Iterable[str],
    data: ImageData,
    n: int,
    extractor: FeatureExtractor,
    against: ReferenceStatistics,
    metrics: Sequence[Factory] = DISTANCES,
) -> list[Record]:
    """What a score is read against, at the same n.

    `noise`; `real`, training images, or validation images where the reference is the training split (all where there
    are fewer); and `floor`, those and the reference's images mixed and divided at random into two sets of the same
    sizes, so that chance alone is between them.
    """

    @cache
    def real() -> Tensor:
        images = draw(data.splits[others(against.name)].images, n)
        return extract(images, extractor, spatial=against.spatial is not None)

    def floor() -> dict[str, Score]:
        features, mixed = divide(real(), against)
        return score_features(features, extractor, mixed, metrics=metrics)

    noise = noise_images(n, data.resolution, data.resolution)
    made = {
        "noise": lambda: score(noise, extractor, against, n, metrics=metrics),
        "real": lambda: score_features(real(), extractor, against, metrics=metrics),
        "floor": floor,
    }
    return [r for name in names for r in records(made[name](), name)]


def describe_sampler(node: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's configuration as a record holds it: its name and its values, and so of its parts."""
    plain = {key: value for key, value in node.items() if not key.startswith("_")}
    values = {key: describe_sampler(v) if isinstance(v, Mapping) else v for key, v in plain.items()}
    return {"name": str(node["_target_"]).rpartition(".")[2], **values}


def append(folder: Path, new: Sequence[Record]) -> Path:
    """Add records to scores.json in `folder`."""
    path = folder / "scores.json"
    old = json.loads(path.read_text()) if path.is_file() else []
    replace(path, json.dumps([*old, *new], indent=1))
    return path


def score_samples(
    images: Tensor,
    extractor: FeatureExtractor,
    against: ReferenceStatistics,
    what: str = "samples",
    metrics: Sequence[Factory] = DISTANCES,
    **protocol: Any,
) -> list[Record]:
    """Records of generated uint8 images."""
    with torch.inference_mode():
        return records(score(images, extractor, against, metrics=metrics), what, **protocol)
