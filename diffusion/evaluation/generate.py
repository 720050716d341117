"""Drawing images from a denoiser."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from diffusion.console import count, progress_bar
from diffusion.data import to_uint8
from diffusion.errors import UserError
from diffusion.process.denoiser import Conditioned, Denoise, Estimate
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams, seed_for


def generate(
    denoise: Denoise,
    sampler: Sampler,
    n: int,
    shape: tuple[int, int, int],
    seed: int,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    description: str | None = None,
    watch: Callable[[int, int, Tensor, Estimate], None] | None = None,
    share: tuple[int, int] = (0, 1),
    conditions: Mapping[str, Tensor] | None = None,
    streams_of: Callable[[Sequence[int]], Streams] | None = None,
) -> Tensor:
    """`n` images as uint8 (n, C, H, W) on the CPU; image i is a function of (weights, sampler, seed, i) alone.

    With conditions it is a function of these and of its own row of each.

    Args:
        shape: (C, H, W).
        description: Of the progress bar; without one there is no bar.
        watch: Called after every step with the index of the batch's first image, the step k from 1, x (B, C, H, W) and
            the estimate.
        share: (rank, devices): only the images rank, rank + devices, … of the n are drawn.
        conditions: Handed to the denoiser, such as `classes` (n,): a row for each image.
        streams_of: The random streams of images, given their indices; None: those of the seed.

    Raises UserError for conditions of another number of images.
    """
    for name, rows in (conditions or {}).items():
        if len(rows) != n:
            raise UserError(f"{name}: there are {len(rows)} for {count(n, 'image')}; give one to each image")
    images = []
    chosen = range(share[0], n, share[1])
    with progress_bar(enabled=description is not None) as progress:
        bar = progress.add_task(description or "", total=len(chosen) * sampler.steps, unit="im·step", note="")
        for first in range(0, len(chosen), batch_size):
            indices = chosen[first : first + batch_size]
            streams = streams_of(indices) if streams_of else Streams(seeds_of(seed, indices), device)

            def after_step(k: int, x: Tensor, estimate: Estimate, first: int = first) -> None:
                progress.advance(bar, len(x))
                if watch is not None:
                    watch(first, k, x, estimate)

            given = {name: rows[list(indices)].to(device) for name, rows in (conditions or {}).items()}
            under = Conditioned(denoise, **given) if given else denoise
            images.append(to_uint8(sampler(under, streams.normal(*shape), streams, after_step)).cpu())
    return torch.cat(images)


def seeds_of(seed: int, indices: Sequence[int]) -> list[int]:
    """The seeds of the random streams of the images at `indices`."""
    return [seed_for(seed, "sample", i) for i in indices]
