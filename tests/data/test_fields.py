"""Random fields have the power that is asked for, and the exact distribution given their block means."""

import torch
import torch.nn.functional as F

from diffusion.data import Fields
from diffusion.data.arrays import Channels


def test_fine_fields_are_distributed_around_the_posterior_mean_as_stated() -> None:
    """Over 4000 fields the residual has the stated deviation in each pixel and is not predictable from coarse ones."""
    data = Fields(resolution=8, channels=1, train=4000, val=4)
    data.condition = Channels(["coarse"])
    data.setup()
    train = data.splits["train"]
    mean, std = data.posterior(train)
    residual = train.images.double() - mean
    assert float(F.avg_pool2d(residual, 4).abs().max()) < 1e-5  # of the means nothing is left to draw
    ratio = residual.square().mean(dim=0) / std.square()[0]
    assert float((ratio - 1).abs().max()) < 5 * (2 / 4000) ** 0.5
    coarse = train.stored["channels"][:, 0, ::4, ::4].flatten(1).double()
    correlation = torch.corrcoef(torch.cat([coarse, (residual / std).flatten(1)], dim=1).T)[:4, 4:]
    assert float(correlation.abs().max()) < 5 / 4000**0.5


def test_fields_have_the_power_that_is_asked_for() -> None:
    data = Fields(resolution=8, channels=2, train=4000, val=4)
    data.setup()
    power = torch.fft.fft2(data.splits["train"].images[:, 1].double()).abs().square().mean(dim=0) / 64
    assert float((power / data.power - 1).abs().max()) < 6 / 4000**0.5
