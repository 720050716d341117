"""Baselines to judge a score by: noise, other real images, and real images divided at random."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from diffusion.metric.estimate import moments, pool
from diffusion.metric.reference import ReferenceStatistics
from diffusion.randomness import Streams, generator_for, seeds_for


def noise_images(n: int, shape: tuple[int, int, int], seed: int = 0, batch_size: int = 64) -> Iterator[Tensor]:
    """`n` images of N(0, 1) noise, clamped to [−1, 1], as uint8 batches (b, C, H, W); `shape` is (C, H, W)."""
    for index in torch.arange(n).split(batch_size):
        noise = Streams(seeds_for(seed, "noise image", last=index.tolist())).normal(*shape)
        yield ((noise.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def draw(images: Tensor, n: int, seed: int = 0) -> Tensor:
    """`n` of `images`, drawn by the seed without replacement; all of them if there are fewer."""
    return images[torch.randperm(len(images), generator=generator_for(seed, "draw"))[:n]]


def divide(features: Tensor, reference: ReferenceStatistics, seed: int = 0) -> tuple[Tensor, ReferenceStatistics]:
    """Mix real `features` with the reference's, and divide them at random into sets of the same two sizes.

    The sizes are those of the sets that are given: N of `features`, which may be fewer than the samples, and the
    reference's M (`KEPT` if it is larger). The new reference contains its true size.

    The score of these two sets is the floor: the value for sets of real images that differ only by chance. The new
    reference has the name and key of the old one, because it belongs to the same scores. Spatial features, if there are
    any (`features` (N, D + S)), are divided in the same way.
    """
    features, maps = features.tensor_split([len(reference.mean)], dim=1)
    both = torch.cat([pool(features, len(features)), reference.features])
    both = both[torch.randperm(len(both), generator=generator_for(seed, "divide"))]
    n = len(both) - len(reference.features)
    mean, cov = moments(both[n:])
    rest = replace(reference, mean=mean, cov=cov, features=both[n:], n=len(reference.features))
    if reference.spatial is None or not maps.shape[1]:
        return both[:n], rest
    maps, spatial = divide(maps, reference.spatial, seed)
    return torch.cat([both[:n], maps], dim=1), replace(rest, spatial=spatial)
