"""The lowest loss that any network can reach on a finite training set, by noise level (arXiv 2506.13763).

The best denoiser of the images x_1 … x_N is the mean of their posterior, given x_t = alpha x0 + sigma eps:
    E[x0 | x_t] = Σ_i w_i x_i,    w_i ∝ exp(−‖x_t − alpha x_i‖²/(2 sigma²)),
and its loss, the floor, is the mean over x_t of the posterior variance, Σ_i w_i ‖x_i − E[x0 | x_t]‖². An error of x0 is
converted to the loss of any prediction and weighting as in `weighting`. With s = sigma/alpha,
    log w_i = −‖x0 − x_i‖²/(2 s²) + eps·(x_i − x0)/s + constant.
So one product for the distances, in float64 because they are divided by s², and one for the noise serve all levels.

Of at most `EXACT` images all are averaged. Of more, `DRAWS` are drawn from their exact weights, for which mean and
variance are unbiased. (The paper's estimator takes its sums over a random subset, which is biased where a few of many
images share the weight.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.randomness import Streams, generator_for, seeds_for

EXACT = 10_000  # images: 5,000 and their mirror images
DRAWS = 256
PART = 1024  # images that are in memory as numbers at a time


@dataclass(frozen=True)
class Atoms:
    """The images of a training set, uint8 (N, C, H, W), or numbers (N, …); with `flip`, 2N with their mirror images.

    `classes` (N,), if given, are known to the network: then only images of the same class share the weight.
    """

    images: Tensor
    flip: bool = False
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images) * (1 + self.flip)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The images at these places (n,), in [−1, 1], of the shape (n, …); those from N on are mirrored."""
        x, mirrored = self.images[index % len(self.images)], index >= len(self.images)
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x
        return torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x) if self.flip else x

    def parts(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """All images as vectors (n, D) on the device of `like`, in parts, each with their places."""
        for index in torch.arange(len(self)).split(PART):
            yield index, self[index].flatten(1).to(like.device)


class Posterior(NamedTuple):
    """What the best denoiser makes of B noisy images at K noise levels.

    `mean` (K, B, D) is E[x0 | x_t]; `variance` (K, B), per dimension, that of x0; `excess` (K, B) is by how much a
    squared distance from `mean`, per dimension, is larger on average than from the exact mean: 0 without draws.
    """

    mean: Tensor
    variance: Tensor
    excess: Tensor


def posterior(
    atoms: Atoms, x0: Tensor, eps: Tensor, levels: Tensor, index: Tensor, classes: Tensor | None = None
) -> Posterior:
    """The posterior of the images x0 (B, …), which may be among the atoms, with the noises eps (B, …) at all levels.

    Args:
        levels: (K,) sigma/alpha, above 0.
        index: (B,) the numbers of the images, which seed the draws.
        classes: (B,) their classes, if those of the atoms are known.
    """
    x0, eps, found = x0.flatten(1), eps.flatten(1), []
    for part, known in atoms.parts(x0):
        distance = torch.cdist(x0.double(), known.double()).square()
        if classes is not None and atoms.classes is not None:
            distance[classes.cpu()[:, None] != atoms.classes[part % len(atoms.images)]] = torch.inf
        found.append(torch.stack([distance, (eps @ known.T - (eps * x0).sum(1, keepdim=True)).double()]))
    distance, noise = torch.cat(found, dim=2)
    size, s = x0.shape[1], levels.to(distance)[:, None, None]
    if len(atoms) <= EXACT:
        weights = torch.softmax(noise / s - distance / (2 * s**2), dim=2)
        mean = x0.new_zeros(len(s), *x0.shape)
        for part, known in atoms.parts(x0):
            mean += weights[..., part].to(x0) @ known
        second = torch.where(weights > 0, weights * distance, 0).sum(dim=2)  # about x0; without 0·inf
        variance = (second - (mean - x0).double().square().sum(dim=2)).clamp(min=0) / size
        return Posterior(mean, variance, torch.zeros_like(variance))
    means, variances = [], []
    for i, number in enumerate(index.tolist()):
        weights = torch.softmax(noise[i] / s[:, 0] - distance[i] / (2 * s[:, 0] ** 2), dim=1).cpu()
        generator = generator_for("floor draws", number)
        drawn = [atoms[each.multinomial(DRAWS, replacement=True, generator=generator)].flatten(1) for each in weights]
        means.append(torch.stack([each.mean(dim=0) for each in drawn]))
        variances.append(torch.stack([each.double().var(dim=0).mean() for each in drawn]))
    variance = torch.stack(variances, dim=1).to(x0.device)
    return Posterior(torch.stack(means, dim=1).to(x0), variance, variance / DRAWS)


def together(atoms: Atoms, levels: int) -> int:
    """How many noisy images are worked on at a time, so that the memory stays bounded."""
    many = len(atoms) > EXACT
    return max(1, 2**26 // len(atoms) if many else 2**25 // (levels * max(len(atoms), atoms.images[0].numel())))


def floor(atoms: Atoms, levels: Tensor, n: int = 128) -> Tensor:
    """The floor of the training set at noise levels (K,), in squared error of x0 per dimension: float64 (K,).

    An estimate from n noisy images, evenly spread over the atoms.
    """
    places, sums = torch.arange(n) * len(atoms) // n, torch.zeros(len(levels), dtype=torch.float64)
    for index in places.split(together(atoms, len(levels))):
        x0 = atoms[index]
        eps = Streams(seeds_for("floor", last=index.tolist()), x0.device).normal(*x0.shape[1:]).to(x0)
        known = None if atoms.classes is None else atoms.classes[index % len(atoms.images)]
        sums += posterior(atoms, x0, eps, levels, index, known).variance.sum(dim=1)
    return sums / n
