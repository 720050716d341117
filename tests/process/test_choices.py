"""Every choice of the mathematics in conf/ is what its paper says: it trains, samples and reaches its distribution."""

from functools import cache

import diffusers
import pytest
import torch
from hydra.utils import instantiate
from sampler_cases import COVARIANCE, MEAN
from torch import Tensor

from diffusion.config.choices import choices, composed
from diffusion.errors import UserError
from diffusion.process import grid
from diffusion.process.denoiser import Denoiser, dynamic
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams
from tests.support.oracle import GaussianOracle, sampler_moments


class Linear(torch.nn.Module):
    """A network with three parameters and a spread."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.5, 0.1, 0.2]))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.cat([self.weights[0] * x + self.weights[1], (self.weights[2] * x).tanh()], dim=1)


OBJECTIVES = [[f"objective={name}"] for name in choices("objective")]
PARTS = [[f"{part}@objective.{part}={name}"] for part in ("timesteps", "weighting", "noise") for name in choices(part)]


@pytest.mark.parametrize("overrides", [*OBJECTIVES, *PARTS], ids=lambda words: words[-1])
def test_every_objective_and_its_parts_train(overrides: list[str]) -> None:
    cfg = composed("train", overrides)
    denoiser = Denoiser(Linear(), instantiate(cfg["schedule"]), instantiate(cfg["prediction"]))
    objective = instantiate(cfg["objective"])
    x0 = (2 * torch.randint(0, 256, (8, 3, 4, 4)) / 255 - 1).float()
    result = objective(denoiser, x0, Streams(range(8)))
    result["loss"].mean().backward()
    objective.update(result["t"], result["term"].detach())
    gradient = denoiser.network.weights.grad
    assert result["loss"].shape == (8,)
    assert result["loss"].isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("recipe", ["score_sde_vp", "score_sde_ve"])
def test_the_score_sde_loss_is_the_squared_error_of_the_noise(recipe: str) -> None:
    """λ(t) = sigma_t² times the squared error of the score −eps/sigma_t (Song et al., section 3.3)."""
    cfg = composed("train", [f"experiment={recipe}"])
    kind, prediction, objective = (instantiate(cfg[key]) for key in ("schedule", "prediction", "objective"))
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    _, (_, of_y) = prediction.solve(kind, t)  # eps = u·x_t + w·y
    torch.testing.assert_close(objective.weighting(kind, prediction, t), of_y**2)


@cache
def sampler(name: str) -> Sampler:
    made: Sampler = instantiate(composed("train", [f"sampler={name}"])["sampler"])
    return made


# Bounds of the largest error over all schedules with 5, 10 and 20 steps; docs/samplers.md has the measurements.
LARGEST = {
    "adams_bashforth": (0.45, 0.20, 0.05), "ancestral": (0.42, 0.30, 0.19), "ddim": (0.40, 0.23, 0.13),
    "dpm_1s": (0.42, 0.24, 0.13), "dpm_2m": (0.18, 0.04, 0.018), "dpm_2m_sde": (0.30, 0.04, 0.04),
    "dpm_2s": (0.23, 0.07, 0.02), "dpm_3m": (0.30, 0.10, 0.015), "dpm_3m_sde": (0.48, 0.50, 0.05),
    "euler": (0.48, 0.27, 0.14), "euler_ancestral": (0.57, 0.38, 0.24), "flow_euler": (0.40, 0.23, 0.13),
    "flow_heun": (0.34, 0.16, 0.10), "flow_midpoint": (0.05, 0.02, 0.015), "heun": (2.0, 0.25, 0.05),
    "reverse_diffusion": (1.7, 0.56, 0.24), "unipc": (0.15, 0.055, 0.015),
}  # fmt: skip
GAUSSIANS = {
    on: GaussianOracle(instantiate(composed("train", [f"schedule={on}"])["schedule"]), MEAN, COVARIANCE)
    for on in choices("schedule")
}


@pytest.mark.parametrize("name", LARGEST)
def test_default_settings_sample_a_gaussian_on_every_schedule_in_few_steps(name: str) -> None:
    """The error is the 2-Wasserstein distance; each schedule is tested with one of the numbers of steps."""
    root = torch.linalg.cholesky(COVARIANCE)
    if name not in ("euler_ancestral", "flow_heun"):  # they use a class with the grid of another paper
        assert type(sampler(name))(steps=5).grid is sampler(name).grid.func
    for i, (on, oracle) in enumerate(GAUSSIANS.items()):
        made, which = sampler(name), i % 3
        made.steps = (5, 10, 20)[which]
        if on == "edm" and made.grid.func is grid.uniform:
            with pytest.raises(UserError):
                sampler_moments(made, oracle)
            continue
        mean, covariance = sampler_moments(made, oracle)
        cross = torch.linalg.eigvalsh(root.T @ covariance @ root).clamp(min=0).sqrt().sum()
        square = (mean - MEAN).square().sum() + (COVARIANCE + covariance).trace() - 2 * cross
        assert float(square) ** 0.5 < LARGEST[name][which], on


def test_dynamic_thresholding_matches_diffusers() -> None:
    x0 = 2 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x0[0] /= 10
    theirs = diffusers.DDIMScheduler(thresholding=True, sample_max_value=1e9)._threshold_sample(x0)
    torch.testing.assert_close(dynamic(x0), theirs)
    torch.testing.assert_close(dynamic(x0)[0], x0[0])
