"""Encoders of images into latents, and back; see `latents.Latents`."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.base.console import count
from diffusion.base.files import PACKAGE, digest, tensor_digest
from diffusion.errors import UserError, imported, refusing

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
