"""Near-duplicates across splits are found, and images that only look similar are not; so are nearest vectors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion.base import nearest
from diffusion.base.nearest import NEAR, miniature, near_duplicates, neighbours
from diffusion.data import module
from diffusion.data.module import ImageData, Split, duplicates
from diffusion.kinds.pixels import Pixels


def noise(n: int, seed: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def splits(train: Tensor, val: Tensor, test: Tensor) -> dict[str, Split]:
    parts = {"train": train, "val": val, "test": test}
    return {name: Split(images, [f"{name}{i}" for i in range(len(images))]) for name, images in parts.items()}


@pytest.mark.parametrize("itself", [True, False])
def test_neighbours_are_those_of_a_full_comparison(monkeypatch: pytest.MonkeyPatch, itself: bool) -> None:
    monkeypatch.setattr(nearest, "ROWS", 7)
    monkeypatch.setattr(nearest, "KNOWN", 13)
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known = x if not itself else torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = (x[:, None] - known).norm(dim=2)
    if not itself:
        whole.fill_diagonal_(torch.inf)
    distance, index = neighbours(x, known, k=15, itself=itself)
    expected = whole.sort(dim=1)
    assert torch.allclose(distance, expected.values[:, :15])
    assert torch.equal(index, expected.indices[:, :15])
    views = torch.stack([x, -x])
    best = torch.minimum(whole, (x[:, None] + known).norm(dim=2)).min(dim=1)
    if itself:
        assert torch.equal(neighbours(views, known)[1][:, 0], best.indices)
        assert neighbours(x, known[:3], k=5)[0].shape == (50, 3)
        assert neighbours(x[:0], known)[0].shape == (0, 1)


@pytest.mark.parametrize("side", [30, 6])
def test_near_duplicates_are_those_of_a_full_comparison(side: int) -> None:
    known, g = noise(150, 0, side), torch.Generator().manual_seed(1)
    strength = torch.linspace(4, 14, 100).view(-1, 1, 1, 1)
    pattern = torch.randn(100, 3, 1, 1, generator=g) if side > 16 else torch.randn(100, 3, side, side, generator=g)
    images = (known[:100] + strength * pattern).clamp(0, 255).byte()
    rms = (miniature(images, 16)[:, None] - miniature(known, 16)).square().mean(dim=2).sqrt()
    found = near_duplicates(images, known)
    assert torch.equal(found, torch.where((rms < NEAR).any(dim=1), rms.argmin(dim=1), -1))
    assert 10 < (found >= 0).sum() < 90


def test_near_duplicates_across_splits_are_found_including_mirrored_ones() -> None:
    train, val, test = noise(1100, 0), noise(600, 1), noise(5, 2)
    val[580] = train[1050]
    val[3] = train[4].flip(-1)
    test[1] = (val[7].int() + 7).clamp(0, 255).byte()
    test[2] = (val[8].int() + 12).clamp(0, 255).byte()  # farther than 8 grey levels
    assert [(entry["path"], entry["reason"]) for entry in duplicates(splits(train, val, test), Pixels())] == [
        ("val3", "in val: a near-duplicate of train4 in train"),
        ("val580", "in val: a near-duplicate of train1050 in train"),
        ("test1", "in test: a near-duplicate of val7 in val"),
    ]
    assert duplicates(splits(train[:50], noise(9, 3), noise(0, 4)), Pixels()) == []


class Drawn(ImageData):
    """A data set with two training images in the validation split."""

    def load(self) -> dict[str, Split]:
        train = noise(20, self.seed)
        return splits(train, train[[3, 4]].flip(0), noise(5, 9))


def test_near_duplicates_are_reported_at_every_start_but_computed_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report() -> list[dict[str, str]]:
        data = Drawn(resolution=16, batch_size=4)
        data.setup()
        return data.report

    first = report()
    assert [(entry["path"], entry["action"]) for entry in first] == [("val0", "used"), ("val1", "used")]
    with monkeypatch.context() as patched:
        patched.setattr(module, "near_duplicates", lambda *_: pytest.fail("compared again"))
        assert report() == first
    (file,) = cache.glob("duplicates-*.json")
    file.write_text(file.read_text()[:40])  # damaged
    assert report() == first
