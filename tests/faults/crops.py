"""Faults in random crops: their positions and sizes, their coordinates, and their use in a run."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
from faults.fault import Fault

CROPS = "process/test_crops.py"
PART = f"{CROPS}::test_a_crop_and_its_coordinates_match_its_window"
WHOLE = f"{CROPS}::test_whole_images_have_coordinates_from_minus_1_to_1"
SIZES = f"{CROPS}::test_crop_sizes_are_drawn_per_batch_with_the_given_probabilities"
PLACES = f"{CROPS}::test_crop_positions_are_uniform_and_depend_only_on_the_image"
NETWORK = f"{CROPS}::test_a_network_with_coordinates_sees_the_position_of_a_crop"
REFUSED = f"{CROPS}::test_incompatible_crop_sizes_are_refused"
RUN = "training/test_crops_run.py"
BAD = f"{RUN}::test_incompatible_crop_settings_give_one_line_errors"

FAULTS = [
    Fault("positions: top and left swapped", "torch.stack([top, left, torch", "torch.stack([left, top, torch", PART),
    Fault("positions: the last one is never drawn", "(side + 1)).long()", "side).long()", PLACES),
    Fault(
        "sizes: every device draws its own size",
        'seed_for("shared", self.batch_seed,',
        'seed_for("shared", *self.keys.flatten().tolist(),',
        f"{CROPS}::test_all_devices_draw_the_same_crop_size",
    ),
    Fault("sizes: wrong choice from the cumulative probabilities", "if u < edge)", "if u > edge)", SIZES),
    Fault("sizes: share of side length instead of pixels", "p / d**2 for", "p / d for", SIZES),
    Fault("sizes: sizes that do not fit are accepted", "if d not in fitting:", "if False:", REFUSED),
    Fault("sizes: not checked against the network", "crops.check(height, width, factor)", "pass", BAD),
    Fault(
        "coordinates: vertical and horizontal swapped",
        "torch.stack([across, down], dim=1)",
        "torch.stack([down, across], dim=1)",
        WHOLE,
    ),
    Fault("coordinates: 1 is beyond the last pixel", "(whole - 1).clamp(min=1)", "whole.clamp(min=1)", WHOLE),
    Fault(
        "coordinates: those of a whole image",
        "torch.cat([x, coordinates(x, window)]",
        "torch.cat([x, coordinates(x)]",
        NETWORK,
    ),
    Fault(
        "coordinates: a window is ignored by a network without coordinates",
        "        if window is not None:\n            raise",
        "        if False:\n            raise",
        NETWORK,
    ),
    Fault(
        "run: trained on whole images instead of crops",
        'x0, given["window"] = self.crops(',
        '_, given["window"] = self.crops(',
        f"{RUN}::test_training_uses_crops_with_windows_and_validation_whole_images",
    ),
    Fault(
        "run: positions use the random stream of the noise",
        'self.streams(batch, "crops")',
        "self.streams(batch)",
        f"{RUN}::test_crops_augmentation_and_noise_use_separate_random_streams",
    ),
    Fault("run: a network without coordinates is accepted", "    if key not in settings.model:", "    if False:", BAD),
    Fault(
        "run: a network with coordinates is exported for diffusers",
        'if chosen.get("coordinates"):',
        "if False:",
        f"{RUN}::test_export_to_diffusers_is_refused_with_coordinates",
    ),
]
