"""Data sets as LightningDataModules: folders, archives, the Hub, landscapes, CIFAR-10, a known density, arrays."""

from diffusion.base.pixels import to_uint8, to_unit
from diffusion.data.archive import Archive
from diffusion.data.arrays import Arrays, MeasuredData
from diffusion.data.fields import Fields
from diffusion.data.folder import Folder
from diffusion.data.hub import Hub
from diffusion.data.module import Batch, ImageData, Split
from diffusion.data.points import Drawn
from diffusion.data.series import Series
from diffusion.data.sets import Cifar10, Landscapes

__all__ = [
    "Archive", "Arrays", "Batch", "Cifar10", "Drawn", "Fields", "Folder", "Hub", "ImageData", "Landscapes",
    "MeasuredData", "Series", "Split", "to_uint8", "to_unit",
]  # fmt: skip
