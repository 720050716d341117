"""Faults in the labels and guidance of a run and its samples: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

CLASSES = "evaluation/test_classes.py"
PROPORTION = f"{CLASSES}::test_default_classes_are_proportional_for_any_number_of_samples"
NONE = f"{CLASSES}::test_unknown_classes_are_refused"
OWN = f"{CLASSES}::test_an_image_depends_on_its_own_class_and_not_on_its_batch"
LABELS = "training/test_labels.py"
KNOWN = f"{LABELS}::test_the_classes_of_the_data_are_stored_in_checkpoints_and_exports"
RESUME = f"{LABELS}::test_a_labelled_run_resumes_bit_for_bit"
DROPPED = f"{LABELS}::test_label_dropout_depends_only_on_image_and_epoch"
ASKED = f"{LABELS}::test_samples_have_the_requested_classes"
GUIDED = f"{LABELS}::test_guidance_makes_samples_more_typical_of_their_class"
WORSE = f"{LABELS}::test_an_earlier_checkpoint_can_be_the_worse_model_of_autoguidance"
KEPT = "training/test_worse.py::test_the_averaged_weights_of_the_guidance_step_are_kept"
GUIDE = "training/test_worse.py::test_the_early_weights_guide_the_final_samples_and_later_commands"
UNDER_WAY = "training/test_worse.py::test_pictures_and_scores_during_training_are_not_guided"
ALONG = "training/test_worse.py::test_a_run_resumed_in_another_folder_has_the_early_weights"
SHORT = "training/test_worse.py::test_a_run_that_ends_before_the_guidance_step_samples_without_guidance"
TOO_SHORT = "training/test_worse.py::test_a_run_too_short_for_its_guidance_warns_first_and_samples_without_it"
SHARE = "training/test_worse.py::test_a_fractional_guidance_step_is_converted_to_a_step_number"
OF_MODEL = "training/test_worse.py::test_a_fractional_guidance_step_works_for_a_model_trained_without_guidance"
FILLS = "training/test_worse.py::test_inpainting_does_not_use_the_guidance_of_the_run"
MISSING = "training/test_worse.py::test_checkpoints_without_the_early_weights_are_sampled_without_guidance"
PRECISE = "evaluation/test_precision.py"
SCORED = f"{LABELS}::test_evaluation_uses_the_reference_class_proportions_and_scores_by_class"
STUDY = f"{LABELS}::test_a_study_counts_the_network_evaluations_of_guidance"
REFUSED = f"{LABELS}::test_incompatible_label_settings_are_refused_before_training"
SAMPLED = f"{LABELS}::test_invalid_label_and_guidance_settings_are_refused_when_sampling"
SCALES = "study/test_study_guidance.py::test_every_scale_in_every_interval_is_scored_and_counted"
IN_STEP = "study/test_study_guidance.py::test_an_interval_without_a_step_is_skipped"
OWN_INTERVAL = "study/test_study_guidance.py::test_the_guidance_of_the_run_and_its_interval_are_the_default"
STUDIED = "study/test_study_guidance.py::test_invalid_guidance_studies_are_refused_before_any_work"
SHOWN = "study/test_guidance_report.py"
FOR_ERRORS = "training/test_search.py::test_a_search_for_an_error_draws_no_samples"
UTILIZATION = "training/test_utilization.py"
PLAN = "training/test_forecast.py::test_the_forecast_equals_the_actual_network_evaluations"

SHARES = "evaluation/test_drawn.py::test_each_batch_of_a_single_device_is_assigned_to_exactly_one_device"
PIXELS_FIRST = "evaluation/test_drawn.py::test_a_batch_counts_only_after_its_pixels_are_written"
KILLED = "evaluation/test_drawn.py::test_a_killed_command_resumes_without_redrawing_complete_batches"
OTHER_IMAGES = "evaluation/test_drawn.py::test_a_partial_file_with_other_settings_is_refused"
HELD = "evaluation/test_drawn.py::test_at_most_two_batches_are_held_in_memory"
TOGETHER = "reliability/test_drawing_together.py::test_two_processes_draw_the_same_bytes_as_one"
DIES = (
    "reliability/test_drawing_together.py::test_a_dying_process_ends_sampling_with_one_line_and_sampling_can_continue"
)
LAST = "reliability/test_drawing_together.py::test_the_processes_of_a_run_share_the_drawing_of_final_samples"

NOTED = "evaluation/test_first_step.py::test_a_large_error_of_the_first_step_is_noted_once"

EDIT = "evaluation/test_first_step.py::test_an_edit_starts_at_a_lower_noise_level"

LIBRARY = "library/test_library.py"

FAULTS = [
    Fault(
        "the library draws in training mode",
        "        self.denoiser.eval()\n        try:",
        "        try:",
        f"{LIBRARY}::test_samples_are_drawn_in_evaluation_mode_and_in_the_precision_of_the_run",
    ),
    Fault(
        "the library does not draw in the precision of the run",
        "with products(precision_of(self.restored)):",
        "if True:",
        f"{LIBRARY}::test_samples_are_drawn_in_evaluation_mode_and_in_the_precision_of_the_run",
    ),
    Fault(
        "samples that are not finite are black",
        "                self.check_finite(x0)\n",
        "",
        f"{LIBRARY}::test_samples_that_are_not_finite_are_refused",
    ),
    Fault(
        "drawing moves the worse model to another device",
        "weak = copy.deepcopy(worse.denoiser)  # drawing",
        "pass  # drawing",
        f"{LIBRARY}::test_a_worse_model_stays_on_its_device",
    ),
    Fault(
        "a model depends on the current folder",
        "restore(trained(found).absolute(), weights)",
        "restore(trained(found), weights)",
        f"{LIBRARY}::test_a_model_loaded_by_a_relative_path_does_not_depend_on_the_current_folder",
    ),
    Fault(
        "pictures of any type are edited",
        "    if not picture.is_floating_point() or picture.ndim != 3:\n",
        "    if False:\n",
        f"{LIBRARY}::test_a_picture_that_is_not_floating_point_is_refused",
    ),
    Fault("a large error of the first step is not noted", "if factor > LARGE:", "if False:", NOTED),
    Fault("a large error is noted despite a threshold", "inner.threshold is not None or ", "", NOTED),
    Fault("a large error is noted for samplers without it", " or not inner.uses_x0", "", NOTED),
    Fault("an edit starts like its sampler", "if isinstance(sampler, Edited) else", "if False else", EDIT),
    Fault("the classes of samples are not in proportion", "* GOLDEN % 1", "* 0.0", PROPORTION),
    Fault("a negative class is accepted", "not 0 <= found < known", "not found < known", NONE),
    Fault("true is accepted as a class", "type(found) is not int or", "not isinstance(found, int) or", NONE),
    Fault("every batch gets the classes of the first batch", "rows[list(indices)]", "rows[: len(indices)]", OWN),
    Fault("the model does not get the classes of the data", "if followed is settings:", "if True:", KNOWN),
    Fault("a checkpoint does not contain the labels", "        if data.classes:\n", "        if False:\n", KNOWN),
    Fault("the labels of an exported file are not read", 'json.loads(found.get("labels", "{}"))', "{}", KNOWN),
    Fault("labels are never dropped", "seeds < math.ceil(dropout * 2**63)", "seeds < 0", RESUME),
    Fault(
        "label dropout depends on the batch number instead of the epoch",
        '"label", batch.epoch, last',
        '"label", batch.number, last',
        DROPPED,
    ),
    Fault("the same labels are dropped in each epoch", '"label", batch.epoch, last', '"label", 0, last', DROPPED),
    Fault("labels are dropped in validation", "self.conditions(batch)\n", "self.conditions(batch, 0.3)\n", DROPPED),
    Fault(
        "a dropped label becomes the first class",
        "self.device), none)}",
        "self.device), 0)}",
        DROPPED,
    ),
    Fault("class names are not looked up", "names.index(str(label)) if str(label) in names else label", "label", ASKED),
    Fault("samples are not guided", "        if self.guidance is None:\n", "        if True:\n", GUIDED),
    Fault(
        "autoguidance uses the model itself as the worse model",
        "None if self.weak is None else self.weak.to(device)",
        "denoiser",
        WORSE,
    ),
    Fault(
        "samples have the class proportions of training",
        "return counts if [*counts] ==",
        "return {} if [*counts] ==",
        SCORED,
    ),
    Fault(
        "a class is scored against all reference images",
        "reference.take((reference.labels == i).nonzero().flatten())",
        "reference",
        SCORED,
    ),
    Fault(
        "samples are drawn in float32 only",
        "return denoise if self.precision is None else",
        "return denoise or",
        PRECISE,
    ),
    Fault("a run draws in float32 only", "counts, precision=precision)", "counts)", PRECISE),
    Fault(
        "the scores of a run do not record the precision",
        "settings.guidance if guided else None, settings.samples.precision)",
        "settings.guidance if guided else None)",
        PRECISE,
    ),
    Fault("a score does not record its precision", "if precision else source", "if False else source", PRECISE),
    Fault("scores of two precisions are mixed", '"precision": "float32"', '"n": "float32"', PRECISE),
    Fault("a score does not record its guidance", 'source["guidance"] = describe_sampler(guidance)', "pass", SCORED),
    Fault(
        "a study does not count the evaluations of guidance",
        "(nfe := evaluations(sampler, schedule, guidance))",
        "(nfe := evaluations(sampler, schedule))",
        STUDY,
    ),
    Fault(
        "a wrong model.classes is accepted",
        '        raise UserError(f"model.{key}={given}:',
        '        print(f"model.{key}={given}:',
        REFUSED,
    ),
    Fault(
        "guidance is accepted for a model without label dropout",
        "guidance.drops_labels and label_dropout == 0:",
        "False:",
        REFUSED,
    ),
    Fault(
        "early: the raw weights are kept instead of the average",
        "with averaged_weights(trainer, pl_module):",
        "if True:",
        KEPT,
    ),
    Fault(
        "early: the weights of another step are kept",
        "if trainer.global_step != self.step or",
        "if trainer.global_step != self.step + 1 or",
        KEPT,
    ),
    Fault(
        "early: the weights are not written in the new folder on resume",
        'self.write(network_weights(found["state_dict"]))',
        "pass",
        ALONG,
    ),
    Fault(
        "early: no notice at the start of a run that is too short",
        "if step >= clock.total and record is not None:",
        "if False:",
        TOO_SHORT,
    ),
    Fault("early: samples before the step are guided", "if restored.step <= step:", "if False:", MISSING),
    Fault(
        "early: missing weights beside the model are not detected",
        "early.kept(restored.path.parent, step) is None",
        "False",
        MISSING,
    ),
    Fault("early: explicitly requested guidance is dropped", '== {"from": RUN}:', "is not None:", MISSING),
    Fault("early: a longer resumed run changes the step", "step if isinstance(step, int) else max", "max", SHARE),
    Fault(
        "early: training ignores the configured share of steps",
        "resolved_step(guidance.step, clock.total,",
        "resolved_step(0.9, clock.total,",
        SHARE,
    ),
    Fault("early: the recorded step of the run is ignored", "step if isinstance(step, int) else max", "max", GUIDE),
    Fault(
        "early: other commands ignore the configured share of steps",
        "resolved_step(share, restored.step,",
        "resolved_step(0.7, restored.step,",
        OF_MODEL,
    ),
    Fault(
        "early: the last samples are not guided",
        "return settings, replace(drawing, weak=weak.eval())",
        "return settings, drawing.unguided",
        GUIDE,
    ),
    Fault(
        "early: scores during training are recorded as guided",
        "settings, guided=not last.waits)",
        "settings)",
        UNDER_WAY,
    ),
    Fault(
        "early: a run that ended before the step is not detected",
        "if module.trainer.global_step <= step:",
        "if False:",
        SHORT,
    ),
    Fault(
        "label and labels together are accepted",
        "if settings.label is not None and settings.labels is not None:",
        "if False:",
        SAMPLED,
    ),
    Fault("the utilization ignores accumulated batches", ", batch * self.clock.accumulate", ", batch", UTILIZATION),
    Fault("validation is timed as training", "for part in APART", "for part in ()", UTILIZATION),
    Fault("a search for an error draws samples", "or not is_error(settings.sweep.score)", "or True", FOR_ERRORS),
    Fault(
        "other images are kept although they are to be discarded",
        "            elif file.stat().st_size == drawn.size:",
        "            if file.stat().st_size == drawn.size:",
        "evaluation/test_drawn.py::test_other_images_are_discarded_on_request_and_the_same_are_kept",
    ),
    Fault("the utilization counts only forward passes", "rate = STEP * data", "rate = data", UTILIZATION),
    Fault("the utilization of short trainings is measured", "each * left < LONG", "False", UTILIZATION),
    Fault("the utilization is not recorded", "self.record.update(utilization=found)", "pass", UTILIZATION),
    Fault("the peak is that of float32 only", "dtype = (one @ one).dtype", "dtype = torch.float32", UTILIZATION),
    Fault(
        "the last call counts instead of the shortest",
        "best = min(best, taken / calls)",
        "best = taken / calls",
        UTILIZATION,
    ),
    Fault("the peak is the slower product", "return max(product, convolution)", "return product", UTILIZATION),
    Fault("the forecast does not count the pictures", "self.in_training + more * self.nfe", "self.in_training", PLAN),
    Fault(
        "the forecast does not count the validation of the last step",
        " + bool(total % every and step < total)",
        "",
        PLAN,
    ),
    Fault(
        "study of guidance: the recorded scale is wrong",
        "source_of(node, guidance_node, settings.precision)",
        "source_of(node, settings.guidance)",
        SCALES,
    ),
    Fault(
        "study of guidance: scale 1 is not measured",
        '= [{**node, "scale": 1.0, "low": None, "high": None}]',
        "= []",
        SCALES,
    ),
    Fault(
        "study of guidance: scale 1 is repeated for each interval",
        " in sorted(scales) if scale != 1]",
        " in scales]",
        SCALES,
    ),
    Fault("study of guidance: a repeated setting is measured twice", "if each not in found[:i]]", "]", SCALES),
    Fault(
        "study: the samples do not have the given class counts",
        "replace(trial.drawing, counts=counts), ",
        "trial.drawing, ",
        SCALES,
    ),
    Fault(
        "study of guidance: an interval without a step is not skipped", "elif nfe == unguided:", "elif False:", IN_STEP
    ),
    Fault(
        "study of guidance: the run's interval is ignored",
        "own = [[guidance.low, guidance.high]]",
        "own = [[None, None]]",
        OWN_INTERVAL,
    ),
    Fault(
        "study of guidance: missing guidance is accepted",
        "    if not settings.guidance:\n",
        "    if False:\n",
        f"{STUDIED}[no guidance]",
    ),
    Fault(
        "study of guidance: a missing worse model is not detected before sampling",
        "            drawing.check(restored.denoiser, restored.label_dropout)\n            nfe",
        "            nfe",
        f"{STUDIED}[no worse model]",
    ),
    Fault(
        "guidance of an unlabelled model is not refused before sampling",
        "if self.guidance and self.guidance.drops_labels and not",
        "if False and not",
        f"{STUDIED}[no labels]",
    ),
    Fault(
        "study of guidance: scale 1 alone is accepted",
        "    if not guided:\n",
        "    if False:\n",
        f"{STUDIED}[only scale 1]",
    ),
    Fault(
        "study of guidance: steps set twice are accepted",
        "settings.steps is not None and",
        "False and",
        f"{STUDIED}[steps twice]",
    ),
    Fault(
        "study of guidance: an adaptive sampler is accepted",
        "        if sampler.adaptive:",
        "        if False:",
        f"{STUDIED}[an adaptive sampler]",
    ),
    Fault(
        "study of guidance: of two equal scores the costlier is advised",
        "badness(p, metric), p.nfe))\n    return best",
        "badness(p, metric), -p.nfe))\n    return best",
        SHOWN,
    ),
    Fault(
        "study of guidance: scale 1 counts as the largest tested scale",
        "largest = best.scale > 1 and",
        "largest =",
        SHOWN,
    ),
    Fault(
        "study of guidance: precision is plotted against coverage",
        "for pair in FIDELITY.items():",
        "for pair in [('precision', 'coverage')]:",
        SHOWN,
    ),
    Fault("study of guidance: a line does not start at scale 1", "line = unguided + [", "line = [", SHOWN),
    Fault("study of guidance: a distant floor is plotted", "if near(real.x, ax.get_xlim()) and", "if True or", SHOWN),
    Fault("plot labels overlap each other", "taken.append(box)", "box.padded(0)", SHOWN),
    Fault("plot labels cover points", "    taken = [Bbox.from_extents", "    taken = [] and [Bbox.from_extents", SHOWN),
    Fault(
        "plot labels extend beyond the axes",
        "ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max) and not",
        "not",
        SHOWN,
    ),
    Fault(
        "plot labels without space are not removed", "            text.remove()", "            text.get_text()", SHOWN
    ),
    Fault(
        "the cost of pictures is not limited by that of training",
        "n = min(SHOWN, training // (nfe * pictures))",
        "n = SHOWN",
        "training/test_train_command.py::test_by_default_pictures_cost_no_more_than_the_training",
    ),
    Fault(
        "scores with and without guidance are compared",
        'usual = {"guidance": "none", ',
        "usual = {",
        "report/test_compare.py::test_a_folder_scored_with_and_without_guidance_is_refused",
    ),
    Fault(
        "the likelihood ignores the class",
        "denoise = Conditioned(denoiser, classes=chosen.labels[index].to(device))",
        "pass",
        f"{LABELS}::test_bits_per_dim_are_conditioned_on_the_label",
    ),
    Fault("inpainting uses the run's early guidance", "    if fills:\n", "    if False:\n", FILLS),
    Fault(
        "inpainting by the library uses the run's early guidance",
        'self._drawing(**options, _method="inpaint")',
        "self._drawing(**options)",
        FILLS,
    ),
    Fault(
        "inpainting by the command uses the run's early guidance",
        "fills = fills or getattr(",
        "fills = fills and getattr(",
        FILLS,
    ),
    Fault("several devices draw the same batches", "devices * batch_size)", "batch_size)", SHARES),
    Fault(
        "a batch is marked as complete before its pixels are synced",
        "os.fsync(stream.fileno())\n                stream.seek",
        "stream.seek",
        PIXELS_FIRST,
    ),
    Fault("existing batches are drawn again", "if not there[self._number(batch)]]", "]", KILLED),
    Fault(
        "a partial file of other images is continued",
        "if before.get(key) != about.get(key))",
        "if False)",
        OTHER_IMAGES,
    ),
    Fault("the seed of a partial file is not compared", '"seed": self.seed, "weights"', '"weights"', OTHER_IMAGES),
    Fault(
        "all images are kept in memory",
        "drawn.put(batch, images)",
        'vars(drawn).setdefault("held", []).append(images) or drawn.put(batch, images)',
        HELD,
    ),
    Fault(
        "every process draws the first process's share",
        "(drawing, drawn, (rank, world))",
        "(drawing, drawn, (0, world))",
        TOGETHER,
    ),
    Fault(
        "the death of a sampling process is not handled",
        "    except (EOFError, OSError) as end:\n",
        "    except OSError as end:\n",
        DIES,
    ),
    Fault(
        "the last samples of a run are divided wrongly among the processes",
        "label if first else None, frames.watch, (rank, world))",
        "label if first else None, share=(rank, 2 * world))",
        LAST,
    ),
]
