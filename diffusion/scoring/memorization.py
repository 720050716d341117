"""Memorization: samples that are copies of a training or a held-out image, even changed ones.

Known images y (training, validation, and the reference's) are compared with a sample x by their luma, reduced to at
most 32×32 pixels, in two stages:

1. Retrieval. The 8×8 means of x, in its four mirror images, are correlated with those of each y in 108 views: zoomed,
   turned and shifted. The ten images y of the highest correlation are its candidates, each with its best view.
2. Alignment. For each candidate, the affine map A of the view and g, o minimize Σ_u (x(u) − g y(A u) − o)² over the
   pixels u that A maps into y (Gauss–Newton steps, linear in g and o; compare Evangelidis and Psarakis 2008), first on
   blurred images. Contrast and brightness do not matter. With G a Gaussian blur,

    s(x, y) = mean_u log((G ∗ (x − G_b ∗ x)²(u) + c²) / (G ∗ (x − g y∘A − o)²(u) + c²)).

So s(x) = max_y s(x, y) > 0 if a known image predicts x better than the blurred x does. Plain skies have s ≤ 0.

A sample is flagged if s(x) is above a threshold in [0, HIGHEST], which at most `RATE` of real images exceed, each
compared with those of other photographs. If more of them are near-duplicates, the chance is higher.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import scipy  # its submodules are imported on first use
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.base.console import console, track
from diffusion.base.files import cache_dir, digest
from diffusion.base.images import cached
from diffusion.base.pixels import grey, grid, save_png, to_rgb
from diffusion.data import ImageData, Split
from diffusion.metric.denoising import numbered
from diffusion.metric.record import Reference, Score
from diffusion.process.operators import blur
from diffusion.randomness import generator_for

SIDE, COARSE = 32, 8  # pixels per side in the alignment, and in the retrieval
ZOOMS, ANGLES, SHIFTS = (0.83, 1.0, 1.22, 1.5), (-8.0, 0.0, 8.0), (-0.25, 0.0, 0.25)  # degrees; halves of the side
CANDIDATES = 10
STEPS = ((2.0, 4), (0.7, 4))  # of the alignment: the blur in pixels, and the number of steps
BLUR, WINDOW, FLOOR = 1.6, 1.5, 1.0  # b and the deviation of G, in pixels; c, in grey levels
OVERLAP = 0.45  # the least share of pixels that A must map into the known image
RATE = 0.01  # of real images flagged
HIGHEST = 0.5  # a threshold that exact copies exceed
TRIED, CHANGED = 500, 100  # real images that calibrate, and copies made of them
KNOWN, ROWS, PAIRS = 256, 64, 2560  # in memory at a time
SHOWN = 10  # pairs in the figure
Photographs = tuple[Tensor, Tensor] | None  # the numbers of the photographs of the images, and of the known ones


class Calibration(NamedTuple):
    """The threshold of s, what share of real images may exceed it, and the share of changed copies that do."""

    threshold: float
    chance: float
    found: float


def luma(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 (N, S, S), S = min(32, H, W)."""
    side = min(SIDE, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(grey(to_rgb(x).float()), side)[:, 0] for x in images.split(KNOWN)])


@cache
def maps() -> Tensor:
    """The maps A of all views, float32 (4, V, 2, 3): as they are, mirrored left-right, upside down, and both."""
    found = []
    for zoom, angle, right, down in product(ZOOMS, ANGLES, SHIFTS, SHIFTS):
        cos, sin = math.cos(math.radians(angle)) / zoom, math.sin(math.radians(angle)) / zoom
        found.append([[cos, -sin, right], [sin, cos, down]])
    mirrored = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    return torch.tensor(found) * mirrored[:, None, None]


