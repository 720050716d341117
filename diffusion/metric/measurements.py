"""Scores of measurements without a trained network: their features as the referee's eyes see them, and of ensembles.

An ensemble are the M samples x_k of one condition, whose real value is y. Its continuous ranked probability score,

    CRPS = mean_k |x_k − y| − Σ_{k<l} |x_k − x_l| / (M(M − 1)),

is in expectation that of the distribution that the samples are drawn from (the fair estimate: Ferro 2014), and least
for the true one. If this is it, y is of any rank among the samples with the same probability, and the spread,
√((M + 1)/M · mean variance), is the root mean square error of the ensemble mean (Fortin et al. 2014).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.base.files import digest
from diffusion.metric.denoising import mean_and_error, numbered
from diffusion.metric.estimate import LEVEL, RealSet, moments
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Score
from diffusion.metric.referee import LEAST, convolutions, patches, quantiles, spectrum
from diffusion.randomness import generator_for

EYES = ("spectrum", "values", "patches", "convolutions")  # of `Measurements`


def named_by(*eyes: str) -> Mapping[str, str]:
    """The names of metrics of eyes, such as energy_spectrum, for `FeatureExtractor.canonical`."""
    return MappingProxyType(
        {f"{metric}/{eye}": f"{metric}_{eye}" for metric in ("energy", "fd", "kid") for eye in eyes}
    )


class SeenByEyes(FeatureExtractor):
    """Base class: what several eyes see.

    Each eye has scores of its own, such as energy_spectrum, of its numbers divided by their deviations over the
    reference. Subclasses define `seen`.
    """

    resize, num_features = "none", 0

    def __init__(self) -> None:
        super().__init__()
        self.widths: dict[str, int] = {}  # of the eyes, known when images have been seen

    def seen(self, examples: Tensor) -> Mapping[str, Tensor]:
        """What each eye sees in examples (B, C, *size), without missing values, on the CPU: (B, D) by name."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Examples (B, C, *size) -> float32 (B, D) on the CPU, where the filters are drawn."""
        seen = self.seen(images.cpu())
        self.widths = {eye: each.shape[1] for eye, each in seen.items()}
        return torch.cat([*seen.values()], dim=1)

    def parts(self, features: Tensor, reference: RealSet) -> Mapping[str, tuple[Tensor, RealSet]]:
        found, widths = {}, [*self.widths.values()]
        for eye, x, y in zip(self.widths, features.split(widths, 1), reference.features.split(widths, 1), strict=True):
            deviation = y.std(dim=0)
            x, y = (each / deviation.clamp(min=1e-6 * float(deviation.max())) for each in (x, y))
            mean, cov = moments(y)
            found[eye] = x, replace(reference, mean=mean, cov=cov, features=y)
        return found


class Measurements(SeenByEyes):
    """What eyes see in measurements: the spectrum and the values of each channel, a pyramid, and random convolutions.

    Channels are standardised, and a missing value is replaced by the mean. Images of fewer than 8 pixels have no
    pyramid and no convolutions.
    """

    name, kind = "measurements", "measured"
    canonical = named_by(*EYES)

    def __init__(self) -> None:
        super().__init__()
        self.standardise([0.0], [0.5])

    def suit(self, kind: Any, shape: Sequence[int]) -> None:
        self.standardise(kind.mean, kind.std)

    def standardise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the deviation of each channel."""
        self.mean, self.std = (nn.Buffer(torch.tensor(each).view(-1, 1, 1)) for each in (mean, std))
        self.freeze()

    def seen(self, examples: Tensor) -> Mapping[str, Tensor]:
        z = ((examples.float() - self.mean.cpu()) / (2 * self.std.cpu())).nan_to_num()
        x, filters = 127.5 * (z + 1), generator_for("eye", "measurements")  # the referee's range
        seen = {
            "spectrum": torch.cat([spectrum(x[:, c : c + 1], filters) for c in range(x.shape[1])], dim=1),
            "values": statistics(z),
        }
        if min(x.shape[-2:]) >= LEAST:
            seen |= {"patches": patches(x, filters), "convolutions": convolutions(x, filters)}
        return seen


class Eyes(SeenByEyes):
    """What the eyes of a kind of data see in examples of it (`Kind.eyes`): those of its referee, as features."""

    name, kind = "eyes", ""

    def suit(self, kind: Any, shape: Sequence[int]) -> None:
        self.view, self.eyes = kind.referee_view, kind.eyes(shape)
        self.canonical = named_by(*self.eyes)
        self.weights_hash = digest(kind.name, sorted(kind.figures.items()), [*self.eyes])[:16]

    def seen(self, examples: Tensor) -> Mapping[str, Tensor]:
        x = self.view(examples)
        return {name: eye(x, generator_for("eye", name)) for name, eye in self.eyes.items()}


def statistics(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The mean, the deviation and quantiles of the values of each channel: (B, C, *size) -> (B, 9 C)."""
    of = z.flatten(2)
    return torch.cat([of.mean(2), of.std(2), *quantiles(of, 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)], dim=1)


