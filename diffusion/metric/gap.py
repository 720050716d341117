"""The generalisation gap: how much harder held-out images are to denoise than training images, with its error.

Held-out image i and training image i are noised by the same eps at the same t, so most of what makes one error differ
from another, which is t, cancels in their difference d_i. The gap is the mean of d_i.

Images of one source, such as tiles of one photograph, are not independent. The pairs are clustered by the sources of
both their images, and the squared standard error is that of two-way clustering (Cameron, Gelbach & Miller 2011),

    V = V_val + V_fit − V_both,    V_c = G_c/(G_c − 1) · Σ_g (Σ_{i in g} (d_i − d̄))² / n²,

G_c the number of clusters; V_val or V_fit where V is less. Where each image is its own source all three are s²(d)/n. An
interval takes Student's t with min(G_val, G_fit) − 1 degrees of freedom, since few clusters tell little of their own
spread (Cameron & Miller 2015, section VI).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from diffusion.metric.denoising import bin_of

SETS = ("val", "fit")  # held-out images, training images


class Mean(NamedTuple):
    """A mean, its standard error, and how many degrees of freedom that has; the latter NaN where it can't be known."""

    mean: Tensor
    error: Tensor
    freedom: Tensor

    def half(self, sigmas: float = 1.96) -> Tensor:
        """Half the width of the interval that is as sure as ± `sigmas` standard errors of a normal: 1.96 for 95%."""
        return self.error * float(stdtrit(float(self.freedom), ndtr(sigmas)))


class PairedGap(Metric):
    """Mean and standard error of the paired differences of denoising errors, over all and by time.

    Errors arrive set by set, in any batches and on any number of devices; only pairs of which both are there count.
    """

    sources: dict[str, list[str]]
    """By set: the source of each image, by its index. Of a set that is not there, each image is its own."""

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self, num_bins: int = 10):
        super().__init__()
        self.num_bins = num_bins
        self.sources = {}
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

    def compute(self) -> dict[str, Any]:
        """`gap`, a `Mean`; `bins`, one for each; `images` (n,), d_i by the images' index, and their `clusters` (2, n).

        NaN where there are too few pairs or sources. An image's draws are averaged first, over all: they are not
        independent.
        """
        val, fit = (self._of(part) for part in SETS)
        places = {key: i for i, key in enumerate(zip(fit["index"].tolist(), fit["draw"].tolist(), strict=True))}
        keys = zip(val["index"].tolist(), val["draw"].tolist(), strict=True)
        pairs = [(i, places[key]) for i, key in enumerate(keys) if key in places]
        of_val, of_fit = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        d = val["error"][of_val] - fit["error"][of_fit]
        index, image = val["index"][of_val].unique(return_inverse=True)
        images, of_images = _means(d, image), self._clusters(index)
        k, clusters = bin_of(val["t"][of_val], self.num_bins), of_images[:, image]
        return {
            "gap": mean_and_error(images, of_images),
            "bins": [mean_and_error(d[k == i], clusters[:, k == i]) for i in range(self.num_bins)],
            "images": images,
            "clusters": of_images,
        }

    def _clusters(self, index: Tensor) -> Tensor:
        """The number of the source of each image of `index` (n,), in each set: int64 (2, n)."""
        numbered = []
        for part in SETS:
            names: Sequence[object] = self.sources.get(part) or range(int(index.max()) + 1 if len(index) else 0)
            number = {name: i for i, name in enumerate(dict.fromkeys(names))}
            numbered.append(torch.tensor([number[names[i]] for i in index.tolist()], dtype=torch.long))
        return torch.stack(numbered)

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


def mean_and_error(x: Tensor, clusters: Tensor | None = None) -> Mean:
    """The mean of `x` (n,), whose parts are independent but within `clusters` (ways, n), one or two; see above.

    NaN of nothing, and an error of NaN of one part or cluster.
    """
    if clusters is None:
        clusters = torch.arange(len(x))[None]
    groups = [each.unique(return_inverse=True)[1] for each in clusters]
    least = min(int(group.max()) + 1 if len(x) else 0 for group in groups)
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    if least < 2:
        return Mean(x.mean() if len(x) else nan, nan, nan)
    both = clusters.unique(dim=1, return_inverse=True)[1]
    apart = [_variance(x, group) for group in groups]
    variance = max(*apart, sum(apart) - (len(apart) - 1) * _variance(x, both))
    return Mean(x.mean(), variance.sqrt(), torch.tensor(least - 1.0, dtype=torch.float64))


def _variance(x: Tensor, group: Tensor) -> Tensor:
    """V_c of the mean of `x` (n,) in the clusters 0, 1, … of `group` (n,)."""
    count = int(group.max()) + 1
    sums = torch.zeros(count, dtype=x.dtype).index_add(0, group, x - x.mean())
    return count / (count - 1) * sums.square().sum() / len(x) ** 2
