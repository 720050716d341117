"""Faults in EDM's augmentation: its geometry, its labels, and the source of its amounts."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
from faults.fault import Fault

EDM = "process/test_augmentation.py"
SAYS = f"{EDM}::test_the_image_is_what_its_labels_say"
RUN = "training/test_augmentation_run.py"
DISTRIBUTED = f"{EDM}::test_labels_have_their_distributions"

FAULTS = [
    Fault("turned the other way", "product(rotation(-theta),", "product(rotation(theta),", f"{SAYS}[turn]"),
    Fault("scaled the other way", "2 ** (-z_scale / 5)", "2 ** (z_scale / 5)", f"{SAYS}[scale]"),
    Fault("scaled too far", "2 ** (-z_scale / 5)", "2 ** (-z_scale / 4)", f"{SAYS}[scale]"),
    Fault("stretched across", "diagonal(1 / stretch, stretch)", "diagonal(stretch, 1 / stretch)", f"{SAYS}[stretch]"),
    Fault("an ambiguous direction", "z_stretch * (2 * phi).cos()", "z_stretch * phi.cos()", f"{SAYS}[stretch]"),
    Fault("shifted by the height", "z_right * width / 8", "z_right * height / 8", f"{SAYS}[shift]"),
    Fault("shifted to the left", "columns[None, None] - right", "columns[None, None] + right", f"{SAYS}[shift]"),
    Fault("upended instead of mirrored", "x0.flip(3), x0)", "x0.flip(2), x0)", f"{SAYS}[mirror]"),
    Fault("the edge is black", 'padding_mode="reflection"', 'padding_mode="zeros"', f"{SAYS}[shift]"),
    Fault(
        "the middles of the outer pixels are the edge",
        'padding_mode="reflection", align_corners=False',
        'padding_mode="reflection", align_corners=True',
        f"{EDM}::test_a_quarter_turn_is_exact_and_clockwise",
    ),
    Fault("upended twice as often", "(0.5, probability / 2,", "(0.5, probability,", DISTRIBUTED),
    Fault(
        "the angle is of half a circle",
        "2 * math.pi * streams.uniform() - math.pi",
        "math.pi * (streams.uniform() - 0.5)",
        DISTRIBUTED,
    ),
    Fault(
        "images that are not changed are resampled",
        "torch.where(geometric[:, None, None, None], moved, x)",
        "moved",
        f"{EDM}::test_only_the_mirror_is_left_without_probability",
    ),
    Fault(
        "the augmentation draws from the noise's streams",
        'self.streams(batch, "augment")',
        "self.streams(batch)",
        f"{RUN}::test_the_amounts_are_not_those_of_the_noise",
    ),
    Fault(
        "the network is not told",
        'x0, given["augment"] = self.augmentation(x0, self.streams(batch, "augment"))',
        'x0, _ = self.augmentation(x0, self.streams(batch, "augment"))',
        f"{RUN}::test_the_network_has_learned_from_the_labels",
    ),
    Fault(
        "the labels are not embedded",
        "F.linear(augment.to(waves.dtype), self.augment)",
        "0 * F.linear(augment.to(waves.dtype), self.augment)",
        f"{RUN}::test_each_network_takes_the_labels",
    ),
]
