"""Image data sets as LightningDataModules: a folder of images, the bundled landscapes, and CIFAR-10."""

from diffusion.data.cifar10 import Cifar10
from diffusion.data.folder import Folder
from diffusion.data.module import Batch, ImageData, Split, to_uint8, to_unit
from diffusion.data.tiles import Landscapes

__all__ = ["Batch", "Cifar10", "Folder", "ImageData", "Landscapes", "Split", "to_uint8", "to_unit"]
