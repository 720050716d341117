import pytest
import torch
from my_weighting import my_weighting

from diffusion.process.prediction import X0, Eps, V
from diffusion.process.schedule import Flow, linear

t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Flow(), linear()])
def test_each_prediction_has_the_same_loss(schedule):
    """The same wrong x0 has the same loss, whatever the network predicts."""
    alpha, sigma = schedule(t)
    error = 0.3  # of x0, so that of the noise is −alpha/sigma times as large
    expected = (alpha / sigma) * error**2
    for prediction in (Eps(), X0(), V()):
        a, b = prediction.weights(schedule, t)  # y = a x0 + b ε
        loss = my_weighting(schedule, prediction, t) * (a * error - b * error * alpha / sigma) ** 2
        torch.testing.assert_close(loss, expected)


def test_the_powers_1_and_0_are_the_errors_of_the_noise_and_of_the_image():
    one = torch.ones_like(t)
    torch.testing.assert_close(my_weighting(linear(), Eps(), t, power=1.0), one)
    torch.testing.assert_close(my_weighting(linear(), X0(), t, power=0.0), one)
