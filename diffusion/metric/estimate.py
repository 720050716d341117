"""What a metric of a set of samples is: a function of their features that says how far another draw would move it.

Every metric takes features already extracted, so one pass of the extractor serves all, and compares with a reference
given at construction. Its standard error is the jackknife's (Efron & Stein 1981): with v_(i) the value without sample
i,

    error² = (n−1)/n · Σ_i (v_(i) − v̄)²

or, where leaving out is costly, its limit for small changes of a sample's weight (the infinitesimal jackknife),

    error² = Σ_i φ_i² / n(n−1),    φ_i = d value / d(weight of sample i).

The first leans to the safe side: its expectation is at least the variance to be estimated, up to terms of higher
order; the second, its limit, may miss a little where there are fewer samples than features. (A bootstrap won't do here:
drawing with replacement repeats images, which biases distances and coverages by as much as their error.) The reference
is held fixed, as it is when models are compared by it, so an interval is where other samples of the same model, as
many, would fall: it knows nothing of the bias that so many samples bring.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from diffusion.randomness import generator_for

POOL = 10_000  # most features of either set that metrics of pairs compare
PAIRS = ("samples", "reference")  # the sets that they compare
ROWS = 1024  # rows of a matrix of pairs that are in memory at once


class TooFew(ValueError):
    """Fewer features than a metric is defined for."""


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float
    minimum: float = -math.inf  # which the quantity can't go below
    share_of: int | None = None  # samples that a share was counted from; None where it is no share
    std: float | None = None  # over the kernel distance's subsets

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Low and high: value ± z · error; for a share Wilson's interval (1927), which is sound at 0 and 1 too.

        None where no sample moves the value, as none does a density of 0: those at hand tell nothing of how far others
        would. (How often a sample lies in a ball is bounded, as precision's interval shows; not in how many it then
        lies.)

        Wilson's is for m independent samples, of which a share p has error √(p(1−p)/m): with the error at hand, this
        gives the m to use.
        """
        z = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
        if self.share_of is None and self.error == 0:
            return None
        if self.share_of is None:
            return max(self.minimum, self.value - z * self.error), self.value + z * self.error
        p = self.value
        m = p * (1 - p) / self.error**2 if self.error > 0 and 0 < p < 1 else self.share_of
        centre, half = p + z**2 / (2 * m), z * math.sqrt(p * (1 - p) / m + z**2 / (4 * m**2))
        return max(0.0, (centre - half) / (1 + z**2 / m)), min(1.0, (centre + half) / (1 + z**2 / m))


def jackknife(without: Tensor) -> float:
    """The standard error out of the values without each sample, (n,)."""
    n = len(without)
    return float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())


def infinitesimal_jackknife(influence: Tensor) -> float:
    """The standard error out of the samples' influences φ, (n,)."""
    n = len(influence)
    return float((influence - influence.mean()).norm()) / math.sqrt(n * (n - 1))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), float64. TooFew for fewer than two."""
    if len(x) < 2:
        raise TooFew(f"moments of {len(x)} feature vectors: a covariance needs at least 2")
    mean = x.double().mean(dim=0)
    return mean, sum((c.T @ c for c in (rows.double() - mean for rows in x.split(ROWS))), mean.new_zeros(())) / (
        len(x) - 1
    )


def pool(features: Tensor) -> Tensor:
    """At most `POOL` of the rows of `features` (N, D), in an order that depends on their values alone.

    So what is drawn from them does not depend on how the images were batched or divided among devices.
    """
    order = features.double().sum(dim=1).argsort()
    return features[order[torch.randperm(len(features), generator=generator_for("pool"))[:POOL]]]


def root(cov: Tensor) -> Tensor:
    """A (D, D) with A Aᵀ = `cov`, for a symmetric positive semi-definite (D, D)."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Reference:
    """What metrics need to know of the real images' features."""

    mean: Tensor  # (D,) float64
    cov: Tensor  # (D, D) float64, unbiased
    features: Tensor  # (M, D) float32: all of them, or `POOL`
    n: int

    @classmethod
    def of(cls, features: Tensor) -> "Reference":
        """The reference whose features (N, D) these are."""
        return cls(*moments(features.cpu()), pool(features.cpu()), len(features))

    @cached_property
    def root(self) -> Tensor:
        """B (D, r) with B Bᵀ = cov; of fewer images than features, the images themselves are one."""
        if self.n == len(self.features) <= len(self.mean):
            return (self.features.double() - self.mean).T / math.sqrt(self.n - 1)
        return root(self.cov)


class SampleMetric(Metric):
    """Base class: a subclass defines `measure`, a function of all features. Update with features, in any division."""

    full_state_update = False
    is_differentiable = False
    needs_logits: ClassVar[bool] = False
    needs_spatial: ClassVar[bool] = False  # its features, and its reference's, are an extractor's spatial ones
    settings: ClassVar[tuple[str, ...]] = ()  # its attributes that change its number
    pools: ClassVar[tuple[str, ...]] = ()  # of "samples" and "reference", those of which at most `POOL` are compared
    features: list[Tensor]

    def __init__(self, reference: Reference, seed: int = 0, head: Any = None, **kwargs: Any):
        """`seed` counts what the metric draws; `head`: features (B, D) -> logits (B, K), where a metric needs them."""
        super().__init__(**kwargs)
        self.reference, self.seed, self.head = reference, seed, head
        self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, features: Tensor) -> None:
        """`features` (B, D)."""
        self.features.append(features)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all devices, of which some may have seen nothing."""
        if not len(self.features):
            self.update(torch.empty(0, len(self.reference.mean), device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Estimate]:
        """`measure` of all features seen, on all devices. TooFew for too few of them."""
        return self.measure(dim_zero_cat(self.features).cpu())

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """Features (N, D) on the CPU -> estimates by short name: fd, kid, precision, …"""
        raise NotImplementedError

    def settings_for(self, n: int) -> dict[str, Any]:
        """What a score of `n` features must say of the metric: its settings, and `pool` where a set is larger."""
        sizes = {"samples": n, "reference": self.reference.n}
        cut = any(sizes[name] > POOL for name in self.pools)
        return {name: getattr(self, name) for name in self.settings} | ({"pool": POOL} if cut else {})
