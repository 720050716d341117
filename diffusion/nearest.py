"""The nearest of many vectors by Euclidean distance; images as short vectors, and near-duplicates among images.

The distance of an image from a known one is the least of its views: for example, of the image and its mirror image.
"""

from collections.abc import Callable, Iterable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 256  # vectors whose distances are in memory at a time …
KNOWN = 4096  # … to this many others
SIDE = 16  # of the miniatures of near-duplicates, in pixels
NEAR = 8  # grey levels, RMS: less makes two images near-duplicates
BLOCK = 4  # pixels of a miniature whose mean is compared first
SLACK = 1.001  # relative, for rounding errors

Views = Callable[[Tensor], list[Tensor]]


def neighbours(x: Tensor, known: Tensor | Iterable[Tensor], k: int = 1, itself: bool = True) -> tuple[Tensor, Tensor]:
    """The k smallest distances of each of n vectors from the known ones, float64 (n, k), ascending; and their indices.

    Fewer than k if there are fewer known vectors.

    Args:
        x: (n, D), or (V, n, D) for V views of each; the distance is the least of these.
        known: (m, D), or an iterable of such parts, of which only one is in memory at a time.
        itself: Whether a vector may be its own neighbour; if not, `known` must be `x`.
    """
    n = x.shape[-2]
    best = torch.empty(n, 0, dtype=torch.float64, device=x.device)
    index = torch.empty(n, 0, dtype=torch.long, device=x.device)
    first = 0
    for part in known.split(KNOWN) if isinstance(known, Tensor) else known:
        found = []
        for rows in torch.arange(n, device=x.device).split(ROWS):
            distance = torch.cdist(x[..., rows, :].double(), part.double())  # |a|² + |b|² − 2ab loses digits
            distance = distance.amin(dim=0) if x.ndim == 3 else distance
            if not itself:
                distance[rows[:, None] == torch.arange(first, first + len(part), device=x.device)] = torch.inf
            found.append(distance.topk(min(k, len(part)), largest=False))
        best = torch.cat([best, torch.cat([each.values for each in found])], dim=1)
        index = torch.cat([index, torch.cat([each.indices for each in found]) + first], dim=1)
        best, chosen = best.topk(min(k, best.shape[1]), largest=False)
        index, first = index.gather(1, chosen), first + len(part)
    return best, index


def miniature(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (N, C·side²) float32: the means of side×side blocks, fewer for a smaller image, minus 128."""
    side = min(side, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).flatten(1) - 128 for x in images.split(ROWS)])


def mirrored(images: Tensor) -> list[Tensor]:
    """The images (…, W), and their mirror images."""
    return [images, images.flip(-1)]


def shifted(images: Tensor) -> list[Tensor]:
    """18 views of images (…, H, W): shifted by −1, 0 or +1 pixel down and right with replicated edges, and mirrored."""
    height, width = images.shape[-2:]
    rows, columns = ([(torch.arange(n) - by).clamp(0, n - 1) for by in (0, -1, 1)] for n in (height, width))
    return [view for down, right in product(rows, columns) for view in mirrored(images[..., down[:, None], right])]


def near_duplicates(images: Tensor, known: Tensor, views: Views = mirrored) -> tuple[Tensor, Tensor]:
    """The near-duplicates of known images, in any of the views: their indices (k,), and those of the nearest ones (k,).

    Two images are near-duplicates if their 16×16 miniatures differ by less than 8/255 RMS. First, the means of 4×4
    blocks of the miniatures are compared. Their distance, times 4, is at most that of the miniatures, so few images
    remain to be compared in full.

    Args:
        images, known: uint8 (n, C, H, W) and (m, C, H, W).
    """
    side = min(SIDE, *known.shape[-2:])
    radius = NEAR * (known.shape[1] * side**2) ** 0.5
    block = min(BLOCK, side)

    def means(x: Tensor) -> Tensor:
        return F.avg_pool2d(miniature(x, SIDE).view(-1, *known.shape[1:2], side, side), block).flatten(1)

    coarse = torch.stack([means(view) for view in views(images)])
    distance, _ = neighbours(coarse, (means(part) for part in known.split(KNOWN)))
    likely = (block * distance < SLACK * radius).any(dim=1).nonzero().flatten()
    x = torch.stack([miniature(view, SIDE) for view in views(images[likely])])
    distance, index = neighbours(x, (miniature(part, SIDE) for part in known.split(KNOWN)))
    rows, column = (distance < radius).nonzero(as_tuple=True)
    return likely[rows], index[rows, column]


def repeats(images: Tensor, known: Tensor) -> Tensor:
    """Which of `images` (n, C, H, W) are near-duplicates of a known one, also mirrored or shifted: (n,) bool."""
    found = torch.zeros(len(images), dtype=torch.bool)
    found[near_duplicates(images, known, shifted)[0]] = True
    return found
