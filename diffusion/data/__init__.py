"""Data sets as LightningDataModules: a folder, an archive, the Hub, bundled landscapes, CIFAR-10, a known density."""

from diffusion.data.archive import Archive
from diffusion.data.folder import Folder
from diffusion.data.hub import Hub
from diffusion.data.module import Batch, ImageData, Split
from diffusion.data.points import Drawn
from diffusion.data.sets import Cifar10, Landscapes
from diffusion.pixels import to_uint8, to_unit

__all__ = [
    "Archive", "Batch", "Cifar10", "Drawn", "Folder", "Hub", "ImageData", "Landscapes", "Split", "to_uint8", "to_unit",
]  # fmt: skip
