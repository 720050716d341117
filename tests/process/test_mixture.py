"""The best denoiser of a mixture against the general oracle, Bayes' rule, and draws; and the sets made of mixtures."""

import math

import pytest
import torch

from diffusion.config.build import make
from diffusion.config.choices import choice, choices
from diffusion.process.likelihood import flow_likelihood
from diffusion.process.mixture import Exact, Mixture, gaussians
from diffusion.process.schedule import VP
from diffusion.randomness import Streams, generator_for
from tests.support.oracle import MixtureOracle

MEANS = torch.tensor([[-0.8, -0.2], [0.5, 0.5], [0.6, -0.7]]).double()
WIDTHS, WEIGHTS = torch.tensor([0.2, 0.1, 0.3]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
MIXTURE = Mixture(MEANS, WIDTHS, torch.tensor([0, 1, 1]), WEIGHTS)
X, T = torch.linspace(-1, 1, 8).double().reshape(4, 2, 1, 1), torch.tensor([0.02, 0.3, 0.6, 1.0]).double()


def general(rows: list[int]) -> MixtureOracle:
    return MixtureOracle(VP(), WEIGHTS[rows], MEANS[rows], torch.eye(2).double() * WIDTHS[rows, None, None] ** 2)


def test_estimates_and_densities_are_those_of_the_general_oracle() -> None:
    exact, oracle = Exact(MIXTURE, VP()), general([0, 1, 2])
    torch.testing.assert_close(exact(X, T), oracle(X, T))
    torch.testing.assert_close(exact.log_density(X, T), oracle.posterior(X, T)[1])
    assert exact(X.float(), T).x0.dtype == torch.float32


def test_with_a_class_only_its_components_count_and_the_number_of_classes_is_no_class() -> None:
    exact = Exact(MIXTURE, VP())
    assert MIXTURE.classes == 2
    found = exact(X, T, torch.tensor([1, 0, 2, 1])).x0
    torch.testing.assert_close(found[[0, 3]], general([1, 2])(X, T).x0[[0, 3]])
    torch.testing.assert_close(found[1], general([0])(X, T).x0[1])
    assert torch.equal(found[2], exact(X, T).x0[2])


def test_the_posterior_obeys_bayes_rule() -> None:
    exact, x0 = Exact(MIXTURE, VP()), torch.tensor([[0.3, 0.1], [-0.6, 0.4]]).double().view(2, 2, 1, 1)
    x_t, t, zero = X[1:2], T[1:2], torch.zeros(2).double()
    alpha, sigma = VP()(t)
    log_given = -((x_t - alpha * x0) ** 2).flatten(1).sum(1) / (2 * sigma**2) - torch.log(2 * math.pi * sigma**2)
    expected = exact.log_density(x0, zero) + log_given - exact.log_density(x_t, t)
    torch.testing.assert_close(Exact(exact.posterior(x_t, t), VP()).log_density(x0, zero), expected)


def test_the_likelihood_of_the_flow_is_the_density() -> None:
    """Of continuous values, and with the exact divergence: for two values there is no random error."""
    exact, x0 = Exact(MIXTURE, VP()), MIXTURE.sample(20, generator_for("x"))[0].view(20, 2, 1, 1)
    bits = flow_likelihood(exact, x0, Streams(range(20)), 1e-3, discrete=False)
    density = -2 * math.log(2) * bits
    torch.testing.assert_close(density, exact.log_density(x0, torch.zeros(20).double()), atol=5e-3, rtol=0)


def test_the_exact_flow_map_scales_a_gaussian_and_parts_of_a_path_join() -> None:
    schedule, x, width = VP(), torch.randn(50, 2, 1, 1, dtype=torch.float64), 0.25
    one, several = Mixture(torch.zeros(1, 2), width, torch.zeros(1, dtype=torch.long)), gaussians()
    ones, middle, zeros = torch.ones(50).double(), torch.full((50,), 0.4).double(), torch.zeros(50).double()
    alpha, sigma = schedule(torch.ones(1, dtype=torch.float64))
    found = Exact(one, schedule)(x, ones, end=zeros).x0
    torch.testing.assert_close(found, x * width / torch.hypot(alpha * width, sigma), rtol=1e-9, atol=1e-9)
    exact, s = Exact(several, schedule), schedule.at_flow_time(middle)
    half = exact(x, ones, end=middle)
    x_s = sum(c.view(-1, 1, 1, 1) * each for c, each in zip(schedule(s), half[:2], strict=True))
    torch.testing.assert_close(exact(x_s, s, end=zeros).x0, exact(x, ones, end=zeros).x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", choices("mixture"))
def test_draws_of_each_set_have_its_density_and_lie_in_the_square(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mean of log p, and by the expectation of 1/p over the draws: the area where p is not tiny."""
    monkeypatch.setattr("diffusion.process.mixture.FINE", 60)
    mixture: Mixture = make(choice("mixture", name), "mixture")
    x, classes = mixture.sample(4000, generator_for("draws"))
    exact, zero = Exact(mixture, VP()), torch.zeros(()).double()
    assert (x.abs() < 1.2).all()
    assert x.abs().amax() > 0.7
    assert classes.unique().tolist() == [*range(mixture.classes)]
    axis = torch.linspace(-1.3, 1.3, 66).double()
    at = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
    log_p = exact.log_density(at, zero.expand(len(at)))
    p = log_p.exp() * 0.04**2
    assert float(p.sum()) == pytest.approx(1, abs=1e-3)
    found = exact.log_density(x.view(-1, 2, 1, 1), zero.expand(len(x)))
    assert float(found.mean()) == pytest.approx(float((p * log_p).sum()), abs=4 * float(found.std()) / 4000**0.5)
    assert float(x[:, 0].mean()) == pytest.approx(float((p * at[:, 0, 0, 0]).sum()), abs=0.04)


def test_in_images_coordinates_are_factors_of_orthogonal_patterns() -> None:
    mixture = gaussians(dimensions=5)
    images = mixture.in_images(1, 6, 8)
    assert images.means.shape == (8, 48)
    torch.testing.assert_close(images.means @ images.means.T, 0.1 * 48 * mixture.means @ mixture.means.T)
    assert images.means.view(8, 6, 8).mean((1, 2)).abs().max() < 1e-12  # no pattern is constant
    assert torch.equal(images.widths, mixture.widths)


def test_tables_keep_their_precision() -> None:
    assert gaussians().half().means.dtype == torch.float64
