"""Augmentation and random crops: what they do, their labels and coordinates, and their distribution."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from networks import randomised
from scipy import ndimage
from torch import Tensor

from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.model import UNet
from diffusion.model.network import coordinates
from diffusion.process.augmentation import Crops, non_leaky
from diffusion.randomness import Streams

N = 4000


def smooth(n: int, height: int = 24, width: int = 32) -> Tensor:
    """Low-frequency images, (n, 2, height, width), for which interpolation is nearly exact."""
    random = np.random.default_rng(0).normal(size=(n, 2, height, width))
    blurred = ndimage.gaussian_filter(random, (0, 0, 3, 3), mode="reflect")
    return torch.from_numpy(blurred / np.abs(blurred).max()).float()


def by_scipy(image: Tensor, back: np.ndarray, right: float, down: float) -> np.ndarray:
    """The image (H, W) with the value at p from back (p − (right, down)), by splines, with mirrored edges."""
    height, width = image.shape
    y, x = np.mgrid[:height, :width].astype(float)
    p = np.stack([x - (width - 1) / 2 - right, y - (height - 1) / 2 - down])
    q = np.einsum("ij,jyx->iyx", back, p)
    at = [q[1] + (height - 1) / 2, q[0] + (width - 1) / 2]
    return ndimage.map_coordinates(image.double().numpy(), at, order=3, mode="reflect")


def inverse_of(labels: Tensor) -> tuple[np.ndarray, float, float]:
    """An image's transformation from its labels alone: the inverse of the linear map, and the z of the shifts."""
    z_scale, cos, sin, along, across = (float(labels[i]) for i in (2, 3, 4, 5, 6))
    z, phi = math.hypot(along, across), math.atan2(across, along) / 2
    s, turn = 2 ** (z / 5), lambda c, s: np.array([[c, -s], [s, c]])
    stretch = turn(math.cos(phi), math.sin(phi)) @ np.diag([s, 1 / s]) @ turn(math.cos(phi), -math.sin(phi))
    forward = stretch @ turn(1 + cos, sin) * 2 ** (z_scale / 5)
    return np.linalg.inv(forward), float(labels[7]), float(labels[8])


def test_labels_follow_the_specified_distributions() -> None:
    p = 0.3
    _, labels = non_leaky(torch.zeros(N, 1, 2, 2), Streams.of(N, "test"), probability=p)
    made = (labels != 0).double().mean(dim=0)
    assert ((made - torch.tensor([0.5, p / 2, *[p] * 4, p / 2, p, p])).abs() < 0.04).all()
    on = {i: labels[labels[:, i] != 0, i] for i in (2, 7, 8)}
    for z in on.values():
        assert abs(float(z.mean())) < 0.15
        assert abs(float(z.std()) - 1) < 0.12
    turned = labels[labels[:, 4] != 0]
    assert torch.allclose((1 + turned[:, 3]).square() + turned[:, 4].square(), torch.ones(len(turned)), atol=1e-5)
    assert abs(float(turned[:, 3].mean()) + 1) < 0.15  # the angle is uniform on the whole circle
    stretched = labels[labels[:, 5] != 0, 5:7]
    assert abs(float(stretched.square().sum(dim=1).mean()) - 1) < 0.2
    oblique = stretched[stretched[:, 1] != 0]
    assert abs(len(oblique) / len(stretched) - 0.5) < 0.06  # the others are along the axes
    assert abs(float(torch.atan2(oblique[:, 1], oblique[:, 0]).cos().mean())) < 0.12  # in all directions
    both = ((labels[:, 2] != 0) & (labels[:, 4] != 0)).double().mean()
    assert abs(float(both) - p * p) < 0.03  # each is applied independently