def sampled(images: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """y(A u) of y (N, K, S, S) by maps A (N, 2, 3), beyond the edge as at it; and 1 where A u is inside, (N, S, S)."""
    places = F.affine_grid(affine, [len(affine), 1, *images.shape[-2:]], align_corners=False)
    inside = (places.abs() <= 1).all(dim=-1).float()
    return F.grid_sample(images, places, padding_mode="border", align_corners=False), inside


def described(views: Tensor) -> Tensor:
    """(…, S, S) -> (…, 64): the 8×8 means, with mean 0 and norm 1."""
    means = F.adaptive_avg_pool2d(views, COARSE).flatten(-2)
    return F.normalize(means - means.mean(dim=-1, keepdim=True), dim=-1)


def candidates(x: Tensor, known: Tensor, photographs: Photographs = None) -> tuple[Tensor, Tensor, Tensor]:
    """For n images (n, S, S), K ≤ 10 of m known ones (m, S, S): their correlations, indices, and maps (n, K, 2, 3).

    The correlation with a known image of the same photograph is −∞; their numbers are `photographs`, (n,) and (m,).
    """
    mirrored = [described(each) for each in (x, x.flip(-1), x.flip(-2), x.flip(-2, -1))]
    blocks, parts, views = [], torch.arange(len(known)).split(KNOWN), len(maps()[0])
    for part in track(parts, "looking for copies", len(parts), "part"):
        small = F.adaptive_avg_pool2d(known[part], 2 * COARSE).expand(views, -1, -1, -1)
        seen, found = described(sampled(small, maps()[0])[0]).flatten(0, 1), []
        for rows in torch.arange(len(x)).split(ROWS):
            best = torch.full((len(rows), len(part)), -torch.inf)
            view = torch.zeros_like(best, dtype=torch.long)
            for i, each in enumerate(mirrored):
                value, which = (each[rows] @ seen.T).view(len(rows), views, -1).max(dim=1)
                view = torch.where(value > best, i * views + which, view)
                best = torch.maximum(value, best)
            if photographs is not None:
                best[photographs[0][rows, None] == photographs[1][part]] = -torch.inf
            value, which = best.topk(min(CANDIDATES, len(part)))
            found.append((value, part[which], view.gather(1, which)))
        blocks.append([torch.cat(each) for each in zip(*found, strict=True)])
    value, index, view = (torch.cat(each, dim=1) for each in zip(*blocks, strict=True))
    best, first = value.topk(min(CANDIDATES, len(known)))
    return best, index.gather(1, first), maps().flatten(0, 1)[view.gather(1, first)]


def blurred(x: Tensor, width: float) -> Tensor:
    """Images (N, S, S), blurred by a Gaussian of this deviation, in pixels."""
    return blur(x[:, None], width)[:, 0]


def aligned(x: Tensor, y: Tensor, affine: Tensor) -> Tensor:
    """The maps (N, 2, 3) that align known images y with x, both (N, S, S), by Gauss–Newton steps from `affine`."""
    place = (torch.arange(x.shape[-1]) + 0.5) * 2 / x.shape[-1] - 1
    down, right = torch.meshgrid(place, place, indexing="ij")
    for width, steps in STEPS:
        wanted, smooth = blurred(x, width).flatten(1)[..., None], blurred(y, width)
        slopes = torch.gradient(smooth, spacing=2 / x.shape[-1], dim=(-1, -2))
        for _ in range(steps):
            seen, inside = sampled(torch.stack([smooth, *slopes], dim=1), affine)
            value, across, along = seen.unbind(1)
            moved = [slope * by for slope in (across, along) for by in (right, down, torch.ones_like(right))]
            columns = torch.stack([value, torch.ones_like(value), *moved], dim=-1).flatten(1, 2)
            weighted = columns * inside.flatten(1)[..., None]
            normal = weighted.mT @ columns
            damped = normal + torch.diag_embed(1e-4 * normal.diagonal(dim1=1, dim2=2) + 1e-3)
            g, _, *step = torch.linalg.solve(damped, weighted.mT @ wanted)[..., 0].unbind(1)
            step = torch.stack(step, dim=1) / g[:, None].clamp(min=0.2)
            affine = affine + step.clamp(-0.15, 0.15).view(-1, 2, 3)
    return affine


def similarity(x: Tensor, y: Tensor, affine: Tensor) -> Tensor:
    """s(x, y) of aligned images, (N,); −∞ if less than `OVERLAP` of x is in y."""
    value, inside = sampled(y[:, None], affine)
    value, pixels = value[:, 0], inside.sum(dim=(1, 2), keepdim=True).clamp(min=1)

    def centred(z: Tensor) -> Tensor:
        return inside * (z - (inside * z).sum(dim=(1, 2), keepdim=True) / pixels)

    def power(z: Tensor) -> Tensor:
        return blurred((inside * z).square(), WINDOW) + FLOOR**2

    own, other = centred(x), centred(value)
    g = (own * other).sum(dim=(1, 2), keepdim=True) / (other.square().sum(dim=(1, 2), keepdim=True) + pixels)
    gained = (power(x - blurred(x, BLUR)) / power(own - g * other)).log()
    s = (inside * gained).sum(dim=(1, 2)) / pixels[:, 0, 0]
    return s.where(inside.mean(dim=(1, 2)) >= OVERLAP, -torch.inf)


def nearest(x: Tensor, known: Tensor, photographs: Photographs = None) -> tuple[Tensor, Tensor]:
    """s(x) of n images (n, S, S), and the index of the known image (m, S, S) that has it; (n,) each."""
    value, index, affine = candidates(x, known, photographs)
    s = []
    for pair in torch.arange(index.numel()).split(PAIRS):
        own, other = x[pair // index.shape[1]], known[index.flatten()[pair]]
        s.append(similarity(own, other, aligned(own, other, affine.flatten(0, 1)[pair])))
    best, which = torch.cat(s).view(index.shape).where(value > -torch.inf, -torch.inf).max(dim=1)
    return best, index.gather(1, which[:, None])[:, 0]


def chance_of(exceeding: Tensor, photograph: Tensor) -> float:
    """The upper end of the 95% interval of a share, of images (N,) from `photograph` (N,).

    It is Clopper and Pearson's for as many independent images as the variance between photographs leaves: Korn and
    Graubard 1998, Survey Methodology 24, 193. None exceeding: for as many as there are photographs.
    """
    total = torch.bincount(photograph)
    above, total = torch.bincount(photograph, exceeding.double())[total > 0], total[total > 0].double()
    n, m = len(photograph), len(total)
    share = float(above.sum()) / n
    variance = m / (m - 1) * float((above - share * total).square().sum()) / n**2
    ratio = scipy.stats.t.ppf(0.975, n - 1) / scipy.stats.t.ppf(0.975, m - 1)
    effective = min(n, share * (1 - share) / variance * ratio**2) if variance else m
    return float(scipy.stats.beta.ppf(0.975, share * effective + 1, (1 - share) * effective)) if share < 1 else 1.0


def changed(x: Tensor) -> Tensor:
    """Copies of images (N, S, S) that are hard to see: mirrored, turned by 6°, enlarged by 1.2, moved, paler, noisy."""
    cos, sin = math.cos(math.radians(6)) / 1.2, math.sin(math.radians(6)) / 1.2
    affine = torch.tensor([[-cos, -sin, 0.08], [-sin, cos, -0.08]]).expand(len(x), -1, -1)
    noise = torch.randn(x.shape, generator=generator_for(0, "changed copies"))
    return 0.85 * sampled(x[:, None], affine)[0][:, 0] + 25 + 5 * noise


def calibrated(splits: Sequence[Split]) -> Calibration:
    """The calibration by the images of the splits, at most `TRIED` at random; kept in the cache."""

    def measure() -> list[float]:
        known = torch.cat([luma(split.images) for split in splits])
        photograph = numbered([source for split in splits for source in split.sources])
        some = torch.randperm(len(known), generator=generator_for(0, "copies"))[:TRIED]
        s, _ = nearest(known[some], known, (photograph[some], photograph))
        k = max(1, math.floor(RATE * (len(s) + 1)))
        threshold = float(s.sort(descending=True).values[k - 1].clamp(0, HIGHEST))
        found = nearest(changed(known[some[:CHANGED]]), known)[0] > threshold
        return [threshold, chance_of(s > threshold, photograph[some]), float(found.float().mean())]

    key = digest("copies 2", [(split.key, split.names) for split in splits])
    return Calibration(*cached(cache_dir("copies") / f"{key}.json", measure))


def copies(images: Tensor, data: ImageData, folder: Path, split: str = "val") -> Score:
    """The share of copies among `images`, uint8 (n, C, H, W), printed; figures/copies.png shows the closest pairs.

    Known are training, validation and the images of `split`. The interval is the exact one for the given threshold
    (Clopper and Pearson).
    """
    names = dict.fromkeys(["train", "val", split])
    splits, train, n = [data.splits[name] for name in names], data.splits["train"], len(images)
    threshold, chance, found = calibrated(splits)
    s, index = nearest(luma(images), torch.cat([luma(each.images) for each in splits]))
    flagged, held_out = int((s > threshold).sum()), int(((s > threshold) & (index >= len(train))).sum())
    low, high = map(float, scipy.stats.binomtest(flagged, n).proportion_ci(0.95, method="exact"))
    closest = s.argsort(descending=True)[:SHOWN]
    places = [(name, i) for name, each in zip(names, splits, strict=True) for i in range(len(each))]
    shown = [places[i] for i in index[closest].tolist()]
    matches = torch.stack([data.splits[name].images[i] for name, i in shown])
    save_png(grid(torch.cat([images[closest], matches]), len(closest), large=True), folder / "figures/copies.png")
    pairs = [
        {"sample": i, "split": name, "image": data.splits[name].names[j], "s": round(float(s[i]), 4)}
        for i, (name, j) in zip(closest.tolist(), shown, strict=True)
    ]
    console.print(
        f"copies: {flagged} of {n} samples suspected ({low:.1%} to {high:.1%}; by chance up to {chance:.1%}), "
        f"{held_out} of them of held-out images; {found:.0%} of changed copies would be found: "
        + ("see figures/copies.png" if flagged / n > chance else "no sign of copying")
    )
    return Score(
        "copies", flagged / n, n, reference=Reference("train", len(train), train.key), low=low, high=high, level=0.95,
        features="pixels", resize=f"luma of {SIDE}x{SIDE}, aligned", resolution="x".join(map(str, images.shape[2:])),
        settings={"rate": RATE} | {f"also {name}": data.splits[name].key for name in names if name != "train"},
        source={"flagged": flagged, "held_out": held_out, "chance": chance, "found": found, "closest": pairs},
    )  # fmt: skip
