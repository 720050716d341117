"""Drawing images from a denoiser."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from diffusion.console import count, progress_bar
from diffusion.data import to_uint8
from diffusion.errors import UserError
from diffusion.process.denoiser import Conditioned, Denoise, Estimate
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams, seeds_for

Watch = Callable[[int, int, Tensor, Estimate], None]
"""Called after every step: index of the batch's first image, step k (from 1), x (B, C, H, W), the estimate."""


def batches_of(n: int, batch_size: int, share: tuple[int, int] = (0, 1)) -> list[range]:
    """Split the indices of n images into batches; `share` = (rank, devices) selects batches rank, rank + devices, ….

    The batches are the same for any number of devices, so rounding does not depend on it.
    """
    rank, devices = share
    starts = range(rank * batch_size, n, devices * batch_size)
    return [range(first, min(first + batch_size, n)) for first in starts]


def draw(
    denoise: Denoise,
    sampler: Sampler,
    batches: Sequence[range],
    shape: tuple[int, int, int],
    seed: int,
    device: torch.device | str = "cpu",
    description: str | None = None,
    watch: Watch | None = None,
    conditions: Mapping[str, Tensor] | None = None,
    streams_of: Callable[[Sequence[int]], Streams] | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Yield each batch's indices and images, uint8 (B, C, H, W) on the CPU, as they are drawn; see `generate`."""
    total = sum(map(len, batches)) * sampler.steps
    with progress_bar(enabled=description is not None) as progress:
        bar = progress.add_task(description or "", total=total, unit="im·step", note="")
        for indices in batches:
            streams = streams_of(indices) if streams_of else Streams(seeds_of(seed, indices), device)

            def after_step(k: int, x: Tensor, estimate: Estimate, first: int = indices.start) -> None:
                progress.advance(bar, len(x))
                if watch is not None:
                    watch(first, k, x, estimate)

            given = {name: rows[list(indices)].to(device) for name, rows in (conditions or {}).items()}
            under = Conditioned(denoise, **given) if given else denoise
            yield indices, to_uint8(sampler(under, streams.normal(*shape), streams, after_step)).cpu()


def generate(
    denoise: Denoise,
    sampler: Sampler,
    n: int,
    shape: tuple[int, int, int],
    seed: int,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    description: str | None = None,
    watch: Watch | None = None,
    share: tuple[int, int] = (0, 1),
    conditions: Mapping[str, Tensor] | None = None,
    streams_of: Callable[[Sequence[int]], Streams] | None = None,
) -> Tensor:
    """Draw `n` images, uint8 (n, C, H, W) on the CPU; image i is a function of (weights, sampler, seed, i) alone.

    With conditions, image i also depends on its own row of each condition.

    Args:
        shape: (C, H, W).
        description: Label of the progress bar; None: no bar.
        watch: Called after every step.
        share: (rank, devices): draw only the batches of this device, see `batches_of`.
        conditions: Inputs for the denoiser, such as `classes` (n,), with one row per image.
        streams_of: Maps image indices to their random streams; None: the streams of the seed.

    Raises UserError for conditions with a number of rows other than n.
    """
    for name, rows in (conditions or {}).items():
        if len(rows) != n:
            raise UserError(f"{name}: got {len(rows)} for {count(n, 'image')}; pass one per image")
    batches = batches_of(n, batch_size, share)
    drawn = draw(denoise, sampler, batches, shape, seed, device, description, watch, conditions, streams_of)
    return torch.cat([torch.empty(0, *shape, dtype=torch.uint8), *(images for _, images in drawn)])


def seeds_of(seed: int, indices: Sequence[int]) -> list[int]:
    """The seeds of the random streams of the images at `indices`."""
    return seeds_for(seed, "sample", last=indices)
