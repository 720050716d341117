"""Ancestral sampling and DDIM: parity with diffusers, the exact moments of a Gaussian, grids, seeds."""

import diffusers
import pytest
import torch
from sampler_cases import COVARIANCE, MEAN
from stand_ins import FixedNetwork, ReplayStreams
from torch import Tensor

from diffusion.process import grid, schedule, variance
from diffusion.process.denoiser import Denoiser, clip
from diffusion.process.oracle import GaussianOracle
from diffusion.process.prediction import Eps
from diffusion.process.sampler import DDIM, Ancestral
from diffusion.randomness import Streams

SHAPE = (2, 3, 4, 4)


def draw(*key: int) -> Tensor:
    generator = torch.Generator().manual_seed(hash(key) % 2**31)
    return torch.randn(*SHAPE, generator=generator, dtype=torch.float64)


def denoiser(T: int = 1000) -> Denoiser:
    return Denoiser(FixedNetwork(), schedule.linear(T), Eps())


def reference(kind: type, **options: object) -> object:
    """A scheduler of diffusers on the linear table, with ᾱ recomputed in float64: its own 1 − ᾱ is imprecise."""
    scheduler = kind(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False, **options)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    return scheduler


def pair(t: int, s: int) -> object:
    return lambda schedule, steps: torch.tensor([t, s], dtype=torch.float64) / 1000


@pytest.fixture
def ddpm_noise(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A queue of noise for diffusers' DDPM."""
    queue: list[Tensor] = []
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: queue.pop(0))
    return queue


@pytest.mark.parametrize("row", [1, 2, 500, 1000])
@pytest.mark.parametrize(
    ("choice", "name"), [(variance.fixed_small, "fixed_small"), (variance.fixed_large, "fixed_large")]
)
def test_one_ancestral_step_matches_diffusers(row: int, choice: object, name: str, ddpm_noise: list[Tensor]) -> None:
    x, z = draw(0), draw(1)
    ddpm_noise.append(z)
    out = FixedNetwork()(x, torch.full((2,), row - 1.0, dtype=x.dtype))
    theirs = reference(diffusers.DDPMScheduler, variance_type=name).step(out, row - 1, x).prev_sample
    ours = Ancestral(1, grid=pair(row, row - 1), variance=choice)(denoiser(), x, ReplayStreams(z))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("row", [20, 500, 1000])
def test_one_ddim_step_matches_diffusers(row: int, eta: float) -> None:
    x, z = draw(0), draw(1)
    scheduler = reference(diffusers.DDIMScheduler)
    scheduler.set_timesteps(50)
    out = FixedNetwork()(x, torch.full((2,), row - 1.0, dtype=x.dtype))
    theirs = scheduler.step(out, row - 1, x, eta=eta, variance_noise=z).prev_sample
    ours = DDIM(1, grid=pair(row, row - 20), eta=eta)(denoiser(), x, ReplayStreams(z))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("spacing", "choice"), [("leading", grid.leading), ("trailing", grid.uniform)])
@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("clipped", [False, True])
def test_ddim_trajectory_matches_diffusers(spacing: str, choice: object, eta: float, clipped: bool) -> None:
    """With clipping, diffusers keeps the network's eps by default. Here eps is recomputed from the clipped x0."""
    noise = [draw(k) for k in range(11)]
    scheduler = reference(diffusers.DDIMScheduler, timestep_spacing=spacing)
    scheduler.register_to_config(clip_sample=clipped)
    scheduler.set_timesteps(10)
    theirs, ours, x = [], [], noise[0]
    for t, z in zip(scheduler.timesteps, noise[1:], strict=True):
        out = FixedNetwork()(x, t.double().expand(2))
        x = scheduler.step(out, t, x, eta=eta, variance_noise=z, use_clipped_model_output=clipped).prev_sample
        theirs.append(x)
    sampler = DDIM(10, grid=choice, eta=eta, threshold=clip if clipped else None)
    sampler(denoiser(), noise[0], ReplayStreams(*noise[1:]), watch=lambda k, x, estimate: ours.append(x))
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("spacing", "choice"), [("leading", grid.leading), ("trailing", grid.uniform)])
@pytest.mark.parametrize(
    ("kind", "name"), [(variance.fixed_small, "fixed_small"), (variance.fixed_large, "fixed_large")]
)
def test_ancestral_trajectory_matches_diffusers(
    spacing: str, choice: object, kind: object, name: str, ddpm_noise: list[Tensor]
) -> None:
    """diffusers' last step adds noise if its timestep is not 0, as with trailing spacing. The paper's never does."""
    noise = [draw(k) for k in range(11)]
    ddpm_noise.extend(noise[1:])
    scheduler = reference(diffusers.DDPMScheduler, timestep_spacing=spacing, variance_type=name)
    scheduler.set_timesteps(10)
    theirs, ours, x = [], [], noise[0]
    for t in scheduler.timesteps:
        out = FixedNetwork()(x, t.double().expand(2))
        step = scheduler.step(out, t, x)
        x = step.prev_sample
        theirs.append(x)
    sampler = Ancestral(10, grid=choice, variance=kind)
    sampler(denoiser(), noise[0], ReplayStreams(*noise[1:]), watch=lambda k, x, estimate: ours.append(x))
    torch.testing.assert_close(torch.stack(ours[:-1]), torch.stack(theirs[:-1]), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours[-1], step.pred_original_sample, rtol=1e-8, atol=1e-8)


def test_ddim_maps_a_gaussian_by_the_exact_linear_map() -> None:
    """x_0 = A z + b. Along an axis of variance v, the flow from N(0, 1) multiplies by √(v/(α_T² v + σ_T²))."""
    table = schedule.linear(1000)
    oracle = GaussianOracle(table, MEAN, COVARIANCE)
    basis = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double().reshape(4, 3, 1, 1)
    image = DDIM(1000)(oracle, basis, Streams(range(4))).reshape(4, 3)
    A = (image[1:] - image[0]).T
    alpha, sigma = table(torch.tensor(1.0, dtype=torch.float64))
    v, axes = torch.linalg.eigh(COVARIANCE)
    gain = (v / (alpha**2 * v + sigma**2)).sqrt()
    torch.testing.assert_close(A, axes @ torch.diag(gain) @ axes.T, rtol=0, atol=4e-3)
    torch.testing.assert_close(image[0], MEAN - A @ (alpha * MEAN), rtol=0, atol=2e-3)
