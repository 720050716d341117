"""The generalisation gap: how much harder held-out images are to denoise than training images, with its error.

Held-out image i and training image i are noised with the same eps at the same t. Most of the variance of an error is
due to t, and cancels in their difference d_i = v_i − f_i. The gap is the mean of d_i.

Images of one source, such as tiles of one photograph, are not independent. So the pairs are clustered by the sources of
both images, and the squared standard error is that of two-way clustering (Cameron, Gelbach & Miller 2011),

    V = V_val + V_fit − V_both,    V_c = G_c/(G_c − 1) · Σ_g (Σ_{i in g} (d_i − d̄))² / n²,

where G_c is the number of clusters. If V is less than V_val or V_fit, the largest of them is used. If each image has
its own source, all three are s²(d)/n. An interval uses Student's t with min(G_val, G_fit) − 1 degrees of freedom,
because the spread of a few clusters is not well known (Cameron & Miller 2015, section VI).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import scipy  # its submodules are imported on first use
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from diffusion.metric.denoising import BINS, bin_of

SETS = ("val", "fit")  # held-out images, training images


class Mean(NamedTuple):
    """A mean, its standard error, and the degrees of freedom of the error. The last two are NaN if unknown."""

    mean: Tensor
    error: Tensor
    freedom: Tensor

    def half(self, sigmas: float = 1.96) -> Tensor:
        """Half the width of the interval with the confidence of ± `sigmas` of a normal distribution: 1.96 for 95%."""
        return self.error * float(scipy.special.stdtrit(float(self.freedom), scipy.special.ndtr(sigmas)))


class PairedGap(Metric):
    """Mean and standard error of the differences of denoising errors, over all times and in bins of t.

    Errors are added set by set, in any batches and on any number of devices. Images without a partner are not used.
    """

    sources: dict[str, Sequence[object]]
    """By set: the source of each image, by its index. If a set is missing, each image is its own source."""

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.sources = {}
        for part in SETS:
            self.add_state(f"{part}_keys", [], dist_reduce_fx="cat")  # (B, 2): index, draw
            self.add_state(f"{part}_values", [], dist_reduce_fx="cat")  # (B, 2): error, t

    def update(self, part: str, error: Tensor, t: Tensor, index: Tensor, draw: int = 0) -> None:
        """Add errors (B,) at times t (B,) in (0, 1] of the images `index` (B,) of one set.

        Args:
            draw: the number of the noise draw, if an image has several.
        """
        keys = torch.stack([index, torch.full_like(index, draw)], dim=1)
        values = torch.stack([error.detach().float(), t.detach().float()], dim=1)
        getattr(self, f"{part}_keys").append(keys.to(self.device))
        getattr(self, f"{part}_values").append(values.to(self.device))

    def compute(self) -> dict[str, Any]:
        """`gap`, a `Mean`; `bins`, one per bin; `images` (n,), d_i by image index; their `clusters` (2, n).

        `whole` says whether each image has a partner: then the gap is the difference of the means of both sets.

        NaN if there are too few images or sources. The draws of an image are not independent, so they are averaged
        first for `gap`.
        """
        val, fit = (self._errors(part) for part in SETS)
        pairs = sorted(val.keys() & fit.keys())
        d = torch.tensor([val[pair][0] - fit[pair][0] for pair in pairs], dtype=torch.float64)
        k = bin_of(torch.tensor([val[pair][1] for pair in pairs], dtype=torch.float64))
        index, image = torch.tensor([i for i, _ in pairs], dtype=torch.long).unique(return_inverse=True)
        images = image.bincount(d) / image.bincount()
        clusters = torch.stack([self._clusters(part, index.tolist()) for part in SETS])
        return {
            "gap": mean_and_error(images, clusters),
            "bins": [mean_and_error(d[k == i], clusters[:, image[k == i]]) for i in range(BINS)],
            "images": images,
            "clusters": clusters,
            "whole": len(pairs) == len(val) == len(fit),
        }

    def _errors(self, part: str) -> dict[tuple[int, int], tuple[float, float]]:
        """(index, draw) -> error and t, of one set."""
        keys, values = (getattr(self, f"{part}_{what}") for what in ("keys", "values"))
        if not len(keys):
            return {}
        rows = zip(dim_zero_cat(keys).tolist(), dim_zero_cat(values).tolist(), strict=True)
        return {(index, draw): (error, t) for (index, draw), (error, t) in rows}

    def _clusters(self, part: str, index: Sequence[int]) -> Tensor:
        """The source number of each image of one set, (n,)."""
        sources = self.sources.get(part)
        names = index if sources is None else [sources[i] for i in index]
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([number[name] for name in names], dtype=torch.long)


def mean_and_error(x: Tensor, clusters: Tensor | None = None) -> Mean:
    """The mean of `x` (n,), whose elements are independent unless they share a cluster; see above.

    The mean of no elements is NaN, as is the error with a single element or cluster.

    Args:
        clusters: (ways, n), one or two cluster numbers per element; None if all are independent.
    """
    if clusters is None:
        clusters = torch.arange(len(x))[None]
    groups = [each.unique(return_inverse=True)[1] for each in clusters]
    least = min(len(group.unique()) for group in groups)
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    if least < 2:
        return Mean(x.mean() if len(x) else nan, nan, nan)
    both = clusters.unique(dim=1, return_inverse=True)[1]
    apart = [_variance(x, group) for group in groups]
    variance = max(*apart, sum(apart) - (len(apart) - 1) * _variance(x, both))
    return Mean(x.mean(), variance.sqrt(), torch.tensor(least - 1.0, dtype=torch.float64))


def _variance(x: Tensor, group: Tensor) -> Tensor:
    """V_c of the mean of `x` (n,) in the clusters 0, 1, … of `group` (n,)."""
    sums = group.bincount(x - x.mean())
    count = len(sums)
    return count / (count - 1) * sums.square().sum() / len(x) ** 2
