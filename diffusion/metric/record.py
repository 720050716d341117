"""A score: a number together with its measurement protocol, as used by metrics, scores.json and all tables.

Two scores may be compared only if their protocols are equal. Their sources (the sampler, weights and seed of the
images) are not part of it. This module does not import torch, so tables can be made without it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist
from typing import Any

# Density is in neither list: above 1 it means that samples crowd.
HIGHER_IS_BETTER = ("precision", "recall", "coverage")
FEW = 200  # reference images: with fewer, a distance is mostly chance and bias
FEW_PHOTOGRAPHS = 20  # held-out ones: with fewer, only gross faults can be seen (docs/numbers.md)
LOWER_IS_BETTER = ("fid", "fd_", "kid", "cmmd", "energy", "crps", "copies", "bits")


@dataclass(frozen=True)
class Reference:
    """The real images that a score compares with: split, number of images, and a hash of their pixels."""

    split: str
    n: int | None = None
    key: str | None = None


@dataclass(frozen=True)
class Score:
    """One score. Fields that do not apply to its metric are None."""

    metric: str  # fid, kid, fd_lite0, coverage_lite0, copies, bits_per_dim, …
    value: float
    n: int | None = None  # images scored
    what: str = "samples"  # samples, images, network, class NAME; or a baseline: noise, real, ceiling, split_half
    reference: Reference = Reference("not recorded")
    error: float | None = None  # standard error over other sets of n images, and over other photographs
    samples_error: float | None = None  # that over other samples alone, with the reference fixed; None: `error` is it
    low: float | None = None  # bounds of the confidence interval of the value's expectation at this n
    high: float | None = None
    level: float | None = None  # confidence level, such as 0.95
    std: float | None = None  # over the subsets of the kernel distance
    settings: Mapping[str, Any] | None = None  # settings of the metric that change its value: {"k": 5}
    features: str | None = None
    weights_hash: str | None = None  # of the feature extractor
    resize: str | None = None  # how images are resized for the extractor
    resolution: str | None = None  # of the images before resizing, and how grey or RGBA is shown
    source: Mapping[str, Any] = field(default_factory=dict)  # of the images: sampler, weights, step, seed, copies, …
    code: str | None = None  # the version of the program

    def of(self, what: str, code: str, source: Mapping[str, Any]) -> "Score":
        """A copy of the score with what was scored, the program version, and the source."""
        return replace(self, what=what, code=code, source={**self.source, **source})

    def to_json(self) -> dict[str, Any]:
        """A flat dictionary of plain values, as in scores.json. Fields that are None are left out."""
        reference = {key: value for key, value in vars(self.reference).items() if value is not None}
        plain = {**vars(self), "reference": reference, **self.source}
        return {key: value for key, value in plain.items() if value is not None and key != "source"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Score":
        """The inverse of `to_json`."""
        rest = {**record, "what": "split_half" if record.get("what") == "floor" else record.get("what", "samples")}
        values = {field.name: rest.pop(field.name) for field in fields(cls) if field.name in rest}
        if "reference" in values:
            values["reference"] = Reference(**values["reference"])
        values["metric"], values["value"] = str(values["metric"]), float(values["value"])
        return cls(**values, source=rest)

    @property
    def name(self) -> str:
        """The metric's name in tables: fd_lite0, or train/fd_lite0 for a distance to the training images."""
        to_train = self.reference.split == "train" and not self.metric.startswith("copies")
        return f"train/{self.metric}" if to_train else self.metric

    @property
    def of_class(self) -> str | None:
        """The class whose samples alone were scored, against real images of this class."""
        return self.what.removeprefix("class ") if self.what.startswith("class ") else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high); None without an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def paired(self) -> "Score":
        """A copy with the interval of the samples alone, for comparisons of samples by the same reference images."""
        if self.samples_error is None or self.level is None:
            return self
        half = NormalDist().inv_cdf((1 + self.level) / 2) * self.samples_error
        return replace(self, error=self.samples_error, low=self.value - half, high=self.value + half)

    @property
    def on_test(self) -> bool:
        return self.reference.split == "test"

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that must be equal in two scores to compare them."""
        parts = {key: getattr(self, key) for key in ("metric", "n", "features", "weights_hash", "resize", "resolution")}
        parts |= {f"reference {key}": value for key, value in vars(self.reference).items()}
        return parts | dict(self.settings or {})

    @property
    def protocol_key(self) -> str:
        """The protocol as a string, equal for scores that may be compared."""
        return json.dumps(self.protocol, sort_keys=True, default=str)

    @property
    def identity(self) -> str:
        """Equal for two measurements of the same images (or network) by the same protocol and program."""
        source = {key: value for key, value in self.source.items() if key not in ("seconds_per_image", "device")}
        source["checkpoint"] = "checkpoint" in source  # the file may have been saved again
        return json.dumps([self.what, self.code, self.protocol, source], sort_keys=True, default=str)

    @property
    def higher_is_better(self) -> bool | None:
        """True or False; None if neither direction is better, or the metric is unknown."""
        if self.metric.startswith(HIGHER_IS_BETTER):
            return True
        return False if self.metric.startswith(LOWER_IS_BETTER) else None
