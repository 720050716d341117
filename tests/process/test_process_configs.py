"""Every yaml of the core can be instantiated, names its source, and trains: a finite loss with finite gradients."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from diffusion.config import composition
from diffusion.process.denoiser import Denoiser
from diffusion.randomness import Streams

CONF = Path(__file__).parents[2] / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def configuration(*overrides: str) -> DictConfig:
    return composition.composed("train", overrides)


class Linear(torch.nn.Module):
    """A network with three parameters and a spread."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.5, 0.1, 0.2]))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y = self.weights[0] * x + self.weights[1]
        return torch.cat([y, (self.weights[2] * x).tanh()], dim=1)


def train_once(*overrides: str) -> None:
    cfg = configuration(*overrides)
    denoiser = Denoiser(Linear(), instantiate(cfg.schedule), instantiate(cfg.prediction))
    objective = instantiate(cfg.objective)
    x0 = (2 * torch.randint(0, 256, (8, 3, 4, 4)) / 255 - 1).float()
    result = objective(denoiser, x0, Streams(range(8)))
    result["loss"].mean().backward()
    objective.update(result["t"], result["term"].detach())
    gradient = denoiser.network.weights.grad
    assert result["loss"].shape == (8,)
    assert result["loss"].isfinite().all()
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("recipe", ["score_sde_vp", "score_sde_ve"])
def test_the_score_sde_loss_is_the_squared_error_of_the_noise(recipe: str) -> None:
    """λ(t) = sigma_t² times the squared error of the score −eps/sigma_t (Song et al., section 3.3)."""
    cfg = configuration(f"experiment={recipe}")
    schedule, prediction, objective = (instantiate(cfg[key]) for key in ("schedule", "prediction", "objective"))
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    _, (_, of_y) = prediction.solve(schedule, t)  # eps = u·x_t + w·y
    torch.testing.assert_close(objective.weighting(schedule, prediction, t), of_y**2)


@pytest.mark.parametrize("name", names("schedule"))
def test_every_schedule_trains(name: str) -> None:
    table = hasattr(instantiate(configuration(f"schedule={name}").schedule), "steps")
    times = "uniform_table" if table else "uniform"
    prediction = "edm" if name in ("edm", "ve") else "v"
    train_once(f"schedule={name}", f"prediction={prediction}", f"timesteps@objective.timesteps={times}")


@pytest.mark.parametrize("name", names("prediction"))
def test_every_prediction_trains(name: str) -> None:
    train_once(f"prediction={name}")


@pytest.mark.parametrize("name", names("timesteps"))
def test_every_timestep_distribution_trains(name: str) -> None:
    train_once(f"timesteps@objective.timesteps={name}")


@pytest.mark.parametrize("name", names("weighting"))
def test_every_weighting_trains(name: str) -> None:
    train_once(f"weighting@objective.weighting={name}")


@pytest.mark.parametrize("name", names("noise"))
def test_every_noise_pairing_trains(name: str) -> None:
    train_once(f"noise@objective.noise={name}")


@pytest.mark.parametrize("name", names("objective"))
def test_every_objective_trains(name: str) -> None:
    train_once(f"objective={name}")


@pytest.mark.parametrize("name", names("variance"))
def test_every_variance_trains_with_the_vlb_objective(name: str) -> None:
    train_once("objective=vlb", f"variance@objective.variance={name}")


def test_combinations_used_in_papers_train() -> None:
    train_once("schedule=cosine", "objective=hybrid", "timesteps@objective.timesteps=loss_second_moment")
    train_once("schedule=edm", "prediction=edm", "timesteps@objective.timesteps=log_normal")
    times = "timesteps@objective.timesteps=logit_normal"
    train_once("schedule=flow", "prediction=velocity", times, "noise@objective.noise=ot")
    train_once("objective=uncertainty", "noise@objective.objective.noise=nearest")
    train_once("schedule=zero_snr", "prediction=v", "weighting@objective.weighting=min_snr")


def test_loss_second_moment_has_the_steps_of_the_schedule() -> None:
    cfg = configuration("schedule.steps=100", "objective=vlb")
    assert len(instantiate(cfg.objective).timesteps.losses) == 100


@pytest.mark.parametrize(
    "group", ["schedule", "prediction", "timesteps", "weighting", "noise", "objective", "variance"]
)
def test_every_yaml_begins_with_a_description(group: str) -> None:
    for name in names(group):
        first = (CONF / group / f"{name}.yaml").read_text().splitlines()[0]
        assert first.startswith("# "), name
        assert len(first) > 40, name
