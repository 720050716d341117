import math

import pytest
import torch
from my_metric import MyMetric


def measured(x, y):
    return MyMetric().compare(x, y)["energy"]


def test_the_interval_contains_the_distance_of_two_normal_distributions():
    """In one dimension, E‖x − y‖ for N(μ, 1) and N(0, 1) is the mean of |N(μ, 2)|, in closed form."""
    generator, shift = torch.Generator().manual_seed(0), 0.8
    folded = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    exact = 2 * folded - 4 / math.sqrt(math.pi)
    y = torch.special.ndtri((torch.arange(500, dtype=torch.float64)[:, None] + 0.5) / 500)  # N(0, 1) without chance
    inside = 0
    for _ in range(40):
        low, high = measured(torch.randn(60, 1, generator=generator).double() + shift, y).interval()
        inside += low <= exact <= high
    assert inside >= 35  # of 40: about 95%


def test_equal_distributions_have_the_distance_0_and_the_error_is_the_jackknifes():
    x, y = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, without = measured(x, y), torch.tensor([measured(x[torch.arange(30) != i], y).value for i in range(30)])
    assert abs(value.value) < 3 * value.error
    assert value.error == pytest.approx(float((29 / 30 * (without - without.mean()).square().sum()).sqrt()), rel=1e-4)
