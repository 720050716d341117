"""The scoring pipeline of all commands: scores of images, baselines and the audit for copies, in scores.json."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.config.build import make
from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation import ledger, memorization
from diffusion.files import code_version
from diffusion.metric.estimate import Reference, SampleMetric
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Score
from diffusion.metric.score import LEAST, divide, draw, extract, noise_images, reference_of, score
from diffusion.runs.folder import append_scores

FEW = 200  # reference images: with fewer, a distance is mostly chance and bias


@dataclass
class Scorer:
    """Scores images against one split of the data."""

    data: ImageData  # set up
    split: str  # the reference
    extractor: FeatureExtractor
    metrics: Sequence[SampleMetric]
    folder: Path  # where scores.json is, and figures/ for the audit
    run: Path  # the folder of the run, whose ledger counts evaluations on the test split

    def check(self, n: int | None, baselines: Iterable[str], audit: Sequence[str] = ()) -> None:
        """Raise UserError, before any costly work, if scoring `n` images, a baseline or an audit is impossible.

        Warns about a reference with few images.
        """
        available, others = len(self.data.splits[self.split]), len(self.data.splits[opposite(self.split)])
        if available < LEAST:
            raise UserError(
                f"split={self.split}: it has {count(available, 'image')}, but scores need at least {LEAST}; add images "
                "or choose another split; training also works without scores (score.n=0)"
            )
        if n is not None and n < LEAST:
            raise UserError(f"n={n}: scores need at least {LEAST} images; use as many as time allows, such as n=250")
        if {"real", "floor"} & set(baselines) and others < LEAST:
            raise UserError(
                f"baselines: real and floor need at least {LEAST} images of {opposite(self.split)}; add images, or "
                "remove them"
            )
        if audit and not len(self.data.splits["val"]):
            raise UserError("audit: no validation images to calibrate it; add some (data.val=0.1), or remove the audit")
        check_extractor(self.extractor, self.data.shape)
        if available < FEW:
            console.print(
                f"warning: the reference, split={self.split}, has {count(available, 'image')}; distances to fewer than "
                f"{FEW} are mostly chance and bias: judge by eye, or add images"
            )

    @cached_property
    def reference(self) -> Reference:
        return reference_of(self.data.splits[self.split].images, self.extractor, self.split)

    def score(self, images: Tensor, what: str = "samples", **source: Any) -> list[Score]:
        """Score uint8 images (n, C, H, W). `source` describes their origin: sampler, weights, seed, …."""
        return self._scores(self._features(images, what), self.reference, what, source)

    def by_class(self, images: Tensor, classes: Tensor, **source: Any) -> list[Score]:
        """Score the images of each class against the reference images of that class.

        A class with fewer than `LEAST` images on either side is not scored; a message says so.

        Args:
            images: uint8 (n, C, H, W).
            classes: the class of each image, (n,).
        """
        reference, found = self.data.splits[self.split], []
        for i, name in enumerate(self.data.classes):
            own, real = images[classes == i], reference.images[reference.labels == i]
            if min(len(own), len(real)) < LEAST:
                console.print(
                    f"class {name}: {count(len(own), 'sample')} against {count(len(real), 'image')} of {self.split}: "
                    f"not scored, because scores need at least {LEAST} of each"
                )
                continue
            statistics = reference_of(real, self.extractor, f"{self.split}, class {name}")
            found += self._scores(self._features(own, f"class {name}"), statistics, f"class {name}", source)
        return found

    def baselines(self, names: Iterable[str], n: int) -> list[Score]:
        """Score baselines, to compare with a score of `n` images.

        `noise`: images of noise. `real`: n training images, or validation images if the reference is the training
        split; all if there are fewer, and then the score's n is their number. `floor`: the `real` images and the
        reference images, mixed and split at random into two sets of the same sizes, which differ only by chance.
        """

        @cache
        def real() -> Tensor:
            images = draw(self.data.splits[opposite(self.split)].images, n)
            return self._features(images, "real images")

        found = []
        for name in names:
            if name == "noise":
                found += self.score(noise_images(n, self.data.shape), name)
                continue
            features, reference = (real(), self.reference) if name == "real" else divide(real(), self.reference)
            found += self._scores(features, reference, name, {})
        return found

    def audit(self, images: Tensor, kinds: Sequence[str], what: str = "samples", **source: Any) -> list[Score]:
        """The fraction of suspected copies among the images, by each distance; see `evaluation.memorization`."""
        found = [memorization.audit_copies(images, self.data, kind, self.extractor, self.folder) for kind in kinds]
        return [score.of(what, code_version(), source) for score in found]

    def write(self, scores: Sequence[Score]) -> list[Score]:
        """Append scores to scores.json and record test scores in the ledger; returns the scores as written."""
        numbered = ledger.record(self.run, scores)
        append_scores(self.folder, numbered)
        return numbered

    def _features(self, images: Tensor, what: str) -> Tensor:
        return extract(images, self.extractor, description=f"scoring {what}")

    def _scores(self, features: Tensor, reference: Reference, what: str, source: Mapping[str, Any]) -> list[Score]:
        scores = score(features, self.extractor, reference, self.metrics)
        return [score.of(what, code_version(), source) for score in scores.values()]


def check_extractor(extractor: FeatureExtractor, shape: tuple[int, int, int]) -> None:
    """Raise UserError for an extractor of another width than it says, before the training that it is to score."""
    found, expected = tuple(extractor(noise_images(2, shape)).shape), (2, extractor.num_features)
    if found != expected:
        raise UserError(
            f"features: {type(extractor).__name__} turns 2 images into {found}; expected {expected}, from num_features"
        )


def opposite(split: str) -> str:
    """The split whose real images serve as a baseline for the reference `split`."""
    return "val" if split == "train" else "train"


def make_metrics(node: Mapping[str, Any]) -> list[SampleMetric]:
    """Build the metrics of a configuration's group `metrics`."""
    return [make(inner, f"metrics.{name}", SampleMetric) for name, inner in node.items() if inner]
