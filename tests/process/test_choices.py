"""Every choice of the mathematics in conf/ is what its paper says: it trains, samples and reaches its distribution."""

from typing import Any

import diffusers
import pytest
import torch
from networks import Affine
from sampler_cases import COVARIANCE, MEAN

from diffusion.config.build import make
from diffusion.config.choices import choice, choices, composed
from diffusion.process import grid
from diffusion.process.denoiser import denoiser_of, dynamic
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from diffusion.randomness import Streams
from tests.support.oracle import GaussianOracle, sampler_moments

OBJECTIVES = [(name, {}) for name in choices("objective")]
PARTS = [("simple", {part: name}) for part in ("timesteps", "weighting", "noise") for name in choices(part)]


def made(group: str, words: str, **parts: str) -> Any:
    return make(choice(group, words, **parts), group)


@pytest.mark.parametrize(("name", "parts"), [*OBJECTIVES, *PARTS], ids=str)
def test_every_objective_and_its_parts_train(name: str, parts: dict[str, str]) -> None:
    objective = made("objective", f"{name} +schedule.steps=1000", **parts)
    denoiser = denoiser_of(Affine(0.5, 0.1, 0.2), linear(), Eps(), ends=getattr(objective, "ends", 0))
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
    kind, prediction, objective = (make(cfg[key], key) for key in ("schedule", "prediction", "objective"))
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    _, (_, of_y) = prediction.solve(kind, t)  # eps = u·x_t + w·y
    torch.testing.assert_close(objective.weighting(kind, prediction, t), of_y**2)


def test_the_quadratic_schedule_has_the_ends_of_ddpm() -> None:
    """β_i = (a + (b − a)(i − 1)/(T − 1))² with a² = 1e-4 and b² = 0.02: "quad" in DDIM's code."""
    expected = (0.01 + (0.02**0.5 - 0.01) * torch.arange(1000).double() / 999) ** 2
    torch.testing.assert_close(made("schedule", "quadratic").betas(), expected, rtol=1e-9, atol=0)


# The largest error over all schedules with 20 steps, as measured.
LARGEST = {
    "ancestral": 0.179, "ddim": 0.121, "dpm_1s": 0.1155, "dpm_2m": 0.0159, "dpm_2m_sde": 0.0349, "dpm_2s": 0.0164,
    "dpm_2s_ancestral": 0.0555, "dpm_3m": 0.0130, "dpm_3m_sde": 0.0443, "euler": 0.1285, "euler_ancestral": 0.2206,
    "flow_euler": 0.121, "flow_heun": 0.0894, "flow_midpoint": 0.0130, "heun": 0.0462, "unipc": 0.0130,
}  # fmt: skip
GAUSSIANS = {on: GaussianOracle(made("schedule", on), MEAN, COVARIANCE) for on in choices("schedule")}


@pytest.mark.parametrize("name", LARGEST)
def test_default_settings_sample_a_gaussian_on_every_schedule(name: str) -> None:
    """The error is the 2-Wasserstein distance. That of another solver, or another grid, would be another."""
    sampler = made("sampler", f"{name} sampler.steps=20")
    root = torch.linalg.cholesky(COVARIANCE)
    if name not in ("euler", "euler_ancestral", "flow_heun"):  # of a class with the grid of another paper
        assert type(sampler)(steps=20).grid is sampler.grid.func
    errors = []
    for on, oracle in GAUSSIANS.items():
        if on == "edm" and sampler.grid.func is grid.uniform:
            continue  # it is refused
        mean, covariance = sampler_moments(sampler, oracle)
        cross = torch.linalg.eigvalsh(root.T @ covariance @ root).clamp(min=0).sqrt().sum()
        square = (mean - MEAN).square().sum() + (COVARIANCE + covariance).trace() - 2 * cross
        errors.append(float(square) ** 0.5)
    assert max(errors) == pytest.approx(LARGEST[name], rel=0.01)


def test_dynamic_thresholding_matches_diffusers() -> None:
    x0 = 2 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x0[0] /= 10
    theirs = diffusers.DDIMScheduler(thresholding=True, sample_max_value=1e9)._threshold_sample(x0)
    torch.testing.assert_close(dynamic(x0), theirs)
    torch.testing.assert_close(dynamic(x0)[0], x0[0])
