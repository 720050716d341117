"""Power-function averages: their profile, their recurrence, and averages of other lengths reconstructed from them."""

import pytest
import torch
from torch import Tensor

from diffusion.process.averaging import LONGEST, Profile, coefficients, decay, gamma_of, inner_products

KEPT = [Profile(gamma_of(length), 100 * k) for k in range(1, 17) for length in (0.05, 0.10)]  # 16 snapshots of two


def density(profile: Profile, s: Tensor) -> Tensor:
    gamma, n = profile
    return torch.where(s <= n, (gamma + 1) * (s / n) ** gamma / n, 0.0)


def midpoints(end: float, cells: int = 200_000) -> tuple[Tensor, float]:
    width = end / cells
    return (torch.arange(cells, dtype=torch.float64) + 0.5) * width, width


@pytest.mark.parametrize("length", [0.005, 0.05, 0.1, 0.2, 0.28, LONGEST])
def test_the_length_is_the_standard_deviation_of_the_profile(length):
    s, width = midpoints(1.0)
    p = density(Profile(gamma_of(length), 1.0), s)
    mean = float((s * p).sum() * width)
    variance = float(((s - mean) ** 2 * p).sum() * width)
    assert length == pytest.approx(variance**0.5, rel=1e-4)


def test_gamma_of_matches_the_paper():
    assert [gamma_of(0.05), gamma_of(0.10)] == pytest.approx([16.97, 6.94], abs=0.005)  # section 3.1


def recurred(gamma: float, path: Tensor) -> float:
    """w̄ after the last of the weights in `path` (n,)."""
    average = torch.tensor(-1e9, dtype=torch.float64)  # the initial weights, which must not count
    for n, w in enumerate(path, start=1):
        average = decay(gamma, n) * average + (1 - decay(gamma, n)) * w
    return float(average)


@pytest.mark.parametrize("length", [0.05, 0.1, LONGEST])
def test_the_weight_of_a_step_is_the_integral_of_the_profile_over_it(length):
    gamma, n = gamma_of(length), 50
    for step in (1, 2, 30, 49, 50):
        path = torch.zeros(n, dtype=torch.float64)
        path[step - 1] = 1
        expected = (step / n) ** (gamma + 1) - ((step - 1) / n) ** (gamma + 1)
        assert recurred(gamma, path) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_inner_products_equal_numerical_integrals():
    profiles = [Profile(0.0, 3.0), Profile(2.5, 4.0), Profile(7.0, 4.0), Profile(1.0, 10.0)]
    s, width = midpoints(10.0)
    expected = [[float((density(a, s) * density(b, s)).sum() * width) for b in profiles] for a in profiles]
    assert torch.allclose(inner_products(profiles, profiles), torch.tensor(expected, dtype=torch.float64), rtol=1e-4)
    assert inner_products(profiles, profiles[:1]).shape == (4, 1)


@pytest.mark.parametrize(("length", "bound"), [(0.03, 0.04), (0.08, 0.003), (0.15, 0.01), (0.25, 0.08), (0.01, 0.37)])
def test_other_lengths_are_approximated_and_the_error_is_reported(length, bound):
    wanted = Profile(gamma_of(length), 1600)
    x, missing = coefficients(KEPT, wanted)
    assert float(x.sum()) == pytest.approx(1, abs=1e-12)
    s, width = midpoints(1600.0)
    made = sum(factor * density(profile, s) for factor, profile in zip(x, KEPT, strict=True))
    difference, whole = ((made - density(wanted, s)) ** 2).sum() * width, (density(wanted, s) ** 2).sum() * width
    assert missing == pytest.approx(float((difference / whole).sqrt()), rel=1e-2, abs=1e-5)
    assert 0.8 * bound < missing < bound
