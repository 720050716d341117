"""Features of images: extracted in batches, with a progress bar, and gathered from all processes."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from diffusion.console import progress_bar
from diffusion.errors import UserError
from diffusion.metric.features import FeatureExtractor


def extract(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    n: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    resolution: str | None = None,
    spatial: bool = False,
) -> Tensor:
    """Features (N, D) of the images of all processes, float32 on the CPU. For the arguments see `in_batches`.

    With `spatial` they are (N, D + S), the spatial features last.
    """
    batches = in_batches(images, extractor, n, "Scoring", batch_size, progress, resolution, spatial)
    width = extractor.num_features + spatial * extractor.num_spatial
    features = torch.cat([torch.empty(0, width), *(batch.cpu() for batch in batches)])
    if distributed.is_available() and distributed.is_initialized():
        parts = gather_all_tensors(features.to(extractor.device if distributed.get_backend() == "nccl" else "cpu"))
        features = torch.cat([part.cpu() for part in parts])
    return features


def in_batches(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    n: int | None = None,
    description: str = "Scoring",
    batch_size: int | None = None,
    progress: bool = True,
    resolution: str | None = None,
    spatial: bool = False,
) -> Iterator[Tensor]:
    """Features (b, D), or (b, D + S) with `spatial`, of this process's images, in batches, with a progress bar.

    Args:
        images: uint8 (N, 3, H, W), or an iterable of uint8 (b, 3, H, W) of any sizes b.
        n: how many images; further ones are not used, and fewer are a ValueError. None: all.
        batch_size: of the extractor; None: 128 on a GPU, 8 on a CPU.
        resolution: HEIGHTxWIDTH; UserError for images of another one. None: any.
    """
    if isinstance(images, Tensor):
        n = len(images) if n is None else n
        images = [images]
    batch_size = batch_size or (128 if extractor.device.type == "cuda" else 8)
    done = 0
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    with progress_bar(enabled=progress and first) as bar:
        task = bar.add_task(description, total=n, unit="image", note="")
        for part in images:
            part = part if n is None else part[: n - done]
            if len(part) and resolution not in (None, found := resolution_of(part)):
                raise UserError(f"images of {found} pixels to score; the reference has {resolution}: resize them alike")
            for batch in part.split(batch_size):
                if len(batch):
                    yield extractor(batch, spatial)
                done += len(batch)
                bar.update(task, completed=done)
            if done == n:
                break
    if n is not None and done < n:
        raise ValueError(f"{description}: {done} images came; expected {n}")


def resolution_of(images: Tensor) -> str:
    """`HEIGHTxWIDTH`."""
    return "x".join(map(str, images.shape[-2:]))
