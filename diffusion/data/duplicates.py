"""Near-duplicates across splits: held-out images that are almost the same as training images.

Two images are near-duplicates if their 16×16 miniatures, possibly with one image mirrored, differ by less than 8/255
RMS. The bundled tiles are chosen with the same threshold. Plain skies can be near-duplicates without being from the
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
from diffusion.data.cache import cache_folder, digest, print_on_rank_0, read_json, write

SIDE = 16
NEAR = 8  # grey levels, RMS
ROWS = 512  # images whose distances are in memory at a time …
KNOWN = 16384  # … to this many others

View = Callable[[Tensor], Tensor]
"""uint8 (N, C, H, W) -> the same images, transformed, for example mirrored."""

EITHER_WAY: tuple[View, ...] = (lambda images: images, lambda images: images.flip(-1))


class Pair(NamedTuple):
    """A held-out image and its near-duplicate in an earlier split."""

    name: str
    split: str
    of: str
    of_split: str


def miniature(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C·16·16) float32: the means of blocks, minus 128."""
    side = min(SIDE, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).flatten(1) - 128 for x in images.split(ROWS)])


def across(splits: Mapping[str, Split]) -> list[Pair]:
    """The near-duplicates between splits: for each held-out image, the nearest one in each earlier split.

    Of equally near images, the first is returned. Not every pair is compared: see `diffusion.data.nearest`.

    Args:
        splits: in the order train, val, test, which defines "earlier".
    """
    names = [name for name in splits if len(splits[name])]
    batches = {name: -(-len(splits[name]) // ROWS) for name in names}
    queries = {name: i * batches[name] for i, name in enumerate(names)}
    total = sum(batches[name] for name in names[:-1]) + sum(queries.values())
    near: dict[tuple[str, str], dict[int, int]] = {pair: {} for pair in combinations(names, 2)}
    for found in track(_compared(splits, names), "comparing splits", total, "batch"):
        for pair, i, j in found:
            near[pair][i] = j
    return [
        Pair(splits[second].names[i], second, splits[first].names[j], first)
        for (first, second), found in near.items()
        for i, j in sorted(found.items())
    ]


def _compared(splits: Mapping[str, Split], names: Sequence[str]) -> Iterator[list[tuple[tuple[str, str], int, int]]]:
    """Yield the pairs of near-duplicates found in each batch of `ROWS` images that is shortened or compared.

    A pair is (names of the splits, index of the held-out image, index of the nearest image in the earlier split).
    """
    from diffusion.data.nearest import Nearest, shortened  # scipy is not imported at every start

    if len(names) < 2:
        return
    along = _directions(splits[names[0]].images)
    radius = NEAR * len(along) ** 0.5
    for n, first in enumerate(names[:-1]):
        known, short = splits[first].images, []
        for part in known.split(ROWS):
            short.append(shortened(miniature(part), along))
            yield []
        nearest = Nearest(torch.cat(short), lambda j, known=known: miniature(known[j]), radius, KNOWN)  # type: ignore[misc]
        for second in names[n + 1 :]:
            for start, part in enumerate(splits[second].images.split(ROWS)):
                miniatures = [miniature(view(part)) for view in EITHER_WAY]
                views = [nearest(small, shortened(small, along)) for small in miniatures]
                distances, numbers = (torch.stack(each) for each in zip(*views, strict=True))
                distance, view = distances.min(dim=0)
                close = distance.isfinite().nonzero().flatten().tolist()
                yield [((first, second), start * ROWS + i, int(numbers[view[i], i])) for i in close]


def _directions(images: Tensor) -> Tensor:
    """The `directions` of the miniatures of images (N, C, H, W)."""
    from diffusion.data.nearest import SAMPLED, directions

    return directions(miniature(images[:: -(-len(images) // SAMPLED)]))


def report(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """The near-duplicates between splits, which make scores too good, as entries of `ImageData.report`.

    Their number is printed, and the list is cached, so the same splits are compared only once.
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
        print_on_rank_0(
            f"data: {count} held-out {'images are near-duplicates' if count > 1 else 'image is a near-duplicate'} of "
            f"images in an earlier split, such as {first.name} ({first.split}) of {first.of} ({first.of_split}): they "
            f"make scores look too good; full list in {file}"
        )
    reason = "in {0.split}: a near-duplicate of {0.of} in {0.of_split}".format
    return [{"path": pair.name, "reason": reason(pair), "action": "used"} for pair in pairs]


def repeats(images: Tensor, known: Tensor, views: Sequence[View]) -> Tensor:
    """Which of `images` (n, C, H, W) are near-duplicates, in any of the views, of one of `known`: (n,) bool.

    Most images are not compared in full, because even their `shortened` miniatures are not near any.
    """
    from diffusion.data.nearest import SLACK, shortened

    along, near = _directions(known), torch.zeros(len(images), dtype=torch.bool)
    radius = NEAR * len(along) ** 0.5
    for part in known.split(KNOWN):
        small = miniature(part)
        short = shortened(small, along).float()
        for view in views:
            rows = zip(near.split(ROWS), miniature(view(images)).split(ROWS), strict=True)
            for found, x in rows:  # `found` is a part of `near`
                likely = torch.cdist(shortened(x, along).float(), short).amin(dim=1) < radius * (1 + SLACK)
                found[likely] |= torch.cdist(x[likely], small).amin(dim=1) < radius
    return near
