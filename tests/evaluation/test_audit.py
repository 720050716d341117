"""Memorization: planted copies are found, and other images are flagged at most at the stated rate."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import beta, binom
from torch import Tensor

from diffusion.evaluation.memorization import Audit, audit


def scenes(n: int, seed: int) -> Tensor:
    """Different images of 32×32 pixels: smooth colours with texture."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(32, 32), mode="bicubic")
    fine = F.interpolate(torch.rand(n, 3, 16, 16, generator=g) - 0.5, size=(32, 32), mode="bilinear")
    return ((smooth + 0.3 * fine).clamp(0, 1) * 255).round().to(torch.uint8)


TRAIN, HELD = scenes(400, seed=1), scenes(199, seed=2)


def audited(samples: Tensor, train: Tensor = TRAIN, held_out: Tensor = HELD, rate: float = 0.01) -> Audit:
    return audit(samples, train, held_out, rate=rate)


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
    found = audited(torch.cat([altered(TRAIN[copied[i::5]]) for i, altered in enumerate(ALTERED.values())]))
    assert found.flagged.all()
    assert torch.equal(found.nearest, torch.cat([copied[i::5] for i in range(5)]))


def test_held_out_repeats_of_training_images_do_not_affect_the_threshold() -> None:
    sound = audited(TRAIN[:10])
    found = audited(TRAIN[:10], held_out=torch.cat([HELD, ALTERED["shifted left"](TRAIN[200:202])]))
    assert (found.threshold, found.rate) == (sound.threshold, 2 / 200)


def test_samples_that_repeat_training_images_are_counted_separately() -> None:
    copied = noisy(TRAIN[:1].expand(4, -1, -1, -1), std=5)
    found = audited(torch.cat([scenes(246, seed=4), copied]), torch.cat([TRAIN, TRAIN[:1].expand(60, -1, -1, -1)]))
    assert not found.flagged[246:].any()  # all near training images are the same, so all ratios are 1
    assert found.repeats.nonzero().flatten().tolist() == [246, 247, 248, 249]


def test_the_false_positive_rate_on_held_out_images_is_bounded() -> None:
    found = audited(scenes(500, seed=3), rate=0.1)
    assert found.rate == 20 / 200
    # The number of flagged images is beta-binomial, because the threshold is also random.
    assert int(found.flagged.sum()) <= binom.ppf(1 - 1e-3, 500, beta.ppf(1 - 1e-3, 20, 180))
    assert found.flagged.sum() > 10  # some are flagged
    assert audited(HELD[:3], held_out=HELD[:9]).rate == 1 / 10  # the lowest possible rate
