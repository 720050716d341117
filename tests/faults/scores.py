"""Faults in numbers and their reports: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import matplotlib.pyplot  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

BIAS = "metric/test_distances.py::test_the_extrapolation_is_exact_where_the_bias_is_b_over_n"
ERROR = "metric/test_distances.py::test_the_error_of_the_extrapolation_is_that_of_the_regression"
PUBLISHED = "metric/test_features.py::test_spatial_features_of_inception_are_those_of_the_published_evaluator"
SPATIAL = "metric/test_score.py::test_spatial_features_need_no_second_pass_and_their_distance_equals_numpys"
HUB = "metric/test_foundation.py::test_the_hash_of_weights_from_the_hub_is_verified"
PLANTED = "metric/test_memorization.py::test_planted_copies_of_photographs_are_flagged"
FEW = "metric/test_memorization.py::test_a_few_samples_that_repeat_training_images_are_counted_apart"
FIRST = "metric/test_memorization.py::test_flagged_samples_need_not_repeat_and_repeats_come_first"
NEAREST = "metric/test_memorization.py::test_nearest_equals_brute_force"
MOVES = "metric/test_memorization.py::test_a_view_shifts_with_replicated_edges_then_mirrors"
DUPLICATES = "data/test_duplicates.py::test_any_data_set_prints_them_at_every_start_and_compares_its_splits_once"
CALIBRATES = (
    "metric/test_memorization.py::test_held_out_images_that_repeat_training_images_are_not_used_for_the_threshold"
)
GAPS = "metric/test_gap.py"

SHOWN = "evaluation/test_memorization.py::test_the_figure_shows_training_images_mirrored_where_the_sample_is"
REPEATS = "evaluation/test_memorization.py::test_held_out_repeats_are_counted_and_reported"
SENTENCE = "evaluation/test_memorization.py::test_the_sentence_reports_copies_beyond_chance_and_samples_that_repeat"
NONE_LEFT = "evaluation/test_memorization.py::test_missing_held_out_images_are_one_line"
CACHED = "evaluation/test_memorization.py::test_real_images_are_embedded_once_and_again_when_one_changes"
BOUNDED = "evaluation/test_likelihood.py::test_evaluate_bounds_the_bits_of_held_out_images"
CLUSTERED = "evaluation/test_likelihood.py::test_the_interval_is_clustered_by_photographs"
REFUSED = "evaluation/test_ledger.py::test_a_second_test_evaluation_is_refused_unless_asked_for_and_both_are_recorded"
DURING = "evaluation/test_ledger.py::test_scoring_on_test_during_training_is_warned_of_and_every_evaluation_is_recorded"
CHECKED = "evaluation/test_pipeline.py::test_what_cannot_be_scored_is_one_line"
OTHERS = "evaluation/test_pipeline.py::test_real_images_are_never_those_of_the_reference"
REPRODUCED = "evaluation/test_inherited_settings.py::test_the_scores_of_a_run_are_reproduced"
CHANGED = "evaluation/test_inherited_settings.py::test_single_settings_of_the_run_can_be_changed"
SIZE = "evaluation/test_inherited_settings.py::test_the_reference_has_the_size_of_the_images"
FOLDER = "evaluation/test_inherited_settings.py::test_a_folder_that_cannot_be_scored_is_one_line"
MESSAGES = "evaluation/test_messages.py"
PLAIN = "report/test_plain_text.py"
WHICH = "evaluation/test_which_checkpoint.py"
EPOCHS = "training/test_resume.py::test_the_record_says_where_a_run_was_resumed_and_how_long_its_epochs_were"
BUDGETS = "study/test_study.py::test_every_sampler_takes_the_most_steps_within_its_budget"
BUDGET = "study/test_study.py::test_no_setting_is_beyond_its_budget_whatever_was_estimated"
FITS = "study/test_study.py::test_all_takes_the_samplers_that_fit_and_names_the_others"
FLOOR = "study/test_study.py::test_a_study_from_the_command_line"
STUDIED = "study/test_study.py::test_a_study_on_test_is_warned_of_and_every_setting_is_an_evaluation"

SCORES = "metric/test_record.py"
RECIPES = "report/test_compare.py"
SETTINGS = "report/test_differences.py"
FILLED = "report/test_report_figures.py::test_every_shipped_schedule_fills_its_figures"
JOBS = "report/test_report_sweep.py"

SET = "training/test_train_command.py::test_scores_during_training_have_the_settings_of_those_at_the_end"
WHOSE = "training/test_train_command.py::test_a_score_says_which_weights_it_is_of_also_during_training"
PHOTOGRAPHS = "training/test_overfitting.py::test_tiles_of_one_photograph_are_one_cluster"
FEW_PHOTOGRAPHS = "training/test_overfitting.py::test_the_notice_counts_photographs_and_not_tiles"
ONE = "training/test_overfitting.py::test_one_image_has_no_interval"

FAULTS = [
    Fault(
        "figures: β_t of a schedule that has none",
        "    preserving = _preserving(",
        "    preserving = True or _preserving(",
        FILLED,
    ),
    Fault("figures: β_t is only a spike", "> PEAK * float(values.median())", "> 9", f"{FILLED}[cosine]"),
    Fault("figures: the signal is not visible", "> FAR * float(alpha.max())", "> 999", f"{FILLED}[ve]"),
    Fault(
        "evaluate: another seed",
        'NUMBERS = {"seed": ("seed",), ',
        "NUMBERS = {",
        f"{REPRODUCED}[ckpt]",
    ),
    Fault("evaluate: another sampler", "(recipe or {}).get(group) or ", "", f"{REPRODUCED}[ckpt]"),
    Fault(
        "evaluate: exported without scores",
        ', "seed", "score", "label_dropout")',
        ")",
        f"{REPRODUCED}[safetensors]",
    ),
    Fault(
        "evaluate: a setting changes nothing",
        "**{key: _merged(",
        "**{'': _merged(",
        f"{CHANGED}[one setting]",
    ),
    Fault("evaluate: a folder's images at 64", "completed(at_their_size(settings)", "completed((settings)", SIZE),
    Fault(
        "evaluate: images of any size", "    if len(first) > 1:\n        found", "    if False:\n        found", FOLDER
    ),
    Fault("evaluate: fewer images than asked for", "n is not None and n > len(images)", "False", FOLDER),
    Fault("an interval of one image", "math.isnan(half)", "False", ONE),
    Fault("evaluate: a part is mixed", ' or "_target_" in changes:', ":", f"{CHANGED}[a part]"),
    Fault("FID∞: influence of a subset's images", " * n / size", "", ERROR),
    Fault("FID∞: sizes from n/4", "linspace(n / 2, n,", "linspace(n / 4, n,", ERROR),
    Fault("FID∞: the mean for the intercept", " - u.mean() * (u - u.mean())", " - 0 * (u - u.mean())", BIAS),
    Fault("sFID: the next block", "return self.net.Mixed_6d", "return self.net.Mixed_6e", PUBLISHED),
    Fault(
        "sFID: a hook is not removed",
        "with self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):",
        "if self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):",
        PUBLISHED,
    ),
    Fault(
        "sFID: of the pooled features",
        "(maps, reference.spatial) if _takes_spatial",
        "(plain, reference) if _takes_spatial",
        SPATIAL,
    ),
    Fault("sFID: its floor is not divided", "replace(rest, spatial=spatial)", "rest", SPATIAL),
    Fault("hub: the hash is not verified", "!= path.name", '== ""', HUB),
    Fault("audit: nothing is cached", "keep=any(torch.equal(x, y) for y in real)", "keep=False", CACHED),
    Fault("audit: repeats calibrate", "~repeats(held_out)", "repeats(held_out) | True", CALIBRATES),
    Fault("audit: no view is shifted", "(0, -1, 1), (0, -1, 1))", "(0,), (0,))", f"{PLANTED}[rolled diagonally]"),
    Fault(
        "audit: views are shifted along one side",
        "(0, -1, 1), (0, -1, 1))",
        "(0,), (0, -1, 1))",
        f"{PLANTED}[rolled diagonally]",
    ),
    Fault(
        "audit: shifted views are not mirrored",
        "product((False, True)",
        "product((False,)",
        f"{PLANTED}[flipped and rolled diagonally]",
    ),
    Fault("audit: a shift wraps around", "self.right).clamp(0, width - 1)", "self.right) % width", MOVES),
    Fault("audit: views are compared without |f(v(x))|²", " + v.square().sum(dim=1, keepdim=True)", "", NEAREST),
    Fault("audit: no sample repeats", "repeats(samples[flagged])", "False", FEW),
    Fault("audit: every flagged sample repeats", "repeats(samples[flagged])", "True", FIRST),
    Fault("audit: repeats are not shown first", "(least - self.repeats.int())", "least", FIRST),
    Fault(
        "audit: repeats are not looked for in views",
        "train.images, SHIFTED))",
        "train.images, SHIFTED[:1]))",
        REPEATS,
    ),
    Fault("audit: images that do not calibrate are not reported", 'if out else ""', 'if False else ""', REPEATS),
    Fault("audit: a few repeats are no sign", "    if repeated:", "    if False:", SENTENCE),
    Fault(
        "audit: nothing left to calibrate by is found late",
        "if all(repeats(",
        "if False and all(repeats(",
        NONE_LEFT,
    ),
    Fault("audit: mirrored images are shown as they are", "[j].flip(-1) if view", "[j] if view", SHOWN),
    Fault(
        "cache: a damaged file is used",
        'if fields.pop("checksum") != _checksum',
        'if fields.pop("checksum") == _checksum',
        CACHED,
    ),
    Fault(
        "test: an evaluation is not recorded",
        "self.ledger.record(scores)",
        "list(scores)",
        DURING,
    ),
    Fault("test: a second evaluation is not refused", "else ledger.refuse()", "else None", REFUSED),
    Fault("test: an evaluation has no number", "{**s.source, **number}", "s.source", REFUSED),
    Fault(
        "training: scored by the default settings",
        "distances(scorer.metrics)",
        "distances(())",
        SET,
    ),
    Fault(
        "test: no warning before the last evaluation",
        'if score.split == "test":',
        "if False:",
        DURING,
    ),
    Fault(
        "test: a resumed run forgets its evaluations",
        "replace(self.path, other.path.read_bytes())",
        "pass",
        REFUSED,
    ),
    Fault("bits: one noise for all images", 'seeds_for("bits", last=index.tolist())', "[0] * len(index)", BOUNDED),
    Fault(
        "bits: x0 is not clipped",
        "variational_bound(Thresholded(denoise, clip), x0",
        "variational_bound(denoise, x0",
        BOUNDED,
    ),
    Fault(
        "score: too few images of a split are not refused",
        "self.data.splits\n        if (available := len(splits.get(split, ()))) < LEAST:",
        "self.data.splits\n        if (available := len(splits.get(split, ()))) < 0:",
        CHECKED,
    ),
    Fault("score: real images are the reference's", "splits[opposite(self.split)]", "splits[self.split]", OTHERS),
    Fault(
        "score: an earlier version's number of the evaluation is lost",
        'rest["test_evaluation"] = number',
        "pass",
        SCORES,
    ),
    Fault(
        "score: an earlier version's subset size is lost",
        'values["settings"] = {"subset_size": size',
        'values["settings"] = {"": size',
        SCORES,
    ),
    Fault("score: the source is read as details", "for key in SOURCE if key in rest}", "for key in ()}", SCORES),
    Fault("score: a missing value is not NaN", 'values["value"] = math.nan', 'values["value"] = 0.0', SCORES),
    Fault("evaluate: warnings are not printed", "level=logging.INFO", "level=logging.ERROR", MESSAGES),
    Fault(
        "compare: 1.96 for Student's quantile",
        "stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)",
        "1.96",
        RECIPES,
    ),
    Fault("compare: choosing by test is not warned of", "if tests and recipes > 1:", "if False:", RECIPES),
    Fault(
        "compare: the warning is not printed",
        'console.print(f"warning: {warning}")',
        "pass",
        RECIPES,
    ),
    Fault(
        "compare: failed runs are dropped",
        'console.print(f"left out: {run.folder}: {reason}")',
        "pass",
        RECIPES,
    ),
    Fault(
        "compare: runs that are left out are not in runs.csv",
        "    for i, run in enumerate(comparison.runs):\n        row =",
        "    for i, run in enumerate(run for row in comparison.rows for run in row.runs):\n        row =",
        JOBS,
    ),
    Fault("compare: scores of unknown makers fail", " if part in made)", ")", RECIPES),
    Fault("compare: evaluations are one recipe", "else name for run", "else MISSING for run", RECIPES),
    Fault("compare: of several samplers the last", "if several and not mixed:", "if False:", RECIPES),
    Fault("compare: a seed counts as often as it was run", "run.seeds or run.folder", "run.folder", RECIPES),
    Fault(
        "compare: a sampling seed is all",
        "for config in (recipe, self",
        "for config in (self",
        RECIPES,
    ),
    Fault("compare: the highest density is the best", '("precision", ', '("precision", "density", ', RECIPES),
    Fault("compare: raw weights are EMA's", '"val/mse_raw" in each for', "True for", RECIPES),
    Fault("compare: a metric's settings are no protocol", " | dict(self.settings or {})\n", "\n", RECIPES),
    Fault(
        "settings: the settings of different choices are shown",
        "tuple(each[i] for each in above)",
        "()",
        SETTINGS,
    ),
    Fault("settings: an override is not shown", "if key in overridden:", "if False:", SETTINGS),
    Fault("settings: one name for two classes", "if names.count(name) == 1 else", "if True else", SETTINGS),
    Fault(
        "duplicates: mirror images are not compared",
        "_views(part, EITHER_WAY)",
        "_views(part, EITHER_WAY[:1])",
        "data/test_duplicates.py",
    ),
    Fault(
        "grid: each seed has its own",
        "FrozenGrid(draws, grid_seed,",
        "FrozenGrid(draws, seed,",
        "training/test_reproducible.py::test_every_seed_is_validated_on_one_grid",
    ),
    Fault(
        "duplicates: splits are compared at every start",
        "    if stored is None:",
        "    if True:",
        DUPLICATES,
    ),
    Fault(
        "duplicates: the result for other images is used",
        "[(name, split.key, split.names)",
        "[(name, split.names)",
        DUPLICATES,
    ),
    Fault(
        "duplicates: only a folder reports them",
        "            self.report += duplicates.report(splits)\n",
        "",
        "data/test_cifar10.py",
    ),
    Fault(
        "tiles: those of a photograph are in several splits",
        "images.names if self.tiles is None else images.sources",
        "images.names",
        "data/test_folder_tiles.py::test_tiles_of_a_photograph_are_in_one_split",
    ),
    Fault("grid: errors on two are ranked", '"schedule", "validation")', '"schedule")', RECIPES),
    Fault(
        "grid: each seed has its own training images",
        'generator_for("overfit")',
        'generator_for(self.seed, "overfit")',
        "data/test_data_module.py",
    ),
    Fault(
        "scores: those during training are of the raw weights",
        "contextlib.suppress(Interrupted), averaged_weights(trainer, module):",
        "contextlib.suppress(Interrupted):",
        f"{WHOSE}[warm]",
    ),
    Fault(
        "scores: half precision is of other weights",
        "value.float() if value.is_floating_point() else value",
        "value",
        f"{WHOSE}[none]",
    ),
    Fault("gap: tiles are independent", ".sources = sources", ".sources = {}", PHOTOGRAPHS),
    Fault("gap: a tile is its own photograph", 'TILE.sub("", name)', "name", PHOTOGRAPHS),
    Fault("gap: only held-out photographs count", "sum(apart) - (len(apart) - 1) * _variance(x, both)", "0", GAPS),
    Fault("gap: clusters of both are counted twice", " - (len(apart) - 1) * _variance(x, both)", "", GAPS),
    Fault("gap: few clusters are many", "count / (count - 1) * sums", "sums", GAPS),
    Fault(
        "gap: an interval of few photographs is a normal's",
        "scipy.special.stdtrit(float(self.freedom), scipy.special.ndtr(sigmas))",
        "sigmas",
        GAPS,
    ),
    Fault(
        "gap: the notice takes tiles for independent",
        "mean_and_error(x, pl_module.clusters)",
        "mean_and_error(x)",
        FEW_PHOTOGRAPHS,
    ),
    Fault(
        "intervals: an error of 0 gives an interval",
        "return None if self.error == 0 else (low, high)",
        "return low, high",
        "metric/test_intervals.py",
    ),
    Fault(
        "study: its test evaluations are not warned of",
        'if settings.split == "test":\n        scorer',
        "if False:\n        scorer",
        STUDIED,
    ),
    Fault(
        "study: no floor in its table",
        "device_name(devices[0], len(devices)), baselines)",
        "device_name(devices[0], len(devices)))",
        FLOOR,
    ),
    Fault("study: a sampler that does not fit ends all", "if not every:", "if True:", FITS),
    Fault("study: a named sampler that does not fit is left out", "if not every:", "if False:", BUDGETS),
    Fault(
        "bits: tiles of a photograph are independent",
        "mean_and_error(bits, torch",
        "mean_and_error(bits) if True else (bits, torch",
        CLUSTERED,
    ),
    Fault("study: an adaptive sampler has an NFE", "if samplers[0].adaptive:", "if False:", FITS),
    Fault(
        "study: two samplers look alike",
        "MARKERS[(i + i // 7) % 7]",
        "MARKERS[i % 7]",
        "study/test_samplers_report.py",
    ),
    Fault("study: beyond its budget", "guidance)) <= budget:", "guidance)) <= 10 * budget:", BUDGET),
    Fault("text: text is markup", "markup=False, emoji=False", "emoji=False", PLAIN),
    Fault("text: text is emoji", "markup=False, emoji=False", "markup=False", PLAIN),
    Fault("text: a label is mathematics", ", parse_math=False", "", PLAIN),
    Fault("text: a line of progress at each tenth", "wait = PAUSE if", "wait = 0.0 if", "test_console.py"),
    Fault("text: slow work looks stuck", "else SILENCE\n", 'else float("inf")\n', "test_console.py"),
    Fault("text: a run of another name", " or _name(run) not in (name, None)", "", WHICH),
    Fault("text: ckpt=RUN is a folder", "    if not path.is_dir():", "    if True:", WHICH),
    Fault(
        "text: the digits of 4",
        "    if half is None or not 0 < half < math.inf:",
        "    if True:",
        "report/test_score_table.py",
    ),
    Fault("text: the metric written last", "score.name == scored[0].name", "True", "report/test_status.py"),
    Fault("text: the rate since the run began", 'content.get("first_step", 0)', "0", "report/test_status.py"),
    Fault(
        "text: the lengths of epochs are forgotten",
        "for start, length in self.lengths if start < step",
        "for start, length in ()",
        EPOCHS,
    ),
    Fault(
        "text: every step in a GIF", "min(sampler.steps, MOST_FRAMES)", "sampler.steps", "evaluation/test_trajectory.py"
    ),
]
