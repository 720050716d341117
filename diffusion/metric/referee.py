"""A referee of several eyes: whether samples can be told apart from real photographs, and by what.

Each eye describes an image by numbers: a trained network, colours, the spectrum, patches of a Laplacian pyramid, and
random convolutions. The filters of the last two are drawn with a seed made from the samples themselves, so nobody can
optimise samples against them. Seen by one eye, with its numbers divided by their deviations over all images, the
samples x are at this energy distance from the training images y (Székely, Rizzo 2013), which is 0 on average for equal
distributions:

    D = 2 E|x − y| − E|x − x′| − E|y − y′|.

Could they be further images of the training photographs? They are told apart if, for any eye, D is above its margin:
what samples and training images show when they are mixed and divided at random (a permutation test). They are alike if
D, with its error, is also below what two sets of 100 training images differ by.

Could they be of other photographs? The margin is then what sets of other photographs show: as many photographs as are
held out, drawn from the training and held-out photographs, against all others of these. So tiles of one photograph
stand together. They are told apart, or alike, if D is above or below this margin by more than its error.

The margins of all eyes hold together: real images are above any of them with a probability of at most 5% (the minimum
of the eyes' p-values by the same draws; Westfall, Young 1993).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.base.files import tensor_digest
from diffusion.metric.estimate import jackknife
from diffusion.metric.photographs import real_sets
from diffusion.metric.record import FEW, FEW_PHOTOGRAPHS
from diffusion.randomness import generator_for

LEAST = 8  # pixels; the side of images that patches and random convolutions need
LIMIT = 500  # images of each kind that are looked at
DRAWS = 999
LEVEL = 0.05  # of calling real images apart, by any eye
ONE_SIDED = 1.645  # standard errors: 95% of a Gaussian are below
SMALL = 100  # images in each of two sets of real images that may differ as the samples do
PHOTOGRAPHS = FEW_PHOTOGRAPHS, 100  # held-out ones for which it is simulated what would be seen
Eye = Callable[[Tensor, torch.Generator], Tensor]


def colours(x: Tensor, generator: torch.Generator) -> Tensor:
    """Means, deviations and quantiles of red, green, blue, luma and two colour differences, (n, 42)."""
    luma = x.mean(dim=1, keepdim=True)
    channels = torch.cat([x, luma, x[:, :1] - luma, x[:, 2:] - luma], dim=1).flatten(2)
    return torch.cat([channels.mean(dim=2), channels.std(dim=2), *quantiles(channels, 0.05, 0.25, 0.5, 0.75, 0.95)], 1)


def spectrum(x: Tensor, generator: torch.Generator) -> Tensor:
    """The logarithm of the luma's power: by radius, and along both axes, where a grid of patches shows."""
    z = x.mean(dim=1)
    z, (height, width) = z - z.mean(dim=(1, 2), keepdim=True), z.shape[-2:]
    down, right = (torch.hann_window(n + 2)[1:-1] for n in (height, width))
    power = torch.fft.fft2(z * down[:, None] * right).abs().square()
    u, v = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    last = min(height, width) // 2
    ring = (2 * last * (u.square() + v.square()).sqrt()).round().long().clamp(max=last).flatten()
    by_radius = power.new_zeros(len(x), last + 1).index_add_(1, ring, power.flatten(1)) / torch.bincount(ring)
    rows, columns = (
        torch.fft.rfft(z * w, dim=d).abs().square().mean(3 - d) for d, w in ((2, right), (1, down[:, None]))
    )
    return torch.cat([each[:, 1:] for each in (by_radius, rows, columns)], dim=1).clamp(min=0.01).log()


