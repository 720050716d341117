"""The scoring pipeline of all commands: scores of images, baselines and the audit for copies, in scores.json.

A run's evaluations on the test split are recorded in its folder, in test.json. Only the first one is unbiased; the
scores in scores.json carry the number of theirs, `test_evaluation`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.base import files
from diffusion.base.console import console, count
from diffusion.config.build import make
from diffusion.data import ImageData, Split
from diffusion.errors import UserError
from diffusion.findings.faults import Judged
from diffusion.metric.denoising import numbered
from diffusion.metric.estimate import RealSet, SampleMetric
from diffusion.metric.faults import diagnose
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.measurements import ensemble, estimated, gaussian_crps, of_images, ranks
from diffusion.metric.photographs import photographs_of
from diffusion.metric.record import FEW, Reference, Score
from diffusion.metric.referee import LIMIT, judge
from diffusion.metric.score import LEAST, divide, draw, extract, features_of, reference_of, score
from diffusion.randomness import generator_for
from diffusion.runs.folder import ENSEMBLE, REFEREE, append_scores
from diffusion.sampling.given import Given
from diffusion.scoring.memorization import copies

TESTS = "test.json"


@dataclass
class Scorer:
    """Scores images against one split of the data."""

    data: ImageData  # set up
    split: str  # the reference
    extractor: FeatureExtractor
    metrics: Sequence[SampleMetric]
    folder: Path  # where scores.json is, and figures/ for the audit
    run: Path  # the folder of the run, whose evaluations on the test split are counted
    given: RealSet | None = None  # by the user, which is the reference instead
    known: dict[str, Tensor] = field(default_factory=dict)  # features of images that were scored, by their digest

    def __post_init__(self) -> None:
        self.data.kind.check_features(self.extractor, self.data.shape)

    def check(self, n: int, baselines: Iterable[str], audit: Sequence[str] = ()) -> None:
        """Raise UserError, before any costly work, for too few images; warn about few images in the reference."""
        splits, kind = self.data.splits, self.data.kind
        available = (len(self.given.features) or FEW) if self.given else len(splits[self.split])
        name = f"reference={self.given.name}" if self.given else f"split={self.split}"
        if notice := kind.notice(self.data.shape):
            console.print(notice)
        needed = {f"n={n}": n, name: available}
        if {"real", "split_half"} & set(baselines):
            needed[f"baselines from split {self.opposite}"] = len(splits[self.opposite])
        if audit:
            kind.require("audit")
            needed["audit by split val"] = len(splits["val"])
        for what, found in needed.items():
            if found < LEAST:
                raise UserError(f"{what}: {count(found, 'image')}, but scores need at least {LEAST}; use more, or none")
        if available < FEW:
            words = f"distances to fewer than {FEW} are mostly chance and bias: judge by eye, or add images"
            words += getattr(self.data, "advice_if_few", "")
            console.print(f"warning: the reference, {name}, has {count(available, 'image')}; {words}")

    @property
    def opposite(self) -> str:
        """The split whose images serve as real ones beside the reference."""
        return "val" if self.split == "train" else "train"

    @cached_property
    def reference(self) -> RealSet:
        if self.given:
            return self.given
        real = self.data.splits[self.split]
        size = self.data.kind.protocol(self.data.shape)
        return reference_of(real.images, self.extractor, self.split, real.sources, size)

    def score(self, images: Tensor, what: str = "samples", **source: Any) -> list[Score]:
        """Score images (n, C, H, W). `source` describes their origin: sampler, weights, seed, ….

        If values of the reference are missing, they are taken from the images, too, in turn.
        """
        images = lacking(images, self.data.splits[self.split].images) if self.data.missing else images
        return self._scores(self._features(images, what), self.reference, what, source)

    def baselines(self, names: Iterable[str], n: int) -> list[Score]:
        """Score baselines, to compare with a score of `n` images.

        `noise`: images of noise. `real`: n training images, or validation images if the reference is the training
        split; all if there are fewer, and then the score's n is their number. `split_half`: the `real` images and the
        reference images, mixed and split at random into two sets of the same sizes, which differ only by chance. In
        latents, `real` also adds `ceiling`: the `real` images, encoded and decoded, of which the best model draws.
        """

        @cache
        def drawn() -> Split:
            others = self.data.splits[self.opposite]
            return others.take(draw(torch.arange(len(others)), n))

        @cache
        def real() -> tuple[Tensor, Tensor | None]:
            return features_of(drawn().images, self.extractor)[0], photographs_of(drawn().sources)

        found = []
        for name in names:
            if name == "noise":
                found += self.score(self.data.kind.noise(n, self.data.shape), name)
                continue
            features, own = real()
            if name == "real":
                found += self._scores(features, self.reference, name, {}, own)
                again = self.data.kind.ceiling(drawn().images, self.extractor.device)
                if again is not None:
                    found += self._scores(self._features(again, "the ceiling"), self.reference, "ceiling", {}, own)
            else:
                found += self._scores(*divide(features, self.reference), name, {})
        return found

    def audit(self, images: Tensor, what: str = "samples", **source: Any) -> list[Score]:
        """The share of suspected copies among the images; see `scoring.memorization`."""
        return [copies(images, self.data, self.folder, self.split).of(what, files.code_version(), source)]

    def ensembles(self, images: Tensor, given: Given | None, source: Mapping[str, Any]) -> list[Score]:
        """The scores of samples of the conditions of held-out measurements, each drawn several times, with a chart.

        Beside them stand those of as many training images (real), which know nothing of the condition, and of the
        exact distribution, if it is known.
        """
        names, split = self.data.kind.quantities, None if given is None else given.split
        if not names or split is None:
            return []
        if (m := len(images) // (n := len(split))) < 2:
            console.print(f"no CRPS: it needs {2 * n} samples or more, several for each of {n} images of {self.split}")
            return []
        size, y, train = "x".join(map(str, images.shape[2:])), split.images, self.data.splits["train"].images
        about = {"n": m * n, "settings": {"members": m}, "reference": Reference(self.split, n, split.key)}
        about |= {"resolution": size, "features": "none"}
        others = train[torch.randint(len(train), (m * n,), generator=generator_for(0, "members"))].nan_to_num()
        found = []
        for what, each in (("samples", images[: m * n]), ("real", others)):
            own = ensemble(each.unflatten(0, (m, n)), y, names, split.sources, **about)
            found += [score.of(what, files.code_version(), source if what == "samples" else {}) for score in own]
        if posterior := getattr(self.data, "posterior", None):
            mean, std = posterior(split)
            each = of_images(gaussian_crps(mean, std, y))[:, 0]
            exact = estimated(f"crps_{names[0]}", float(each.mean()), each, split.sources, **about)
            found.append(exact.of("exact", files.code_version(), {}))
        shares = ranks(images[: m * n].unflatten(0, (m, n)), y, names, split.sources)
        files.replace(self.folder / ENSEMBLE, shares)
        return found

    def judge(self, images: Tensor) -> Judged | None:
        """Write into referee.json whether the images can be told apart from real ones, and their faults.

        See `metric.referee` and `metric.faults`. Returns what `report.figures.draw_judged` draws; None if images of
        this kind are not judged.
        """
        kind = self.data.kind
        if not self.data.splits or not (eyes := kind.eyes(self.data.shape)):
            return None
        splits = [self.data.splits[name] for name in ("train", "val" if self.split == "train" else self.split)]
        some = [
            split.take(torch.linspace(0, len(split) - 1, min(LIMIT, len(split))).round().long()) for split in splits
        ]
        samples, real, (train, held_out) = images[:LIMIT], torch.cat([split.images for split in some]), some
        seen = {}
        for eye in kind.networks(self.extractor) if min(len(samples), len(train)) >= FEW else ():
            known = [features_of(split.images, eye)[0] for split in some if len(split)]
            seen[eye.name] = torch.cat([replace(self, extractor=eye)._features(images, "samples")[:LIMIT], *known])
        is_train, photograph = torch.arange(len(real)) < len(train), numbered([*train.sources, *held_out.sources])
        shown = lacking(samples, train.images) if self.data.missing else samples
        found = judge(kind.referee_view(shown), kind.referee_view(real), is_train, photograph, seen, eyes)
        held = len({*held_out.sources})
        found["faults"] = faults = diagnose(samples, real, photograph, held) if kind.has_faults else []
        files.replace(self.folder / REFEREE, json.dumps(found, indent=1))
        compared = (images, self.data.splits[self.split].images) if kind.quantities else ()
        standardised = [kind.inside(each) for each in compared]
        return Judged(samples, real, faults, kind.quantities, standardised)

    def write(self, scores: Sequence[Score]) -> list[Score]:
        """Append scores to scores.json and record test scores in test.json; returns the scores as written."""
        numbered = record_test(self.run, scores)
        append_scores(self.folder, numbered)
        return numbered

    def _features(self, images: Tensor, what: str) -> Tensor:
        key = files.tensor_digest({self.extractor.name: images})
        if key not in self.known:
            self.known[key] = extract(images, self.extractor, description=f"scoring {what}")
        return self.known[key]

    def _scores(
        self, x: Tensor, to: RealSet, what: str, source: Mapping[str, Any], photographs: Tensor | None = None
    ) -> list[Score]:
        scores = score(x, self.extractor, to, self.metrics, photographs)
        return [each.of(what, files.code_version(), source) for each in scores.values()]


def lacking(images: Tensor, real: Tensor) -> Tensor:
    """Images (n, C, H, W) without the values that real images (m, C, H, W) lack, in turn."""
    return images.masked_fill(real[torch.arange(len(images)) % len(real)].isnan(), torch.nan)


def make_metrics(node: Mapping[str, Any] | None) -> list[SampleMetric]:
    return [make(inner, f"metrics.{name}", SampleMetric) for name, inner in (node or {}).items() if inner]


def recorded_tests(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run's checkpoints on the test split."""
    found: list[dict[str, Any]] = json.loads((run / TESTS).read_text("utf-8")) if (run / TESTS).is_file() else []
    return found


