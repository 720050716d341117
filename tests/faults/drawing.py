"""Faults in the labels and guidance of a run and its samples: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

CLASSES = "evaluation/test_classes.py"
PROPORTION = f"{CLASSES}::test_classes_are_in_proportion_for_every_number_of_samples"
NONE = f"{CLASSES}::test_what_is_no_class_is_refused"
OWN = f"{CLASSES}::test_an_image_depends_on_its_own_class_and_not_on_its_batch"
ROWS = f"{CLASSES}::test_conditions_of_another_number_of_images_are_refused"
LABELS = "training/test_labels.py"
KNOWN = f"{LABELS}::test_the_model_has_the_classes_of_the_data_and_its_files_know_them"
RESUME = f"{LABELS}::test_a_labelled_run_resumes_bit_for_bit"
DROPPED = f"{LABELS}::test_labels_are_dropped_by_image_and_epoch_alone"
ASKED = f"{LABELS}::test_samples_are_of_the_classes_that_are_asked_for"
GUIDED = f"{LABELS}::test_guidance_makes_samples_more_of_their_class"
WORSE = f"{LABELS}::test_an_earlier_checkpoint_is_the_worse_model_of_autoguidance"
KEPT = "training/test_worse.py::test_the_averaged_weights_of_the_step_are_kept"
GUIDE = "training/test_worse.py::test_they_guide_the_last_samples_of_the_run_and_those_of_later_commands"
UNDER_WAY = "training/test_worse.py::test_pictures_under_way_are_not_guided"
ALONG = "training/test_worse.py::test_a_run_resumed_in_another_folder_has_them"
SHORT = "training/test_worse.py::test_a_run_that_ends_before_draws_without_guidance_and_says_so"
TOO_SHORT = "training/test_worse.py::test_a_run_too_short_for_its_guidance_draws_without_it_and_says_so_first"
SHARE = "training/test_worse.py::test_a_share_of_the_steps_is_the_step_of_that_share"
OF_MODEL = "training/test_worse.py::test_a_share_of_the_steps_of_a_model_that_was_trained_without_guidance"
FILLS = "training/test_worse.py::test_a_part_of_a_picture_is_filled_without_the_guidance_of_the_run"
MISSING = "training/test_worse.py::test_models_without_the_worse_one_beside_them_are_drawn_from_without_guidance"
SCORED = f"{LABELS}::test_an_evaluation_has_the_reference_s_proportions_and_scores_by_class"
STUDY = f"{LABELS}::test_a_study_counts_the_evaluations_of_guidance"
DRAWN = f"{LABELS}::test_a_run_draws_and_scores_of_every_class_with_its_guidance"
REFUSED = f"{LABELS}::test_what_does_not_fit_is_refused_before_training"
SAMPLED = f"{LABELS}::test_what_cannot_be_sampled_is_refused"
SCALES = "study/test_study_guidance.py::test_every_scale_in_every_interval_is_scored_and_counted"
IN_STEP = "study/test_study_guidance.py::test_an_interval_without_a_step_is_left_out"
OWN_INTERVAL = "study/test_study_guidance.py::test_the_guidance_of_the_run_and_its_interval_are_the_default"
STUDIED = "study/test_study_guidance.py::test_what_cannot_be_studied_is_refused_before_any_work"
SHOWN = "study/test_guidance_report.py"
PLAN = "training/test_forecast.py::test_the_forecast_counts_what_the_run_does"

SHARES = "evaluation/test_drawn.py::test_each_image_is_of_one_device_and_the_batches_are_those_of_one"
THERE = "evaluation/test_drawn.py::test_a_batch_counts_as_there_only_after_its_pixels_are"
GOES_ON = "evaluation/test_drawn.py::test_a_killed_command_goes_on_and_draws_nothing_twice"
OTHERS = "evaluation/test_drawn.py::test_a_part_of_other_images_is_refused"
HELD = "evaluation/test_drawn.py::test_no_more_than_a_batch_is_held"
TOGETHER = "reliability/test_drawing_together.py::test_two_processes_draw_the_bytes_of_one"
DIES = "reliability/test_drawing_together.py::test_a_process_that_dies_ends_all_with_one_line_and_what_is_drawn_is_kept"
LAST = "reliability/test_drawing_together.py::test_the_processes_of_a_run_draw_its_last_samples_together"

FAULTS = [
    Fault("classes are in no proportion", "* GOLDEN % 1", "* 0.0", PROPORTION),
    Fault("a negative class is taken", "not 0 <= found < known", "not found < known", NONE),
    Fault("a class is true", "type(found) is not int or", "not isinstance(found, int) or", NONE),
    Fault("a batch has the classes of the first", "rows[list(indices)]", "rows[: len(indices)]", OWN),
    Fault("any number of classes is taken", "if len(rows) != n:", "if False:", ROWS),
    Fault("the model has no classes", "if known == (given or 0):", "if True:", KNOWN),
    Fault("a checkpoint forgets the labels", "        if data.classes:\n", "        if False:\n", KNOWN),
    Fault("an exported file forgets the labels", 'json.loads(found.get("labels", "{}"))', "{}", KNOWN),
    Fault("no label is dropped", "[seed < least for seed in seeds]", "[False]", RESUME),
    Fault("labels are dropped by the batch", '"label", batch.epoch, last', '"label", batch.number, last', DROPPED),
    Fault("the same labels in each epoch", '"label", batch.epoch, last', '"label", 0, last', DROPPED),
    Fault("labels are dropped in validation", "self.conditions(batch)\n", "self.conditions(batch, 0.3)\n", DROPPED),
    Fault(
        "a dropped label is the first class",
        "classes.masked_fill(torch.tensor(dropped, device=self.device), none)",
        "classes.masked_fill(torch.tensor(dropped, device=self.device), 0)",
        DROPPED,
    ),
    Fault("names are not looked up", "names.index(str(label)) if str(label) in names else label", "label", ASKED),
    Fault("samples are not guided", "        if self.guidance is None:\n", "        if True:\n", GUIDED),
    Fault(
        "the worse model is the model itself", "None if self.weak is None else self.weak.to(device)", "denoiser", WORSE
    ),
    Fault(
        "samples have the training's proportions",
        "return counts if [*counts] ==",
        "return {} if [*counts] ==",
        SCORED,
    ),
    Fault(
        "a class is scored against all",
        "reference.take((reference.labels == i).nonzero().flatten())",
        "reference",
        SCORED,
    ),
    Fault("a score does not say its guidance", '{"guidance": describe_sampler(guidance)}', "{}", SCORED),
    Fault(
        "a study does not count the weak model",
        "(nfe := evaluations(sampler, schedule, guidance))",
        "(nfe := evaluations(sampler, schedule))",
        STUDY,
    ),
    Fault(
        "classes of other data",
        '        raise UserError(\n            f"model.classes={given}:',
        '        print(\n            f"model.classes={given}:',
        REFUSED,
    ),
    Fault("guidance by what was not learned", "guidance.drops_labels and label_dropout == 0:", "False:", REFUSED),
    Fault(
        "early: the raw weights",
        "with averaged_weights(trainer, pl_module):",
        "if True:",
        KEPT,
    ),
    Fault(
        "early: another step",
        "if trainer.global_step != self.step or",
        "if trainer.global_step != self.step + 1 or",
        KEPT,
    ),
    Fault(
        "early: not in the new folder",
        "copy_file(early.find(self.resumed.parent, self.step), self.file)",
        "pass",
        ALONG,
    ),
    Fault(
        "early: a run too short says nothing", "if step >= clock.total and record is not None:", "if False:", TOO_SHORT
    ),
    Fault("early: samples before the step are guided", "if restored.step <= step:", "if False:", MISSING),
    Fault("early: no weights beside the model", "early.kept(restored.path.parent, step) is None", "False", MISSING),
    Fault("early: guidance that is asked for is left out", '== {"from": RUN}:', "is not None:", MISSING),
    Fault("early: a longer run has another step", "before if isinstance(before, int) else max", "max", SHARE),
    Fault("early: the share of another number", "guidance.step * clock.total", "0.9 * clock.total", SHARE),
    Fault("early: not the run's own step", "step if isinstance(step, int) else max", "max", GUIDE),
    Fault("early: a share of another number", "share * restored.step", "0.7 * restored.step", OF_MODEL),
    Fault(
        "early: no guidance at the end",
        "return settings, replace(drawing, weak=weak.eval())",
        "return settings, drawing.unguided",
        GUIDE,
    ),
    Fault("early: the source says guided", "settings, guided=not last.waits)", "settings)", UNDER_WAY),
    Fault("early: the run ended before", "if module.trainer.global_step <= step:", "if False:", SHORT),
    Fault("label and labels", "if settings.label is not None and settings.labels is not None:", "if False:", SAMPLED),
    Fault("pictures are not counted", "self.in_training + more * self.nfe", "self.in_training", PLAN),
    Fault("an interrupted validation's end is forgotten", " + bool(total % every)", "", PLAN),
    Fault(
        "study of guidance: the source says another scale",
        "source_of(node, guidance_node))",
        "source_of(node, settings.guidance))",
        SCALES,
    ),
    Fault("study of guidance: no reference", '= [{**node, "scale": 1.0, "low": None, "high": None}]', "= []", SCALES),
    Fault("study of guidance: scale 1 for each interval", " in sorted(scales) if scale != 1]", " in scales]", SCALES),
    Fault("study of guidance: a scale twice", "if each not in found[:i]]", "]", SCALES),
    Fault("study: other classes", "replace(trial.drawing, counts=counts), ", "trial.drawing, ", SCALES),
    Fault("study of guidance: an interval without a step is drawn", "elif nfe == unguided:", "elif False:", IN_STEP),
    Fault(
        "study of guidance: it forgets the run's interval",
        "own = [[guidance.low, guidance.high]]",
        "own = [[None, None]]",
        OWN_INTERVAL,
    ),
    Fault("study of guidance: none", "    if not settings.guidance:\n", "    if False:\n", f"{STUDIED}[no guidance]"),
    Fault(
        "study of guidance: labels are missed late",
        "        guidance.weak_conditions(drawing.conditions(restored.denoiser, 1))",
        "        guidance.limited",
        f"{STUDIED}[no labels]",
    ),
    Fault(
        "study of guidance: no worse model, said late",
        "            drawing.guided(restored.denoiser)  #",
        "            #",
        f"{STUDIED}[no worse model]",
    ),
    Fault("study of guidance: only scale 1", "    if not guided:\n", "    if False:\n", f"{STUDIED}[only scale 1]"),
    Fault("study of guidance: steps twice", "settings.steps is not None and", "False and", f"{STUDIED}[steps twice]"),
    Fault(
        "study of guidance: an adaptive sampler",
        "        if sampler.adaptive:",
        "        if False:",
        f"{STUDIED}[an adaptive sampler]",
    ),
    Fault(
        "study of guidance: the dearer of two",
        "badness(p.point, metric), p.point.nfe)",
        "badness(p.point, metric), -p.point.nfe)",
        SHOWN,
    ),
    Fault("study of guidance: scale 1 is the largest", "largest = best.scale > 1 and", "largest =", SHOWN),
    Fault(
        "study of guidance: precision against coverage",
        "for pair in FIDELITY.items():",
        "for pair in [('precision', 'coverage')]:",
        SHOWN,
    ),
    Fault("study of guidance: a line without its beginning", "line = unguided + [", "line = [", SHOWN),
    Fault("study of guidance: a far floor is near", "if near(real.x, ax.get_xlim()) and", "if True or", SHOWN),
    Fault("labels cover each other", "taken.append(box)", "box.padded(0)", SHOWN),
    Fault("labels cover points", "    taken = [Bbox.from_extents", "    taken = [] and [Bbox.from_extents", SHOWN),
    Fault("labels leave the axes", "within(box, ax.bbox) and not", "not", SHOWN),
    Fault("labels without room stay", "            text.remove()", "            text.get_text()", SHOWN),
    Fault(
        "pictures cost more than the training",
        "n = min(SHOWN, training // (nfe * pictures))",
        "n = SHOWN",
        "training/test_train_command.py::test_by_default_pictures_cost_no_more_than_the_training",
    ),
    Fault(
        "no guidance is like any guidance",
        '{"guidance": "none"} if "sampler" in score.source else {}',
        "{}",
        "report/test_compare.py::test_a_folder_scored_with_and_without_guidance_is_refused",
    ),
    Fault(
        "bits are of no class",
        "denoise = Conditioned(counted, classes=chosen.labels[index].to(device))",
        "pass",
        f"{LABELS}::test_bits_are_those_of_an_image_given_its_label",
    ),
    Fault("fillings are guided", "    if fills:\n", "    if False:\n", FILLS),
    Fault(
        "fillings of a library are guided", "self._drawing(**options, fills=True)", "self._drawing(**options)", FILLS
    ),
    Fault("only fillings of a library are not", "fills = fills or getattr(", "fills = fills and getattr(", FILLS),
    Fault("two devices draw one batch", "devices * batch_size)", "batch_size)", SHARES),
    Fault(
        "the pixels of a batch come last",
        "os.fsync(stream.fileno())\n                stream.seek",
        "stream.seek",
        THERE,
    ),
    Fault("what is there is drawn again", "if not there[self._number(batch)]]", "]", GOES_ON),
    Fault("other images are completed", "if before.get(key) != about.get(key)):", "if False):", OTHERS),
    Fault("the seed of a part is not asked for", '"seed": self.seed, "weights"', '"weights"', OTHERS),
    Fault(
        "all images are held",
        "drawn.put(batch, images)",
        'vars(drawn).setdefault("held", []).append(images) or drawn.put(batch, images)',
        HELD,
    ),
    Fault("the others draw by themselves", "(drawing, drawn, (rank, world))", "(drawing, drawn, (0, world))", TOGETHER),
    Fault(
        "a process that has died is waited for",
        "    except (EOFError, OSError) as end:\n",
        "    except OSError as end:\n",
        DIES,
    ),
    Fault(
        "the first process draws the end of a run alone",
        "label if first else None, frames.watch, (rank, world))",
        "label if first else None, share=(rank, 2 * world))",
        LAST,
    ),
]
