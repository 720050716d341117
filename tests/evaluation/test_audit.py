"""Memorization: planted copies are found though they are changed, and other images are flagged at most at the rate."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import beta
from torch import Tensor

from diffusion.data.module import Split
from diffusion.scoring.memorization import HIGHEST, calibrated, chance_of, luma, nearest


def scenes(n: int, seed: int) -> Tensor:
    """Different images of 32×32 pixels: smooth colours with texture."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(32, 32), mode="bicubic")
    fine = F.interpolate(torch.rand(n, 3, 16, 16, generator=g) - 0.5, size=(32, 32), mode="bilinear")
    return ((smooth + 0.3 * fine).clamp(0, 1) * 255).round().to(torch.uint8)


KNOWN = scenes(100, seed=1)


def rounded(x: Tensor) -> Tensor:
    return x.clamp(0, 255).round().to(torch.uint8)


def moved(x: Tensor, zoom: float = 1, degrees: float = 0, right: float = 0) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    affine = torch.tensor([[cos, -sin, 2 * right / 32], [sin, cos, 0]]).expand(len(x), -1, -1)
    places = F.affine_grid(affine, list(x.shape), align_corners=False)
    return rounded(F.grid_sample(x.float(), places, mode="bicubic", padding_mode="border", align_corners=False))


def jpeg(images: Tensor) -> Tensor:
    read = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
        read.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(read)


def noisy(images: Tensor) -> Tensor:
    return rounded(images + 15 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))


CHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": lambda x: x,
    "shifted": lambda x: moved(x, right=4),
    "mirrored and enlarged": lambda x: moved(x.flip(-1), zoom=1.2),
    "upside down and cropped": lambda x: moved(x.flip(-2), zoom=1.5),
    "reduced": lambda x: moved(x, zoom=1 / 1.2),
    "turned": lambda x: moved(x.flip(-2, -1), degrees=10),
    "turned back": lambda x: moved(x, degrees=-10),
    "recoloured": lambda x: rounded(x * torch.tensor([1.15, 0.85, 1.0]).view(3, 1, 1) + 20),
    "noisy": noisy,
    "jpeg": jpeg,
}


@pytest.mark.parametrize("change", CHANGED)
def test_copies_are_found_though_they_are_changed(change: str) -> None:
    s, index = nearest(luma(CHANGED[change](KNOWN[::10])), luma(KNOWN))
    assert torch.equal(index, torch.arange(0, 100, 10))
    assert (s > 0).all()


def test_other_images_noise_and_plain_ones_are_no_copies() -> None:
    plain = torch.linspace(0, 200, 32).expand(3, 3, 32, 32).byte()
    noise = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    for images in (scenes(20, seed=3), noisy(scenes(10, seed=4)), noise, plain):
        assert not (nearest(luma(images), luma(KNOWN))[0] > 0).any()


def split(images: Tensor, photographs: int) -> Split:
    return Split(images, [f"{i % photographs}.png 32px at {i},0" for i in range(len(images))])


def test_tiles_of_one_photograph_do_not_calibrate_each_other_but_repeats_raise_the_chance() -> None:
    tiles = KNOWN[:5].repeat(2, 1, 1, 1)
    assert calibrated([split(tiles, 5)]).threshold == 0
    threshold, chance, found = calibrated([split(tiles, 10)])
    assert threshold == HIGHEST
    assert chance == 1
    assert found > 0.9


def test_the_chance_counts_photographs_of_which_some_tiles_are_flagged() -> None:
    each, of_ten = torch.arange(100), torch.arange(100) // 10
    some = torch.zeros(100, dtype=torch.bool)
    some[:10] = True
    assert chance_of(some, each) == pytest.approx(beta.ppf(0.975, 11, 90), rel=0.02)  # Clopper and Pearson's
    assert 2 * chance_of(some, each) < chance_of(some, of_ten)  # all of one photograph
    assert chance_of(some & False, of_ten) == pytest.approx(beta.ppf(0.975, 1, 10))
