"""Random crops: their places and sizes, their distribution, and the coordinates passed to the network."""

from collections import Counter

import pytest
import torch
from composing import settings
from networks import randomised

from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.model import UNet
from diffusion.model.coordinates import coordinates
from diffusion.process.crops import Crops
from diffusion.randomness import Streams, seed_for

N = 2000


def image(batch: int = 5, height: int = 16, width: int = 24) -> torch.Tensor:
    """An image whose pixels encode their image, row and column."""
    b, i, j = torch.meshgrid(*(torch.arange(n).float() for n in (batch, height, width)), indexing="ij")
    return torch.stack([b, i, j], dim=1)


@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_a_crop_and_its_coordinates_match_its_window(divisor) -> None:
    x0 = image()
    parts, window = Crops([divisor], [1.0])(x0, Streams.of(5, "crops", divisor))
    h, w = 16 // divisor, 24 // divisor
    assert parts.shape == (5, 3, h, w)
    assert (window[:, 2:] == torch.tensor([16, 24])).all()
    whole, seen = coordinates(x0), coordinates(parts, window)
    for k, (top, left) in enumerate(window[:, :2].tolist()):
        assert torch.equal(parts[k], x0[k, :, top : top + h, left : left + w])
        assert torch.equal(seen[k], whole[k, :, top : top + h, left : left + w])
    assert len({tuple(each) for each in window.tolist()}) == (1 if divisor == 1 else 5)


def test_whole_images_have_coordinates_from_minus_1_to_1() -> None:
    x, y = coordinates(image(2))[1]
    assert torch.equal(x[0], x[-1])
    assert torch.equal(y[:, 0], y[:, -1])
    torch.testing.assert_close(x[0], torch.linspace(-1, 1, 24))
    torch.testing.assert_close(y[:, 0], torch.linspace(-1, 1, 16))
    whole = torch.tensor([[0, 0, 16, 24]]).expand(2, -1)
    assert torch.equal(coordinates(image(2), whole), coordinates(image(2)))
    assert torch.equal(coordinates(torch.zeros(1, 3, 1, 1)), torch.full((1, 2, 1, 1), -1.0))


def test_crop_sizes_are_drawn_per_batch_with_the_given_probabilities() -> None:
    crops: Crops = make(settings(["crops=random"]).crops, "crops")
    x0, found = torch.zeros(1, 1, 8, 8), Counter()
    for k in range(N):
        found[crops(x0, Streams([k], batch_seed=k))[0].shape[2]] += 1
    for side, p in ((8, 0.5), (4, 0.3), (2, 0.2)):
        assert abs(found[side] / N - p) < 4 * (p * (1 - p) / N) ** 0.5
    assert crops.share == pytest.approx(0.5 + 0.3 / 4 + 0.2 / 16)


def test_crop_positions_are_uniform_and_depend_only_on_the_image() -> None:
    crops, x0 = Crops([2], [1.0]), torch.zeros(N, 1, 8, 4)
    window = crops(x0, Streams.of(N, "places"))[1]
    for column, places in ((0, 5), (1, 3)):
        counts = window[:, column].bincount(minlength=places)
        assert len(counts) == places
        assert (counts / N - 1 / places).abs().max() < 4 * (1 / places / N) ** 0.5
    alone = crops(x0[:1], Streams([seed_for("places", 7)]))[1]
    assert torch.equal(alone[0], window[7])


def test_all_devices_draw_the_same_crop_size() -> None:
    crops = Crops()
    for k in range(20):
        parts = [crops(torch.zeros(2, 1, 8, 8), Streams([2 * k + i, 5 + i], batch_seed=k))[0] for i in (0, 1)]
        assert parts[0].shape == parts[1].shape


@pytest.mark.parametrize("patch", [1, 2])
def test_a_network_with_coordinates_sees_the_position_of_a_crop(patch) -> None:
    options = {"channels": [8, 16], "attention": [False, True], "groups": 4, "patch": patch}
    network = randomised(UNet(coordinates=True, classes=2, **options))
    assert network.stem.weight.shape[1] == 5 * patch**2
    parts, window = Crops([2], [1.0])(torch.randn(3, 3, 16, 16), Streams.of(3, "network"))
    label, classes = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        told = network(parts, label, classes, window=window)
        assert not torch.allclose(told, network(parts, label, classes))
        others = (each.flip(0) for each in (parts, label, classes))
        torch.testing.assert_close(told.flip(0), network(*others, window=window.flip(0)))
        plain = UNet(in_channels=5, classes=2, **options)
        plain.load_state_dict(network.state_dict())
        assert torch.equal(plain(torch.cat([parts, coordinates(parts, window)], dim=1), label, classes), told)
        with pytest.raises(UserError, match=r"use one that does, with model.coordinates=true"):
            UNet(**options)(parts, label, window=window)


@pytest.mark.parametrize(("divisors", "probabilities"), [([1, 2], [1.0]), ([1, 2], [0.5, 0.4]), ([1], [0.9])], ids=str)
def test_invalid_probabilities_are_refused(divisors, probabilities) -> None:
    with pytest.raises(UserError, match=r"crops.probabilities=\["):
        Crops(divisors, probabilities)


def test_incompatible_crop_sizes_are_refused() -> None:
    crops = Crops()
    crops.check(32, 64, 8)
    with pytest.raises(UserError, match=r"into parts of 8×16 .* multiples of 16; remove 4, for example .*=\[1,2\]"):
        crops.check(32, 64, 16)
    with pytest.raises(UserError, match="4 divides images of 18×18 into parts that are not whole pixels"):
        Crops([1, 4], [0.5, 0.5]).check(18, 18, 1)
    Crops([1, 4], [1.0, 0.0]).check(18, 18, 1)
