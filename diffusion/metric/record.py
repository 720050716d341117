"""A score: one number with the protocol that it was measured by, from the metric to scores.json and to every table.

Two scores may be compared only if their protocols are equal. What was scored (a sampler's images, by which weights, from
which seed) is the source; it does not belong to the protocol. This module does not import torch, so that tables are
made without it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

# Density is not here: above 1 it means that samples crowd. Neither is the Vendi score: noise is diverse, too.
HIGHER_IS_BETTER = ("precision", "recall", "coverage", "inception_score")
LOWER_IS_BETTER = ("fid", "fd_", "kid", "cmmd", "sfid", "sfd_", "copies", "bits")
PROTOCOL_DETAILS = ("rate", "bound")
SOURCE = (
    "sampler", "seed", "weights", "step", "checkpoint", "network_hash", "folder", "nfe", "seconds_per_image",
    "test_evaluation",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The real images that a score compares with: their split, their number, and a hash of what they are."""

    split: str
    n: int | None = None
    key: str | None = None


@dataclass(frozen=True)
class Score:
    """One score. Fields that a metric does not have are None."""

    metric: str  # fid, kid, fd_lite0, coverage_lite0, copies, bits_per_dim, …
    value: float  # NaN where a record has none
    n: int | None  # images scored
    what: str = "samples"  # or images, network; or a baseline: noise, untrained, real, floor
    reference: Reference | None = None
    error: float | None = None  # standard error over draws of as many images, the reference held fixed
    low: float | None = None  # the interval that goes with it …
    high: float | None = None
    level: float | None = None  # … and how often such intervals hold the expectation of the value at this n
    std: float | None = None  # over the kernel distance's subsets
    settings: Mapping[str, Any] | None = None  # of the metric, those that change its number: {"k": 5}
    features: str | None = None
    weights_hash: str | None = None  # of the features' network
    resize: str | None = None  # how images are brought to that network's size
    resolution: str | None = None  # of the images before that, HEIGHTxWIDTH
    details: Mapping[str, Any] = field(default_factory=dict)  # what else the metric reports
    source: Mapping[str, Any] = field(default_factory=dict)  # what made the images: see SOURCE
    code: str | None = None  # the version of the program

    def of(self, what: str, code: str, source: Mapping[str, Any]) -> "Score":
        """The same score, saying what was scored, by which version of the program, and where it came from."""
        return replace(self, what=what, code=code, source={**self.source, **source})

    def to_json(self) -> dict[str, Any]:
        """A flat dictionary of plain values, as scores.json holds it. What is None is left out."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("details", "source")}
        if self.reference is not None:
            plain["reference"] = {k: v for k, v in vars(self.reference).items() if v is not None}
        plain |= {**self.details, **self.source}
        return {key: value for key, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Score":
        """The inverse of `to_json`. What a record of an earlier version lacks is None."""
        known = {f.name for f in fields(cls)} - {"details", "source", "reference"}
        own = {"metric": "unknown", "n": None} | {k: v for k, v in record.items() if k in known}
        rest = {key: value for key, value in record.items() if key not in known and key != "reference"}
        if (size := rest.pop("subset_size", None)) is not None:  # as the first version wrote it
            own["settings"] = {"subset_size": size, **(own.get("settings") or {})}
        if (number := rest.pop("look", None)) is not None:  # its name in an earlier version
            rest["test_evaluation"] = number
        if own.get("value") is None:
            own["value"] = math.nan
        reference = record.get("reference")
        if isinstance(reference, Mapping):
            own["reference"] = Reference(str(reference.get("split")), reference.get("n"), reference.get("key"))
        elif reference is not None:
            own["reference"] = Reference(str(reference))
        source = {key: rest.pop(key) for key in SOURCE if key in rest}
        return cls(**own, source=source, details=rest)

    @property
    def protocol(self) -> dict[str, Any]:
        """What two scores must share to be compared."""
        parts = {key: getattr(self, key) for key in ("metric", "n", "features", "weights_hash", "resize", "resolution")}
        parts |= {key: self.details.get(key) for key in PROTOCOL_DETAILS} | dict(self.settings or {})
        reference = self.reference or Reference("not recorded")
        return parts | {f"reference {key}": value for key, value in vars(reference).items()}

    @property
    def protocol_key(self) -> str:
        """The protocol as a text, equal for scores that may be compared."""
        return json.dumps(self.protocol, sort_keys=True, default=str)

    @property
    def higher_is_better(self) -> bool | None:
        """Which end of the metric is the good one; None where neither is, or it is not known."""
        if self.metric.startswith(HIGHER_IS_BETTER):
            return True
        return False if self.metric.startswith(LOWER_IS_BETTER) else None
