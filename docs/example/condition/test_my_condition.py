import torch
from my_condition import MyCondition

from diffusion.data.conditions import inputs


def test_the_strip_has_the_mean_colour_of_each_band():
    x0 = torch.linspace(-1, 1, 8).view(1, 1, 8, 1).expand(2, 3, 8, 8)
    strip = MyCondition(bands=2)(x0, {})["strip"]
    torch.testing.assert_close(strip[0, 0, :, 0], torch.tensor([x0[0, 0, :4].mean(), x0[0, 0, 4:].mean()]))


def test_the_network_is_given_it_in_the_size_of_the_image():
    condition = MyCondition()
    picture = inputs(condition(torch.zeros(2, 3, 16, 24), {}), (16, 24))["picture"]
    assert picture.shape == (2, condition.widths((3, 16, 24))["picture"], 16, 24)
