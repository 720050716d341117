"""Faults of a set of images: numbers that sets of real images of other photographs do not have.

Each measure has a number x_i for every image: a logarithm, or 1 for an image that has the fault and else 0. The means
of sets of n real images from k of N photographs have a median m and a standard deviation s. Those of k other
photographs differ from m by s √((N + k)/(N − k)): their variance is in proportion to 1/k + 1/N, and s² to 1/k − 1/N. A
set has a fault if its own mean is outside of

    m ± max(4 s √((N + k)/(N − k)), d),    d = 0.05 for logarithms, 0.1 for shares.

How often sets of other real photographs are, and from which strength a fault is found: docs/results/treatments.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.base.nearest import NEAR, SIDE, miniature
from diffusion.base.pixels import grey, saturated, to_rgb
from diffusion.metric.photographs import real_sets

SPREAD, DRAWS, WORST = 4.0, 200, 3
LEAST = 8  # photographs, and pixels of a side
LEVEL = 0.25  # grey levels, or their square, below which noise, steps and details hardly count
CONTRAST = 60  # standard deviation of the values of landscapes, in grey levels


class Measure(NamedTuple):
    """A number of each float RGB image (n, 3, H, W) in [0, 255], and which fault a too low and a too high mean is.

    The map (n, h, w) of an image's places is high `where` a high number comes from, and low where a low one does.
    """

    of: Callable[[Tensor], Tensor]
    low: str = ""
    high: str = ""
    where: Callable[[Tensor], Tensor] | None = None
    least: float = 0.05  # d, see above
    side: int = LEAST  # of the smallest images that have such a fault


def places(x: Tensor) -> Tensor:
    """(n, c, H, W) -> the means of places of 4×4 pixels, or of an eighth of the sides if that is more, (n, h, w)."""
    height, width = (min(8, side // 4) for side in x.shape[2:])
    return F.adaptive_avg_pool2d(x.mean(dim=1), (height, width))


def opponents(x: Tensor) -> Tensor:
    """The differences of red and blue from green, (n, 2, H, W)."""
    return x[:, ::2] - x[:, 1:2]


def noise(x: Tensor) -> Tensor:
    """The standard deviation of white noise with such fine detail, (n, c, H, W) -> (n, h, w).

    √(π/2)/6 times the response to a mask to which planes do not respond (Immerkær 1996).
    """
    mask = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]).expand(x.shape[1], 1, 3, 3)
    response = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), mask, groups=x.shape[1])
    return places(response.abs() * (math.pi / 2) ** 0.5 / 6)


def flattest(x: Tensor) -> Tensor:
    levels = noise(grey(x)).flatten(1).sort(dim=1).values
    return (levels[:, : -(-levels.shape[1] // 8)].mean(dim=1) + LEVEL).log()


def details(x: Tensor) -> tuple[Tensor, Tensor]:
    """The squared details of one pixel and of two pixels of the luma (Haar wavelets), (n, 1, H, W) each."""
    whole = grey(x)[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4]
    half, quarter = (F.interpolate(F.avg_pool2d(whole, side), scale_factor=side) for side in (2, 4))
    return (whole - half).square(), (half - quarter).square()


def fineness(x: Tensor) -> Tensor:
    fine, coarse = (each.mean(dim=(1, 2, 3)) + LEVEL for each in details(x))
    return (fine / coarse).log()


def lines(x: Tensor, apart: int) -> tuple[Tensor, Tensor]:
    """The steps of the luma at multiples of `apart` relative to others, without the edges (n,); a map (n, h, w)."""
    means, luma, found = torch.zeros(2, len(x)), grey(x), []
    for a in (luma, luma.mT):
        step, i = F.pad(a.diff(dim=3).abs(), (1, 0)), torch.arange(a.shape[3])
        at, inside = i % apart == 0, (i > 2) & (i < len(i) - 2)
        means += torch.stack([step[..., inside & chosen].mean(dim=(1, 2, 3)) for chosen in (at, ~at)])
        found.append(step * torch.where(at, 1.0, 1 / (1 - apart)) * inside)
    return ((means[0] + LEVEL) / (means[1] + LEVEL)).log(), places(found[0] + found[1].mT)


def tint(x: Tensor, weights: tuple[float, ...], most: float) -> Tensor:
    """Σ_c w_c log(the mean of channel c), clamped at ± `most`, so no single photograph decides what is usual."""
    return ((x.mean(dim=(2, 3)) + 16).log() @ x.new_tensor(weights)).clamp(-most, most)


def blotch(x: Tensor) -> Tensor:
    """How far the colour of each place is from the median of its image's places, (n, h, w)."""
    colours = torch.stack([places(each) for each in opponents(x).split(1, dim=1)], dim=1)
    return (colours - colours.flatten(2).median(dim=2).values[..., None, None]).norm(dim=1)


def blotches(x: Tensor) -> Tensor:
    """How far the furthest colour of a place is, relative to that of three quarters of the places."""
    far = blotch(x).flatten(1)
    return ((far.amax(dim=1) + 10) / (far.quantile(0.75, dim=1) + 10)).log()


