"""Near-duplicates across splits: held-out images that a network has seen in training, but for a few grey levels.

Two images are near-duplicates if their 16×16 miniatures, or that of one's mirror image, differ by less than 8/255 RMS,
the rule by which the bundled tiles are chosen. Plain skies can be near-duplicates without being the same photograph.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.console import track
from diffusion.data.batches import Split
from diffusion.data.cache import digest, place, read_json, say, write

SIDE = 16
NEAR = 8  # grey levels, RMS
ROWS = 512  # images whose distances are in memory at once

View = Callable[[Tensor], Tensor]
"""uint8 (N, 3, H, W) -> the same images seen otherwise, such as mirrored."""


def itself(images: Tensor) -> Tensor:
    return images


def mirror(images: Tensor) -> Tensor:
    return images.flip(-1)


class Pair(NamedTuple):
    """A held-out image and the one of an earlier split that it repeats."""

    name: str
    split: str
    of: str
    of_split: str


def miniature(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> (N, 3·16·16) float32, centred; the means of blocks."""
    side = min(SIDE, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).flatten(1) - 128 for x in images.split(ROWS)])


def across(splits: Mapping[str, Split]) -> list[Pair]:
    """The near-duplicates between splits; for each held-out image the nearest one of each earlier split.

    The order of the splits (train, val, test) says which is earlier.
    """
    small = {name: miniature(split.images) for name, split in splits.items() if len(split)}
    parts = [
        (splits[first], first, splits[second].take(rows), second)
        for first, second in combinations(small, 2)
        for rows in torch.arange(len(splits[second])).split(ROWS)
    ]
    pairs = []
    for known, first, held_out, second in track(parts, "comparing splits", len(parts), "batch"):
        rms, index = _nearest(held_out.images, small[first], (itself, mirror))
        pairs += [
            Pair(held_out.names[i], second, known.names[int(index[i])], first)
            for i in (rms < NEAR).nonzero().flatten().tolist()
        ]
    return pairs


def report(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """What validation and test repeat of earlier splits, on which scores would be too good, as entries of a report.

    They are also counted on the console, and listed in the cache: what has been compared once is not again.
    """
    if sum(len(split) > 0 for split in splits.values()) < 2:
        return []
    content = [(name, split.key, split.names) for name, split in splits.items()]
    file = place() / f"duplicates-{digest('duplicates 1', content)}.json"
    kept = read_json(file).get("near-duplicates")
    pairs = across(splits) if kept is None else [Pair(**pair) for pair in kept]
    if kept is None:
        write(file, json.dumps({"near-duplicates": [pair._asdict() for pair in pairs]}, indent=1).encode())
    if pairs:
        first, count = pairs[0], len({(pair.split, pair.name) for pair in pairs})
        say(
            f"data: {count} held-out {'images are near-duplicates' if count > 1 else 'image is a near-duplicate'} of "
            f"images in an earlier split, such as {first.name} ({first.split}) of {first.of} ({first.of_split}): they "
            f"flatter scores; all are in {file}"
        )
    reason = "in {0.split}: a near-duplicate of {0.of} in {0.of_split}".format
    return [{"path": pair.name, "reason": reason(pair), "action": "used"} for pair in pairs]


def repeats(images: Tensor, known: Tensor, views: Sequence[View]) -> Tensor:
    """Which of `images` (n, 3, H, W) are, in any of the views, near-duplicates of one of `known`: (n,) bool."""
    return _nearest(images, miniature(known), views)[0] < NEAR


def _nearest(images: Tensor, known: Tensor, views: Sequence[View]) -> tuple[Tensor, Tensor]:
    """RMS (n,) from each of `images`, in its nearest view, to the nearest of the miniatures `known`; which (n,)."""
    norms = known.square().sum(dim=1)
    found = []
    for view in views:
        for x in miniature(view(images)).split(ROWS):
            squared, index = (norms - 2 * x @ known.T).min(dim=1)
            found.append(((squared + x.square().sum(dim=1)).clamp(min=0) / x.shape[1], index))
    square, index = (torch.cat(each).view(len(views), -1) for each in zip(*found, strict=True))
    least, by = square.min(dim=0)
    return least.sqrt(), index.gather(0, by[None])[0]
