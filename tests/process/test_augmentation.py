"""EDM's augmentation: each transformation is correct, and its labels describe it."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from diffusion.process.augmentation import diagonal, non_leaky, product, rotation, warped
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


def test_images_with_zero_labels_are_unchanged() -> None:
    x = torch.rand(N, 1, 4, 6)
    changed, labels = non_leaky(x, Streams.of(N, "test"), probability=0.12)
    assert labels.shape == (N, 9)
    untouched = (labels == 0).all(dim=1)
    assert untouched.sum() > N / 4
    assert torch.equal(changed[untouched], x[untouched])
    assert (changed != x).flatten(1).any(dim=1)[~untouched].all()


def test_probability_zero_leaves_only_the_mirroring() -> None:
    x = torch.rand(N, 1, 4, 6)
    changed, labels = non_leaky(x, Streams.of(N, "test"), probability=0.0)
    mirrored = labels[:, 0] == 1
    assert not labels[:, 1:].any()
    assert abs(float(mirrored.double().mean()) - 0.5) < 0.04
    assert torch.equal(changed, torch.where(mirrored[:, None, None, None], x.flip(3), x))


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


def test_a_quarter_turn_is_exact_and_clockwise() -> None:
    x = torch.rand(2, 3, 8, 8)
    quarter, none = torch.full((2,), math.pi / 2), torch.zeros(2)
    turned = warped(x, rotation(-quarter), none, none)  # the axis to the right becomes the axis down
    torch.testing.assert_close(turned, x.rot90(-1, (2, 3)), rtol=0, atol=1e-5)


def test_a_shift_by_whole_pixels_mirrors_the_edge() -> None:
    x, one = torch.rand(1, 1, 5, 6), torch.ones(1)
    moved = warped(x, diagonal(one, one), 2 * one, -one)
    expected = torch.cat([x[..., :2].flip(3), x[..., :-2]], dim=3)
    expected = torch.cat([expected[:, :, 1:], expected[:, :, -1:]], dim=2)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


def test_product_multiplies_2x2_matrices() -> None:
    a, b, c = (torch.rand(5, 4) for _ in range(3))
    found = product(*(tuple(m.unbind(1)) for m in (a, b, c)))
    torch.testing.assert_close(torch.stack(found, 1).view(5, 2, 2), a.view(5, 2, 2) @ b.view(5, 2, 2) @ c.view(5, 2, 2))


def test_an_image_and_its_labels_do_not_depend_on_the_batch() -> None:
    x, seeds = smooth(12), list(range(12))
    images, labels = non_leaky(x, Streams(seeds), probability=0.5)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        some, own = non_leaky(x[part], Streams(seeds[part]), probability=0.5)
        assert torch.equal(some, images[part])
        assert torch.equal(own, labels[part])
