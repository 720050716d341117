"""Confidence intervals cover the expectation at their stated rate, for many draws from Gaussians."""

import re

import pytest
import torch

from diffusion.files import PACKAGE
from diffusion.metric.distances import CMMD, EnergyDistance, FrechetDistance, KernelDistance
from diffusion.metric.diversity import DensityCoverage, PrecisionRecall
from diffusion.metric.estimate import Estimate, Reference

DRAWS = 120


def test_confidence_intervals_have_the_stated_coverage() -> None:
    """At least 95%, as the jackknife can be conservative; and no interval is more than twice too wide."""
    generator = torch.Generator().manual_seed(1)
    reference = Reference.of(torch.randn(100, 6, generator=generator))
    metrics = [FrechetDistance(), KernelDistance(subsets=30), CMMD(sigma=2.0), PrecisionRecall(), DensityCoverage()]
    metrics.append(EnergyDistance())
    found: dict[str, list[Estimate]] = {}
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


def test_the_energy_distance_of_equal_distributions_has_an_interval_of_the_stated_coverage() -> None:
    """There, the terms of first order vanish; the jackknife's error alone covers 90%."""
    generator = torch.Generator().manual_seed(2)
    covered = []
    for _ in range(10):
        reference = Reference.of(torch.randn(100, 2, generator=generator))
        drawn = [EnergyDistance().measure(torch.randn(100, 2, generator=generator), reference) for _ in range(80)]
        expectation = sum(each["energy"].value for each in drawn) / len(drawn)
        intervals = [each["energy"].interval() for each in drawn]
        covered += [low <= expectation <= high for low, high in intervals]
    assert sum(covered) / len(covered) >= 0.95


def test_recalls_error_is_at_most_as_many_times_too_large_as_the_docs_say() -> None:
    """The jackknife exaggerates it most for points of which nearly all are covered."""
    page = (PACKAGE.parent / "docs/numbers.md").read_text("utf-8")
    low, high = (float(each) for each in re.findall(r"error was ([\d.]+)\sto ([\d.]+) times the true one", page)[0])
    generator = torch.Generator().manual_seed(3)
    reference = Reference.of(torch.randn(400, 2, generator=generator))
    drawn = [PrecisionRecall().measure(torch.randn(400, 2, generator=generator), reference) for _ in range(80)]
    value, error = torch.tensor([each["recall"][:2] for each in drawn], dtype=torch.float64).T
    assert low < float(error.mean() / value.std()) < high


def test_an_interval_stays_in_the_range_of_the_metric() -> None:
    assert Estimate(0.1, 0.2, minimum=0.0).interval() == pytest.approx((0, 0.1 + 1.95996 * 0.2), abs=1e-5)
    assert Estimate(0.0, 0.0, minimum=0.0).interval() == (None, None)  # an error of 0 says nothing about other samples
    low, high = Estimate(0.0, 0.0, share_of=100).interval()  # 0 of 100 does not mean 0 overall
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(3.84 / 103.84, rel=1e-3)
    n, p = 50, 0.3  # Wilson's interval in its usual form
    z2 = 1.959963985**2
    half = (z2 * p * (1 - p) / n + z2**2 / (4 * n**2)) ** 0.5
    expected = [(p + z2 / (2 * n) + sign * half) / (1 + z2 / n) for sign in (-1, 1)]
    assert Estimate(p, (p * (1 - p) / n) ** 0.5, share_of=n).interval() == pytest.approx(expected)
    assert Estimate(1.0, 0.01, share_of=n).interval()[1] == 1.0
