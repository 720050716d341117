"""The lowest loss that any network can reach on a finite training set, by noise level (arXiv 2506.13763).

The best denoiser of the images x_1 … x_N is the mean of their posterior, given x_t = alpha x0 + sigma eps:
    E[x0 | x_t] = Σ_i w_i x_i,    w_i ∝ exp(−‖x_t − alpha x_i‖²/(2 sigma²)).
Its loss, the floor, is the mean over x_t of the posterior variance, Σ_i w_i ‖x_i − E[x0 | x_t]‖². It is an error of x0,
converted to the loss of any prediction and weighting as in `weighting`. With s = sigma/alpha,
    log w_i = −‖x0 − x_i‖²/(2 s²) + eps·(x_i − x0)/s + constant,
so distances, in float64 because they are divided by s², and products with the noise are computed once for all levels.

Of at most `EXACT` images all are averaged. Of more, `DRAWS` are drawn from their exact weights, for which mean and
variance are unbiased. (The paper sums over a random subset instead, with a bias where few images share the weight.)
"""

from collections.abc import Callable, Iterator
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
    """The images of a training set (N, …), of which `unit` makes values in [−1, 1]; with `flip`, 2N with mirror images.

    A network is told the `labels` (N,) of the images, if there are any, but not of a fraction `dropout` of them.
    """

    images: Tensor
    flip: bool = False
    labels: Tensor | None = None
    dropout: float = 0.0
    unit: Callable[[Tensor], Tensor] = torch.Tensor.float

    def __len__(self) -> int:
        return len(self.images) * (1 + self.flip)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The images at these places (n,), in [−1, 1], of the shape (n, …); those from N on are mirrored."""
        x, mirrored = self.unit(self.images[index % len(self.images)]), index >= len(self.images)
        return torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images as vectors (n, D), in parts, each with their places."""
        return ((index, self[index].flatten(1)) for index in torch.arange(len(self)).split(PART))

    def alike(self, key: Tensor, keys: Tensor) -> Tensor:
        """Which atoms have the key (B,), such as a class; `keys` (N,) are those of the images: bool (B, len(self))."""
        return key[:, None] == keys.repeat(1 + self.flip)


class AtomPosterior(NamedTuple):
    """What the best denoiser makes of B noisy images at K noise levels.

    `mean` (K, B, D) is E[x0 | x_t]; `variance` (K, B), per dimension, that of x0; `excess` (K, B) is by how much a
    squared distance from `mean`, per dimension, exceeds that from the exact mean, on average: 0 without draws.
    """

    mean: Tensor
    variance: Tensor
    excess: Tensor


def posterior(
    atoms: Atoms, x0: Tensor, eps: Tensor, levels: Tensor, index: Tensor, allowed: Tensor | None = None
) -> AtomPosterior:
    """The posterior for images x0 (B, …), not always atoms, with the noise eps (B, …) at sigma/alpha = levels (K,).

    `index` (B,) seeds the draws; `allowed` (B, len(atoms)) tells which atoms may have been x0; None: all. On the CPU.
    """
    x0, eps, s = x0.flatten(1), eps.flatten(1), levels.double()[:, None, None]
    of = [(torch.cdist(x0.double(), known.double()).square(), (eps @ known.T).double()) for _, known in atoms.parts()]
    distance, noise = (torch.cat(each, dim=1) for each in zip(*of, strict=True))
    noise = noise - (eps * x0).double().sum(dim=1, keepdim=True)
    if allowed is not None:
        noise = noise.masked_fill(~allowed, -torch.inf)
    if len(atoms) <= EXACT:
        weights, mean = torch.softmax(noise / s - distance / (2 * s**2), dim=2), x0.new_zeros(len(s), *x0.shape)
        for part, known in atoms.parts():
            mean += weights[..., part].to(x0) @ known
        about = (weights * distance).sum(dim=2) - (mean - x0).double().square().sum(dim=2)
        return AtomPosterior(mean, about.clamp(min=0) / x0.shape[1], torch.zeros_like(about))
    means, variances = [], []
    for i, number in enumerate(index.tolist()):
        generator, weights = generator_for("floor draws", number), noise[i] / s[:, 0] - distance[i] / (2 * s[:, 0] ** 2)
        for each in torch.softmax(weights, dim=1):
            drawn = atoms[each.multinomial(DRAWS, replacement=True, generator=generator)].flatten(1)
            means.append(drawn.mean(dim=0))
            variances.append(drawn.double().var(dim=0).mean())
    variance = torch.stack(variances).view(len(x0), -1).T
    return AtomPosterior(torch.stack(means).view(len(x0), len(s), -1).swapaxes(0, 1), variance, variance / DRAWS)


def levels_at_once(atoms: Atoms, levels: int) -> int:
    """How many noisy images are worked on at a time, so that the memory stays bounded."""
    each = len(atoms) if len(atoms) > EXACT else levels * max(len(atoms), atoms.images[0].numel())
    return max(1, min(64, 2**26 // each))


def floor(atoms: Atoms, levels: Tensor, n: int = 128) -> Tensor:
    """The floor at sigma/alpha = levels (K,): squared error of x0 per dimension (K,), from n noisy images.

    An image with a label can only be one with the same label. The floor of a network that is told the labels, except
    those of a fraction p = `atoms.dropout`, is (1 − p)·(the floor with labels) + p·(that without).
    """
    labels, found = atoms.labels, []
    for noisy in torch.arange(n).split(levels_at_once(atoms, len(levels))):
        index = noisy * len(atoms) // n
        x0 = atoms[index]
        eps = Streams(seeds_for("floor", last=noisy.tolist())).normal(*x0.shape[1:]).to(x0)
        kinds: list[tuple[float, Tensor | None]] = [(1.0, None)]
        if labels is not None:
            same = atoms.alike(labels[index % len(labels)], labels)
            kinds = [(1 - atoms.dropout, same), (atoms.dropout, None)]
        each = [share * posterior(atoms, x0, eps, levels, noisy, allowed).variance for share, allowed in kinds if share]
        found.append(torch.stack(each).sum(dim=0))
    return torch.cat(found, dim=1).mean(dim=1)
