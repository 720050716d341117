"""Faults in the labels of images: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

TESTS = "data/test_labels.py"
SPLIT = f"{TESTS}::test_a_split_selects_labels_together_with_its_images"
DEVICE = f"{TESTS}::test_classes_are_transferred_to_the_device_asynchronously"
COMPARED = f"{TESTS}::test_the_resume_keys_include_labels_only_for_labelled_data"
FIT = f"{TESTS}::test_labels_not_matching_the_classes_give_a_one_line_error"
TRAINED = f"{TESTS}::test_a_class_without_training_images_gives_a_one_line_error"
RARE = f"{TESTS}::test_a_class_missing_from_the_training_split_gives_a_one_line_error"
TABLE = f"{TESTS}::test_an_invalid_label_table_gives_a_one_line_error"
MARKED = f"{TESTS}::test_a_csv_table_assigns_the_classes"
UNUSED_FILES = f"{TESTS}::test_a_table_may_contain_unused_files_and_undecodable_names"
UNLABELLED = f"{TESTS}::test_an_image_outside_the_class_folders_gives_a_one_line_error"
SINGLE_CLASS = f"{TESTS}::test_a_single_class_is_refused"
TWICE = f"{TESTS}::test_an_image_with_two_labels_is_reported_and_keeps_the_first"
LEFT_OUT = f"{TESTS}::test_skipped_files_do_not_shift_the_labels"
TILES = f"{TESTS}::test_tiles_have_the_class_of_their_photograph"
SCENES = f"{TESTS}::test_landscape_tiles_have_the_scene_of_their_photograph"
CIFAR = "data/test_cifar10.py::test_each_image_has_its_class_if_labels_are_requested"
ACCENTS = "data/test_folder.py::test_class_names_do_not_depend_on_the_form_of_their_accents"
WORSE = "training/test_labels.py::test_a_worse_model_with_other_classes_is_refused"

FAULTS = [
    Fault(
        "accents change the order of the classes",
        "PurePosixPath(composed(name)).parts",
        "PurePosixPath(name).parts",
        ACCENTS,
    ),
    Fault("accents must have the same form in a table", "same.get(composed(name), name)", "name", ACCENTS),
    Fault(
        "a class called none cannot be asked for",
        "(labels == NONE and NONE not in counts)",
        "labels == NONE",
        "evaluation/test_classes.py::test_a_class_may_be_called_none",
    ),
    Fault(
        "chosen images get the labels of other images",
        "labels = None if self.labels is None else self.labels[index]",
        "labels = self.labels",
        SPLIT,
    ),
    Fault(
        "every batch gets the first labels",
        "classes = None if self.labels is None else self.labels[index]",
        "classes = None if self.labels is None else self.labels[: len(index)]",
        SPLIT,
    ),
    Fault(
        "classes stay on the CPU",
        "classes=None if batch.classes is None else to_device(batch.classes, device)",
        "classes=batch.classes",
        DEVICE,
    ),
    Fault(
        "in training, a worse model may have other classes",
        "        check_classes(recipe.guidance, recipe.worse, recipe.data.classes)\n",
        "        pass\n",
        WORSE,
    ),
    Fault(
        "in a command, a worse model may have other classes",
        "    check_classes(guidance, worse, [*model.labels])\n",
        "",
        WORSE,
    ),
    Fault(
        "library: a worse model may have other classes",
        "        check_classes(guidance, worse.restored, [*self.restored.labels])\n",
        "",
        WORSE,
    ),
    Fault(
        "the classes of a model that estimates without labels are compared",
        "guidance is None or guidance.drops_labels or",
        "guidance is None or",
        WORSE,
    ),
    Fault(
        "changed labels are not detected on resume", "[(name, split.label_key) for", "[(name, len(split)) for", COMPARED
    ),
    Fault(
        "changed class names are not detected on resume",
        "digest(self.classes, [(name",
        "digest(len(self.classes), [(name",
        COMPARED,
    ),
    Fault("labels beyond the number of classes are accepted", "if len(n) != len(classes)]", "if False]", FIT),
    Fault(
        "the classes of the splits are not checked",
        "            check_classes(splits, self.classes, self.missing_class)\n",
        "",
        TRAINED,
    ),
    Fault(
        "a class without training images is accepted",
        'counts["train"], strict=True) if n == 0]',
        'counts["train"], strict=True) if n < 0]',
        RARE,
    ),
    Fault(
        "a row for an unknown file is accepted",
        "if unknown := sorted(table.keys() - names):",
        "if unknown := []:",
        TABLE,
    ),
    Fault(
        "a row without a label is accepted",
        "if empty := [name for name, label in rows if not label]:",
        "if empty := []:",
        TABLE,
    ),
    Fault(
        "two labels of one file are accepted",
        "if twice := [name for name, label in rows if table[name] != label]:",
        "if twice := []:",
        TABLE,
    ),
    Fault(
        "a missing column is not reported",
        "if missing := [column for column in COLUMNS if column not in columns]:",
        "if missing := []:",
        TABLE,
    ),
    Fault(
        "an unreadable table ends in a traceback",
        "except (OSError, csv.Error) as error:",
        "except FileExistsError as error:",
        TABLE,
    ),
    Fault("a byte order mark becomes part of a column's name", 'encoding="utf-8-sig"', 'encoding="utf-8"', MARKED),
    Fault("table rows for unused files are refused", ', *(entry["path"] for entry in self.report)', "", UNUSED_FILES),
    Fault(
        "an image without a label is not reported",
        "if without := [name for name in photos if name not in label]:",
        "if without := []:",
        UNLABELLED,
    ),
    Fault("a single class is accepted", "if len(classes) < 2:", "if False:", SINGLE_CLASS),
    Fault(
        "a class without usable images is kept",
        "classes = sorted({label[name] for name in photos})",
        "classes = sorted(set(label.values()))",
        LEFT_OUT,
    ),
    Fault(
        "contradictory labels of one picture are not reported",
        "differ = own is not None and other is not None and own != other",
        "differ = False",
        TWICE,
    ),
    Fault(
        "a tile is looked up by its own name instead of its file",
        "photos = images.names if self.tiles is None else images.sources",
        "photos = images.names",
        TILES,
    ),
    Fault(
        "a bundled tile is looked up by its own name",
        "labelled(split, split.sources, scene",
        "labelled(split, split.names, scene",
        SCENES,
    ),
    Fault(
        "landscapes: classes even if not requested",
        "        if self.labels:\n            scene",
        "        if True:\n            scene",
        SCENES,
    ),
    Fault(
        "CIFAR-10: classes even if not requested",
        "        if not self.labels:\n            return Split(images, names)\n",
        "",
        CIFAR,
    ),
]
