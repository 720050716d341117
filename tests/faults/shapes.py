"""Faults in the support of images with other sizes and channels: each removes one safeguard."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
from faults.fault import Fault

IMAGE = "data/test_image.py"
SHAPES = "evaluation/test_shapes_of_images.py"
RGB = "test_pixels.py::test_rgba_is_composited_over_white_like_pillow"

FAULTS = [
    Fault("RGBA is composed over black instead of white", "a * c + (255 - a) * 255 + 127", "a * c + 127", RGB),
    Fault("alpha composition rounds down", "(255 - a) * 255 + 127)", "(255 - a) * 255)", RGB),
    Fault(
        "a rotated image is measured before it is turned upright",
        "if (width > height) != (upright.width > upright.height):",
        "if False:",
        f"{IMAGE}::test_a_rotated_image_is_measured_upright",
    ),
    Fault(
        "height and width are swapped",
        "down, right = height_width(resolution)",
        "right, down = height_width(resolution)",
        f"{IMAGE}::test_crop_box_has_the_aspect_ratio_of_the_resolution",
    ),
    Fault(
        "colours of fully transparent pixels are kept",
        'pixels * (pixels[..., 3:] > 0) if image.mode == "RGBA" else pixels',
        "pixels",
        f"{IMAGE}::test_grey_is_the_luma_and_transparent_rgba_pixels_become_black",
    ),
    Fault(
        "the network keeps three channels",
        "        settings = followed\n",
        "",
        f"{SHAPES}::test_a_model_of_grey_images_is_exported_for_diffusers",
    ),
    Fault(
        "grey images are compared with a colour reference",
        "SHOWN_AS.get(images.shape[-3])",
        "None",
        f"{SHAPES}::test_images_with_other_channels_than_the_reference_are_refused",
    ),
    Fault(
        "only the height is checked",
        "    if height % factor or width % factor:\n",
        "    if height % factor:\n",
        f"{SHAPES}::test_incompatible_image_settings_give_one_line_errors[an indivisible width]",
    ),
]
