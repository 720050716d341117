"""Denoising errors on a frozen grid of (t, eps), and the generalisation gap: how much harder held-out images are.

Held-out image i and training image i are noised with the same eps at the same t. The gap is the mean of the differences
d_i of their errors. Tiles of one photograph are not independent, so the pairs are clustered by the sources of both
images, and the squared standard error is that of two-way clustering (Cameron, Gelbach & Miller 2011), but at least
V_val and V_fit:

    V = V_val + V_fit − V_both,    V_c = G_c/(G_c − 1) · Σ_g (Σ_{i in g} (d_i − d̄))² / n²,    G_c clusters.

An interval uses Student's t with min(G_val, G_fit) − 1 degrees of freedom (Cameron & Miller 2015, section VI).
"""

import math
from collections.abc import Mapping, Sequence

import scipy  # its submodules are imported on first use
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from diffusion.randomness import Streams, seed_for

Errors = dict[tuple[int, int], tuple[float, float]]  # index, draw -> error, t
BINS = 10  # of t
SETS = ("val", "fit", "unused")  # held-out images, training images, and maybe others of the training photographs
REGRET = "regret"  # of held-out images: the squared difference from the best estimate of the noise, if it is known


class FrozenGrid:
    """Times and noise of draw k of example `index`: functions of (seed, index, k), not of batch, order or device.

    The times are a golden-ratio (Weyl) sequence in `index` and a √2 sequence in k, which cover (0, 1] evenly.

    Args:
        rows: T of a table; times are then rounded up to i/T. None for continuous times.
    """

    def __init__(self, seed: int = 0, rows: int | None = None):
        self.seed, self.rows = seed, rows
        self.start = seed_for(seed, "grid t") / 2**63

    def t(self, index: Tensor, k: int = 0) -> Tensor:
        """`index` (B,) int64 -> t (B,), float64 in (0, 1], on the CPU, so rounding does not depend on the device."""
        t = 1 - (self.start + index.cpu().double() * (5**0.5 - 1) / 2 + k * 2**0.5) % 1
        return t if self.rows is None else (t * self.rows).ceil() / self.rows

    def noise(self, index: Tensor, k: int, like: Tensor) -> Tensor:
        """N(0, 1) with the shape, dtype and device of `like` (B, ...); equal on all devices up to rounding."""
        seeds = [seed_for(self.seed, "grid eps", i, k) for i in index.tolist()]
        return Streams(seeds, like.device).normal(*like.shape[1:]).to(like)


class DenoisingErrors(Metric):
    """The mean denoising error of held-out and of training images, and their gap: over all times and in bins of t.

    Errors are added set by set, in any batches and on any number of devices. The gap to held-out images is in part that
    their photographs may be more difficult; the gap to unused images of the training photographs is not.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for part in (*SETS, REGRET):
            self.add_state(part, [], dist_reduce_fx="cat")  # (B, 4): index, draw, error, t

    def update(self, part: str, error: Tensor, t: Tensor, index: Tensor, draw: int = 0) -> None:
        """Add errors (B,) at times t (B,) in (0, 1] of a noise draw of the images `index` (B,) of one set."""
        columns = [each.detach().to(self.device).float() for each in (index, torch.full_like(index, draw), error, t)]
        getattr(self, part).append(torch.stack(columns, dim=1))

    def compute(self, sources: Mapping[str, Sequence[object]]) -> dict[str, float]:  # type: ignore[override]
        """The columns of metrics.csv: `val/mse`, `fit/mse`, `gap/mse` with `gap/se` and `gap/half`, each `…_bin0`, ….

        `regret/mse` is the error above that of the best denoiser, if it is known. `unused/mse` − `fit/mse` is
        `gap/unused`, with `gap/unused_half`, if there are unused images.

        The gap uses the images with a partner in the other set, averaged over their draws. `se` is its standard error,
        and `half` is half the width of its 95% interval. NaN if there are too few images or sources. `sources` has the
        source of each image of a set, by its index.
        """
        found, means = dict[str, Errors](), dict[str, float]()
        for part in (*SETS, REGRET):
            rows = dim_zero_cat(getattr(self, part)).tolist() if len(getattr(self, part)) else []
            if not rows and part not in ("val", "fit"):
                continue
            found[part] = {(int(index), int(draw)): (error, t) for index, draw, error, t in rows}
            errors, t = torch.tensor([*found[part].values()], dtype=torch.float64).view(-1, 2).T
            means[f"{part}/mse"] = float(errors.mean())
            means |= {f"{part}/mse_bin{i}": float(errors[bin_of(t) == i].mean()) for i in range(BINS)}
        for part in [each for each in ("val", "unused") if each in found]:
            other, fit = found[part], found["fit"]
            pairs = sorted(other.keys() & fit.keys())
            d = torch.tensor([other[pair][0] - fit[pair][0] for pair in pairs], dtype=torch.float64)
            index, image = torch.tensor([i for i, _ in pairs], dtype=torch.long).unique(return_inverse=True)
            clusters = torch.stack([numbered([sources[name][i] for i in index.tolist()]) for name in (part, "fit")])
            gap, error, half = mean_and_error(image.bincount(d) / image.bincount(), clusters)
            if part == "unused":
                means |= {"gap/unused": gap, "gap/unused_half": half}
                continue
            means |= {"gap/mse": gap, "gap/se": error, "gap/half": half}
            k = bin_of(torch.tensor([other[pair][1] for pair in pairs], dtype=torch.float64))
            for i in range(BINS):
                gap, _, half = mean_and_error(d[k == i], clusters[:, image[k == i]])
                means |= {f"gap/mse_bin{i}": gap, f"gap/half_bin{i}": half}
        return means


def bin_of(t: Tensor) -> Tensor:
    """The bins of the times `t` (B,): bin k covers t in (k/BINS, (k+1)/BINS], up to float32 rounding; int64 (B,)."""
    return ((t.double() * BINS - 1e-6).ceil().long() - 1).clamp(min=0)


def numbered(names: Sequence[object]) -> Tensor:
    """A cluster number for each name, equal for equal names, (n,)."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names], dtype=torch.long)


def quantile(clusters: int, of: int = 1) -> float:
    """Student's t, half the width of a 95% interval in standard errors; of one `of` several that hold together."""
    return float(scipy.special.stdtrit(clusters - 1, 1 - scipy.special.ndtr(-1.96) / of))


def mean_and_error(x: Tensor, clusters: Tensor, of: int = 1) -> tuple[float, float, float]:
    """The mean of `x` (n,), whose elements are independent unless they share a cluster; its standard error, see above;
    and half the width of its 95% interval, or of one `of` several that hold together with 95% (Bonferroni).

    The mean of no elements is NaN, as is the error with a single cluster.

    Args:
        clusters: (ways, n), one or two cluster numbers per element.
    """

    def variance(group: Tensor) -> float:
        """V_c for the clusters 0, 1, … of `group` (n,)."""
        sums = group.bincount(x - x.mean())
        count = len(sums)
        return float(count / (count - 1) * sums.square().sum() / len(x) ** 2)

    groups = [each.unique(return_inverse=True)[1] for each in clusters]
    least = min(len(group.unique()) for group in groups)
    if least < 2:
        return float(x.mean()), math.nan, math.nan
    both = clusters.unique(dim=1, return_inverse=True)[1]
    apart = [variance(group) for group in groups]
    error = math.sqrt(max(*apart, sum(apart) - (len(apart) - 1) * variance(both)))
    return float(x.mean()), error, error * quantile(least, of)
