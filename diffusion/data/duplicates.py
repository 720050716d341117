"""Near-duplicates across splits: held-out images that are almost the same as training images.

Two images are near-duplicates if their 16×16 miniatures, possibly with one image mirrored, differ by less than 8/255
RMS. The bundled tiles are chosen with the same threshold. Plain skies can be near-duplicates without being from the
same photograph.
"""

from collections.abc import Callable, Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.console import track
from diffusion.data.batches import Split
from diffusion.data.store import cache_folder, print_on_rank_0, read_json, write_json
from diffusion.files import digest
from diffusion.nearest import KNOWN, miniature, mirrored, neighbours, shifted

SIDE = 16
NEAR = 8  # grey levels, RMS
BLOCK = 4  # pixels of a miniature whose mean is compared first
SLACK = 1.001  # relative, for rounding errors


def near(images: Tensor, known: Tensor, views: Callable[[Tensor], list[Tensor]] = mirrored) -> tuple[Tensor, Tensor]:
    """The near-duplicates of known images, in any of the views: their indices (k,), and those of the nearest ones (k,).

    First, the means of 4×4 blocks of the miniatures are compared. Their distance, times 4, is at most that of the
    miniatures, so few images remain to be compared in full.

    Args:
        images, known: uint8 (n, C, H, W) and (m, C, H, W).
    """
    side = min(SIDE, *known.shape[-2:])
    radius = NEAR * (known.shape[1] * side**2) ** 0.5
    block = min(BLOCK, side)

    def means(x: Tensor) -> Tensor:
        return F.avg_pool2d(miniature(x, SIDE).view(-1, *known.shape[1:2], side, side), block).flatten(1)

    distance, _ = neighbours(
        torch.stack([means(x) for x in views(images)]), (means(part) for part in known.split(KNOWN))
    )
    likely = (block * distance < SLACK * radius).any(dim=1).nonzero().flatten()
    x = torch.stack([miniature(view, SIDE) for view in views(images[likely])])
    distance, index = neighbours(x, (miniature(part, SIDE) for part in known.split(KNOWN)))
    rows, column = (distance < radius).nonzero(as_tuple=True)
    return likely[rows], index[rows, column]


def repeats(images: Tensor, known: Tensor) -> Tensor:
    """Which of `images` (n, C, H, W) are near-duplicates of a known one, also mirrored or shifted: (n,) bool."""
    found = torch.zeros(len(images), dtype=torch.bool)
    found[near(images, known, shifted)[0]] = True
    return found


def across(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """The near-duplicates between splits: for each held-out image, the nearest one in each earlier split.

    Each is a dict: `name` in `split`, and the earlier image `of` in `of_split`.

    Args:
        splits: in the order train, val, test, which defines "earlier".
    """
    order = [*combinations([name for name in splits if len(splits[name])], 2)]
    return [
        {"name": splits[second].names[i], "split": second, "of": splits[first].names[j], "of_split": first}
        for first, second in track(order, "comparing splits", len(order), "pair")
        for i, j in zip(*(each.tolist() for each in near(splits[second].images, splits[first].images)), strict=True)
    ]


def report(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """The near-duplicates between splits, which make scores too good, as entries of `ImageData.report`.

    Their number is printed, and the list is cached, so the same splits are compared only once.
    """
    content = [(name, split.key, split.names) for name, split in splits.items()]
    file = cache_folder() / f"duplicates-{digest('duplicates 2', content)}.json"
    pairs = read_json(file).get("near-duplicates")
    if pairs is None:
        pairs = across(splits)
        write_json(file, {"near-duplicates": pairs})
    if pairs:
        first, count = pairs[0], len({(pair["split"], pair["name"]) for pair in pairs})
        print_on_rank_0(
            f"data: {count} held-out {'images are near-duplicates' if count > 1 else 'image is a near-duplicate'} of "
            f"images in an earlier split, such as {first['name']} ({first['split']}) of {first['of']} "
            f"({first['of_split']}): they make scores look too good; full list in {file}"
        )
    reason = "in {split}: a near-duplicate of {of} in {of_split}"
    return [{"path": pair["name"], "reason": reason.format(**pair), "action": "used"} for pair in pairs]
