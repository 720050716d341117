"""Encoders of images into latents, and `Latents`: training and sampling in the latents of an encoder.

Latents are computed once, before the training, and kept in the cache. They are standardised by channel to the deviation
1/2 that schedules and networks are made for: x = (z − mean)/(2 deviation), by the statistics of the training images.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.filesize import decimal
from torch import Tensor, nn

from diffusion.base.console import console, count, duration, track
from diffusion.base.files import PACKAGE, cache_dir, digest, tensor_digest
from diffusion.data.images import alone
from diffusion.data.values import Shape, Values
from diffusion.errors import UserError, imported, refusing
from diffusion.pixels import to_uint8, to_unit
from diffusion.randomness import Streams

if TYPE_CHECKING:
    from diffusion.data.module import ImageData, Split

BUNDLED = PACKAGE / "pretrained/autoencoder"
PROBE = 128  # pixels; side of the picture that shows an encoder's sizes
BATCH = 16  # images that are encoded or decoded at a time
DEVIATION = 0.5  # of standardised latents


class Encoder(nn.Module):
    """Base class of encoders: a subclass defines `encode` and `decode`. Its weights are not trained."""

    def encode(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [−1, 1] -> latents (B, c, H/f, W/f); or their mean and their log-variance."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, c, H/f, W/f) -> images (B, C, H, W) in [−1, 1], outside of which values are clamped."""
        raise NotImplementedError

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """The latents of images, or their mean and log-variance one after the other: (B, m, H/f, W/f), m = c or 2c."""
        found = self.encode(images)
        return found if isinstance(found, Tensor) else torch.cat(found, dim=1)

    @cached_property
    def key(self) -> str:
        """A hash of the class and of the weights."""
        return digest(type(self).__name__, tensor_digest(self.state_dict()))

    def sizes(self, channels: int) -> tuple[int, int, int]:
        """(c, m, f) for images with these channels. Raises UserError if it cannot encode and decode them."""
        x = torch.zeros(1, channels, PROBE, PROBE)
        wrong = f"encoder: it does not fit images with {count(channels, 'channel')} (data.channels)"
        with refusing(wrong), torch.no_grad():
            found = self.encode(x.to(next((p.device for p in self.parameters()), x.device)))
            mean, m = (found, found.shape[1]) if isinstance(found, Tensor) else (found[0], 2 * found[0].shape[1])
            if (again := tuple(self.decode(mean).shape)) != tuple(x.shape):
                raise ValueError(f"{tuple(x.shape)} becomes {again} when it is encoded and decoded")
        return mean.shape[1], m, PROBE // mean.shape[2]


class VAE(Encoder):
    """Any autoencoder of diffusers, such as AutoencoderKL, AutoencoderTiny or AutoencoderDC.

    Args:
        path: A folder that diffusers wrote; or hf://USER/NAME or hf://USER/NAME@REVISION on the Hub.
        subfolder: The folder in it, such as vae.
    """

    def __init__(self, path: str, subfolder: str | None = None):
        super().__init__()
        diffusers = imported("diffusers", "encoder", "diffusers")
        diffusers.utils.logging.set_verbosity(50)  # CRITICAL
        where, local = f"encoder.path={path}", Path(path).expanduser()
        name, _, revision = path.removeprefix("hf://").partition("@")
        given: dict[str, Any] = {"subfolder": subfolder}
        if path.startswith("hf://"):
            given["revision"] = revision or None
        elif not local.is_dir():
            raise UserError(f"{where}: no such folder; name one that diffusers wrote, or hf://USER/NAME")
        else:
            name = str(local)
        with refusing(
            where, "; expected an autoencoder of diffusers in safetensors; set encoder.subfolder if it is there"
        ):
            kind = str(diffusers.AutoencoderKL.load_config(name, **given).get("_class_name"))
            if not kind.startswith("Autoencoder"):
                raise ValueError(f"it is a {kind}")
            network = getattr(diffusers, kind).from_pretrained(name, use_safetensors=True, **given)
        self.network = network.float().eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found = self.network.encode(images)
        if hasattr(found, "latent_dist"):
            return found.latent_dist.mean, found.latent_dist.logvar
        return found.latents if hasattr(found, "latents") else found.latent

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.network.decode(z).sample
        return decoded


