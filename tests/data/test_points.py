"""Points and images drawn from a known distribution."""

import torch

from diffusion.base.pixels import to_unit
from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.data import Drawn
from diffusion.kinds.points import PlanePoints


def drawn(name: str, **settings: object) -> Drawn:
    data: Drawn = make(choice("data", f"{name} +seed=0", **settings), "data")
    data.setup()
    return data


def test_points_are_independent_of_the_other_splits_and_keep_their_values() -> None:
    data = drawn("points", train=300)
    train, val = data.splits["train"].images, data.splits["val"].images
    assert train.dtype == torch.float32
    assert train.shape == (300, 2, 1, 1)
    assert torch.equal(drawn("points", train=300, val=100).splits["train"].images, train)
    assert not torch.isin(train, val).any()
    assert torch.equal(data.kind.inside(train), train)
    other = drawn("points", train=300, seed=1).splits
    assert not torch.equal(other["train"].images, train)
    assert torch.equal(other["val"].images, val)  # so that scores of several seeds have one reference
    assert data.report == []  # no search for near-duplicates, which all are


def test_images_are_draws_in_8_bits_with_the_classes_of_the_mixture() -> None:
    data = drawn("mixture", train=400, labels=True)
    split, truth = data.splits["train"], data.truth
    assert split.images.shape == (400, 1, 8, 8)
    assert len(data.classes) == 8
    distance = (to_unit(split.images).flatten(1) - truth.means[split.labels]).square().mean().sqrt()
    assert 0.06 < float(distance) < 0.085  # the width is 0.08; a few values are clamped


def test_a_picture_of_points_shows_them_over_the_real_ones() -> None:
    one, real = torch.tensor([0.8, -0.4]).view(1, 2, 1, 1), torch.tensor([[0.8, -0.4], [-1.2, 1.0], [9.0, 9.0]])
    picture = PlanePoints().pictures(one, real.view(3, 2, 1, 1))[0].float()
    side = picture.shape[1]
    bright = [(row.item(), column.item()) for row, column in (picture[0] > 200).nonzero()]
    assert len(bright) == 9
    centre = torch.tensor(bright).float().mean(0) / (side - 1) * 3.2 - 1.6
    torch.testing.assert_close(centre, torch.tensor([0.4, 0.8]), atol=0.01, rtol=0)
    assert int(((picture[0] > 50) & (picture[0] < 200)).sum()) == 9
