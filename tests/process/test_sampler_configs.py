"""Every yaml of conf/sampler, conf/grid and conf/threshold builds what it describes."""

from pathlib import Path

import diffusers
import pytest
import torch
from hydra.utils import instantiate

from diffusion.config import composition
from diffusion.config.choices import conf_dir
from diffusion.process import schedule
from diffusion.process.denoiser import dynamic
from diffusion.process.oracle import PointsOracle
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(conf_dir()) / group).glob("*.yaml"))


def composed(*overrides: str) -> Sampler:
    return instantiate(composition.composed("sample", overrides).sampler)


@pytest.mark.parametrize("name", choices("sampler"))
@pytest.mark.parametrize("table", [True, False])
def test_every_sampler_recovers_points_with_its_default_settings(name: str, table: bool) -> None:
    """In at most 100 steps, samples land on a finite set of points that lies within the range of clipping."""
    sampler = composed(f"sampler={name}")
    sampler.steps = min(sampler.steps, 100)
    points = torch.tensor([[-0.8, -0.2, 0.4], [0.5, 0.5, -0.9], [0.6, -0.7, 0.0]])
    oracle = PointsOracle(schedule.linear() if table else schedule.Flow(), points)
    streams = Streams(range(8))
    x = sampler(oracle, streams.normal(3, 1, 1), streams).flatten(1)
    assert torch.cdist(x, points).min(1).values.max() < 0.05


@pytest.mark.parametrize("grid", choices("grid"))
@pytest.mark.parametrize("sampler", ["ddim", "heun", "predictor_corrector"])
def test_any_grid_works_with_any_sampler(sampler: str, grid: str) -> None:
    made = composed(f"sampler={sampler}", f"grid@sampler.grid={grid}", "sampler.steps=7")
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
