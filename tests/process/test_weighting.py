"""Loss weights: each matches the form in its paper, for every prediction."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.process import weighting
from diffusion.process.prediction import EDM as EDMPrediction
from diffusion.process.prediction import X0, Eps, Prediction, V, Velocity
from diffusion.process.schedule import VP, Flow, Schedule, linear, scaled_linear, zero_terminal_snr

T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
ROWS = torch.arange(2, 1001, dtype=torch.float64) / 1000
WEIGHTS = [
    weighting.snr, weighting.min_snr, weighting.p2, weighting.edm,
    weighting.velocity, weighting.sigmoid, weighting.soft_min_snr, weighting.truncated_snr,
]  # fmt: skip


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("schedule", [linear(), Flow()], ids=["linear", "flow"])
def test_a_weighting_gives_every_prediction_the_same_loss(weight: Callable[..., Tensor], schedule: Schedule) -> None:
    """The same wrong x0, expressed in the y of each prediction, has the same loss."""
    x0, wrong, eps = 0.4, 0.1, -0.7
    alpha, sigma = schedule(T)
    wrong_eps = (alpha * x0 + sigma * eps - alpha * wrong) / sigma

    def cost(prediction: Prediction) -> Tensor:
        a, b = prediction.weights(schedule, T)
        return weight(schedule, prediction, T) * (a * (x0 - wrong) + b * (eps - wrong_eps)) ** 2

    expected = cost(X0())
    assert (expected > 0).all()
    for prediction in (Eps(), V(), Velocity(), EDMPrediction(0.5)):
        torch.testing.assert_close(cost(prediction), expected, rtol=1e-7, atol=0)


def test_weights_match_the_papers() -> None:
    schedule = VP()
    snr = schedule.log_snr(T).exp()
    forms = [
        (weighting.snr, Eps(), torch.ones_like(T)),
        (weighting.snr, X0(), snr),
        (weighting.min_snr, X0(), snr.clamp(max=5)),
        (weighting.min_snr, Eps(), (5 / snr).clamp(max=1)),
        (weighting.min_snr, V(), snr.clamp(max=5) / (snr + 1)),
        (weighting.soft_min_snr, X0(), 1 / (1 / snr + 1 / 4)),
        (weighting.soft_min_snr, Eps(), 1 / (1 + snr / 4)),
        (weighting.soft_min_snr, EDMPrediction(0.5), snr / 4 / (snr / 4 + 1) ** 2),  # k-diffusion
        (weighting.truncated_snr, X0(), snr.clamp(min=1)),
        (weighting.truncated_snr, Eps(), (1 / snr).clamp(min=1)),
        (weighting.p2, Eps(), 1 / (1 + snr)),
        (weighting.sigmoid, Eps(), -schedule.log_snr_rate(T) / 2 / (1 + snr * math.exp(-2))),
    ]
    for weight, prediction, expected in forms:
        torch.testing.assert_close(weight(schedule, prediction, T), expected)


def test_velocity_weight_gives_the_error_of_the_velocity() -> None:
    """JiT computes v_θ as (x_t − x0_θ)/max(sigma, clip), where v = eps − x0."""
    for clip in (0.0, 0.3):
        expected = 1 / Flow()(T)[1].clamp(min=clip) ** 2
        torch.testing.assert_close(weighting.velocity(Flow(), X0(), T, clip), expected)
    torch.testing.assert_close(weighting.velocity(Flow(), Velocity(), T, 0.0), torch.ones_like(T))


def test_weights_at_zero_terminal_snr_are_finite() -> None:
    end = torch.ones(1, dtype=torch.float64)
    for schedule in (zero_terminal_snr(scaled_linear()), Flow(), Flow(shift=3.0)):
        for weight in WEIGHTS:
            for prediction in (X0(), V(), EDMPrediction()):
                limit = weight(schedule, prediction, end)
                assert limit.isfinite().all(), weight.__name__
                if isinstance(schedule, Flow):  # smooth there, unlike the others
                    before = weight(schedule, prediction, end - 1e-9)
                    torch.testing.assert_close(limit, before, rtol=1e-6, atol=1e-6)
