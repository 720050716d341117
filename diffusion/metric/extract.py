"""Features of images: batch by batch under a progress bar, and those of all processes in one tensor."""

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
    """Features (N, D) of `images` as `score` takes them, of all processes, float32 on the CPU.

    With `spatial` (N, D + S), the spatial features last.

    Memory of the device does not grow with N; that of the CPU by 4 D bytes an image.
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
    n: int | None,
    description: str,
    batch_size: int | None,
    progress: bool,
    resolution: str | None = None,
    spatial: bool = False,
) -> Iterator[Tensor]:
    """Features (b, D), or (b, D + S), of the first `n` images, in batches, under a progress bar."""
    if isinstance(images, Tensor):
        n = len(images) if n is None else n
        images = [images]
    batch_size = batch_size or (128 if extractor.device.type == "cuda" else 8)
    seen = 0
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    with progress_bar(enabled=progress and first) as bar:
        task = bar.add_task(description, total=n, unit="image", note="")
        for arrived in images:
            arrived = arrived if n is None else arrived[: n - seen]
            if len(arrived) and resolution not in (None, found := resolution_of(arrived)):
                raise UserError(f"images of {found} pixels to score; the reference has {resolution}: resize them alike")
            for batch in arrived.split(batch_size):
                if len(batch):
                    yield extractor(batch, spatial)
                seen += len(batch)
                bar.update(task, completed=seen)
            if seen == n:
                break
    if n is not None and seen < n:
        raise ValueError(f"{description}: {seen} images came; expected {n}")


def resolution_of(images: Tensor) -> str:
    """`HEIGHTxWIDTH`."""
    return "x".join(map(str, images.shape[-2:]))
