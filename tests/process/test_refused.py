"""Everything that the mathematics refuses, each with a UserError."""

from collections.abc import Callable

import pytest
import torch
from sampler_cases import COVARIANCE, MEAN, D
from torch import nn

from diffusion.errors import UserError
from diffusion.model.network import Network
from diffusion.process import grid, guidance, likelihood, prediction, schedule, timesteps, variance, weighting
from diffusion.process.augmentation import Crops
from diffusion.process.averaging import gamma_of
from diffusion.process.consistency import Consistency
from diffusion.process.denoiser import Denoiser, denoiser_of
from diffusion.process.editing import Between, SDEdit
from diffusion.process.flow_map import FlowMap
from diffusion.process.objective import Hybrid, Simple, VariationalBound
from diffusion.process.operators import Mask
from diffusion.process.posterior import PiGDM, Posterior
from diffusion.process.sampler import DDIM, Ancestral
from diffusion.randomness import Streams
from tests.support.oracle import GaussianOracle

EDM, FLOW, VP = schedule.EDM(), schedule.Flow(), schedule.VP()
ORACLE = GaussianOracle(VP, MEAN, COVARIANCE)
STREAMS = Streams([0, 1])
X = torch.zeros(2, D, 1, 1)
T = torch.ones(2).double()
PICTURE, MASK = torch.zeros(3, 4, 4), torch.eye(4).bool()


def net(
    change: Callable[[torch.Tensor], object], kind: prediction.Prediction | None = None, on: schedule.Schedule = VP
) -> Denoiser:
    """A denoiser whose network returns change(x)."""
    network = nn.Identity()
    network.forward = lambda x, label: change(x)  # type: ignore[method-assign]
    return Denoiser(network, on, kind or prediction.V())


def steps(*times: float) -> DDIM:
    return DDIM(len(times) - 1, lambda schedule, n: torch.tensor(times))


REFUSED: dict[str, Callable[[], object]] = {
    "a single beta": lambda: schedule.table([0.1]),
    "a beta of 1": lambda: schedule.Discrete(torch.tensor([0.1, 1.0])),
    "a beta that is NaN": lambda: schedule.Discrete(torch.tensor([0.1, torch.nan])),
    "eps where alpha is 0": lambda: prediction.Eps().check(FLOW),
    "eps at zero terminal SNR": lambda: prediction.Eps().check(schedule.zero_terminal_snr(schedule.linear())),
    "v with a noise of 80": lambda: prediction.V().check(EDM),
    "a velocity that begins at 1000": lambda: prediction.Velocity().check(schedule.Flow(1000.0)),
    "a velocity that ends at 1000": lambda: prediction.Velocity().check(schedule.Flow(0.001)),
    "a network that returns no tensor": lambda: net(lambda x: (x, x))(X, T),
    "a network of another size": lambda: net(lambda x: x[:, :, :0])(X, T),
    "a network for other channels": lambda: net(lambda x: x[:, :1])(X, T),
    "a learned variance without a spread": lambda: Ancestral(2, variance=variance.learned_range)(ORACLE, X, STREAMS),
    "rows of a continuous schedule": lambda: timesteps.UniformTable()(VP, STREAMS),
    "losses of other rows": lambda: timesteps.LossSecondMoment(10)(schedule.linear(20), STREAMS),
    "a bound on a continuous schedule": lambda: VariationalBound(timesteps.Uniform())(net(lambda x: x), X, STREAMS),
    "a bound without a spread": lambda: Hybrid()(net(lambda x: x, on=schedule.linear()), X, STREAMS),
    "a hybrid objective with a fixed variance": lambda: Hybrid(variance=variance.fixed_large),
    "weights of squares for other distances": lambda: Simple(weighting=weighting.snr, distance=torch.sub),
    "consistency of x0": lambda: Consistency()(net(lambda x: x, prediction.X0()), X, STREAMS),
    "a flow map of x0": lambda: FlowMap()(net(lambda x: x, prediction.X0()), X, STREAMS),
    "a flow map with checkpointing": lambda: FlowMap()(
        denoiser_of(Network(1, checkpointing=True), VP, prediction.V(), ends=16), X, STREAMS
    ),
    "a map by a denoiser that is none": lambda: net(lambda x: x)(X, T, end=T / 2),
    "a picture without a condition": lambda: net(lambda x: x)(X, T, picture=X),
    "numbers without a condition": lambda: net(lambda x: x)(X, T, vector=T[:, None]),
    "a map with guidance": lambda: guidance.WindowGuidance(2.0)(ORACLE)(X, T, end=T / 2),
    "a map with posterior guidance": lambda: Posterior(ORACLE, PiGDM(DDIM(2), Mask(MASK)))(X, T, end=T / 2),
    "more steps than rows": lambda: grid.uniform(schedule.linear(10), 11),
    "equal steps in time with EDM": lambda: grid.uniform(EDM, 5),
    "rows of the leading grid": lambda: grid.leading(VP, 5),
    "a lowest level above the highest": lambda: grid.karras(VP, 5, sigma_min=3.0, sigma_max=2.0),
    "a grid that rises": lambda: steps(0.5, 0.6, 0.0)(ORACLE, X, STREAMS),
    "a grid below 0": lambda: steps(0.5, -0.1)(ORACLE, X, STREAMS),
    "streams for other images": lambda: Ancestral(2)(ORACLE, X, Streams([0])),
    "an empty interval": lambda: guidance.ClassifierFree(2.0, 1.0, 1.0)(ORACLE),
    "an interval above the schedule": lambda: guidance.AutoGuidance(2.0, low=80.0)(
        GaussianOracle(EDM, MEAN, COVARIANCE), GaussianOracle(EDM, MEAN, COVARIANCE)
    ),
    "guidance without classes": lambda: guidance.ClassifierFree(2.0)(ORACLE)(X, T),
    "guidance by no model": lambda: guidance.AutoGuidance(2.0)(ORACLE),
    "guidance on another schedule": lambda: guidance.AutoGuidance(2.0)(ORACLE, GaussianOracle(FLOW, MEAN, COVARIANCE)),
    "a strength of 0": lambda: SDEdit(DDIM(5), PICTURE, 0.0),
    "equal ends": lambda: Between([1, 2], [3, 2], [0.5, 0.5]),
    "a mask without anything to fill": lambda: Mask(MASK | True),
    "a mask of numbers": lambda: Mask(MASK.float()),
    "a flow that cannot be solved": lambda: likelihood.flow_likelihood(net(lambda x: x / 0), X, STREAMS),
    "probabilities of crops above 1": lambda: Crops((1, 2), (0.5, 0.6)),
    "crops of half pixels": lambda: Crops((1, 3)).check(32, 32, 4),
    "an average longer than the run": lambda: gamma_of(0.3),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str) -> None:
    with pytest.raises(UserError):
        REFUSED[what]()


def test_an_interval_needs_a_level_of_a_table_and_may_end_at_its_first_row() -> None:
    table = GaussianOracle(schedule.linear(), MEAN, COVARIANCE)
    first = float((-schedule.linear().log_snr(torch.tensor(1e-3).double()) / 2).exp())
    guidance.AutoGuidance(2.0, high=first * (1 + 1e-9))(table, table)
    with pytest.raises(UserError):
        guidance.AutoGuidance(2.0, high=first * 0.99)(table, table)