def patches(x: Tensor, generator: torch.Generator) -> Tensor:
    """Quantiles of random 5×5 filters on each level of a Laplacian pyramid (slices as in Karras et al. 2018)."""
    level, found = x / 127.5 - 1, []
    while min(level.shape[-2:]) >= 8:
        low = F.avg_pool2d(level, 2)
        fine = level - F.interpolate(low, size=level.shape[-2:], mode="bilinear")
        seen = fine if min(low.shape[-2:]) >= 8 else level
        filters = torch.randn(16, x.shape[1], 5, 5, generator=generator)
        filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
        found += quantiles(F.conv2d(seen, filters).flatten(2), 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
        level = low
    return torch.cat(found, dim=1)


def convolutions(x: Tensor, generator: torch.Generator) -> Tensor:
    """Means and deviations of three layers of random 3×3 convolutions (weights of He et al. 2015), (n, 320)."""
    x, found = x / 127.5 - 1, []
    for wide in (32, 64, 64):
        weights = torch.randn(wide, x.shape[1], 3, 3, generator=generator) * math.sqrt(2 / (9 * x.shape[1]))
        x = F.relu(F.conv2d(x, weights))
        found += [x.mean(dim=(2, 3)), x.std(dim=(2, 3))]
    return torch.cat(found, dim=1)


EYES: Mapping[str, Eye] = {
    "colours": colours, "spectrum": spectrum, "patches": patches, "random convolutions": convolutions,
}  # fmt: skip


def quantiles(x: Tensor, *shares: float) -> list[Tensor]:
    """Quantiles of the last dimension."""
    ordered = x.sort(dim=-1).values
    return [ordered[..., round(share * (x.shape[-1] - 1))] for share in shares]


def look(eye: Eye, images: Tensor, seed: str) -> Tensor:
    """What an eye sees in examples (N, C, *size) in the range of 8-bit pixels: (N, D)."""
    return torch.cat([eye(x.float(), generator_for("eye", seed)) for x in images.split(128)])


def eyes_of_pictures(size: Sequence[int]) -> dict[str, Eye]:
    """The eyes that see RGB pictures of this size (H, W); two of them need LEAST pixels."""
    return dict(EYES) if min(size) >= LEAST else {name: EYES[name] for name in ("colours", "spectrum")}


def eyes_of_values(size: Sequence[int]) -> dict[str, Eye]:
    """Those that see any channels."""
    return {name: eye for name, eye in eyes_of_pictures(size).items() if name != "colours"}


def apart(seen: Tensor) -> Tensor:
    """|z_i − z_j| of all images, (N, N), where z is what is seen, (N, D), divided by its deviations.

    They are those over samples and real images together: numbers that hardly vary among real images alone would count
    for too much, and real images would be called apart.
    """
    deviation = seen.std(dim=0)
    z = (seen / deviation.clamp(min=1e-6 * float(deviation.max()))).double()
    return torch.cdist(z, z).float()


def energy(distance: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """D (B,) of pairs of sets, given as bool (B, N) each, from the distances of all images (N, N)."""
    x, y = x.to(distance), y.to(distance)
    n, m, of_x, of_y = x.sum(dim=1), y.sum(dim=1), x @ distance, y @ distance
    xx, xy, yy = ((a * b).sum(dim=1, dtype=torch.float64) for a, b in ((of_x, x), (of_x, y), (of_y, y)))
    return 2 * xy / (n * m) - xx / (n * (n - 1)) - yy / (m * (m - 1))


def standard_error(own: Tensor, to: Tensor) -> Tensor:
    """The standard error of D over other samples: the jackknife's, from distances (n, n) among them and to others."""
    xx, xy, n = own.double().sum(dim=1), to.double().mean(dim=1), len(own)
    return torch.tensor(jackknife(2 * (xy.sum() - xy) / (n - 1) - (xx.sum() - 2 * xx) / ((n - 1) * (n - 2))))


def margins(null: Tensor) -> Tensor:
    """A margin for each eye, (K,): another draw like those of `null` (K, B) is above any of them with at most LEVEL."""
    rank = null.argsort(dim=1, descending=True).argsort(dim=1)  # 0: the largest distance that this eye sees
    least = rank.amin(dim=0).sort().values[math.floor(LEVEL * (null.shape[1] + 1)) - 1]
    return null.sort(dim=1, descending=True).values[:, least]


def divided(n: int, m: int, total: int) -> tuple[Tensor, Tensor]:
    """Random disjoint sets of n and of m images, bool (DRAWS, total) each."""
    place = torch.rand(DRAWS, total, generator=generator_for(0, "divided")).argsort(dim=1).argsort(dim=1)
    return place < n, (place >= n) & (place < n + m)


def simulated(distance: Tensor, photograph: Tensor, k: int, rest: int) -> Tensor:
    """D (DRAWS,) of k photographs from `rest` others, all drawn with replacement from those at hand.

    Any number of photographs can be simulated, from the mean distances between the tiles of two photographs.
    """
    one, distance = F.one_hot(photograph).double(), distance.double()
    count = one.sum(dim=0)
    mean = (one.T @ distance @ one) / (count[:, None] * count - torch.diag(count)).clamp(min=1)  # without own pairs
    generator, sets = generator_for(0, "simulated", k), []
    for size in (k, rest):
        drawn = count.expand(DRAWS, -1).multinomial(size, replacement=True, generator=generator)
        sets.append(F.one_hot(drawn, len(count)).to(distance).mean(dim=1))
    xx, xy, yy = ((a @ mean * b).sum(dim=1) for a, b in combinations_with_replacement(sets, 2))
    return 2 * xy - xx - yy


def judge(
    samples: Tensor, real: Tensor, train: Tensor, photograph: Tensor, seen: Mapping[str, Tensor],
    eyes: Mapping[str, Eye] = EYES,
) -> dict[str, Any]:  # fmt: skip
    """What the eyes say of `samples` (n, C, *size), see `look`: the answers of `compare`, as plain data.

    With fewer than FEW samples or training images there are only their numbers.

    Args:
        real: training and held-out images (M, C, H, W).
        train: which of these are training images, bool (M,).
        photograph: their photographs, int64 (M,), numbered from 0 on.
        seen: the name of a network -> its features of samples and real images, (n + M, D).
        eyes: the other eyes, for which the range of all values is 0 … 255.
    """
    numbers, images = {"n": len(samples), "train": int(train.sum())}, torch.cat([samples, real])
    if min(numbers.values()) < FEW:
        return numbers
    seed, known = tensor_digest({"samples": samples}), torch.cat([torch.zeros(len(samples), dtype=torch.bool), train])
    seen = {**seen, **{name: look(eye, images, seed) for name, eye in eyes.items()}}
    return numbers | compare({name: apart(each) for name, each in seen.items()}, known, photograph)


def compare(distances: Mapping[str, Tensor], train: Tensor, photograph: Tensor) -> dict[str, Any]:
    """The answers `further` and `others` from the distances (N, N) that each eye sees, the samples before real images.

    An answer has its `verdict`, `apart`, `alike` or `unclear`; the eyes that tell them apart, `by`; and the distance,
    error and margin of each eye. `others` also has those that would with more held-out photographs, `with`. It is
    missing with too few photographs for LEVEL, and if each image is its own, so that `further` asks the same.

    Args:
        train: which of all images are training images, bool (N,).
        photograph: the photographs of the real images, int64 (M,).
    """
    n, m, ours = len(train) - len(photograph), int(train.sum()), torch.arange(len(train)) < len(train) - len(photograph)
    value = torch.stack([energy(d, ours[None], train[None])[0] for d in distances.values()])
    error = torch.stack([standard_error(d[ours][:, ours], d[ours][:, train]) for d in distances.values()])
    low, high = value - ONE_SIDED * error, value + ONE_SIDED * error

    def null(sets: tuple[Tensor, Tensor], of: Tensor) -> Tensor:
        return torch.stack([energy(d[of][:, of], *sets) for d in distances.values()])

    def answer(distance: Tensor, margin: Tensor, near: Tensor) -> dict[str, Any]:
        told = [name for name, above in zip(distances, distance > margin, strict=True) if above]
        rows = zip(*(x.tolist() for x in (value, error, margin)), strict=True)
        eyes = {name: {"distance": d, "error": e, "margin": m} for name, (d, e, m) in zip(distances, rows, strict=True)}
        verdict = "apart" if told else "alike" if (high <= near).all() else "unclear"
        return {"verdict": verdict, "by": told, "eyes": eyes}

    near = null(divided(SMALL, SMALL, m), train).quantile(1 - LEVEL, dim=1)
    held, number = len(photograph[~train[n:]].unique()), int(photograph.max()) + 1
    found: dict[str, Any] = {"photographs": [number - held, held], "tiles": number < len(photograph), "small": SMALL}
    found["further"] = answer(value, margins(null(divided(n, m, n + m), ours | train)), near)
    if not found["tiles"] or held == 0 or math.comb(number, held) < 2 / LEVEL:
        return found
    margin = margins(null(real_sets(photograph, n, held, DRAWS), ~ours))
    found["others"] = answer(low, margin, margin) | {"with": {}}
    for k in (k for k in PHOTOGRAPHS if k > held):
        more = [simulated(d[n:, n:], photograph, k, number - held) for d in distances.values()]
        margin = margins(torch.stack(more))
        found["others"]["with"][str(k)] = answer(low, margin, margin)["by"]
    return found
