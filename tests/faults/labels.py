"""Faults in the labels of images: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

TESTS = "data/test_labels.py"
SPLIT = f"{TESTS}::test_a_split_gives_and_takes_labels_with_its_images"
DEVICE = f"{TESTS}::test_classes_go_to_the_device_without_waiting"
COMPARED = f"{TESTS}::test_what_a_resumed_run_compares_has_the_labels_and_nothing_else_without_them"
FIT = f"{TESTS}::test_labels_that_do_not_fit_the_classes_are_one_line"
TRAINED = f"{TESTS}::test_a_class_without_training_images_is_one_line"
RARE = f"{TESTS}::test_a_class_too_small_for_the_training_split_is_one_line"
TABLE = f"{TESTS}::test_a_table_that_does_not_fit_is_one_line"
MARKED = f"{TESTS}::test_a_table_gives_the_classes"
ODD = f"{TESTS}::test_a_table_names_files_that_are_not_used_and_names_that_are_not_text"
STRAY = f"{TESTS}::test_an_image_without_a_folder_is_one_line"
ALONE = f"{TESTS}::test_one_class_is_nothing_to_tell_apart"
TWICE = f"{TESTS}::test_the_same_picture_with_two_labels_is_reported_and_the_first_is_kept"
LEFT_OUT = f"{TESTS}::test_files_left_out_move_no_label"
TILES = f"{TESTS}::test_tiles_have_the_class_of_their_photograph"
SCENES = f"{TESTS}::test_tiles_of_the_landscapes_have_the_scene_of_their_photograph"
CIFAR = "data/test_cifar10.py::test_each_image_has_its_class_if_labels_are_asked_for"

FAULTS = [
    Fault(
        "a chosen image has another's label",
        "labels = None if self.labels is None else self.labels[index]",
        "labels = self.labels",
        SPLIT,
    ),
    Fault(
        "a batch has the first labels",
        "classes = None if self.labels is None else self.labels[index]",
        "classes = None if self.labels is None else self.labels[: len(index)]",
        SPLIT,
    ),
    Fault(
        "classes stay on the CPU",
        "classes=None if batch.classes is None else batch.classes.to(device, non_blocking=True)",
        "classes=batch.classes",
        DEVICE,
    ),
    Fault("classes are waited for", "batch.classes.to(device, non_blocking=True)", "batch.classes.to(device)", DEVICE),
    Fault("other labels go unnoticed", "[(name, split.label_key) for", "[(name, len(split)) for", COMPARED),
    Fault(
        "other names of classes go unnoticed",
        "digest(self.classes, [(name",
        "digest(len(self.classes), [(name",
        COMPARED,
    ),
    Fault("labels beyond the classes", "if len(n) != len(classes)]", "if False]", FIT),
    Fault(
        "a class without training images",
        "            check_classes(splits, self.classes, self.missing_class)\n",
        "",
        TRAINED,
    ),
    Fault(
        "a class with validation images alone",
        'counts["train"], strict=True) if n == 0]',
        'counts["train"], strict=True) if n < 0]',
        RARE,
    ),
    Fault("the row of an unknown file", "if unknown := sorted(table.keys() - set(known)):", "if unknown := []:", TABLE),
    Fault(
        "a row without a label", "if empty := [name for name, label in rows if not label]:", "if empty := []:", TABLE
    ),
    Fault(
        "two labels of one file",
        "if twice := [name for name, label in rows if table[name] != label]:",
        "if twice := []:",
        TABLE,
    ),
    Fault(
        "a column is missing",
        "if missing := [column for column in COLUMNS if column not in columns]:",
        "if missing := []:",
        TABLE,
    ),
    Fault(
        "a table that is no table", "except (OSError, csv.Error) as error:", "except FileExistsError as error:", TABLE
    ),
    Fault("a spreadsheet's mark is a column's name", 'encoding="utf-8-sig"', 'encoding="utf-8"', MARKED),
    Fault("files that are not used are unknown", ', *(entry["path"] for entry in self.report)', "", ODD),
    Fault(
        "an image has no label",
        "if without := [name for name in photos if name not in label]:",
        "if without := []:",
        STRAY,
    ),
    Fault("a class alone", "if len(classes) < 2:", "if False:", ALONE),
    Fault(
        "a class of which no image is usable",
        "classes = sorted({label[name] for name in photos})",
        "classes = sorted(set(label.values()))",
        LEFT_OUT,
    ),
    Fault(
        "one picture with two labels",
        "differ = own is not None and other is not None and own != other",
        "differ = False",
        TWICE,
    ),
    Fault(
        "a tile is a file",
        "return images.names if self.tiles is None else images.sources",
        "return images.names",
        TILES,
    ),
    Fault(
        "a bundled tile is a photograph",
        "labelled(split, split.sources, scene",
        "labelled(split, split.names, scene",
        SCENES,
    ),
    Fault(
        "landscapes: always with classes",
        "        if self.labels:\n            scene",
        "        if True:\n            scene",
        SCENES,
    ),
    Fault(
        "CIFAR-10: always with classes",
        "        if not self.labels:\n            return Split(images, names)\n",
        "",
        CIFAR,
    ),
]
