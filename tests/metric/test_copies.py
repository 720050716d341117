"""The audit for copies: the planted are found, honest photographs are flagged at no more than the stated rate."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import beta, binom
from torch import Tensor

from diffusion.metric.copies import Audit, audit, miniature, nearest


def scenes(n: int, seed: int) -> Tensor:
    """Pictures of 32×32: smooth colours under texture, no two alike."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(32, 32), mode="bicubic")
    fine = F.interpolate(torch.rand(n, 3, 16, 16, generator=g) - 0.5, size=(32, 32), mode="bilinear")
    return ((smooth + 0.3 * fine).clamp(0, 1) * 255).round().to(torch.uint8)


TRAIN, HELD = scenes(400, seed=1), scenes(199, seed=2)
PIXELS = {"pixels": miniature}


def jpeg(images: Tensor) -> Tensor:
    read = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
        read.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(read)


def noisy(images: Tensor) -> Tensor:
    noise = 15 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).round().to(torch.uint8)


ALTERED = {
    "exact": lambda x: x,
    "flipped": lambda x: x.flip(-1),
    "jpeg": jpeg,
    "shifted": lambda x: x.roll(1, dims=-1),
    "noisy": noisy,
    "flipped and noisy": lambda x: noisy(x.flip(-1)),
}


@pytest.mark.parametrize("how", ALTERED)
def test_planted_copies_are_flagged_and_named(how: str) -> None:
    copied = torch.arange(0, 400, 10)
    found = audit(ALTERED[how](TRAIN[copied]), TRAIN, HELD, PIXELS)
    assert found.share == 1.0
    assert torch.equal(found.nearest["pixels"].index, copied)
    assert found.nearest["pixels"].flipped.all() == ("flipped" in how)


def test_held_out_photographs_are_flagged_at_no_more_than_the_rate() -> None:
    for rate in (0.01, 0.1):
        found = audit(scenes(2000, seed=3), TRAIN, HELD, PIXELS, rate)
        assert found.rate == pytest.approx(rate)
        # Of 2000 honest ones k are flagged: beta-binomial, since the threshold itself is drawn.
        k = round(rate * 200)
        p = beta.ppf(1 - 1e-3, k, 200 - k)
        assert int(found.flagged.sum()) <= binom.ppf(1 - 1e-3, 2000, p)
    assert found.share > 0.02  # at a rate of 10% some are: the threshold is not idle


def test_the_rate_is_shared_by_embeddings_and_told_where_it_can_not_be_kept() -> None:
    two = audit(HELD[:3], TRAIN, HELD, {**PIXELS, "again": miniature}, rate=0.02)
    assert two.rate == pytest.approx(0.02)
    assert two.thresholds["pixels"] == audit(HELD[:3], TRAIN, HELD, PIXELS, rate=0.01).thresholds["pixels"]
    assert audit(HELD[:3], TRAIN, HELD[:9], PIXELS, rate=0.01).rate == pytest.approx(0.1)


def test_either_embedding_flags() -> None:
    blind = {"blind": lambda x: torch.rand(len(x), 4, generator=torch.Generator().manual_seed(len(x)))}
    found = audit(TRAIN[:5], TRAIN, HELD, {**blind, **PIXELS})
    assert found.flagged.all()
    assert found.closest(2)[0][1] == "pixels"


def test_nearest_is_the_brute_force_one() -> None:
    x, y = miniature(HELD[:20]).double(), miniature(TRAIN).double()
    mirrored = miniature(HELD[:20].flip(-1)).double()
    found = nearest(x, mirrored, y)
    d = torch.stack([torch.cdist(x, y), torch.cdist(mirrored, y)])
    side = d.min(dim=2).values.argmin(dim=0)
    sorted_, order = d[side, torch.arange(20)].sort(dim=1)
    assert torch.equal(found.index, order[:, 0])
    torch.testing.assert_close(found.ratio, sorted_[:, 0] / sorted_[:, :50].mean(dim=1))
    assert torch.equal(found.flipped, side == 1)


def test_the_interval_is_clopper_and_pearsons() -> None:
    def of(k: int, n: int) -> tuple[float, float]:
        return Audit(torch.arange(n) < k, {}, {}, 0.01).interval()

    assert of(0, 50) == pytest.approx((0.0, 1 - 0.025 ** (1 / 50)))
    assert of(5, 50) == pytest.approx((beta.ppf(0.025, 5, 46), beta.ppf(0.975, 6, 45)))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 and 1 at least"):
        audit(HELD, TRAIN[:1], HELD, PIXELS)
