"""Confidence intervals cover the expectation at their stated rate, for many draws from Gaussians."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from diffusion.data.module import Split, place
from diffusion.kinds.pixels import Pixels
from diffusion.metric.distances import CMMD, EnergyDistance, FrechetDistance, KernelDistance
from diffusion.metric.diversity import DensityCoverage, PrecisionRecall
from diffusion.metric.estimate import RealSet, Statistic
from diffusion.scoring.pipeline import Scorer

DRAWS = 120


def test_confidence_intervals_have_the_stated_coverage() -> None:
    """At least 95%, as the jackknife can be conservative; and no interval is more than twice too wide."""
    generator = torch.Generator().manual_seed(1)
    reference = RealSet.of(torch.randn(100, 6, generator=generator))
    metrics = [FrechetDistance(), KernelDistance(subsets=30), CMMD(sigma=2.0), PrecisionRecall(), DensityCoverage()]
    metrics.append(EnergyDistance())
    found: dict[str, list[Statistic]] = {}
    for _ in range(DRAWS):
        x = torch.randn(80, 6, generator=generator) * 0.7 + 0.7
        for metric in metrics:
            for name, estimate in metric.measure(x, reference).items():
                found.setdefault(name, []).append(estimate)
    assert len(found) == 8
    for name, estimates in found.items():
        value = torch.tensor([e.value for e in estimates], dtype=torch.float64)
        low, high = torch.tensor([e.interval() for e in estimates], dtype=torch.float64).T
        covered = ((low <= value.mean()) & (value.mean() <= high)).double().mean()
        assert covered >= 0.89, name  # 95% minus three standard deviations of 120 draws
        ratio = sum(e.error for e in estimates) / DRAWS / float(value.std())
        assert 0.85 < ratio < 2, name


def tiles(photographs: int, of_each: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features of tiles around those of their photographs, and the numbers of these."""
    own = torch.arange(photographs).repeat_interleave(of_each)
    means, noise = (torch.randn(n, 6, generator=generator) for n in (photographs, len(own)))
    return means[own] + 0.5 * noise, own


@pytest.mark.parametrize("clustered", ["samples", "reference"])
def test_intervals_count_photographs_instead_of_their_tiles(clustered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the 96 tiles of 12 photographs were independent, the errors would be less than half of the true ones."""
    monkeypatch.setattr("diffusion.metric.estimate.POOL", 90)  # a part of the tiles
    generator, found = torch.Generator().manual_seed(3), dict[str, list[Statistic]]()
    metrics = [FrechetDistance(), KernelDistance(subsets=5), CMMD(sigma=2.0), EnergyDistance()]
    other = torch.randn(90, 6, generator=generator) * 0.8 + 0.5
    for _ in range(60):
        x, own = tiles(12, 8, generator)
        for metric in metrics:
            if clustered == "samples":
                estimates = metric.measure(x, RealSet.of(other), own)
            else:
                estimates = metric.measure(other, RealSet.of(x, own))
            for name, estimate in estimates.items():
                found.setdefault(name, []).append(estimate)
    for name, estimates in found.items():
        value = torch.tensor([e.value for e in estimates], dtype=torch.float64)
        low, high = torch.tensor([e.interval() for e in estimates], dtype=torch.float64).T
        assert ((low <= value.mean()) & (value.mean() <= high)).double().mean() >= 0.86, name  # see above, of 60 draws
        assert 0.85 < sum(e.error for e in estimates) / 60 / float(value.std()) < 1.5, name

    alone = [metric.measure(x, RealSet.of(other), torch.arange(96)) for metric in metrics]  # a tile of each
    errors = {name: estimate.error for each in alone for name, estimate in each.items()}
    independent = [metric.measure(x, RealSet.of(other)) for metric in metrics]
    assert errors == pytest.approx({name: e.error for each in independent for name, e in each.items()}, rel=1e-9)


def test_every_score_counts_the_photographs_of_its_real_images(projection: Any, cache: Path, tmp_path: Path) -> None:
    """The width of an interval in errors is Student's t, and says how many photographs were counted."""

    def split(photographs: int, of_each: int) -> Split:
        own, generator = torch.arange(photographs * of_each) % photographs, torch.Generator().manual_seed(photographs)
        images = torch.randint(256, (len(own), 3, 8, 8), generator=generator, dtype=torch.uint8)
        return Split(images, [f"{name}{place(i, 0, 8)}" for i, name in enumerate(own.tolist())])

    splits = {"train": split(4, 20), "val": split(6, 10)}
    data: Any = SimpleNamespace(splits=splits, shape=(3, 8, 8), kind=Pixels(), missing=False)
    scorer = Scorer(data, "val", projection(), [FrechetDistance(), CMMD()], tmp_path, tmp_path)
    images = splits["train"].images
    found = scorer.score(images) + scorer.baselines(["noise", "real", "split_half"], 40)
    widths = {score.what: (score.high - score.value) / score.error for score in found}  # type: ignore[operator]
    photographs = {"samples": 6, "noise": 6, "real": 4, "split_half": torch.inf}
    assert widths == pytest.approx({what: scipy.stats.t.ppf(0.975, n - 1) for what, n in photographs.items()}, rel=1e-4)
    assert {score.what for score in found if score.samples_error} == {"samples", "noise"}
    splits["val"] = split(1, 40)  # one photograph says nothing about others
    (alone, *_) = Scorer(data, "val", projection(), [FrechetDistance()], tmp_path, tmp_path).score(images)
    assert (alone.interval, alone.error) == (None, None)
    assert alone.paired.low < alone.value < alone.paired.high  # type: ignore[operator]


def test_the_energy_distance_of_equal_distributions_has_an_interval_of_the_stated_coverage() -> None:
    """There, the terms of first order vanish; the jackknife's error alone covers 90%."""
    generator = torch.Generator().manual_seed(2)
    covered = []
    for _ in range(10):
        reference = RealSet.of(torch.randn(100, 2, generator=generator))
        drawn = [EnergyDistance().measure(torch.randn(100, 2, generator=generator), reference) for _ in range(80)]
        expectation = sum(each["energy"].value for each in drawn) / len(drawn)
        intervals = [each["energy"].interval() for each in drawn]
        covered += [low <= expectation <= high for low, high in intervals]
    assert sum(covered) / len(covered) >= 0.95


def test_an_interval_stays_in_the_range_of_the_metric() -> None:
    assert Statistic(0.1, 0.2, minimum=0.0).interval() == pytest.approx((0, 0.1 + 1.95996 * 0.2), abs=1e-5)
    assert Statistic(0.0, 0.0, minimum=0.0).interval() == (None, None)  # an error of 0 says nothing about other samples
    low, high = Statistic(0.0, 0.0, share_of=100).interval()  # 0 of 100 does not mean 0 overall
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(3.84 / 103.84, rel=1e-3)
    n, p = 50, 0.3  # Wilson's interval in its usual form
    z2 = 1.959963985**2
    half = (z2 * p * (1 - p) / n + z2**2 / (4 * n**2)) ** 0.5
    expected = [(p + z2 / (2 * n) + sign * half) / (1 + z2 / n) for sign in (-1, 1)]
    assert Statistic(p, (p * (1 - p) / n) ** 0.5, share_of=n).interval() == pytest.approx(expected)
    assert Statistic(1.0, 0.01, share_of=n).interval()[1] == 1.0
