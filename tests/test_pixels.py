"""Grey and RGBA images are shown and scored as RGB by the same rule."""

import numpy as np
import torch
from PIL import Image

from diffusion.base.pixels import height_width, resolution_of, to_rgb


def test_grey_images_are_repeated_to_three_channels() -> None:
    images = torch.randint(256, (7, 2, 1, 4, 5), dtype=torch.uint8)
    assert torch.equal(to_rgb(images), images.repeat(1, 1, 3, 1, 1))


def test_rgba_is_composited_over_white_like_pillow() -> None:
    colour, opacity = (axis.flatten() for axis in np.meshgrid(np.arange(256), np.arange(256)))
    pixels = np.stack([colour, 255 - colour, colour // 2, opacity], axis=-1).astype(np.uint8)[None]
    white = Image.new("RGBA", (65536, 1), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB")).astype(int)
    found = to_rgb(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert abs(found - expected).max() <= 1  # Pillow rounds differently
    exact = (pixels[..., :3] * (opacity[:, None] / 255)) + 255 - opacity[:, None]
    assert abs(found - exact).max() <= 0.5


def test_a_resolution_is_one_side_or_height_and_width() -> None:
    assert height_width(8) == (8, 8)
    assert height_width([8, 12]) == (8, 12)
    assert [resolution_of(8, 8), resolution_of(8, 12)] == [8, [8, 12]]
