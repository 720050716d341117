"""The generalisation gap: how much harder held-out images are to denoise than training images, with its error.

Held-out image i and training image i are noised by the same eps at the same t, so most of what makes one error differ
from another, which is t, cancels in their difference d_i. The gap is the mean of d_i, its standard error s(d)/√n.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from diffusion.metric.denoising import bin_of

SETS = ("val", "fit")  # held-out images, training images


class PairedGap(Metric):
    """Mean and standard error of the paired differences of denoising errors, over all and by time.

    Errors arrive set by set, in any batches and on any number of devices; only pairs of which both are there count.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self, num_bins: int = 10):
        super().__init__()
        self.num_bins = num_bins
        for part in SETS:
            for what in ("error", "t", "index", "draw"):
                self.add_state(f"{part}_{what}", [], dist_reduce_fx="cat")

    def update(self, part: str, error: Tensor, t: Tensor, index: Tensor, draw: int = 0) -> None:
        """`error` (B,), `t` (B,) in (0, 1] and `index` (B,) of one set; `draw` counts the noises of an image."""
        values = {"error": error.detach().float(), "t": t.detach().float(), "index": index}
        for what, value in (values | {"draw": torch.full_like(index, draw)}).items():
            getattr(self, f"{part}_{what}").append(value.to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all devices, of which some may have seen nothing."""
        nothing = torch.zeros(0, device=self.device)
        for part in SETS:
            if not len(getattr(self, f"{part}_error")):
                self.update(part, nothing, nothing, nothing.long())
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """`gap` and `se`, float64 scalars; `bins` and `bins_se` (num_bins,); `images` (n,), d_i by the images' index.

        NaN where there are too few pairs. An image's draws are averaged before the overall standard error is taken:
        they are not independent.
        """
        val, fit = (self._of(part) for part in SETS)
        places = {key: i for i, key in enumerate(zip(fit["index"].tolist(), fit["draw"].tolist(), strict=True))}
        keys = zip(val["index"].tolist(), val["draw"].tolist(), strict=True)
        pairs = [(i, places[key]) for i, key in enumerate(keys) if key in places]
        of_val, of_fit = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        d = val["error"][of_val] - fit["error"][of_fit]
        _, image = val["index"][of_val].unique(return_inverse=True)
        images = _means(d, image)
        gap, se = mean_and_error(images)
        k = bin_of(val["t"][of_val], self.num_bins)
        bins = [mean_and_error(d[k == i]) for i in range(self.num_bins)]
        return {
            "gap": gap,
            "se": se,
            "bins": torch.stack([mean for mean, _ in bins]),
            "bins_se": torch.stack([error for _, error in bins]),
            "images": images,
        }

    def _of(self, part: str) -> dict[str, Any]:
        """One set's values, on the CPU; floats as float64."""
        lists = {what: getattr(self, f"{part}_{what}") for what in ("error", "t", "index", "draw")}
        if not len(lists["error"]):
            empty = torch.zeros(0, dtype=torch.float64)
            return {"error": empty, "t": empty, "index": empty.long(), "draw": empty.long()}
        values = {what: dim_zero_cat(value).cpu() for what, value in lists.items()}
        return values | {what: values[what].double() for what in ("error", "t")}


def _means(x: Tensor, group: Tensor) -> Tensor:
    """The mean of `x` (N,) in each of the groups 0, 1, … of `group` (N,)."""
    total = torch.zeros(int(group.max()) + 1 if len(group) else 0, dtype=x.dtype).index_add(0, group, x)
    return total / group.bincount()


def mean_and_error(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `x` (n,) and its standard error; NaN of nothing, and an error of NaN of one."""
    if len(x) < 2:
        nan = torch.tensor(torch.nan, dtype=torch.float64)
        return (x.mean() if len(x) else nan), nan
    return x.mean(), x.std() / len(x) ** 0.5
