"""Near-duplicates across splits: held-out images that are almost the same as training images.

Two images are near-duplicates if their 16×16 miniatures, or that of one and of the mirror image of the other, differ by
less than 8/255 RMS. The bundled tiles are chosen by the same rule. Plain skies can be near-duplicates without being the
same photograph.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.console import track
from diffusion.data.batches import Split
from diffusion.data.cache import cache_folder, digest, print_once, read_json, write

SIDE = 16
NEAR = 8  # grey levels, RMS
ROWS = 512  # images whose distances are in memory at once …
KNOWN = 16384  # … to so many others

View = Callable[[Tensor], Tensor]
"""uint8 (N, C, H, W) -> the same images, transformed, such as mirrored."""

EITHER_WAY: tuple[View, ...] = (lambda images: images, lambda images: images.flip(-1))


class Pair(NamedTuple):
    """A held-out image and its near-duplicate in an earlier split."""

    name: str
    split: str
    of: str
    of_split: str


def miniature(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C·16·16) float32: the means of blocks, centred."""
    side = min(SIDE, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).flatten(1) - 128 for x in images.split(ROWS)])


def across(splits: Mapping[str, Split]) -> list[Pair]:
    """The near-duplicates between splits: for each held-out image the nearest one of each earlier split.

    Args:
        splits: in the order train, val, test, which says what is earlier.
    """
    pairs = [*combinations([name for name in splits if len(splits[name])], 2)]
    total = sum(-(-len(splits[a]) // KNOWN) * -(-len(splits[b]) // ROWS) for a, b in pairs)
    near: dict[tuple[str, str], dict[int, tuple[float, int]]] = {pair: {} for pair in pairs}
    for pair, i, rms, j in track(_compared(splits, pairs), "comparing splits", total, "batch"):
        for k in (rms < NEAR).nonzero().flatten().tolist():
            closest = near[pair].get(i + k)
            if closest is None or float(rms[k]) < closest[0]:
                near[pair][i + k] = float(rms[k]), int(j[k])
    return [
        Pair(splits[second].names[i], second, splits[first].names[j], first)
        for (first, second), found in near.items()
        for i, (_, j) in sorted(found.items())
    ]


def _compared(
    splits: Mapping[str, Split], pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], int, Tensor, Tensor]]:
    """Each pair of splits, `ROWS` held-out images from number i on against `KNOWN` of the earlier split at a time.

    Yields the pair, i, and of each held-out image the RMS to the nearest one and the number of that; both (ROWS,).
    """
    for first, second in pairs:
        for known in range(0, len(splits[first]), KNOWN):
            small = miniature(splits[first].images[known : known + KNOWN])
            for i in range(0, len(splits[second]), ROWS):
                rms, index = _nearest(splits[second].images[i : i + ROWS], small, EITHER_WAY)
                yield (first, second), i, rms, known + index


def report(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """The near-duplicates between splits, which make scores too good, as entries of `ImageData.report`.

    Their number is printed, and the list is cached, so that the same splits are compared only once.
    """
    if sum(len(split) > 0 for split in splits.values()) < 2:
        return []
    content = [(name, split.key, split.names) for name, split in splits.items()]
    file = cache_folder() / f"duplicates-{digest('duplicates 1', content)}.json"
    stored = read_json(file).get("near-duplicates")
    if stored is None:
        pairs = across(splits)
        write(file, json.dumps({"near-duplicates": [pair._asdict() for pair in pairs]}, indent=1).encode())
    else:
        pairs = [Pair(**pair) for pair in stored]
    if pairs:
        first, count = pairs[0], len({(pair.split, pair.name) for pair in pairs})
        print_once(
            f"data: {count} held-out {'images are near-duplicates' if count > 1 else 'image is a near-duplicate'} of "
            f"images in an earlier split, such as {first.name} ({first.split}) of {first.of} ({first.of_split}): they "
            f"make scores too good; all are in {file}"
        )
    reason = "in {0.split}: a near-duplicate of {0.of} in {0.of_split}".format
    return [{"path": pair.name, "reason": reason(pair), "action": "used"} for pair in pairs]


def repeats(images: Tensor, known: Tensor, views: Sequence[View]) -> Tensor:
    """Which of `images` (n, C, H, W) are, in any of the views, near-duplicates of one of `known`: (n,) bool."""
    near = torch.zeros(len(images), dtype=torch.bool)
    for part in known.split(KNOWN):
        near |= _nearest(images, miniature(part), views)[0] < NEAR
    return near


def _nearest(images: Tensor, known: Tensor, views: Sequence[View]) -> tuple[Tensor, Tensor]:
    """For each image, in its nearest view: RMS to the nearest of the miniatures `known`, and its index; both (n,)."""
    found = [torch.cdist(x, known).min(dim=1) for view in views for x in miniature(view(images)).split(ROWS)]
    distances, indices = (torch.cat(each).view(len(views), -1) for each in zip(*found, strict=True))
    distance, view = distances.min(dim=0)
    return distance / known.shape[1] ** 0.5, indices.gather(0, view[None])[0]
