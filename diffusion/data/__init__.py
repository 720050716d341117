"""Image data sets as LightningDataModules: a folder of images, the bundled landscapes, and CIFAR-10."""

from diffusion.data.folder import Folder
from diffusion.data.module import Batch, ImageData, Split, to_uint8, to_unit
from diffusion.data.sets import Cifar10, Landscapes

__all__ = ["Batch", "Cifar10", "Folder", "ImageData", "Landscapes", "Split", "to_uint8", "to_unit"]
