"""Measure the audit for copies: the table in docs/numbers.md.

    python -m docs.copies   # about five minutes on two cores

Tiles of the bundled training photographs are changed and audited, as are tiles of other photographs.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusion.data import Landscapes
from diffusion.metric.denoising import numbered
from diffusion.scoring.memorization import calibrated, luma, nearest

Change = Callable[[Tensor], Tensor]
EVERY = 13  # of the training tiles, one is changed


def rounded(x: Tensor) -> Tensor:
    return x.clamp(0, 255).round().to(torch.uint8)


def moved(x: Tensor, zoom: float = 1, degrees: float = 0, right: float = 0, down: float = 0) -> Tensor:
    """Enlarged, turned and shifted (in shares of the side); the edges are replicated."""
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    affine = torch.tensor([[cos, -sin, 2 * right], [sin, cos, 2 * down]]).expand(len(x), -1, -1)
    places = F.affine_grid(affine, list(x.shape), align_corners=False)
    return rounded(F.grid_sample(x.float(), places, mode="bicubic", padding_mode="border", align_corners=False))


def recoloured(x: Tensor, most: float = 0.15) -> Tensor:
    """Each channel with a random gain of 1 ± 0.15 and an offset of ± 0.15 of the range."""
    gain, offset = most * (2 * torch.rand(2, len(x), 3, 1, 1, generator=torch.Generator().manual_seed(1)) - 1)
    return rounded((1 + gain) * x + 255 * offset)


def noisy(x: Tensor, deviation: float = 15) -> Tensor:
    return rounded(x + deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


def jpeg(x: Tensor, quality: int = 50) -> Tensor:
    read = []
    for image in x:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file := io.BytesIO(), "JPEG", quality=quality)
        read.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(read)


CHANGES: dict[str, Change] = {
    "none": lambda x: x,
    "shifted by 1/8 of the side": lambda x: moved(x, right=1 / 8),
    "shifted by 1/8 in both directions": lambda x: moved(x, right=1 / 8, down=-1 / 8),
    "enlarged by 1.2": lambda x: moved(x, 1.2),
    "enlarged by 1.5": lambda x: moved(x, 1.5),
    "three quarters, at a corner": lambda x: moved(x, 4 / 3, right=1 / 8, down=-1 / 8),
    "reduced by 1.2": lambda x: moved(x, 1 / 1.2),
    "mirrored": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2),
    "turned by 8°": lambda x: moved(x, degrees=8),
    "turned by −10°": lambda x: moved(x, degrees=-10),
    "recoloured by ±0.15": recoloured,
    "enlarged by 1.3, recoloured": lambda x: recoloured(moved(x, 1.3)),
    "noise of 15 grey levels": noisy,
    "JPEG of quality 50": jpeg,
    "mirrored, shifted, noise of 10": lambda x: noisy(moved(x.flip(-1), right=1 / 16, down=-1 / 32), 10),
    "turned by 5°, enlarged by 1.1, recoloured, JPEG": lambda x: jpeg(recoloured(moved(x, 1.1, 5, 1 / 16, 1 / 32))),
}


def shares(resolution: int) -> dict[str, float]:
    """The share of flagged images by change, and of other photographs, with training images as the known ones."""
    data = Landscapes(resolution=resolution)
    data.setup()
    train, photograph = data.splits["train"], numbered(data.splits["train"].sources)
    known, threshold = luma(train.images), calibrated([train]).threshold

    def flagged(images: Tensor, own: Tensor | None = None) -> float:
        s, _ = nearest(luma(images), known, None if own is None else (own, photograph))
        return float((s > threshold).float().mean())

    found = {name: flagged(change(train.images[::EVERY])) for name, change in CHANGES.items()}
    found |= {f"other photographs: {name}": flagged(data.splits[name].images) for name in ("val", "test")}
    found["training photographs, without their own"] = flagged(train.images[1::2], photograph[1::2])
    return found


if __name__ == "__main__":
    both = [shares(32), shares(64)]
    for name in both[0]:
        print(f"| {name} | " + " | ".join(f"{100 * each[name]:.1f}%" for each in both) + " |", flush=True)