def check_test(run: Path, again: bool) -> None:
    """Raise UserError, or with `again` print a warning, if the run was evaluated on the test split already."""
    if before := recorded_tests(run):
        found = f"split=test: this run was evaluated on it {count(len(before), 'time')}, first on {before[0]['when']}"
        if not again:
            raise UserError(f"{found}; use split=val for choices; again=true evaluates once more, and records it")
        console.print(f"warning: {found}; only the first test score is unbiased")


def record_test(run: Path, scores: Sequence[Score]) -> list[Score]:
    """Record an evaluation if `scores` contain any of samples or the network on test; returns numbered scores."""
    on_test = [score for score in scores if score.on_test and score.what in ("samples", "network")]
    if not on_test:
        return list(scores)
    first, before = on_test[0], recorded_tests(run)
    number = {"test_evaluation": 1 + len(before)}
    made = {"when": f"{datetime.now():%Y-%m-%d %H:%M}", "n": first.n, "code": first.code, **first.source}
    entry = number | made | {"scores": {score.metric: score.value for score in on_test}}
    try:
        files.replace(run / TESTS, json.dumps([*before, entry], indent=1))
    except OSError as error:  # the folder of somebody else's run
        console.print(f"note: {run / TESTS} can't be written ({error.strerror}): this evaluation is not recorded")
    return [replace(score, source={**score.source, **number}) if score.on_test else score for score in scores]
