"""Scores of ensembles are those of known distributions; eyes see differences in measurements, in any unit."""

import json

import pytest
import torch
from torch import Tensor

from diffusion.metric.distances import EnergyDistance
from diffusion.metric.measurements import EYES, Measurements, crps, ensemble, gaussian_crps, ranks
from diffusion.metric.score import reference_of, score

g = torch.Generator().manual_seed(0)
NAMES, SOURCES = ["t"], range(400)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def test_the_crps_is_the_mean_over_pairs() -> None:
    x, y = normal(4, 3), normal(3)
    pairs = sum((x[k] - x[j]).abs() for k in range(4) for j in range(k)) / (4 * 3)
    torch.testing.assert_close(crps(x, y), (x - y).abs().mean(dim=0) - pairs)


def test_the_crps_of_a_gaussian_is_the_integral_of_its_definition() -> None:
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    mean, std, y = (torch.tensor(each, dtype=torch.float64) for each in (0.5, 2.0, 1.2))
    squared = (torch.special.ndtr((z - mean) / std) - (z >= y).double()).square()
    assert float(gaussian_crps(mean, std, y)) == pytest.approx(float(torch.trapezoid(squared, z)), abs=1e-4)


@pytest.mark.parametrize(("width", "calibrated"), [(1.0, True), (0.7, False)])
def test_spread_and_ranks_show_whether_samples_are_as_different_as_real_values(width: float, calibrated: bool) -> None:
    centre = 3 * normal(400, 1, 4, 4)
    x, y = centre + width * normal(9, 400, 1, 4, 4), centre + normal(400, 1, 4, 4)
    _, ratio = ensemble(x, y, NAMES, SOURCES)
    assert ratio.low < 1 < ratio.high if calibrated else ratio.high < 1
    chart = json.loads(ranks(x, y, NAMES, SOURCES))["t"]
    assert sum(chart["shares"]) == pytest.approx(1)
    apart = sum(abs(share - 0.1) > half for share, half in zip(chart["shares"], chart["half"], strict=True))
    assert apart <= 2 if calibrated else apart >= 6


def test_missing_values_are_in_no_score_of_an_ensemble() -> None:
    x, y = normal(5, 400, 1, 4, 4), normal(400, 1, 4, 4)
    y[:, :, 2:] = torch.nan
    y[0] = torch.nan
    found, cut = ensemble(x, y, NAMES, SOURCES), ensemble(x[:, 1:, :, :2], y[1:, :, :2], NAMES, SOURCES[1:])
    values, errors = ([[getattr(each, key) for each in of] for of in (found, cut)] for key in ("value", "error"))
    assert values[0] == pytest.approx(values[1])
    assert errors[0] == pytest.approx(errors[1])


def fields(n: int, smooth: bool, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Noise of 2 channels, in one of which smooth fields have as large values."""
    x = normal(n, 2, 16, 16)
    if smooth:
        wave = torch.fft.fftfreq(16, dtype=torch.float64).square() * 256
        power = (1 + wave[:, None] + wave) ** -1.5
        x[:, 1] = torch.fft.ifft2(torch.fft.fft2(x[:, 1]) * (power / power.mean()).sqrt()).real
    return (mean + std * x).float()


def scores(x: Tensor, real: Tensor, mean: float = 0.0, std: float = 1.0) -> dict[str, tuple[float, float, float]]:
    eyes = Measurements()
    eyes.standardise([mean] * 2, [std] * 2)
    reference = reference_of(real, eyes, "val")
    found = score(eyes(x), eyes, reference, [EnergyDistance()])
    return {name: (each.low, each.value, each.high) for name, each in found.items()}  # type: ignore[misc]


def test_eyes_tell_smooth_fields_from_noise_and_equal_ones_not() -> None:
    real = fields(60, smooth=True)
    same, other = scores(fields(60, smooth=True), real), scores(fields(60, smooth=False), real)
    assert {*same} == {f"energy_{eye}" for eye in EYES}
    assert all(low < 0 for low, _, _ in same.values())
    assert all(other[name][0] > same[name][2] for name in ("energy_spectrum", "energy_patches", "energy_convolutions"))


def test_scores_do_not_depend_on_the_unit_but_their_protocol_has_it() -> None:
    x, real = fields(20, smooth=False), fields(20, smooth=True)
    kelvin = scores(280 + 5 * x, 280 + 5 * real, 280, 5)
    for name, found in scores(x, real).items():
        assert kelvin[name] == pytest.approx(found, rel=1e-3)
    hashes = set()
    for std in (1.0, 2.0):
        eyes = Measurements()
        eyes.standardise([0.0], [std])
        hashes.add(eyes.weights_hash)
    assert len(hashes) == 2
