"""Metrics of a set of samples: functions of their features, with a standard error and a confidence interval.

The standard error is the jackknife's (Efron & Stein 1981), with v_(i) the value without sample i; or, where leaving
samples out is expensive, its limit for small changes of sample weights (infinitesimal jackknife):

    error² = (n−1)/n · Σ_i (v_(i) − v̄)²    or    error² = Σ_i φ_i² / n(n−1),    φ_i = d value / d(weight of sample i).

The reference is held fixed, unless its images are tiles of photographs: these are not independent, and other
photographs give other distances (see `over_photographs`). (A bootstrap repeats images, which biases distances and
coverages by as much as their error.)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion.metric.denoising import mean_and_error, quantile
from diffusion.randomness import generator_for

LEVEL = 0.95  # of confidence intervals
Z = math.sqrt(2) * float(torch.erfinv(torch.tensor(LEVEL, dtype=torch.float64)))  # half their width, in errors
POOL = 10_000  # maximum number of features per set in pairwise metrics
ROWS = 1024  # rows of a pairwise matrix in memory at a time


class Statistic(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float
    minimum: float = -math.inf  # the lowest possible value
    share_of: int | None = None  # if the value is a share: the number of samples
    std: float | None = None  # over the kernel distance's subsets
    influence: Tensor = torch.empty(0)  # φ up to a constant, (N,), if the value is symmetric in the two sets
    samples_error: float | None = None  # the part of the error that is due to generated samples, if it is not all
    width: float = Z  # half that of the interval, in errors

    def interval(self) -> tuple[float | None, float | None]:
        """(low, high): value ± width · error; for a share, Wilson's interval (1927), which is also valid at 0 and 1.

        (None, None) if the error of a value other than a share is 0 or NaN. Wilson's interval assumes m independent
        samples: the number for which √(p(1−p)/m) is the given error, or the number of samples if the error is 0.
        """
        p, error = self.value, self.error
        if self.share_of is None:
            return (max(self.minimum, p - self.width * error), p + self.width * error) if error > 0 else (None, None)
        m = p * (1 - p) / error**2 if error > 0 and 0 < p < 1 else self.share_of
        centre, half = p + Z**2 / (2 * m), Z * math.sqrt(p * (1 - p) / m + Z**2 / (4 * m**2))
        return max(0.0, (centre - half) / (1 + Z**2 / m)), min(1.0, (centre + half) / (1 + Z**2 / m))


def jackknife(without: Tensor) -> float:
    """The standard error from the leave-one-out values, (n,)."""
    n = len(without)
    return float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())


def error_of(influence: Tensor) -> float:
    """The standard error from the samples' influences φ, (n,): the infinitesimal jackknife's."""
    n = len(influence)
    return float((influence - influence.mean()).norm()) / math.sqrt(n * (n - 1))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D) with N at least 2, float64."""
    mean = x.double().mean(dim=0)
    centred = (rows.double() - mean for rows in x.split(ROWS))
    return mean, sum((c.T @ c for c in centred), mean.new_zeros(())) / (len(x) - 1)


def order_of(features: Tensor) -> Tensor:
    """A random order of the rows of `features` (N, D) that depends only on their values, (N,)."""
    order = features.double().sum(dim=1).argsort()
    return order[torch.randperm(len(features), generator=generator_for("pool"))]


def over_photographs(
    found: dict[str, Statistic], swapped: Callable[[], dict[str, Statistic]], own: Tensor | None, real: Tensor | None
) -> dict[str, Statistic]:
    """Estimates, with the errors of symmetric distances over other photographs instead of other images:

        error² = V_x + V_y,    V = G/(G − 1) · Σ_g (Σ_{i in g} φ_i)² / n²,    n images of G photographs

    with the influences φ of the samples and of the reference's images. The width is Student's t with min(G) − 1 degrees
    of freedom (see `metric.denoising`). With a single photograph, the error is NaN.

    Args:
        swapped: the estimates with the two sets exchanged.
        own: the photographs of the samples, (N,), if they are real images; None: they are independent.
        real: the photographs of the reference's images, (M,); None: the reference is held fixed, V_y = 0.
    """
    if (own is None and real is None) or not any(len(each.influence) for each in found.values()):
        return found
    others = found if real is None else swapped()
    width = quantile(min(len(each.unique()) for each in (own, real) if each is not None))

    def over(one: Statistic, other: Statistic) -> Statistic:
        v, alone = one.error**2, one.error if own is None else None
        if own is not None:  # instead of independent images; the kernel distance's error due to its subsets is kept
            v += mean_and_error(one.influence, own[None])[1] ** 2 - error_of(one.influence) ** 2
        if real is not None:
            v += mean_and_error(other.influence, real[None])[1] ** 2
        return one._replace(error=math.sqrt(max(v, 0.0)), samples_error=alone, width=width)

    return {name: over(each, others[name]) if len(each.influence) else each for name, each in found.items()}


@dataclass(frozen=True)
class RealSet:
    """The features of the real images, as metrics use them, and their protocol."""

    mean: Tensor  # (D,) float64
    cov: Tensor  # (D, D) float64, unbiased
    features: Tensor  # (M, D) float32, in random order; M = 0 for published statistics
    name: str = ""  # in scores: the split
    key: str = ""  # a hash of the images and of the extractor
    protocol: Mapping[str, Any] = field(default_factory=dict)  # of a Score: features, weights_hash, resize, resolution
    photographs: Tensor | None = None  # (M,) their numbers, in the order of the features; None: each image is its own

    @classmethod
    def of(cls, features: Tensor, photographs: Tensor | None = None) -> "RealSet":
        """Build a reference from features (N, D), and maybe the numbers (N,) of the photographs that they are from."""
        order = order_of(features)
        own = None if photographs is None else photographs[order]
        return cls(*moments(features), features[order], photographs=own)

    @cached_property
    def root(self) -> Tensor:
        """B (D, r) with B Bᵀ = cov. With fewer images than features, the centred images are such a B."""
        if 0 < len(self.features) <= len(self.mean):
            return (self.features.double() - self.mean).T / math.sqrt(len(self.features) - 1)
        values, vectors = torch.linalg.eigh(self.cov)
        return vectors * values.clamp(min=0).sqrt()


class SampleMetric:
    """Base class. A score records its attributes as settings."""

    def measure(self, x: Tensor, reference: RealSet, photographs: Tensor | None = None) -> dict[str, Statistic]:
        """Features of all samples, (N, D) -> estimates by short name: fd, kid, precision, …

        `photographs` (N,) are the numbers of theirs, if the samples are real images that are not independent. Raises
        UserError if there are too few for this metric.
        """
        raise NotImplementedError

    def settings_for(self, n: int, m: int) -> dict[str, Any]:
        """The settings in a score of `n` samples against `m` real images."""
        return vars(self)


class PairwiseMetric(SampleMetric):
    """Base class of metrics that compare pairs of features, of at most `POOL` in each set."""

    def measure(self, x: Tensor, reference: RealSet, photographs: Tensor | None = None) -> dict[str, Statistic]:
        order, real = order_of(x)[:POOL], reference.photographs
        x, y = x[order].double(), reference.features[:POOL].double()
        own, real = None if photographs is None else photographs[order], None if real is None else real[:POOL]
        return over_photographs(self.compare(x, y), lambda: self.compare(y, x), own, real)

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """Features of samples (N, D) and of real images (M, D), float64 -> estimates by short name."""
        raise NotImplementedError
