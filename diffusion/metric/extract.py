"""Features of images: extracted in batches, with a progress bar, and gathered from all processes."""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from diffusion.console import progress_bar
from diffusion.errors import UserError
from diffusion.metric.features import FeatureExtractor
from diffusion.pixels import SHOWN_AS


def default_batch_size(extractor: FeatureExtractor) -> int:
    """The batch size of the extractor on its device."""
    return 128 if extractor.device.type == "cuda" else 8


def extract(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    n: int | None = None,
    resolution: str | None = None,
    spatial: bool = False,
    gather: bool = True,
    description: str = "scoring images",
) -> Tensor:
    """Features (N, D), or (N, D + S) with `spatial`, of the images of all processes, float32 on the CPU.

    Args:
        images: uint8 (N, C, H, W), or an iterable of uint8 (b, C, H, W) of any sizes b.
        n: number of images of this process; further images are ignored, and fewer raise ValueError. None: all.
        resolution: expected `described_size`; other images raise UserError. None: any.
        gather: return the features of all processes; False: of this process only.
        description: label of the progress bar.
    """
    if isinstance(images, Tensor):
        n = len(images) if n is None else n
        images = [images]
    features = [torch.empty(0, extractor.num_features + spatial * extractor.num_spatial)]
    done, together = 0, distributed.is_available() and distributed.is_initialized()
    with progress_bar(enabled=not (together and distributed.get_rank())) as bar:
        task = bar.add_task(description, total=n, unit="image", note="")
        for part in images:
            part = part if n is None else part[: n - done]
            if len(part) and resolution not in (None, found := described_size(part)):
                raise UserError(f"images have {found} pixels but the reference has {resolution}: use the same size")
            for batch in part.split(default_batch_size(extractor)):
                if len(batch):
                    features.append(extractor(batch, spatial).cpu())
                done += len(batch)
                bar.update(task, completed=done)
            if done == n:
                break
    if n is not None and done < n:
        raise ValueError(f"{description}: got {done} images; expected {n}")
    mine = torch.cat(features)
    if together and gather:
        parts = gather_all_tensors(mine.to(extractor.device if distributed.get_backend() == "nccl" else "cpu"))
        return torch.cat([part.cpu() for part in parts])
    return mine


def described_size(images: Tensor) -> str:
    """`HEIGHTxWIDTH` of images (…, C, H, W), and how grey or RGBA is converted to RGB: `8x8 RGBA over white`."""
    return " ".join(filter(None, ["x".join(map(str, images.shape[-2:])), SHOWN_AS.get(images.shape[-3])]))
