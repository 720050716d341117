"""Image data sets as LightningDataModules: a folder, an archive, the Hub, the bundled landscapes, and CIFAR-10."""

from diffusion.data.archive import Archive
from diffusion.data.folder import Folder
from diffusion.data.hub import Hub
from diffusion.data.module import Batch, ImageData, Split, to_uint8, to_unit
from diffusion.data.sets import Cifar10, Landscapes

__all__ = ["Archive", "Batch", "Cifar10", "Folder", "Hub", "ImageData", "Landscapes", "Split", "to_uint8", "to_unit"]
