"""The class of each sample. A class is a number from 0, and also has a name if the model's data had names."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diffusion.errors import UserError, nearest

NONE = "none"  # as a label: no class, unless a class has this name
GOLDEN = (5**0.5 - 1) / 2  # its multiples mod 1 are evenly spread, however many there are


def proportional(counts: Sequence[int], n: int) -> Tensor:
    """Classes in the proportions of `counts`, to within about two images of each, (n,) int64.

    Sample i gets the class at the quantile (i + ½)·golden ratio mod 1, for every n.
    """
    ends = torch.tensor(counts, dtype=torch.float64).cumsum(0) / max(1, sum(counts))
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) * GOLDEN % 1
    return torch.searchsorted(ends, quantiles, right=True).clamp(max=len(counts) - 1)


def conditions(
    labels: int | str | Sequence[int | str] | None, n: int, network: nn.Module, counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """The network's inputs besides x_t and t, for n samples: `classes` (n,), or nothing for no class.

    Args:
        labels: One class or several, by name or number; the samples cycle through several. "none": no class, unless a
            class is called so; None: classes in the proportions of `counts`.
        counts: Class name -> number of images, in the order of the class numbers; empty for a model without labels.

    Raises UserError for an unknown class.
    """
    if (labels == NONE and NONE not in counts) or (labels is None and not counts):
        return {}
    if labels is None:
        return {"classes": proportional([*counts.values()], n)}
    several = [labels] if isinstance(labels, int | str) else labels
    classes = [number(label, [*counts], int(getattr(network, "classes", 0))) for label in several]
    return {"classes": torch.tensor([classes[i % len(classes)] for i in range(n)])}


def number(label: int | str, names: Sequence[str], known: int) -> int:
    """The number of one of the `known` classes, given by number or name. Raises UserError for an unknown class."""
    if not known:
        raise UserError(f"label={label}: the model was trained without labels; remove it")
    if str(label) in names:
        return names.index(str(label))  # a folder may be called 7
    if type(label) is not int or not 0 <= label < known:
        each = f"one of {', '.join(names)}, or " if names else ""
        near = nearest(str(label), names)
        raise UserError(f"label={label}: unknown class{near}; expected {each}a number from 0 to {known - 1}")
    return label
