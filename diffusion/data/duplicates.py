"""Near-duplicates across splits: held-out images that are almost the same as training images.

Plain skies can be near-duplicates without being from the same photograph.
"""

from collections.abc import Mapping
from itertools import combinations

import torch

from diffusion.console import track
from diffusion.data.batches import Split
from diffusion.data.store import cache_folder, print_on_rank_0, read_json, write_json
from diffusion.files import digest
from diffusion.nearest import near_duplicates


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
        for i, j in torch.stack(near_duplicates(splits[second].images, splits[first].images)).T.tolist()
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
