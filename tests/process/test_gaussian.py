"""Gaussians: the best denoiser, conditional distributions, and the law of autoregressive series, by closed forms."""

import pytest
import torch
from oracle import GaussianOracle

from diffusion.errors import UserError
from diffusion.process.gaussian import Autoregressive, Gaussian
from diffusion.process.schedule import cosine

A, DEVIATION = 0.8, 2.0


def correlated(size: int = 5) -> Gaussian:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Gaussian(torch.arange(size), root @ root.T)


def test_the_denoiser_is_the_posterior_mean() -> None:
    gaussian, schedule = correlated(), cosine(1000)
    x_t, t = torch.randn(7, 1, 5, dtype=torch.float64), torch.linspace(0.05, 1, 7)
    found = gaussian.exact(schedule)(x_t, t)
    known = GaussianOracle(schedule, gaussian.mean, gaussian.covariance)(x_t, t)
    for one, other in zip(found[:2], known[:2], strict=True):
        torch.testing.assert_close(one, other.view_as(one))


def test_draws_and_what_is_given_are_those_of_the_covariance() -> None:
    gaussian, known = correlated(), torch.tensor([True, False, True, True, False])
    x = gaussian.sample(200_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.T.cov(), gaussian.covariance, atol=0.1, rtol=0.02)
    mean, covariance = gaussian.given(x[:, known], known)
    rest = x[:, ~known] - mean  # independent of what is known, with the conditional covariance
    torch.testing.assert_close(rest.T.cov(), covariance, atol=0.02, rtol=0.02)
    cross = (rest.T @ (x[:, known] - gaussian.mean[known])) / len(x)
    assert cross.abs().max() < 0.05


def test_one_coefficient_has_known_covariances_and_forecasts() -> None:
    process, lags = Autoregressive([A], DEVIATION), torch.arange(6)
    variance = DEVIATION**2 / (1 - A**2)
    torch.testing.assert_close(process.autocovariance(6), variance * A ** lags.double())
    known = lags < 3
    mean, covariance = process.series(6).given(torch.tensor([[5.0, -1.0, 2.0]]), known)
    ahead = torch.arange(1.0, 4.0).double()
    torch.testing.assert_close(mean[0], 2 * A**ahead)
    torch.testing.assert_close(covariance.diagonal(), variance * (1 - A ** (2 * ahead)))


def test_the_spectrum_is_that_of_the_autocovariance_and_of_the_recursion() -> None:
    process = Autoregressive([1.6, -0.8], DEVIATION)
    gamma, f = process.autocovariance(400), torch.linspace(-0.5, 0.5, 101).double()
    waves = torch.cos(2 * torch.pi * torch.outer(f, torch.arange(1, 400).double()))
    torch.testing.assert_close(process.spectrum(f), gamma[0] + 2 * (waves * gamma[1:]).sum(dim=1), rtol=1e-6, atol=1e-6)
    x = process.series(500).sample(2000, torch.Generator().manual_seed(2))
    noise = x[:, 2:] - 1.6 * x[:, 1:-1] + 0.8 * x[:, :-2]
    assert abs(float(noise.std()) - DEVIATION) < 0.01
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.02


@pytest.mark.parametrize("coefficients", [[1.0], [1.6, -0.5]])
def test_a_series_that_grows_is_refused(coefficients: list[float]) -> None:
    with pytest.raises(UserError, match="the series would grow"):
        Autoregressive(coefficients)
