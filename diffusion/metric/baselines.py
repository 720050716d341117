"""What samples are scored beside: noise, images drawn from real ones, and real ones divided in two by chance."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from diffusion.metric.estimate import moments, pool
from diffusion.metric.reference import ReferenceStatistics
from diffusion.randomness import Streams, generator_for, seed_for


def noise_images(n: int, height: int, width: int, seed: int = 0, batch_size: int = 64) -> Iterator[Tensor]:
    """`n` images of N(0, 1) noise, clamped to [−1, 1] and quantised, in uint8 batches (b, 3, height, width)."""
    for index in torch.arange(n).split(batch_size):
        noise = Streams([seed_for(seed, "noise image", i) for i in index.tolist()]).normal(3, height, width)
        yield ((noise.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def draw(images: Tensor, n: int, seed: int = 0) -> Tensor:
    """`n` distinct ones of `images` (all when there are fewer), by counted randomness."""
    return images[torch.randperm(len(images), generator=generator_for(seed, "draw"))[:n]]


def divide(features: Tensor, reference: ReferenceStatistics, seed: int = 0) -> tuple[Tensor, ReferenceStatistics]:
    """Real `features` and the reference's, mixed and divided at random into N and a reference of as many as was.

    The score of the one by the other is the floor at N: what two sets of real images have that differ by chance alone.
    The reference keeps its name and key, which say what the score stands beside. Spatial features, which `features`
    (N, D + S) and the reference may have, are divided likewise.
    """
    features, maps = features.tensor_split([len(reference.mean)], dim=1)
    both = torch.cat([pool(features), reference.features])
    both = both[torch.randperm(len(both), generator=generator_for(seed, "divide"))]
    n = len(both) - len(reference.features)
    mean, cov = moments(both[n:])
    rest = replace(reference, mean=mean, cov=cov, features=both[n:], n=len(reference.features))
    if reference.spatial is None or not maps.shape[1]:
        return both[:n], rest
    maps, spatial = divide(maps, reference.spatial, seed)
    return torch.cat([both[:n], maps], dim=1), replace(rest, spatial=spatial)
