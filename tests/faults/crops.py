"""Faults in random crops: their places and sizes, their coordinates, and their use in a run."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
from faults.fault import Fault

CROPS = "process/test_crops.py"
PART = f"{CROPS}::test_a_part_is_what_its_window_says_and_has_its_coordinates"
WHOLE = f"{CROPS}::test_whole_images_have_coordinates_from_minus_1_to_1"
SIZES = f"{CROPS}::test_sizes_are_drawn_for_a_batch_with_their_probabilities"
PLACES = f"{CROPS}::test_places_are_uniform_and_those_of_their_images"
NETWORK = f"{CROPS}::test_a_network_sees_the_place_of_a_part"
REFUSED = f"{CROPS}::test_sizes_that_do_not_fit_are_refused"
RUN = "training/test_crops_run.py"
BAD = f"{RUN}::test_what_does_not_fit_is_one_line"

FAULTS = [
    Fault("places: top and left swapped", "torch.stack([top, left, torch", "torch.stack([left, top, torch", PART),
    Fault("places: the last one is never drawn", "(side + 1)).long()", "side).long()", PLACES),
    Fault(
        "sizes: one for each device",
        'seed_for("shared", self.batch_seed,',
        'seed_for("shared", *self.keys.flatten().tolist(),',
        f"{CROPS}::test_devices_draw_one_size",
    ),
    Fault("sizes: the least probable first", "if u < edge)", "if u > edge)", SIZES),
    Fault("sizes: the share of sides", "p / d**2 for", "p / d for", SIZES),
    Fault("sizes: any", "if d not in fitting:", "if False:", REFUSED),
    Fault("sizes: whatever the network divides", "crops.check(height, width, factor)", "pass", BAD),
    Fault(
        "coordinates: down and across swapped",
        "torch.stack([across, down], dim=1)",
        "torch.stack([down, across], dim=1)",
        WHOLE,
    ),
    Fault("coordinates: −1 and 1 are the edges", "(whole - 1).clamp(min=1)", "whole.clamp(min=1)", WHOLE),
    Fault(
        "coordinates: those of a whole image",
        "torch.cat([x, coordinates(x, window)]",
        "torch.cat([x, coordinates(x)]",
        NETWORK,
    ),
    Fault(
        "coordinates: a window for whom does not take it",
        "        if window is not None:\n            raise",
        "        if False:\n            raise",
        NETWORK,
    ),
    Fault(
        "run: whole images",
        'x0, given["window"] = self.crops(',
        '_, given["window"] = self.crops(',
        f"{RUN}::test_training_sees_parts_with_their_windows_and_validation_whole_images",
    ),
    Fault(
        "run: places from the stream of the noise",
        'self.streams(batch, "crops")',
        "self.streams(batch)",
        f"{RUN}::test_the_places_are_not_those_of_the_noise",
    ),
    Fault("run: a network that can't be told", 'if "coordinates" not in settings.model:', "if False:", BAD),
    Fault(
        "run: coordinates in diffusers",
        'if chosen.get("coordinates"):',
        "if False:",
        f"{RUN}::test_what_diffusers_does_not_make_is_one_line",
    ),
]