@pytest.mark.parametrize("kind", range(7), ids=["mirror", "upend", "scale", "turn", "stretch", "shift", "all"])
def test_labels_describe_the_transformation_of_the_image(kind: int) -> None:
    """Single transformations and all together, against scipy's splines."""
    n, columns = 200, [[0], [1], [2], [3, 4], [5, 6], [7, 8], list(range(9))][kind]
    x = smooth(n)
    height, width = x.shape[2:]
    changed, labels = non_leaky(x, Streams.of(n, "kinds", kind), probability=1.0 if kind == 6 else 0.35)
    others = [i for i in range(9) if i not in columns]
    alone = (labels[:, columns] != 0).any(dim=1) & (labels[:, others] == 0).all(dim=1)
    assert alone.sum() >= 2
    for i in alone.nonzero().flatten().tolist():
        start = x[i].flip([d for d, label in ((2, 0), (1, 1)) if labels[i, label]])
        back, right, down = inverse_of(labels[i])
        for channel in range(2):
            expected = by_scipy(start[channel], back, right * width / 8, down * height / 8)
            assert np.abs(changed[i, channel].numpy() - expected).max() < 0.03


def test_images_that_are_only_mirrored_keep_their_pixels() -> None:
    x = torch.rand(20, 3, 8, 8)
    changed, labels = non_leaky(x, Streams.of(20, "mirrored"), probability=0.0)
    mirrored = labels[:, 0] == 1
    assert torch.equal(changed, torch.where(mirrored[:, None, None, None], x.flip(3), x))
    assert 0 < mirrored.sum() < 20


def test_a_crop_and_its_coordinates_match_its_window() -> None:
    """The pixels encode their image, row and column; the coordinates of a whole image go from −1 to 1."""
    x0 = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in (5, 16, 24)), indexing="ij"), dim=1)
    parts, window = Crops([2], [1.0])(x0, Streams.of(5, "crops"))
    assert (window[:, 2:] == torch.tensor([16, 24])).all()
    whole, seen = coordinates(x0), coordinates(parts, window)
    torch.testing.assert_close(whole[0, 0, 3], torch.linspace(-1, 1, 24))
    torch.testing.assert_close(whole[0, 1, :, 3], torch.linspace(-1, 1, 16))
    for k, (top, left) in enumerate(window[:, :2].tolist()):
        assert torch.equal(parts[k], x0[k, :, top : top + 8, left : left + 12])
        assert torch.equal(seen[k], whole[k, :, top : top + 8, left : left + 12])
    assert coordinates(torch.zeros(1, 3, 1, 1)).isfinite().all()


def test_crop_sizes_and_positions_have_the_given_probabilities() -> None:
    """Sizes are drawn per batch, and positions per image."""
    crops, found, n = make(choice("crops", "random"), "crops"), Counter(), N // 4
    for k in range(n):
        found[crops(torch.zeros(1, 1, 8, 8), Streams([k], batch_seed=k))[0].shape[2]] += 1
    for side, p in ((8, 0.5), (4, 0.3), (2, 0.2)):
        assert abs(found[side] / n - p) < 4 * (p * (1 - p) / n) ** 0.5
    window = Crops([2], [1.0])(torch.zeros(N, 1, 8, 4), Streams.of(N, "places"))[1]
    for column, places in ((0, 5), (1, 3)):
        counts = window[:, column].bincount(minlength=places)
        assert (counts / N - 1 / places).abs().max() < 4 * (1 / places / N) ** 0.5


def test_a_network_with_coordinates_is_a_network_of_two_more_channels() -> None:
    options = {"channels": [8, 16], "attention": [False, True], "groups": 4, "patch": 2}
    network, plain = randomised(UNet(coordinates=True, **options)), UNet(in_channels=5, **options)
    plain.load_state_dict(network.state_dict())
    parts, window = Crops([2], [1.0])(torch.randn(3, 3, 16, 16), Streams.of(3, "network"))
    label = torch.tensor([1.0, 2.0, 3.0])
    seen = torch.cat([parts, coordinates(parts, window)], dim=1)
    assert torch.equal(plain(seen, label), network(parts, label, window=window))