def crps(x: Tensor, y: Tensor) -> Tensor:
    """The fair CRPS, elementwise: of samples (M, …) for values (…)."""
    m, ordered = len(x), x.sort(dim=0).values
    rank = torch.arange(1, m + 1, device=x.device).view(-1, *[1] * y.ndim)
    return (x - y).abs().mean(dim=0) - ((2 * rank - m - 1) * ordered).sum(dim=0) / (m * (m - 1))


def gaussian_crps(mean: Tensor, std: Tensor, y: Tensor) -> Tensor:
    """The CRPS of N(mean, std²) for y, elementwise (Gneiting et al. 2005, eq. 5)."""
    z = (y - mean) / std
    cdf, density = torch.special.ndtr(z), torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return std * (z * (2 * cdf - 1) + 2 * density - 1 / math.sqrt(math.pi))


def of_images(x: Tensor) -> Tensor:
    """The mean over the known values of each image and channel: (m, C, H, W) -> float64 (m, C)."""
    return x.double().flatten(2).nanmean(dim=2)


def estimated(metric: str, value: float, influence: Tensor, sources: Sequence[object], **known: Any) -> Score:
    """A score with its interval over other images, from each image's deviation of the mean."""
    _, error, half = mean_and_error(influence, numbered(sources)[None])
    low, high = (None, None) if math.isnan(half) else (value - half, value + half)
    error_or_none = None if math.isnan(error) else error
    return Score(metric, value, error=error_or_none, low=low, high=high, level=LEVEL, **known)


def ensemble(x: Tensor, y: Tensor, names: Sequence[str], sources: Sequence[object], **known: Any) -> list[Score]:
    """The scores of samples (M, m, C, H, W) of the conditions of m images (m, C, H, W), for each channel.

    They are `crps_NAME`, in the unit of the channel, and `spread_skill_NAME`, the spread divided by the error of the
    mean, which is below 1 if the samples are too alike. Intervals are over the images' `sources`.
    """
    found, each = list[Score](), of_images(crps(x, y))
    m = len(x)
    spread, error = of_images(((m + 1) / m) * x.var(dim=0) + 0 * y), of_images((x.mean(dim=0) - y).square())
    for c, name in enumerate(names):
        there = ~each[:, c].isnan()
        mine = [source for source, known_there in zip(sources, there.tolist(), strict=True) if known_there]
        value, a, b = (of[there, c] for of in (each, spread, error))
        ratio = float((a.mean() / b.mean()).sqrt())
        found.append(estimated(f"crps_{name}", float(value.mean()), value, mine, **known))
        slope = (a - ratio**2 * b) / (2 * ratio * b.mean())  # of the ratio with the weight of an image
        found.append(estimated(f"spread_skill_{name}", ratio, slope, mine, **known))
    return found


def ranks(x: Tensor, y: Tensor, names: Sequence[str], sources: Sequence[object]) -> str:
    """For a chart, as JSON: for each channel the share of values of each rank 0 … M among its samples, with half the
    width of its interval; and the spread and the error of each image."""
    rank, found = (x < y).sum(dim=0), {}
    clusters, m = numbered(sources)[None], len(x)
    spread, error = of_images((m + 1) / m * x.var(dim=0) + 0 * y).sqrt(), of_images((x.mean(0) - y).square()).sqrt()
    for c, name in enumerate(names):
        shares = [of_images(torch.where(y.isnan(), torch.nan, (rank == k).double()))[:, c] for k in range(m + 1)]
        pairs = [mean_and_error(share.nan_to_num(1 / (m + 1)), clusters) for share in shares]
        found[name] = {
            "shares": [share for share, _, _ in pairs], "half": [half for _, _, half in pairs],
            "spread": spread[:, c].nan_to_num().tolist(), "error": error[:, c].nan_to_num().tolist(),
        }  # fmt: skip
    return json.dumps(found)