def small() -> VAE:
    """The bundled autoencoder for photographs, 0.5 million parameters; see docs/autoencoder.py."""
    return VAE(str(BUNDLED))


class Latents(Values):
    """8-bit pixels that are standardised latents of an encoder in the process.

    Args:
        encoder: the encoder.
        shape: (C, H, W) of the images.
        facts: its key and the `mean` and `deviation` of each channel, as a checkpoint has them; None until `attach`.

    Raises UserError for another encoder than that of the facts, and images that it cannot encode.
    """

    def __init__(self, encoder: Encoder, shape: Shape, facts: Mapping[str, Any] | None = None):
        self.encoder = encoder.eval().requires_grad_(False)
        self.channels, self.m, self.factor = encoder.sizes(shape[0])
        if shape[1] % self.factor or shape[2] % self.factor:
            raise UserError(f"data.resolution: {shape[1]}x{shape[2]}; the encoder needs multiples of {self.factor}")
        if facts is not None:
            self.use(facts)

    def use(self, facts: Mapping[str, Any]) -> None:
        """Use the facts of a checkpoint. Those of a network's authors have no key."""
        if (known := facts.get("key")) not in (None, self.encoder.key):
            raise UserError(
                f"encoder: the model was trained with {str(known)[:12]}, and this one is {self.encoder.key[:12]}; "
                "set encoder.path to the folder of the former"
            )
        with refusing("encoder: the mean and deviation of its latents"):
            self.mean, self.deviation = (
                torch.tensor(facts[key], dtype=torch.float32).view(self.channels, 1, 1) for key in ("mean", "deviation")
            )
        self.figures = {**facts, "key": self.encoder.key}

    @property
    def facts(self) -> dict[str, Any]:
        return {"latents": self.figures}

    def shape(self, shape: Shape) -> Shape:
        return self.channels, shape[1] // self.factor, shape[2] // self.factor

    def inside(self, images: Tensor) -> Tensor:
        """The means of the latents of images."""
        encoder = self.encoder.to(images.device)
        parts = [encoder.moments(to_unit(part))[:, : self.channels] for part in images.split(BATCH)]
        return self.standardised(torch.cat(parts))

    def decoded(self, x: Tensor) -> Tensor:
        """Images in [−1, 1], roughly, of standardised latents, differentiable."""
        z = x.float() / DEVIATION * self.deviation.to(x.device) + self.mean.to(x.device)
        return self.encoder.to(x.device).decode(z)

    @torch.no_grad()
    def outside(self, x: Tensor) -> Tensor:
        found = [to_uint8(self.decoded(part)) for part in x.split(BATCH) if len(part)]
        return torch.cat(found) if found else torch.empty(0, 3, 0, 0, dtype=torch.uint8)

    def again(self, images: Tensor, device: torch.device) -> Tensor:
        """What encoding and decoding makes of images, uint8 (n, C, H, W), on the CPU."""
        parts = track(images.split(BATCH), "decoding", -(-len(images) // BATCH), "batch")
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

    def attach(self, data: "ImageData", device: torch.device, facts: Mapping[str, Any] | None) -> None:
        """Give the training and the validation images their latents, from the cache.

        Args:
            data: set up.
            device: where images are encoded.
            facts: those of a checkpoint; None: of the training images.
        """
        self.encoder.to(device)
        for name in ("train", "val"):
            split = data.splits[name]
            rows = self.cached(split, name, data.flip and name == "train", device)
            data.splits[name] = replace(split, latents=rows)
        if facts is None:
            latents = data.splits["train"].latents
            assert latents is not None
            mean, deviation = statistics(latents, self.channels)
            facts = {"key": self.encoder.key, "mean": mean, "deviation": deviation}
        self.use(facts)

    def cached(self, split: "Split", name: str, mirrored: bool, device: torch.device) -> Tensor:
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
