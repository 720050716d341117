"""The nearest of many vectors by Euclidean distance; images as short vectors, and near-duplicates among images.

The distance of an image from a known one is the least of its views: for example, of the image and its mirror image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 256  # vectors whose distances are in memory at a time …
KNOWN = 4096  # … to this many others
SIDE = 16  # of the miniatures of near-duplicates, in pixels
NEAR = 8  # grey levels, RMS: less makes two images near-duplicates


def neighbours(x: Tensor, known: Tensor, k: int = 1, itself: bool = True) -> tuple[Tensor, Tensor]:
    """The k smallest distances of n vectors from m known ones, float64 (n, k), ascending; and their indices.

    Fewer than k if there are fewer known vectors.

    Args:
        x: (n, D), or (V, n, D) for V views of each; the distance is the least of these.
        known: (m, D).
        itself: Whether a vector may be its own neighbour; if not, `known` must be `x`.
    """
    values, indices = [], []
    for part in torch.arange(len(known)).split(KNOWN):
        others, found = known[part].double(), []  # in float32, |a|² + |b|² − 2ab loses digits
        for rows in torch.arange(x.shape[-2]).split(ROWS):
            distance = torch.cdist(x[..., rows, :].double(), others)
            distance = distance.amin(dim=0) if x.ndim == 3 else distance
            if not itself:
                distance[rows[:, None] == part] = torch.inf
            found.append(distance.topk(min(k, len(part)), largest=False))
        values.append(torch.cat([each.values for each in found]))
        indices.append(part[torch.cat([each.indices for each in found])])
    best, chosen = torch.cat(values, dim=1).topk(min(k, len(known)), largest=False)
    return best, torch.cat(indices, dim=1).gather(1, chosen)


def miniature(images: Tensor, side: int) -> Tensor:
    """(N, C, *size) -> (N, C·side^axes) float32: the means of `side` parts of each axis, fewer for a smaller image,
    minus 128.
    """
    side, axes = min(side, *images.shape[2:]), images.ndim - 2
    pool: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[axes]
    return torch.cat([pool(x.float(), (side,) * axes).flatten(1) - 128 for x in images.split(ROWS)])


def near_duplicates(images: Tensor, known: Tensor) -> Tensor:
    """For each of n images, the index of the nearest of m known ones if they are near-duplicates, or else −1; (n,).

    `images` (n, C, *size) and `known` (m, C, *size) are uint8; the former are compared as they are, and mirrored.
    Two images are near-duplicates if their 16×16 miniatures differ by less than 8/255 RMS. The means of 4×4 blocks are
    compared first: their distance, times 4, is at most that of the miniatures, so few images remain.
    """
    side, channels, axes = min(SIDE, *known.shape[2:]), known.shape[1], known.ndim - 2
    radius, block = NEAR * (channels * side**axes) ** 0.5, min(4, side)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[axes]

    def coarse(x: Tensor) -> Tensor:
        return pool(x.reshape(-1, channels, *[side] * axes), block).reshape(*x.shape[:-1], -1)

    x, y = torch.stack([miniature(view, SIDE) for view in (images, images.flip(-1))]), miniature(known, SIDE)
    scale = block ** (axes / 2)
    likely = scale * neighbours(coarse(x), coarse(y))[0][:, 0] < 1.001 * radius  # 1.001: rounding errors
    distance, index = neighbours(x[:, likely], y)
    found = torch.full((len(images),), -1)
    found[likely] = torch.where(distance < radius, index, -1)[:, 0]
    return found
