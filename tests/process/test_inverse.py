"""Inverse problems: posterior guidance on oracles whose posterior is known; operators; docs/samplers.md's tables."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.base.files import PACKAGE
from diffusion.base.pixels import grey
from diffusion.errors import UserError
from diffusion.process.denoiser import Estimate
from diffusion.process.operators import Nonlinear, Observation, blur, downsampling, observe
from diffusion.process.posterior import MMPS, PiGDM, Posterior
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import VP, cosine
from diffusion.randomness import Streams
from docs import inverse
from tests.support.oracle import GaussianOracle

X = Streams.of(5, "x").normal(*inverse.SHAPE, dtype=torch.float64)
WITH_NOISE = [row for row in inverse.GAUSSIAN_ROWS if row[1:] == ("dpm_2m_sde", 20)][:-1]
FOR_MASKS = [row for row in inverse.GAUSSIAN_ROWS if row[1:] == ("ddim", 20)][:-1]  # repaint: see test_editing
PAGE = (PACKAGE.parent / "docs/samplers.md").read_text("utf-8")


def differences(seen: Observation, method, mean, covariance) -> list[float]:
    """The largest differences of the estimates of a method from those of the posterior's own denoiser, at three t."""
    found = []
    exact = GaussianOracle(VP(), *inverse.posterior(seen, mean, covariance)[:2])
    for t in (0.95, 0.5, 0.05):
        times = torch.full((5,), t, dtype=torch.float64)
        one, other = (each(X, times) for each in (Posterior(GaussianOracle(VP(), mean, covariance), method), exact))
        found += [float((a - b).abs().max()) for a, b in zip(one[:2], other[:2], strict=True)]
    return found


@pytest.mark.parametrize("name", inverse.OPERATORS)
def test_on_a_gaussian_mmps_is_the_denoiser_of_the_posterior(name):
    """With an iteration for each number that is observed; also by the derivative of the operator."""
    seen = inverse.observation(name)
    for each in (seen, Observation(Nonlinear(seen.operator), seen.shape, seen.y, seen.noise)):
        made = MMPS(DDIM(5), each, int(seen.y.count_nonzero()))
        assert max(differences(seen, made, inverse.MEAN, inverse.COVARIANCE)) < 1e-6


@pytest.mark.parametrize("name", inverse.OPERATORS)
def test_on_independent_pixels_pigdm_is_the_denoiser_of_the_posterior(name):
    seen, s = inverse.observation(name), 0.7
    assert max(differences(seen, PiGDM(DDIM(5), seen, s), inverse.MEAN, s**2 * torch.eye(16).double())) < 1e-6


@pytest.mark.parametrize(
    ("rows", "cell", "name"),
    [
        (FOR_MASKS, inverse.gaussian_cell, "mask"),
        (inverse.GAUSSIAN_ROWS[1:2], inverse.gaussian_cell, "blur"),
        (WITH_NOISE, inverse.gaussian_cell, "downsampling"),
        (inverse.MIXTURE_ROWS[4:5], inverse.mixture_cell, "downsampling"),
    ],
    ids=["mask", "blur", "downsampling", "mixture"],
)
def test_the_page_shows_what_is_measured(rows, cell, name):
    part = PAGE.partition("On a **mixture**")[2 * (cell is inverse.mixture_cell)]
    for row in rows:
        words = " ".join(f"`{word}`" for word in row.method.split())
        (line,) = (x for x in part.splitlines() if x.startswith(f"| {words} | `{row.sampler}` | {row.steps} | "))
        shown = line.split(" | ")[3:]
        errors, evaluations = cell(row, name)
        assert int(shown[0]) == evaluations
        on_page = shown[1 + [*inverse.OPERATORS].index(name)].strip(" |").split(", ")
        assert [float(x) for x in errors.split(", ")] == pytest.approx([float(x) for x in on_page], abs=0.11), row


def test_pure_noise_gets_no_guidance():
    """At t = 1 of the cosine schedule, alpha is 5e-5: the covariance by Tweedie's formula would be rounding errors."""
    seen = inverse.observation("blur")
    oracle = GaussianOracle(cosine(), inverse.MEAN, inverse.COVARIANCE)
    ones = torch.ones(5, dtype=torch.float64)
    assert torch.equal(Posterior(oracle, MMPS(DDIM(5), seen))(X, ones).x0, oracle(X, ones).x0)


def test_a_product_that_is_not_positive_ends_the_iterations_of_its_image_alone():
    """An untrained network's Jacobian is no covariance."""

    class Odd(GaussianOracle):
        def __call__(self, x_t, t):
            x0 = torch.tensor([1.0, -1.0], dtype=x_t.dtype).view(2, 1, 1, 1) * x_t
            return Estimate(x0, x_t)

    seen = inverse.observation("downsampling")
    odd, half = Odd(VP(), inverse.MEAN, inverse.COVARIANCE), torch.full((2,), 0.5, dtype=torch.float64)
    x0 = Posterior(odd, MMPS(DDIM(5), seen, 5))(X[:2], half).x0
    assert torch.equal(x0[1], -X[1])
    assert (seen.operator(x0[:1]) - seen.y).abs().max() < 0.5 * (seen.operator(X[:1]) - seen.y).abs().max()


def test_operators_are_those_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    x = torch.from_numpy(pixels).movedim(-1, 0)[None].double()
    image = Image.fromarray(pixels)
    assert (grey(x)[0, 0] - torch.from_numpy(np.asarray(image.convert("L")).copy())).abs().max() < 1
    small = np.asarray(image.resize((3, 2), Image.Resampling.BOX)).copy()
    assert (downsampling(x, 4)[0] - torch.from_numpy(small).movedim(-1, 0)).abs().max() < 0.51
    ones = torch.ones(1, 1, 7, 30, dtype=torch.float64)
    torch.testing.assert_close(blur(ones, 3.0), ones)
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[0, 0, 20, 20] = 1
    i = torch.arange(41, dtype=torch.float64) - 20
    for axis in (2, 3):
        assert float((blur(point, 3.0).sum(5 - axis)[0, 0] * i**2).sum()) == pytest.approx(9, rel=1e-3)


class Cut:
    """The first rows of an image; `adjoint` may be wrong by a factor."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, x):
        return x[:, :, :2].flatten(1)

    def adjoint(self, u):
        return self.factor * torch.nn.functional.pad(u.view(-1, 3, 2, 4), (0, 0, 0, 2))


def test_an_operator_of_ones_own_is_checked():
    x0 = torch.rand(3, 4, 4)

    def seen(operator):
        return Observation(operator, (3, 4, 4), observe(operator, x0, 0.1, Streams.of(1, "y")), 0.1)

    torch.testing.assert_close(seen(lambda x: x[:, :, :2].flatten(1)).adjoint(x0.view(1, -1)[:, :24]),
                               seen(Cut(1.0)).adjoint(x0.view(1, -1)[:, :24]))  # fmt: skip
    for operator in (Cut(1.1), lambda x: x**2, lambda x: x + 0.1, lambda x: x.view(-1, 7)):
        with pytest.raises(UserError, match=r"^operator: [^\n]+$"):
            seen(operator)
