"""Faults in the safeguards against settings of a wrong type, and against resuming with other settings."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

BAD = "training/test_bad_input.py::test_invalid_settings_are_refused_before_any_image_is_read"
KINDS = "test_settings.py::test_arguments_are_checked_against_their_annotations"
RESUME = "training/test_resume.py"
OTHER = f"{RESUME}::test_incompatible_settings_on_resume_are_refused_without_changing_the_run"

FOLLOWED = "training/test_train_command.py::test_derived_settings_do_not_make_a_complete_job_run_again"

MISTAKE = "training/test_own_mistakes.py::test_a_mistake_in_an_own_part_is_one_line_before_training"

FAULTS = [
    Fault(
        "own parts: an object of any class is accepted",
        "kind is not None and not isinstance(made, kind)",
        "False",
        MISTAKE,
    ),
    Fault(
        "own parts: a node without a class is built",
        'if kind is not None and "_target_" not in node:',
        "if False:",
        MISTAKE,
    ),
    Fault("own parts: the loss of an image has any shape", "if term.shape != t.shape:", "if False:", MISTAKE),
    Fault(
        "own parts: a network may return one image",
        "((*x.shape[:1], *x.shape[2:]) for x in (out, x_t))",
        "(x.shape[2:] for x in (out, x_t))",
        MISTAKE,
    ),
    Fault("own parts: images may be float", "if split.images.dtype != torch.uint8:", "if False:", MISTAKE),
    Fault(
        "own parts: images may have too few names", "if len(split.names) != len(split.images):", "if False:", MISTAKE
    ),
    Fault(
        "own parts: features are checked after training",
        "        check_extractor(self.extractor, self.data.shape)\n",
        "",
        MISTAKE,
    ),
    Fault(
        "own parts: a size that no checkpoint knows",
        '"resolution" not in settings.data or given',
        "False and given",
        MISTAKE,
    ),
    Fault(
        "own parts: a network without the attribute `classes` gets labels",
        'if (has := getattr(labelled.network, "classes", None)) != known:',
        "if (has := None) == 0:",
        "training/test_own_mistakes.py::test_a_network_that_cannot_use_labels_is_refused",
    ),
    Fault(
        "own parts: a class table without a last row is found at a random step",
        'if "classes" in given and module.settings.label_dropout:',
        "if False:",
        "training/test_own_mistakes.py::test_a_network_that_cannot_use_labels_is_refused",
    ),
    Fault(
        "own parts: statistics of an extractor's earlier code are used",
        "fields is not None and _same(",
        "fields is not None or _same(",
        "training/test_own_mistakes.py::test_reference_statistics_are_computed_again_if_an_extractor_computes_something_else",
    ),
    Fault(
        "own parts: features of an extractor's earlier code are used",
        "if _same(known[:1], extractor(images[:1]).cpu()):",
        "if True:",
        "training/test_own_mistakes.py::test_reference_statistics_are_computed_again_if_an_extractor_computes_something_else",
    ),
    Fault(
        "a longer run logs the step of its earlier end again",
        " and not validates:",
        " and False:",
        "training/test_resume.py::test_a_complete_run_that_is_made_longer_counts_its_steps_on",
    ),
    Fault(
        "help: the class of another module with the same name",
        'file if (file := place.with_suffix(".py")).is_file() else place',
        "PACKAGE / inner[1]",
        "test_help.py::test_the_documentation_of_every_choice_is_that_of_its_own_class",
    ),
    Fault(
        "help: a class is its own base",
        'if (name := ast.unparse(base).rpartition(".")[2]) != node.name:',
        'if (name := ast.unparse(base).rpartition(".")[2]):',
        "test_help.py::test_the_help_of_every_group_lists_its_choices",
    ),
    Fault(
        "help: without the comments after values",
        'about or said.get(key, "")',
        "about",
        "test_help.py::test_a_comment_after_a_value_documents_it_if_nothing_else_does",
    ),
    Fault(
        "ema=none leaves the decay of the experiment",
        'return node if node and node.get("_target_", "") is not None else None',
        "return node",
        "test_settings.py::test_every_recipe_can_do_without_an_average_of_its_weights",
    ),
    Fault(
        "the table of the profiler is not printed",
        "run.trainer.is_global_zero and (table :=",
        "False and (table :=",
        "training/test_trainer_settings.py::test_trainer_settings_for_clipping_profiling_and_debugging_work",
    ),
    Fault(
        "the guard advises skipping for weights",
        'what == "weights" or self.action',
        "self.action",
        "reliability/test_guard.py::test_t6_a_non_finite_weight_stops_the_run_with_and_without_ema",
    ),
    Fault(
        "settings are not checked",
        "return validated(schema, values)",
        "return schema.model_construct(**values)",
        BAD,
    ),
    Fault("arguments are not checked", "        if callable(named):  # else", "        if False:  # else", BAD),
    Fault(
        "parts' arguments are not checked",
        '        check_node(value, f"{where}.{key}")\n',
        "        pass\n",
        BAD,
    ),
    Fault(
        "parts that are built later are not checked early",
        "            check_node(settings.model_dump().get(group), group)\n",
        "            pass\n",
        BAD,
    ),
    Fault(
        "true is accepted as an integer", "ConfigDict(strict=True, protected", "ConfigDict(strict=False, protected", BAD
    ),
    Fault("NaN is accepted as a number", "if math.isnan(value):", "if False:", BAD),
    Fault(
        "plain values are accepted in place of an object",
        "    if isinstance(value, PLAIN):\n",
        "    if False:\n",
        KINDS,
    ),
    Fault(
        "arguments of a parent class are unknown", "for parent in target.__mro__ if", "for parent in [target] if", KINDS
    ),
    Fault(
        "arguments of parents are accepted without **kwargs",
        "        if inspect.Parameter.VAR_KEYWORD not in kinds:\n            break",
        "        if False:\n            break",
        KINDS,
    ),
    Fault("an empty choice is accepted", 'at.MinLen(1), Words("a choice', 'Words("a choice', BAD),
    Fault(
        "a single value for nested settings is not explained",
        "    if field.annotation is model:\n",
        "    if False:\n",
        BAD,
    ),
    Fault(
        "a run resumes with the default settings",
        'resumed = resume.resumed_run(words) if name == "train" else None',
        "resumed = None",
        RESUME,
    ),
    Fault("a run that stopped before training is started with other settings", 'missing - {"ckpt"}', "False", RESUME),
    Fault(
        "values in other languages need quotes",
        'return f"{key}=" + re.sub(parts',
        "return word or re.sub(parts",
        "training/test_bad_input.py::test_values_need_no_quotes_in_any_language",
    ),
    Fault(
        "new overrides are ignored on resume",
        "        for override in self.overrides:\n            for place",
        "        for override in self.overrides[:0]:\n            for place",
        RESUME,
    ),
    Fault("another schedule or prediction is accepted on resume", "if key.startswith(FIXED)", "if False", OTHER),
    Fault("other settings are not reported on resume", "if key.startswith(REPORTED)", "if False", RESUME),
    Fault(
        "a refused resume overwrites the record of the run",
        'if "asked" in self.content or not self.previous:',
        "if True:",
        OTHER,
    ),
    Fault(
        "derived settings make a complete job look changed",
        'config | record.content.get("asked", {})',
        "config",
        FOLLOWED,
    ),
    Fault(
        "a complete run is run again with ckpt=auto",
        ' or settings.ckpt == "auto") and is_complete',
        ") and is_complete",
        RESUME,
    ),
    Fault("a run with no steps left is accepted", "if resumed.step > total or", "if False and", RESUME),
    Fault(
        "validation intervals are limited to one epoch",
        "math.ceil(interval / accumulate)",
        "math.ceil(min(interval, batches) / accumulate)",
        RESUME,
    ),
    Fault(
        "the sampler is not tried before training",
        '    replace_part(drawing, sampler=short)(module.denoiser, 1, torch.device("cpu"))\n',
        "",
        RESUME,
    ),
]
