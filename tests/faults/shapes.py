"""Faults in the support of images with other sizes and channels: each removes one safeguard."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
from faults.fault import Fault

IMAGE = "data/test_image.py"
SHAPES = "evaluation/test_shapes_of_images.py"
RGB = "test_pixels.py::test_rgba_lies_over_white_as_pillow_composes_it"

FAULTS = [
    Fault("RGBA lies over black", "a * c + (255 - a) * 255 + 127", "a * c + 127", RGB),
    Fault("opacity rounds down", "(255 - a) * 255 + 127)", "(255 - a) * 255)", RGB),
    Fault(
        "a turned image is measured as it lies",
        "if (width > height) != (upright.width > upright.height):",
        "if False:",
        f"{IMAGE}::test_a_turned_image_is_measured_upright",
    ),
    Fault(
        "height and width are exchanged",
        "down, right = height_width(resolution)",
        "right, down = height_width(resolution)",
        f"{IMAGE}::test_a_window_has_the_ratio_of_its_resolution",
    ),
    Fault(
        "unseen colours stay",
        'pixels * (pixels[..., 3:] > 0) if image.mode == "RGBA" else pixels',
        "pixels",
        f"{IMAGE}::test_grey_is_the_luma_and_unseen_colours_are_black",
    ),
    Fault(
        "the network keeps three channels",
        "with_augmentation(with_channels(settings))",
        "with_augmentation(settings)",
        f"{SHAPES}::test_a_model_of_grey_images_is_exported_for_diffusers",
    ),
    Fault(
        "grey is scored against colour",
        "SHOWN_AS.get(images.shape[-3])",
        "None",
        f"{SHAPES}::test_images_of_other_channels_than_the_reference_are_not_scored",
    ),
    Fault(
        "only the height is checked",
        "    if height % factor or width % factor:\n",
        "    if height % factor:\n",
        f"{SHAPES}::test_what_does_not_fit_is_one_line[an indivisible width]",
    ),
]
