"""Near-duplicates across splits: held-out images that a network has seen in training, but for a few grey levels.

Two images are near-duplicates if their 16×16 miniatures, or that of one's mirror image, differ by less than 8/255 RMS,
the rule by which the bundled tiles are chosen. Plain skies can be near-duplicates without being the same photograph.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.data.module import Split

SIDE = 16
NEAR = 8  # grey levels, RMS
ROWS = 512  # images whose distances are in memory at once


class Pair(NamedTuple):
    """A held-out image and the one of an earlier split that it repeats."""

    name: str
    split: str
    of: str
    of_split: str


def miniature(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> (N, 3·16·16) float32, centred; the means of blocks."""
    return F.adaptive_avg_pool2d(images.float(), min(SIDE, *images.shape[-2:])).flatten(1) - 128


def across(splits: Mapping[str, Split]) -> list[Pair]:
    """The near-duplicates between splits; for each held-out image the nearest one of each earlier split.

    The order of the splits (train, val, test) says which is earlier.
    """
    small = {name: miniature(split.images) for name, split in splits.items() if len(split)}
    pairs = []
    for first, second in combinations(small, 2):
        known = small[first]
        norms = known.square().sum(dim=1)
        mirrored = miniature(splits[second].images.flip(-1))
        for rows in torch.arange(len(mirrored)).split(ROWS):
            for x in (small[second][rows], mirrored[rows]):
                squared, nearest = (norms - 2 * x @ known.T).min(dim=1)
                rms = ((squared + x.square().sum(dim=1)).clamp(min=0) / x.shape[1]).sqrt()
                pairs += [
                    Pair(splits[second].names[rows[i]], second, splits[first].names[int(nearest[i])], first)
                    for i in (rms < NEAR).nonzero().flatten().tolist()
                ]
    return list({(pair.name, pair.of_split): pair for pair in reversed(pairs)}.values())
