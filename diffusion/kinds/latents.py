"""`Latents`: pictures that are latents of an encoder in the diffusion process.

Latents are computed once, before the training, and kept in the cache. They are standardised by channel to the deviation
1/2 that schedules and networks are made for: x = (z − mean)/(2 deviation), by the statistics of the training images.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from rich.filesize import decimal
from torch import Tensor

from diffusion.base.console import console, count, duration, track
from diffusion.base.files import cache_dir, digest
from diffusion.base.images import alone
from diffusion.base.pixels import to_uint8, to_unit
from diffusion.errors import UserError, refusing
from diffusion.kinds.encoder import BATCH, DEVIATION, Encoder
from diffusion.kinds.kind import Kind, Part, Shape
from diffusion.kinds.pixels import Pixels
from diffusion.process.operators import Nonlinear
from diffusion.randomness import Streams


class Latents(Pixels):
    """8-bit pixels that are standardised latents of an encoder in the diffusion process.

    Args:
        encoder: the encoder.
        shape: (C, H, W) of the images.
        figures: its key and the `mean` and `deviation` of each channel, as a checkpoint has them; None until `attach`.

    Raises UserError for another encoder than that of the figures, and images that it cannot encode.
    """

    name = "latents"
    bounded: ClassVar[bool] = False
    of_usual_deviation: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {
        "bits": "of latents, not of images; remove it, or use a model of pixels",
        "floor": "it is not computed for latents; measure a model of pixels",
        "export --format web": "a page cannot decode latents; use diffusion sample",
    } | dict.fromkeys(
        ("condition", "augmentation", "crops", "validation.floor"),
        "latents have no condition, augmentation, crops or floor; set condition=none augmentation=none crops=none "
        "validation.floor=false, or encoder=none",
    )

    def __init__(self, encoder: Encoder, shape: Shape, figures: Mapping[str, Any] | None = None):
        self.encoder = encoder.eval().requires_grad_(False)
        self.channels, self.m, self.factor = encoder.sizes(shape[0])  # type: ignore[misc]
        if shape[1] % self.factor or shape[2] % self.factor:
            raise UserError(f"data.resolution: {shape[1]}x{shape[2]}; the encoder needs multiples of {self.factor}")
        if figures is not None:
            self.use(figures)

    def use(self, figures: Mapping[str, Any]) -> None:
        """Use the figures of a checkpoint. Those of a network's authors have no key."""
        if (known := figures.get("key")) not in (None, self.encoder.key):
            raise UserError(
                f"encoder: the model was trained with {str(known)[:12]}, and this one is {self.encoder.key[:12]}; "
                "set encoder.path to the folder of the former"
            )
        with refusing("encoder: the mean and deviation of its latents"):
            self.mean, self.deviation = (
                torch.tensor(figures[key], dtype=torch.float32).view(self.channels, 1, 1)
                for key in ("mean", "deviation")
            )
        self._figures = {**figures, "key": self.encoder.key}

    @property
    def figures(self) -> dict[str, Any]:
        return self._figures

    @property
    def outer(self) -> Kind:
        return Pixels()

    def space(self, shape: Shape) -> Shape:
        return self.channels, shape[1] // self.factor, shape[2] // self.factor

    def inside(self, examples: Tensor) -> Tensor:
        """The means of the latents of images."""
        encoder = self.encoder.to(examples.device)
        parts = [encoder.moments(to_unit(part))[:, : self.channels] for part in examples.split(BATCH)]
        return self.standardised(torch.cat(parts))

    def batch(self, examples: Tensor, streams: Callable[[], Streams]) -> Tensor:
        """Of the stored moments of latents (B, m, h, w): another draw in each epoch of the training."""
        return self.drawn(examples, streams())

    def observing(self, operator: Callable[[Tensor], Tensor]) -> Any:
        return Nonlinear(lambda x: operator(self.decoded(x)))

    def decoded(self, x: Tensor) -> Tensor:
        """Images in [−1, 1], roughly, of standardised latents, differentiable."""
        z = x.float() / DEVIATION * self.deviation.to(x.device) + self.mean.to(x.device)
        return self.encoder.to(x.device).decode(z)

    def known(self, part: Part) -> tuple[Tensor, Tensor]:
        """A latent that touches a pixel to be filled is not known, nor computed from it."""
        fill, pixels = part.fill, part.example
        colour = pixels[:, ~fill].float().mean(dim=1).to(torch.uint8)[:, None]
        x = self.inside(torch.where(fill, colour[..., None], pixels)[None])
        return x, ~(F.max_pool2d(fill[None].float(), self.factor)[0] > 0)

    @torch.no_grad()
    def outside(self, x: Tensor) -> Tensor:
        found = [to_uint8(self.decoded(part)) for part in x.split(BATCH) if len(part)]
        return torch.cat(found) if found else torch.empty(0, 3, 0, 0, dtype=torch.uint8)

    def ceiling(self, examples: Tensor, device: torch.device) -> Tensor:
        """What encoding and decoding makes of images, uint8 (n, C, H, W), on the CPU."""
        parts = track(examples.split(BATCH), "decoding", -(-len(examples) // BATCH), "batch")
        return torch.cat([self.outside(self.inside(part.to(device))).cpu() for part in parts])

    def standardised(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) with the mean 0 and the deviation 1/2."""
        return (z - self.mean.to(z.device)) / self.deviation.to(z.device) * DEVIATION

    def drawn(self, moments: Tensor, streams: Streams) -> Tensor:
        """Standardised latents (B, c, h, w), drawn from N(mean, variance) where the encoder has both."""
        z, log_variance = moments.float().tensor_split([self.channels], dim=1)
        if log_variance.shape[1]:
            z = z + (log_variance / 2).exp() * streams.normal_like(z)
        return self.standardised(z)

    def attach(self, data: Any, device: torch.device, before: Callable[[], Mapping[str, Any] | None]) -> None:
        """Give the training and the validation images their latents, from the cache.

        Args:
            data: an `ImageData` that has been set up.
            device: where images are encoded.
            before: the figures of the model whose weights are trained further; None: of the training images.
        """
        self.encoder.to(device)
        for name in ("train", "val"):
            split = data.splits[name]
            rows = self.cached(split, name, data.flip and name == "train", device)
            data.splits[name] = replace(split, latents=rows)
        if (figures := before()) is None:
            mean, deviation = statistics(data.splits["train"].latents, self.channels)
            figures = {"key": self.encoder.key, "mean": mean, "deviation": deviation}
        self.use(figures)

    def cached(self, split: Any, name: str, mirrored: bool, device: torch.device) -> Tensor:
        """`Encoder.moments` of N images, and with `mirrored` of their mirror images, float16 (N, 1 or 2, m, h, w).

        Every process memory-maps the file in the cache, which one of them writes. A killed one goes on in its file.
        """
        views, images = 1 + mirrored, split.images
        shape = len(images), views, self.m, images.shape[2] // self.factor, images.shape[3] // self.factor
        file = cache_dir("latents") / f"{digest('latents 1', self.encoder.key, split.key, shape)}.bin"
        size = 2 * math.prod(shape)  # bytes
        with alone(file.with_suffix(".lock")):
            if size and not file.is_file():
                part, batches = file.with_suffix(".part"), images.split(BATCH)
                with part.open("ab") as stream:
                    each = size // len(images) * BATCH
                    done = stream.tell() // each
                    stream.truncate(done * each)
                    began = time.monotonic()
                    for k in track(range(done, len(batches)), f"encoding {name}", len(batches) - done, "batch"):
                        x = to_unit(batches[k].to(device))
                        rows = torch.stack([self.encoder.moments(x.flip(-1) if i else x) for i in range(views)], dim=1)
                        stream.write(rows.half().cpu().contiguous().numpy().data)
                        if k == done:
                            left = duration((time.monotonic() - began) * (len(batches) - done))
                            what = f"{count(len(images), 'image')} of {name}{' and mirrored' * mirrored}"
                            console.print(f"encoding {what}: {decimal(size)} in the cache, about {left}, once")
                os.replace(part, file)
        return torch.from_file(str(file), size=math.prod(shape), dtype=torch.float16).view(shape)


def statistics(moments: Tensor, channels: int) -> tuple[list[float], list[float]]:
    """The mean and the deviation of each channel of latents, of their moments (N, V, m, h, w)."""
    sums = torch.zeros(3, channels, dtype=torch.float64)
    for part in moments.split(1000):
        z, log_variance = part.double().tensor_split([channels], dim=2)
        sums[0] += z.mean(dim=(1, 3, 4)).sum(dim=0)
        sums[1] += z.square().mean(dim=(1, 3, 4)).sum(dim=0)
        if log_variance.shape[2]:
            sums[2] += log_variance.exp().mean(dim=(1, 3, 4)).sum(dim=0)
    mean, square, variance = sums / len(moments)
    return mean.tolist(), (square - mean**2 + variance).sqrt().tolist()
