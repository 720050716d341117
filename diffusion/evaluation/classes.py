"""Which class each sample is drawn of. A class is a number from 0, and a name where the model's data had names."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diffusion.errors import UserError, nearest

NONE = "none"  # as a label: no class
GOLDEN = (5**0.5 - 1) / 2  # the multiples of it mod 1 are spread evenly, however many there are


def proportional(counts: Sequence[int], n: int) -> Tensor:
    """(n,) int64: classes in the proportions of `counts`, as nearly as whole numbers allow.

    Sample i gets the class at the quantile (i + ½)·golden ratio mod 1, whatever n is.
    """
    ends = torch.tensor(counts, dtype=torch.float64).cumsum(0) / max(1, sum(counts))
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) * GOLDEN % 1
    return torch.searchsorted(ends, quantiles, right=True).clamp(max=len(counts) - 1)


def conditions(
    labels: int | str | Sequence[int | str] | None, n: int, network: nn.Module, counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """What a network is given beside x_t and t for n samples: `classes` (n,), or nothing for no class.

    Args:
        labels: A class, or several, which the samples are of in turn, by name or number; "none": no class; None: as
            often as in the training images.
        counts: Name -> training images, in the order of the numbers; empty where the model was trained without labels.

    Raises UserError for a class that there is not.
    """
    known = int(getattr(network, "classes", 0))
    if labels == NONE or (labels is None and not counts):
        return {}
    if labels is None:
        return {"classes": proportional([*counts.values()], n)}
    several = [labels] if isinstance(labels, int | str) else labels
    classes = [number(each, [*counts], known) for each in several]
    return {"classes": torch.tensor([*itertools.islice(itertools.cycle(classes), n)])}


def number(label: int | str, names: Sequence[str], known: int) -> int:
    """The number of one of the `known` classes, given by number or name. Raises UserError where it is none of them."""
    found = names.index(str(label)) if str(label) in names else label  # a folder may be called 7
    if not known:
        raise UserError(f"label={label}: the model was trained without labels; leave it out")
    if type(found) is not int or not 0 <= found < known:
        each = f"one of {', '.join(names)}, or " if names else ""
        raise UserError(
            f"label={label}: unknown class{nearest(str(label), names)}; expected {each}a number from 0 to {known - 1}"
        )
    return found
