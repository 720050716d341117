"""Faults of sets of images: planted ones are called by their names, and other photographs have none."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.base.pixels import grey
from diffusion.data import Landscapes
from diffusion.metric.denoising import numbered
from diffusion.metric.faults import SPREAD, diagnose

Real = tuple[Tensor, Tensor, int]


@pytest.fixture(scope="module")
def tiles(landscapes: Landscapes) -> tuple[dict[str, Tensor], Real]:
    """Tiles of the test and val photographs; a sixth of all but test, with their photographs, of which a set has 6."""
    known = [landscapes.splits[name] for name in ("train", "val")]
    images, sources = torch.cat([split.images for split in known]), [each for split in known for each in split.sources]
    return {name: landscapes.splits[name].images[:100] for name in ("test", "val")}, (
        images[::6],
        numbered(sources)[::6],
        6,
    )


def grain(x: Tensor, channels: int = 1, block: int = 1) -> Tensor:
    """N(0, 1), equal in blocks of pixels, like images (n, C, H, W)."""
    n, _, height, width = x.shape
    noise = torch.randn(n, channels, height // block, width // block, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, scale_factor=block)


def blotched(x: Tensor) -> Tensor:
    x[..., 5:9, 9:12] = torch.tensor([255.0, 0, 200]).view(3, 1, 1)
    return x


PLANTED = {
    "saturated": lambda x: torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) % 4 == 0, x / 40, x),
    "noise": lambda x: x + 12 * grain(x),
    "colour noise": lambda x: x + 6 * grain(x, 3),
    "blur": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1),
    "rough": lambda x: x + 2 * (x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)),
    **{f"grid {side}": lambda x, side=side: x + 8 * grain(x, block=side) for side in (4, 8)},
    "blotches": blotched,
    "red": lambda x: x * torch.tensor([1.5, 1, 0.6]).view(3, 1, 1),
    "green": lambda x: x * torch.tensor([1, 1.6, 1]).view(3, 1, 1),
    "blue": lambda x: x * torch.tensor([0.5, 1, 1.5]).view(3, 1, 1),
    "purple": lambda x: x * torch.tensor([1.1, 0.8, 1.1]).view(3, 1, 1),
    "dark": lambda x: 0.4 * x,
    "bright": lambda x: 170 + x / 3,
    "flat": lambda x: 90 + x / 4,
    "harsh": lambda x: torch.where(grey(x) > grey(x).mean(dim=(2, 3), keepdim=True), 230.0, 20.0).expand_as(x),
    "pale": lambda x: grey(x) + 0.2 * (x - grey(x)),
    "alike": lambda x: 0.6 * x[:1] + 0.4 * x,
    "repeated": lambda x: x[torch.arange(len(x)) // 4],
}


def planted(name: str, x: Tensor) -> Tensor:
    return PLANTED[name](x.float()).round().clamp(0, 255).to(torch.uint8)


def test_photographs_have_no_faults(tiles: tuple[dict[str, Tensor], Real]) -> None:
    images, real = tiles
    assert [diagnose(each, *real) for each in images.values()] == [[], []]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_called_by_its_name(name: str, tiles: tuple[dict[str, Tensor], Real]) -> None:
    images, real = tiles
    found = diagnose(planted(name, images["val"]), *real)
    assert name in [fault["fault"] for fault in found]


def test_the_interval_is_that_of_sets_of_other_photographs() -> None:
    """The mean of k of N numbers of standard deviation σ has σ² (1/k − 1/N), that of k others σ² (1/k + 1/N)."""
    n, k = 60, 20
    real = torch.linspace(100, 200, n).round().to(torch.uint8).view(-1, 1, 1, 1).expand(n, 3, 8, 8)
    fault = next(each for each in diagnose(real[:k] // 8, real, torch.arange(n), k) if each["fault"] == "dark")
    half = SPREAD * (real[:, 0, 0, 0] + 16.0).log().std() * (1 / k + 1 / n) ** 0.5
    assert math.log(fault["high"] / fault["low"]) / 2 == pytest.approx(float(half), rel=0.1)


def test_the_worst_images_are_named_and_the_place_is_marked(tiles: tuple[dict[str, Tensor], Real]) -> None:
    images, real = tiles
    mixed = images["val"].clone()
    mixed[9:] = planted("blotches", mixed[9:])
    fault = next(each for each in diagnose(mixed, *real) if each["fault"] == "blotches")
    assert all(i >= 9 for i in fault["worst"])
    assert fault["place"] == [[4, 8, 4, 4]] * 3
