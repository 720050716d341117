"""Memorization: planted copies are found, and other images are flagged at most at the stated rate."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import beta, binom
from torch import Tensor

from diffusion.evaluation.memorization import calibrated, ratios


def scenes(n: int, seed: int) -> Tensor:
    """Different images of 32×32 pixels: smooth colours with texture."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(32, 32), mode="bicubic")
    fine = F.interpolate(torch.rand(n, 3, 16, 16, generator=g) - 0.5, size=(32, 32), mode="bilinear")
    return ((smooth + 0.3 * fine).clamp(0, 1) * 255).round().to(torch.uint8)


TRAIN, HELD = scenes(400, seed=1), scenes(199, seed=2)


def jpeg(images: Tensor) -> Tensor:
    read = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
        read.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(read)


def noisy(images: Tensor, std: float = 15) -> Tensor:
    noise = std * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).round().to(torch.uint8)


ALTERED = {
    "exact": lambda x: x,
    "jpeg": jpeg,
    "flipped and noisy": lambda x: noisy(x.flip(-1)),
    "shifted left": lambda x: torch.cat([x[..., 1:], x[..., -1:]], dim=-1),
    "flipped and rolled diagonally": lambda x: x.flip(-1).roll((1, 1), dims=(-2, -1)),
}


def test_planted_copies_are_flagged_with_their_training_images() -> None:
    copied = torch.arange(0, 400, 10)
    planted = torch.cat([altered(TRAIN[copied[i::5]]) for i, altered in enumerate(ALTERED.values())])
    found, nearest = ratios(planted, TRAIN)
    assert (found < calibrated(TRAIN, HELD)[0]).all()
    assert torch.equal(nearest, torch.cat([copied[i::5] for i in range(5)]))


def test_held_out_repeats_of_training_images_do_not_affect_the_threshold() -> None:
    repeats = ALTERED["shifted left"](TRAIN[200:202])
    *same, repeating = calibrated(TRAIN, torch.cat([HELD, repeats]))
    assert same == [*calibrated(TRAIN, HELD)[:3]]
    assert repeating == (len(repeats) + 1) / (len(HELD) + len(repeats) + 1)


def test_the_false_positive_rate_on_held_out_images_is_bounded() -> None:
    threshold, rate, *_ = calibrated(TRAIN, HELD, rate=0.1)
    assert rate == 20 / 200
    flagged = int((ratios(scenes(500, seed=3), TRAIN)[0] < threshold).sum())
    # The number of flagged images is beta-binomial, because the threshold is also random.
    assert 10 < flagged <= binom.ppf(1 - 1e-3, 500, beta.ppf(1 - 1e-3, 20, 180))
    assert calibrated(TRAIN, HELD[:9])[1] == 1 / 10  # the lowest possible rate
