"""Scores of images, with their baselines and the audit for copies, in scores.json: the same for all commands."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.provenance import code_version
from diffusion.config.build import make
from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation import memorization
from diffusion.evaluation.ledger import Ledger
from diffusion.metric.baselines import divide, draw, noise_images
from diffusion.metric.extract import extract
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Score
from diffusion.metric.reference import ReferenceStatistics, reference_statistics
from diffusion.metric.score import Factory, score, score_features, wants_spatial
from diffusion.runs.folder import append_scores, read_scores

LEAST = 4  # images, for any score
MORE = "a larger share or number data.{}, or data.tiles=true where photographs are large"  # images of a split
FEW = 200  # images of the reference: with fewer, chance and bias are most of a distance


@dataclass
class Scorer:
    """Scores images against one split of the data."""

    data: ImageData  # set up
    split: str  # the reference
    extractor: FeatureExtractor
    metrics: Sequence[Factory]
    folder: Path  # where scores.json is, and figures/ for the audit
    ledger: Ledger  # of evaluations on the test split

    def check(self, n: int | None, baselines: Iterable[str], audit: Sequence[str] = ()) -> None:
        """Raise UserError, before anything is spent, where `n` images cannot be scored, or a baseline or audit made.

        A reference of few images is warned of.
        """
        split, other, splits = self.split, opposite(self.split), self.data.splits
        if (available := len(splits.get(split, ()))) < LEAST:
            raise UserError(
                f"split={split}: the data has {count(available, 'image')} of it, and scores need at least {LEAST}; "
                f"give it more ({MORE.format(split)}), choose another split of {', '.join(splits)}, or train without "
                "scores (score.n=0)"
            )
        if n is not None and n < LEAST:
            raise UserError(f"n={n}: scores need at least {LEAST} images; use as many as time allows, such as n=250")
        if {"real", "floor"} & set(baselines) and len(splits[other]) < LEAST:
            raise UserError(
                f"baselines: real and floor need at least {LEAST} images of {other}; give it more "
                f"({MORE.format(other)}), or leave them out"
            )
        memorization.check_audit(audit, self.data)
        if available < FEW:
            console.print(
                f"warning: the reference, split={split}, has {count(available, 'image')}; distances to fewer than "
                f"{FEW} are mostly chance and bias: judge the pictures, or give it more images ({MORE.format(split)})"
            )

    @cached_property
    def reference(self) -> ReferenceStatistics:
        """The statistics of the split that the metrics need."""
        spatial = wants_spatial(self.metrics, self.extractor)
        images = self.data.splits[self.split].images
        return reference_statistics(images, self.extractor, name=self.split, spatial=spatial)

    def of(self, split: str) -> "Scorer":
        """The same scorer against another split."""
        return replace(self, split=split)

    def make_reference(self) -> None:
        """Make the statistics now, if they are not cached."""
        _ = self.reference

    def score(self, images: Tensor, what: str = "samples", **source: Any) -> list[Score]:
        """Scores of uint8 images (n, C, H, W). `source` says where they come from: see `metric.record.SOURCE`."""
        with torch.inference_mode():
            return self._named(score(images, self.extractor, self.reference, metrics=self.metrics), what, source)

    def by_class(self, images: Tensor, classes: Tensor, **source: Any) -> list[Score]:
        """Scores of the images of each class against the reference images of that class.

        A class with fewer than `LEAST` images on either side has none, which is said.

        Args:
            images: uint8 (n, C, H, W).
            classes: (n,), of the images.
        """
        reference = self.data.splits[self.split]
        assert reference.labels is not None
        found = []
        for i, name in enumerate(self.data.classes):
            own, real = images[classes == i], reference.take((reference.labels == i).nonzero().flatten())
            if min(len(own), len(real)) < LEAST:
                console.print(
                    f"class {name}: {count(len(own), 'sample')} against {count(len(real), 'image')} of {self.split}: "
                    f"not scored, as scores need at least {LEAST} of each"
                )
                continue
            where = f"{self.split}, class {name}"
            spatial = wants_spatial(self.metrics, self.extractor)
            statistics = reference_statistics(real.images, self.extractor, name=where, spatial=spatial)
            scores = score(own, self.extractor, statistics, metrics=self.metrics)
            found += self._named(scores, f"class {name}", source)
        return found

    def baselines(self, names: Iterable[str], n: int) -> list[Score]:
        """What a score of `n` images is compared with.

        `noise`: images of noise. `real`: training images, or validation images where the reference is the training
        split (all of them where there are fewer than n). `floor`: these images and those of the reference, mixed and
        divided at random into two sets of the same sizes, which differ by chance alone.
        """

        @cache
        def real() -> Tensor:
            images = draw(self.data.splits[opposite(self.split)].images, n)
            return extract(images, self.extractor, spatial=self.reference.spatial is not None)

        def scores(name: str) -> dict[str, Score]:
            if name == "noise":
                pixels = noise_images(n, self.data.shape)
                return score(pixels, self.extractor, self.reference, n, metrics=self.metrics)
            features, reference = (real(), self.reference) if name == "real" else divide(real(), self.reference)
            return score_features(features, self.extractor, reference, metrics=self.metrics)

        return [baseline for name in names for baseline in self._named(scores(name), name, {})]

    def audit(self, images: Tensor, kinds: Sequence[str], what: str = "samples", **source: Any) -> Score:
        """The share of suspected copies among the images; see `evaluation.memorization`."""
        found = memorization.audit_copies(images, self.data, kinds, self.extractor, self.folder)
        return found.of(what, code_version(), source)

    def write(self, scores: Sequence[Score]) -> list[Score]:
        """Append scores to scores.json, and record those on the test split in the ledger; the scores as written."""
        numbered = self.ledger.record(scores)
        append_scores(self.folder, numbered)
        return numbered

    def written(self) -> list[Score]:
        """The scores in scores.json."""
        return read_scores(self.folder)

    def warn_of_repeated_tests(self) -> None:
        """Warn that scoring on test during training leaves no unbiased test score."""
        console.print(
            "warning: score.every_n_epochs with score.split=test evaluates on the test split again and again, and only "
            "the first score is unbiased; use score.split=val, and test once, when all choices are made"
        )

    def _named(self, scores: Mapping[str, Score], what: str, source: Mapping[str, Any]) -> list[Score]:
        return [score.of(what, code_version(), source) for score in scores.values()]


def opposite(split: str) -> str:
    """The split of the real images that are compared with a split."""
    return "val" if split == "train" else "train"


def make_metrics(node: Mapping[str, Any]) -> list[Factory]:
    """The metrics of a configuration's group."""
    return [make(inner, f"metrics.{name}") for name, inner in node.items() if inner]


def describe_sampler(node: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's configuration as a score's source holds it: names and values, also of its parts.

    Infinite numbers are strings, "inf", because JSON has none.
    """

    def described(value: Any) -> Any:
        if isinstance(value, Mapping):
            return describe_sampler(value)
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    values = {key: described(value) for key, value in node.items() if not key.startswith("_")}
    return {"name": str(node["_target_"]).rpartition(".")[2], **values}
