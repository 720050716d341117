"""`Values`: what the images of a data set are in the diffusion process, and what samples are outside of it."""

from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from diffusion.pixels import to_uint8, to_unit

Shape = tuple[int, int, int]


class Values:
    """8-bit pixels, which are x/127.5 − 1 in the process; also points of the plane, which stay as they are.

    Images of another kind derive from it, with facts in the checkpoint if they need any.
    """

    dtype: ClassVar[torch.dtype] = torch.uint8
    """Of the images; points are float32."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says about them (`config.build`)."""
        return {}

    def shape(self, shape: Shape) -> Shape:
        """(c, h, w) in the process, of images (C, H, W)."""
        return shape

    def inside(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> float32 (N, c, h, w)."""
        return to_unit(images)

    def outside(self, x: Tensor) -> Tensor:
        """Samples of the process (N, c, h, w) -> images (N, C, H, W)."""
        return to_uint8(x)

    def pictures(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to be looked at: uint8, C 1, 3 or 4; points as they are (see `pixels.grid`)."""
        return images

    def legend(self, picture: Image.Image) -> Image.Image:
        """A picture of `pictures`, with what its colours mean."""
        return picture
