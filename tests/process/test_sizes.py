"""Series, images and volumes: everything in process/ takes (B, C, *size) with one, two or three axes.

The data are Gaussian, with a covariance between neighbours, so the answers are known.
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diffusion.model import UNet
from diffusion.process import grid, schedule
from diffusion.process.consistency import Consistency
from diffusion.process.denoiser import Denoiser, Estimate, Wrapped, denoiser_of, expand
from diffusion.process.editing import RePaint, SDEdit, SplitGibbs
from diffusion.process.flow_map import FlowMap
from diffusion.process.guidance import WindowGuidance
from diffusion.process.likelihood import flow_likelihood
from diffusion.process.mixture import Exact, gaussians
from diffusion.process.noise import assigned, nearest
from diffusion.process.objective import Hybrid, Objective, Simple, VariationalBound
from diffusion.process.operators import Mask, Observation, blur, downsampling, observe
from diffusion.process.posterior import MMPS
from diffusion.process.prediction import Eps, V
from diffusion.process.sampler import DDIM, Ancestral, DPMSolver, Heun, PredictorCorrector, Sampler, UniPC
from diffusion.process.tiles import Tiled
from diffusion.process.timesteps import Uniform
from diffusion.process.variance import fixed_small
from diffusion.randomness import Streams
from tests.support.oracle import GaussianOracle

VP = schedule.VP()
SIZES = pytest.mark.parametrize("size", [(16,), (8, 8), (4, 4, 4)], ids=str)


def covariance(*size: int) -> Tensor:
    """(D, D): 0.25 · 0.6^‖i − j‖₁ for the positions i and j."""
    places = torch.cartesian_prod(*(torch.arange(n).double() for n in size)).view(-1, len(size))
    return 0.25 * 0.6 ** torch.cdist(places, places, p=1)


def oracle(*size: int, mean: float = 0.3) -> GaussianOracle:
    cov = covariance(*size)
    return GaussianOracle(VP, torch.full((len(cov),), mean).double(), cov)


def noise(n: int, *size: int) -> Tensor:
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Network(nn.Module):
    """The best prediction of eps, of the oracle."""

    def __init__(self, *size: int):
        super().__init__()
        self.oracle, self.shift = oracle(*size), nn.Parameter(torch.zeros(()).double())

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.oracle(x, (label + 1) / 1000).eps + self.shift


@SIZES
def test_the_loss_of_the_best_denoiser_is_that_of_a_gaussian(size: tuple[int, ...]) -> None:
    """E‖eps − E[eps | x_t]‖² per value is the mean of alpha² v/(alpha² v + sigma²) over the eigenvalues v."""
    t = torch.tensor(0.3).double()
    x0 = 0.3 + (noise(800, *size).flatten(1) @ torch.linalg.cholesky(covariance(*size)).T).view(-1, 1, *size)
    at = lambda schedule, streams: (t.expand(len(x0)), torch.ones(len(x0)))  # noqa: E731
    found = Simple(at)(Denoiser(Network(*size), VP, Eps()), x0, Streams(range(len(x0))))  # type: ignore[arg-type]
    (alpha, sigma), v = VP(t), torch.linalg.eigvalsh(covariance(*size))
    expected = (alpha**2 * v / (alpha**2 * v + sigma**2)).mean()
    assert found["loss"].mean().item() == pytest.approx(float(expected), rel=0.03)


@SIZES
@pytest.mark.parametrize(
    "objective",
    [
        Simple(Uniform(), noise=nearest),
        Simple(Uniform(), noise=assigned),
        VariationalBound(variance=fixed_small),
        Hybrid(),
        FlowMap(share=1),
        Consistency(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_objective_trains_a_network_of_these_axes(size: tuple[int, ...], objective: Objective) -> None:
    """It is given a picture that is an estimate of the image, and a vector; and some values are not known."""
    torch.manual_seed(0)
    network = UNet(
        3, 1 + isinstance(objective, Hybrid), (8, 8), 1, (False, True), groups=4, axes=len(size),
        augment=1 + objective.ends,
    )  # fmt: skip
    denoiser = denoiser_of(network, schedule.linear(), V(), picture=2, vector=1, centred=True, ends=objective.ends)
    given = {"picture": torch.rand(3, 2, *size), "vector": torch.rand(3, 1) / 2}
    if isinstance(objective, Simple) and not objective.ends:
        given["known"] = torch.rand(3, 1, *size) < 0.8
    loss = objective(denoiser, torch.rand(3, 1, *size), Streams(range(3)), **given)["loss"]
    assert loss.shape == (3,)
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())
    assert network.out.weight.grad.any()


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Ancestral(6),
    "ddim": DDIM(6, eta=0.5),
    "heun": Heun(6, churn=2.0),
    "dpm_3m": DPMSolver(6, order=3),
    "unipc": UniPC(6),
    "predictor_corrector": PredictorCorrector(6),
}


@SIZES
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_do_not_depend_on_how_their_values_are_arranged(size: tuple[int, ...], name: str) -> None:
    x, best = noise(3, *size), oracle(*size)
    found = SAMPLERS[name](best, x, Streams(range(3)))
    assert found.shape == x.shape
    points = SAMPLERS[name](best, x.view(3, -1, 1, 1), Streams(range(3)))
    torch.testing.assert_close(found.flatten(1), points.flatten(1), rtol=1e-10, atol=1e-10)


@SIZES
def test_the_probability_flow_ends_at_the_data(size: tuple[int, ...]) -> None:
    """Along each eigenvector, x_t − alpha m is proportional to √(alpha² v + sigma²)."""
    x, best, (v, axes) = noise(3, *size), oracle(*size), torch.linalg.eigh(covariance(*size))
    alpha, sigma = VP(torch.tensor(1.0).double())
    first = x.flatten(1) - 0.3 * alpha
    ends = 0.3 + (first @ axes * (v / (alpha**2 * v + sigma**2)).sqrt()) @ axes.T
    found = Heun(300, grid.karras)(best, x / torch.hypot(alpha, sigma), Streams(range(3)))
    torch.testing.assert_close(found.flatten(1), ends, rtol=0, atol=2e-3)


@SIZES
def test_parts_are_filled_by_the_conditional_mean(size: tuple[int, ...]) -> None:
    """With noise 0 the answer of a Gaussian is its mean given what is known, exact with enough conjugate gradients."""
    known, best, streams = torch.rand(1, *size) < 0.4, oracle(*size), Streams(range(1))
    y = (noise(1, *size).flatten(1) @ torch.linalg.cholesky(covariance(*size)).T + 0.3).view(1, 1, *size)
    seen, cov = known.flatten(), covariance(*size)
    expected = 0.3 + cov[:, seen] @ torch.linalg.solve(cov[seen][:, seen], y.flatten()[seen] - 0.3)
    observation = Observation(Mask(known), (1, *size), y)
    found = MMPS(DDIM(40, grid.log_snr), observation, iterations=64)(best, torch.zeros_like(y), streams)
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=5e-3)
    for filled in (RePaint(DDIM(4), observation, 2), SplitGibbs(DDIM(4, eta=1.0), observation, 3)):
        made = filled(best, y, streams)
        assert torch.equal(made[:, known], y[:, known])
        assert made.shape == y.shape
    assert SDEdit(DDIM(4), y[0])(best, y, streams).shape == y.shape


@SIZES
def test_operators_act_along_every_axis(size: tuple[int, ...]) -> None:
    x = noise(2, *size).float()
    means = x
    for axis in range(2, x.ndim):
        means = means.unflatten(axis, (-1, 2)).mean(axis + 1)
    torch.testing.assert_close(downsampling(x, 2), means)
    turned = blur(x.movedim(-1, 2))
    torch.testing.assert_close(blur(x), turned.movedim(2, -1))
    torch.testing.assert_close(blur(torch.ones_like(x)), torch.ones_like(x))
    assert blur(x).std() < 0.8 * x.std()
    for operator in (partial(downsampling, factor=2), blur):
        Observation(operator, (1, *size), observe(operator, x[0], 0.1, Streams([0])))  # raises if it is not linear


class Pointwise(Wrapped):
    """The best denoiser of independent values, given a picture that it adds to them."""

    def __call__(self, x_t: Tensor, t: Tensor, picture: Tensor) -> Estimate:
        alpha, sigma = (expand(each, x_t) for each in VP(t))
        x0 = alpha * x_t / (alpha**2 + sigma**2) + picture
        return Estimate(x0, (x_t - alpha * x0) / sigma)


@SIZES
def test_windows_are_put_together_in_their_places(size: tuple[int, ...]) -> None:
    x, picture, t = noise(2, *size), noise(4, *size)[2:], torch.tensor([0.2, 0.7]).double()
    plain = Pointwise(oracle(*size))
    whole = plain(x, t, picture)
    for made in (Tiled(plain, tuple(side // 2 for side in size)), WindowGuidance(3.0)(plain)):
        torch.testing.assert_close(made(x, t, picture=picture), whole)


@SIZES
def test_densities_and_mixtures_of_such_values(size: tuple[int, ...]) -> None:
    mixture = gaussians(3, 2).in_images(1, *size)
    x, t, exact = noise(2, *size), torch.tensor([0.2, 0.7]).double(), Exact(mixture, VP)
    torch.testing.assert_close(exact(x, t).x0.flatten(1), exact(x.view(2, -1, 1, 1), t).x0.flatten(1))
    one = gaussians(1, 2, width=0.5).in_images(1, *size)
    bits = -Exact(one, VP).log_density(x / 2, torch.zeros(1).double()) / torch.log(torch.tensor(2.0)) / x[0].numel()
    found = flow_likelihood(Exact(one, VP), x / 2, Streams(range(2)), discrete=False)
    torch.testing.assert_close(found, bits.double(), rtol=0, atol=2e-3)
