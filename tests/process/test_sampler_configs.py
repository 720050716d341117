"""Every yaml of conf/sampler, conf/grid and conf/threshold builds the object that it describes."""

from functools import cache
from pathlib import Path

import diffusers
import pytest
import torch
from hydra.utils import instantiate
from sampler_cases import COVARIANCE, MEAN
from torch import Tensor

from diffusion.config import composition
from diffusion.config.build import make
from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.process import grid, schedule
from diffusion.process.denoiser import dynamic
from diffusion.process.oracle import GaussianOracle, PointsOracle, sampler_moments
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(conf_dir()) / group).glob("*.yaml"))


def composed(*overrides: str) -> Sampler:
    return instantiate(composition.composed("train", overrides).sampler)


# It does not suit a plain denoiser, whose x0 is a mean; test_consistency.py has its tests.
DENOISING = [name for name in choices("sampler") if name != "consistency"]


@pytest.mark.parametrize("name", DENOISING)
@pytest.mark.parametrize("table", [True, False])
def test_every_sampler_recovers_points_with_its_default_settings(name: str, table: bool) -> None:
    """In at most 100 steps, samples land on a finite set of points within the clipping range."""
    sampler = composed(f"sampler={name}")
    sampler.steps = min(sampler.steps, 100)
    points = torch.tensor([[-0.8, -0.2, 0.4], [0.5, 0.5, -0.9], [0.6, -0.7, 0.0]])
    oracle = PointsOracle(schedule.linear() if table else schedule.Flow(), points)
    streams = Streams(range(8))
    x = sampler(oracle, streams.normal(3, 1, 1), streams).flatten(1)
    assert torch.cdist(x, points).min(1).values.max() < 0.05


# Bounds of the largest error over all schedules with 5, 10, 20 and 40 steps; docs/samplers.md has the measurements.
LARGEST = {
    "adams_bashforth": (0.45, 0.20, 0.05, 0.015),
    "ancestral": (0.42, 0.30, 0.19, 0.12),
    "ddim": (0.40, 0.23, 0.13, 0.08),
    "dpm_1s": (0.42, 0.24, 0.13, 0.065),
    "dpm_2m": (0.18, 0.04, 0.018, 0.015),
    "dpm_2m_sde": (0.30, 0.04, 0.04, 0.013),
    "dpm_2s": (0.23, 0.07, 0.02, 0.015),
    "dpm_3m": (0.30, 0.10, 0.015, 0.015),
    "dpm_3m_sde": (0.48, 0.50, 0.05, 0.01),
    "euler": (0.48, 0.27, 0.14, 0.07),
    "euler_ancestral": (0.57, 0.38, 0.24, 0.14),
    "flow_euler": (0.40, 0.23, 0.13, 0.08),
    "flow_heun": (0.34, 0.16, 0.10, 0.06),
    "flow_midpoint": (0.05, 0.02, 0.015, 0.015),
    "heun": (2.0, 0.25, 0.05, 0.015),
    "reverse_diffusion": (1.7, 0.56, 0.24, 0.11),
    "unipc": (0.15, 0.055, 0.015, 0.015),
}
STEPS = (5, 10, 20, 40)


@cache
def oracle(on: str) -> GaussianOracle:
    return GaussianOracle(make(composition.choice("schedule", on), "schedule"), MEAN, COVARIANCE)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", [n for n in DENOISING if n not in ("predictor_corrector", "probability_flow")])
def test_default_settings_sample_a_gaussian_on_every_schedule_in_few_steps(name: str, steps: int) -> None:
    """The error is the 2-Wasserstein distance. Uniform grids are rejected on schedules with hardly any low noise.

    The two samplers left out are not affine in x_t; the others are, because their thresholds do not reach these data.
    To save time, 40 steps are tested on every other schedule only.
    """
    sampler = composed(f"sampler={name}")
    sampler.steps = steps
    for on in choices("schedule")[:: 2 if steps == 40 else 1]:
        if on == "edm" and sampler.grid.func is grid.uniform:
            with pytest.raises(UserError, match=r"use grid@sampler.grid=karras"):
                sampler_moments(sampler, oracle(on))
        else:
            assert wasserstein(*sampler_moments(sampler, oracle(on))) < LARGEST[name][STEPS.index(steps)], on


def wasserstein(mean: Tensor, covariance: Tensor) -> float:
    """W2 between N(mean, covariance) and N(MEAN, COVARIANCE)."""
    root = torch.linalg.cholesky(COVARIANCE)
    cross = torch.linalg.eigvalsh(root.T @ covariance @ root).clamp(min=0).sqrt().sum()
    return float((mean - MEAN).square().sum() + (COVARIANCE + covariance).trace() - 2 * cross) ** 0.5


@pytest.mark.parametrize("name", [n for n in choices("sampler") if n not in ("euler_ancestral", "flow_heun")])
def test_the_default_grid_of_each_class_is_that_of_its_yaml(name: str) -> None:
    """Two choices use a class with a grid other than that of the class's own paper."""
    made = composed(f"sampler={name}")
    assert type(made)(steps=5).grid is made.grid.func


@pytest.mark.parametrize("choice", choices("grid"))
@pytest.mark.parametrize("sampler", ["ddim", "heun", "predictor_corrector"])
def test_any_grid_works_with_any_sampler(sampler: str, choice: str) -> None:
    made = composed(f"sampler={sampler}", f"grid@sampler.grid={choice}", "sampler.steps=7")
    assert len(made.grid(schedule.linear(), made.steps)) == 8


@pytest.mark.parametrize("threshold", [None, *choices("threshold")])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_any_threshold_works_with_any_sampler(sampler: str, threshold: str | None) -> None:
    choice = f"threshold@sampler.threshold={threshold}" if threshold else "sampler.threshold=null"
    made = composed(f"sampler={sampler}", choice)
    assert (made.threshold is None) == (threshold is None)
    if made.threshold is not None:
        assert made.threshold(torch.full((2, 3, 4, 4), 7.0)).max() == 1


@pytest.mark.parametrize("variance", choices("variance"))
def test_any_variance_works_with_ancestral_sampling(variance: str) -> None:
    made = composed("sampler=ancestral", f"variance@sampler.variance={variance}")
    assert (
        made.variance(schedule.linear(), torch.tensor(0.5), torch.tensor(0.4), torch.zeros(2, 3, 4, 4)).isfinite().all()
    )


def test_dynamic_thresholding_matches_diffusers() -> None:
    x0 = 2 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x0[0] /= 10
    theirs = diffusers.DDIMScheduler(thresholding=True, sample_max_value=1e9)._threshold_sample(x0)
    torch.testing.assert_close(dynamic(x0), theirs)
    torch.testing.assert_close(dynamic(x0)[0], x0[0])
