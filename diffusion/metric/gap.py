"""The generalisation gap: how much harder held-out images are to denoise than training images, with its error.

Held-out image i and training image i are noised with the same eps at the same t. Most of the variance of an error is
due to t, and cancels in their difference d_i = v_i − f_i. The gap is the mean of d_i.

If there are only m < n training images, the gap is still the difference v̄ − f̄ of the means of all images. It is the
mean of d_i = v_i − f̄ − (n/m)(f_i − f̄), where the last term is zero if i has no training image. The deviations of these
d_i are the images' shares in the error of v̄ − f̄ (times n), so all that follows holds for them, too.

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

    Errors are added set by set, in any batches and on any number of devices. The bins only use images with a partner.
    """

    sources: dict[str, list[str]]
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

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the errors of all devices, even if a device has none."""
        nothing = torch.zeros(0, device=self.device)
        for part in SETS:
            if not len(getattr(self, f"{part}_keys")):
                self.update(part, nothing, nothing, nothing.long())
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Any]:
        """`gap`, a `Mean`; `bins`, one per bin; `images` (n,), d_i by image index; and their `clusters` (2, n).

        NaN if there are too few images or sources. The draws of an image are not independent, so they are averaged
        first for `gap`.
        """
        sets = [self._of(part) for part in SETS]
        if not all(len(keys) for keys, _ in sets):
            sets = [(keys[:0], values[:0]) for keys, values in sets]
        (val_keys, val), (fit_keys, fit) = sets
        index, places = torch.cat([val_keys, fit_keys])[:, 0].unique(return_inverse=True)
        members = places.split([len(val_keys), len(fit_keys)])
        images = _differences(val[:, 0], fit[:, 0], members, len(index))
        clusters = self._clusters(index, members)
        partner = {tuple(key): i for i, key in enumerate(fit_keys.tolist())}
        pairs = [(i, partner[tuple(key)]) for i, key in enumerate(val_keys.tolist()) if tuple(key) in partner]
        of_val, of_fit = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        d, k, image = val[of_val, 0] - fit[of_fit, 0], bin_of(val[of_val, 1]), members[0][of_val]
        return {
            "gap": mean_and_error(images, clusters),
            "bins": [mean_and_error(d[k == i], clusters[:, image[k == i]]) for i in range(BINS)],
            "images": images,
            "clusters": clusters,
        }

    def _clusters(self, index: Tensor, members: Sequence[Tensor]) -> Tensor:
        """The source number of each image in `index` (n,), for each set: int64 (2, n).

        Args:
            members: for each set, the places in `index` of its images. The others get numbers below 0.
        """
        numbered = []
        for part, inside in zip(SETS, members, strict=True):
            names: Sequence[object] = self.sources.get(part) or range(int(index.max()) + 1 if len(index) else 0)
            number = {name: i for i, name in enumerate(dict.fromkeys(names))}
            has = set(inside.tolist())
            own = [number[names[i]] if place in has else -1 - place for place, i in enumerate(index.tolist())]
            numbered.append(torch.tensor(own, dtype=torch.long))
        return torch.stack(numbered)

    def _of(self, part: str) -> tuple[Tensor, Tensor]:
        """(index, draw) of each error of one set, int64 (n, 2); error and t, float64 (n, 2); on the CPU."""
        if not len(getattr(self, f"{part}_keys")):
            return torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2, dtype=torch.float64)
        keys, values = (dim_zero_cat(getattr(self, f"{part}_{what}")).cpu() for what in ("keys", "values"))
        return keys, values.double()


def _differences(val: Tensor, fit: Tensor, members: Sequence[Tensor], n: int) -> Tensor:
    """d_i of each image, (n,), from the errors of both sets and their `members`: the place 0 … n−1 of each error."""
    d = torch.zeros(n, dtype=torch.float64)
    for sign, errors, places in zip((1, -1), (val, fit), members, strict=True):
        draws = places.bincount(minlength=n)
        inside = draws > 0
        means = places.bincount(errors, minlength=n)[inside] / draws[inside]
        d += sign * means.mean()
        d[inside] += sign * n * (means - means.mean()) / len(means)
    return d


def mean_and_error(x: Tensor, clusters: Tensor | None = None) -> Mean:
    """The mean of `x` (n,), whose elements are independent unless they share a cluster; see above.

    The mean of no elements is NaN, as is the error with a single element or cluster.

    Args:
        clusters: (ways, n), one or two cluster numbers per element; None if all are independent. A number below 0 is
            an element's own, and does not count as a cluster.
    """
    if clusters is None:
        clusters = torch.arange(len(x))[None]
    names, groups = zip(*(each.unique(return_inverse=True) for each in clusters), strict=True)
    least = min(int((each >= 0).sum()) for each in names)
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