def apart(images: Tensor) -> Tensor:
    """The differences between the miniatures of n images, RMS in grey levels, (n, n), in the contrast of landscapes."""
    x = miniature(images, SIDE).double()
    return CONTRAST / x.std() * torch.cdist(x, x) / x.shape[1] ** 0.5


def grid(side: int) -> Measure:
    found = partial(lines, apart=side)
    return Measure(lambda x: found(x)[0], high=f"grid {side}", where=lambda x: found(x)[1], side=2 * side)


MEASURES = (
    Measure(lambda x: saturated(x.to(torch.uint8)).float(), high="saturated", least=0.1),
    Measure(flattest, high="noise", where=lambda x: -noise(grey(x))),
    Measure(
        lambda x: (noise(opponents(x)).mean(dim=(1, 2)) + LEVEL).log(), high="colour noise",
        where=lambda x: noise(opponents(x)),
    ),
    Measure(fineness, "blur", "rough", lambda x: places(2 * details(x)[0] - details(x)[1])),
    *map(grid, (2, 4, 8, 16)),
    Measure(blotches, high="blotches", where=blotch),
    Measure(lambda x: tint(x, (1, 0, -1), 1), "blue", "red"),
    Measure(lambda x: tint(x, (-0.5, 1, -0.5), 0.2), "purple", "green"),
    Measure(lambda x: (grey(x).mean(dim=(1, 2, 3)) + 16).log(), "dark", "bright"),
    Measure(lambda x: (grey(x).flatten(1).std(dim=1) + 1).log(), "flat", "harsh"),
    Measure(lambda x: ((x.amax(dim=1) - x.amin(dim=1)).mean(dim=(1, 2)) + 1).log(), low="pale"),
)  # fmt: skip
TOGETHER = (  # of the differences of a set's images from each other
    Measure(lambda between: (between.sum(dim=1) / (len(between) - 1)).log(), low="alike"),
    Measure(lambda between: ((between < NEAR / 2).sum(dim=1) > 1).float(), high="repeated", least=0.1),
)


def diagnose(images: Tensor, real: Tensor, photograph: Tensor, k: int) -> list[dict[str, Any]]:
    """The faults of uint8 images (n, C, H, W), the clearest first; none are known by few photographs or of tiny images.

    Args:
        real: (N, C, H, W).
        photograph: the number of the photograph of each real image (N,).
        k: of how many photographs the images are to be compared with sets.

    Returns:
        For each fault its name, the `value` of the images, the median of `real` sets, their interval `low` to `high`,
        the indices of the `worst` images, and a `place` [top, left, height, width] in each, or None. Values are
        exponentials of mean logarithms, or shares.
    """
    names, photograph = photograph.unique(return_inverse=True)
    k, shape = min(k, len(names) // 2), images.shape[2:]
    if min(*shape, len(names)) < LEAST or len(images) < 2:
        return []
    sets, _ = real_sets(photograph, len(images), k, DRAWS)
    wider = SPREAD * ((len(names) + k) / (len(names) - k)) ** 0.5
    rows = []
    for measure in (each for each in MEASURES if each.side <= min(shape)):
        x, theirs = (torch.cat([measure.of(to_rgb(a).float()) for a in b.split(64)]) for b in (images, real))
        rows.append((measure, x, sets.float() @ theirs / sets.sum(dim=1)))
    ours, between = apart(images), apart(real)
    for measure in TOGETHER:
        rows.append((measure, measure.of(ours), torch.stack([measure.of(between[s][:, s]).mean() for s in sets])))
    found = []
    for measure, x, means in rows:
        value, middle = float(x.mean()), float(means.median())
        half = max(wider * float(means.std()), measure.least)
        high = value > middle
        if abs(value - middle) > half and (name := measure.high if high else measure.low):
            unit = math.exp if measure.least < 0.1 else float
            fault: dict[str, Any] = {"fault": name, "value": unit(value), "real": unit(middle)}
            fault |= {"low": unit(middle - half), "high": unit(middle + half)}
            worst = x.argsort(descending=high)[:WORST]
            maps = measure.where(to_rgb(images[worst]).float()) if measure.where else worst
            fault["worst"] = worst.tolist()
            fault["place"] = [spot(far, high, shape) if far.ndim else None for far in maps]
            found.append((abs(value - middle) / half, fault))
    kinds = dict[str, dict[str, Any]]()
    for _, fault in sorted(found, key=lambda each: -each[0]):
        kind = fault["fault"].partition(" ")[0]
        kinds[kind] = max(kinds.get(kind, fault), fault, key=lambda each: each["value"])  # its multiples are grids, too
    return [*kinds.values()]


def spot(far: Tensor, high: bool, shape: torch.Size) -> list[int]:
    """Where the map (h, w) of an image of `shape` (H, W) is the highest or lowest: [top, left, height, width]."""
    size = [whole // parts for whole, parts in zip(shape, far.shape, strict=True)]
    at = divmod(int((far if high else -far).argmax()), far.shape[1])
    return [*(i * side for i, side in zip(at, size, strict=True)), *size]
