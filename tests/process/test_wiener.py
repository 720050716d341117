"""The Wiener filter: of two images in closed form, and by frequencies of images shifted around in all ways."""

import pytest
import torch

from diffusion.process import wiener
from diffusion.process.floor import Atoms
from diffusion.process.wiener import Wiener

g = torch.Generator().manual_seed(0)


def test_the_filter_of_two_opposite_images_is_a_projection_and_a_shrinkage() -> None:
    """C = v vᵀ of v and −v, so the estimate is v (v·x)/(‖v‖² + s²); with mean images, around these."""
    v, mean, x = torch.randn(12, generator=g).double(), torch.randn(12, generator=g), torch.randn(5, 12, generator=g)
    found = Wiener(Atoms(torch.stack([mean + v, mean - v]).float().view(2, 3, 2, 2)))(x, 0.7)
    expected = mean + ((x - mean).double() @ v / (v @ v + 0.7**2))[:, None] * v
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [0.01, 1.0, 30.0])
def test_by_frequencies_it_is_the_same_for_images_in_all_places(level: float, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(3, 3, 4, 6, generator=g)
    atoms = Atoms(torch.cat([images.roll((i, j), (2, 3)) for i in range(4) for j in range(6)]))
    whole, x = Wiener(atoms), torch.randn(5, 72, generator=g)
    monkeypatch.setattr(wiener, "LARGEST", 1)
    torch.testing.assert_close(Wiener(atoms)(x, level), whole(x, level), rtol=1e-9, atol=1e-9)
