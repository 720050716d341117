"""Faults in EDM's augmentation: its geometry, its labels, and the random streams it draws from."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
from faults.fault import Fault

EDM = "process/test_augmentation.py"
LABELS_MATCH = f"{EDM}::test_labels_describe_the_transformation_of_the_image"
RUN = "training/test_augmentation_run.py"
DISTRIBUTED = f"{EDM}::test_labels_follow_the_specified_distributions"

FAULTS = [
    Fault(
        "rotation in the wrong direction",
        "product(rotation(-theta),",
        "product(rotation(theta),",
        f"{LABELS_MATCH}[turn]",
    ),
    Fault("scaling in the wrong direction", "2 ** (-z_scale / 5)", "2 ** (z_scale / 5)", f"{LABELS_MATCH}[scale]"),
    Fault("scaling factor too large", "2 ** (-z_scale / 5)", "2 ** (-z_scale / 4)", f"{LABELS_MATCH}[scale]"),
    Fault(
        "stretching along the perpendicular direction",
        "diagonal(1 / stretch, stretch)",
        "diagonal(stretch, 1 / stretch)",
        f"{LABELS_MATCH}[stretch]",
    ),
    Fault(
        "the label of the stretch direction is ambiguous",
        "z_stretch * (2 * phi).cos()",
        "z_stretch * phi.cos()",
        f"{LABELS_MATCH}[stretch]",
    ),
    Fault(
        "the horizontal shift is scaled by the height",
        "z_right * width / 8",
        "z_right * height / 8",
        f"{LABELS_MATCH}[shift]",
    ),
    Fault(
        "shifted to the left instead of the right",
        "columns[None, None] - right",
        "columns[None, None] + right",
        f"{LABELS_MATCH}[shift]",
    ),
    Fault(
        "flipped vertically instead of horizontally", "x0.flip(3), x0)", "x0.flip(2), x0)", f"{LABELS_MATCH}[mirror]"
    ),
    Fault(
        "pixels outside the image are black",
        'padding_mode="reflection"',
        'padding_mode="zeros"',
        f"{LABELS_MATCH}[shift]",
    ),
    Fault(
        "the centres of the outer pixels count as the edge (align_corners)",
        'padding_mode="reflection", align_corners=False',
        'padding_mode="reflection", align_corners=True',
        f"{EDM}::test_a_quarter_turn_is_exact_and_clockwise",
    ),
    Fault("every stretch has a random direction", "angles[1] * oblique.float()", "angles[1]", DISTRIBUTED),
    Fault("vertical flips twice as often", "(0.5, probability / 2,", "(0.5, probability,", DISTRIBUTED),
    Fault(
        "angles cover only half a circle",
        "2 * math.pi * streams.uniform() - math.pi",
        "math.pi * (streams.uniform() - 0.5)",
        DISTRIBUTED,
    ),
    Fault(
        "unchanged images are resampled",
        "torch.where(geometric[:, None, None, None], moved, x)",
        "moved",
        f"{EDM}::test_probability_zero_leaves_only_the_mirroring",
    ),
    Fault(
        "the augmentation uses the random streams of the noise",
        'self.streams(batch, "augment")',
        "self.streams(batch)",
        f"{RUN}::test_augmentation_and_noise_use_separate_random_streams",
    ),
    Fault(
        "the network does not receive the augmentation labels",
        'x0, given["augment"] = self.augmentation(x0, self.streams(batch, "augment"))',
        'x0, _ = self.augmentation(x0, self.streams(batch, "augment"))',
        f"{RUN}::test_the_augmentation_label_weights_are_trained",
    ),
    Fault(
        "the augmentation labels are not embedded",
        "F.linear(augment.to(waves.dtype), self.augment)",
        "0 * F.linear(augment.to(waves.dtype), self.augment)",
        f"{RUN}::test_each_network_accepts_augmentation_labels",
    ),
]
