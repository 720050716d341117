"""Numbers and what is said of them: one thing that makes them trusted taken away at a time."""

# Libraries are imported here, and not in each copy's process, for speed; nothing of the project's.
import matplotlib.pyplot  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

DISTANCES = "metric/distances.py"
FEATURES = "metric/features.py"
COPIES = "metric/memorization.py"
AUDIT = "evaluation/memorization.py"
COMPARE = "report/compare.py"
COMPARISON = "report/comparison.py"
WORDS = "report/formatting.py"
SETTINGS = "report/differences.py"
BITS = "evaluation/likelihood.py"
COMMANDS = "evaluation/commands.py"
PROVENANCE = "evaluation/test_ledger.py"

BIAS = "metric/test_distances.py::test_the_extrapolation_is_exact_where_the_bias_is_b_over_n"
ERROR = "metric/test_distances.py::test_the_error_of_the_extrapolation_is_that_of_the_regression"
PUBLISHED = "metric/test_features.py::test_spatial_features_of_inception_are_those_of_the_published_evaluator"
SPATIAL = "metric/test_score.py::test_spatial_features_need_no_second_pass_and_their_distance_equals_numpys"
HUB = "metric/test_foundation.py::test_the_hash_of_weights_from_the_hub_is_verified"
PLANTED = "metric/test_memorization.py::test_planted_copies_of_photographs_are_flagged"
CALIBRATES = (
    "metric/test_memorization.py::test_held_out_images_that_repeat_training_images_are_not_used_for_the_threshold"
)
FEW = "metric/test_memorization.py::test_a_few_samples_that_repeat_training_images_are_counted_apart"
FIRST = "metric/test_memorization.py::test_flagged_samples_need_not_repeat_and_repeats_come_first"
NEAREST = "metric/test_memorization.py::test_nearest_equals_brute_force"
MOVES = "metric/test_memorization.py::test_a_view_shifts_with_replicated_edges_then_mirrors"
SHOWN = "training/test_audit.py::test_the_figure_shows_training_images_mirrored_where_the_sample_is"
SAID = "training/test_audit.py::test_held_out_repeats_are_counted_and_said"
ACCUSES = "training/test_audit.py::test_the_sentence_accuses_beyond_chance_and_where_samples_repeat"
NONE_LEFT = "training/test_audit.py::test_an_unknown_distance_and_missing_held_out_images_are_one_line"
KEPT = "training/test_audit.py::test_real_images_are_embedded_once_and_again_when_one_changes"
LOOKS = "training/test_provenance.py::test_scoring_test_while_training_is_warned_of_and_every_look_recorded"
INHERITED = "training/test_provenance.py::test_a_second_look_at_test_is_refused_unless_asked_for_and_both_are_recorded"
SET = "training/test_train_command.py::test_scores_while_training_are_set_as_those_at_the_end"
BITS_OF = "training/test_bits.py::test_evaluate_bounds_the_bits_of_held_out_images"
BAD = "training/test_bad_input.py::test_one_line_says_what_and_how_to_mend_it"
RECIPES = "report/test_compare.py"
TOLD = "report/test_settings.py"
STUDIED = "training/test_study.py::test_a_study_by_test_is_warned_of_and_every_setting_is_a_look"
DUPLICATES = "data/test_duplicates.py::test_any_data_set_prints_them_at_every_start_and_compares_its_splits_once"
WHOSE = "training/test_train_command.py::test_a_score_says_of_which_weights_it_is_also_while_training"
GAP, GAPS = "metric/gap.py", "metric/test_gap.py"
PHOTOGRAPHS = "training/test_gap.py::test_a_run_knows_the_photographs_of_its_tiles"
FEW_PHOTOGRAPHS = "training/test_gap.py::test_the_notice_takes_tiles_of_few_photographs_for_few"
BUDGETS = "training/test_study.py::test_every_sampler_takes_the_most_steps_within_its_budget"
FITS = "training/test_study.py::test_all_are_those_that_fit_and_the_others_are_named"
FLOOR = "training/test_study.py::test_a_study_from_the_command_line"
BUDGET = "training/test_study.py::test_no_setting_is_beyond_its_budget_whatever_was_reckoned"
ONE = "training/test_gap.py::test_of_one_image_no_interval_is_said"
SIZE = "training/test_own.py::test_the_reference_has_the_images_own_size"
FOLDER = "training/test_own.py::test_what_cannot_be_scored_in_a_folder_is_one_line"
HAD_AGAIN = "training/test_own.py::test_the_scores_of_a_run_are_had_again"
OWN = "training/test_own.py::test_single_settings_of_the_runs_own_change"
FIGURES = "report/figures.py"
FILLED = "report/test_report_figures.py::test_every_shipped_schedule_fills_its_figures"

FAULTS = [
    Fault(
        "figures: β_t where there is none",
        FIGURES,
        "    preserving = _preserving(",
        "    preserving = True or _preserving(",
        FILLED,
    ),
    Fault("figures: β_t a spike alone", FIGURES, "> PEAK * float(own.median())", "> 9", f"{FILLED}[cosine]"),
    Fault("figures: noise alone", FIGURES, "> FAR * float(alpha.max())", "> 999", f"{FILLED}[ve]"),
    Fault(
        "evaluate: another seed",
        "config/inherit.py",
        'NUMBERS = {"seed": ("seed",), ',
        "NUMBERS = {",
        f"{HAD_AGAIN}[ckpt]",
    ),
    Fault("evaluate: another sampler", "config/inherit.py", "(recipe or {}).get(group) or ", "", f"{HAD_AGAIN}[ckpt]"),
    Fault(
        "evaluate: exported without scores",
        "checkpoint/exported.py",
        ', "seed", "score")',
        ")",
        f"{HAD_AGAIN}[safetensors]",
    ),
    Fault(
        "evaluate: a setting changes nothing",
        "config/inherit.py",
        "**{key: merged(",
        "**{'': merged(",
        f"{OWN}[one setting]",
    ),
    Fault(
        "evaluate: a folder's images at 64", COMMANDS, "own.completed(at_their_size(cfg)", "own.completed((cfg)", SIZE
    ),
    Fault("evaluate: images of any size", "data/folder.py", " or len(first) > 1:", ":", FOLDER),
    Fault("evaluate: fewer images than asked for", COMMANDS, "n is not None and n > len(images)", "False", FOLDER),
    Fault("an interval of one image", "training/overfitting.py", "math.isnan(half)", "False", ONE),
    Fault("evaluate: a part is mixed", "config/inherit.py", ' or "_target_" in changes:', ":", f"{OWN}[a part]"),
    Fault("FID∞: influence of a subset's images", DISTANCES, " * n / size", "", ERROR),
    Fault("FID∞: sizes from n/4", DISTANCES, "linspace(n / 2, n,", "linspace(n / 4, n,", ERROR),
    Fault("FID∞: the mean for the intercept", DISTANCES, " - u.mean() * (u - u.mean())", " - 0 * (u - u.mean())", BIAS),
    Fault("sFID: the next block", FEATURES, "return self.net.Mixed_6d", "return self.net.Mixed_6e", PUBLISHED),
    Fault(
        "sFID: a hook is not removed",
        FEATURES,
        "with self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):",
        "if self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):",
        PUBLISHED,
    ),
    Fault(
        "sFID: of the pooled features",
        "metric/score.py",
        "(maps, reference.spatial) if _takes_spatial",
        "(plain, reference) if _takes_spatial",
        SPATIAL,
    ),
    Fault("sFID: its floor is not divided", "metric/baselines.py", "replace(rest, spatial=spatial)", "rest", SPATIAL),
    Fault("hub: the hash is not verified", "metric/foundation.py", "!= path.name", '== ""', HUB),
    Fault("audit: nothing is kept", AUDIT, "keep=any(torch.equal(x, y) for y in real)", "keep=False", KEPT),
    Fault("audit: repeats calibrate", COPIES, "~repeats(held_out)", "repeats(held_out) | True", CALIBRATES),
    Fault(
        "audit: no view is shifted", COPIES, "(0, -1, 1), (0, -1, 1))", "(0,), (0,))", f"{PLANTED}[rolled diagonally]"
    ),
    Fault(
        "audit: views are shifted along one side",
        COPIES,
        "(0, -1, 1), (0, -1, 1))",
        "(0,), (0, -1, 1))",
        f"{PLANTED}[rolled diagonally]",
    ),
    Fault(
        "audit: shifted views are not mirrored",
        COPIES,
        "product((False, True)",
        "product((False,)",
        f"{PLANTED}[flipped and rolled diagonally]",
    ),
    Fault("audit: a shift wraps around", COPIES, "self.right).clamp(0, width - 1)", "self.right) % width", MOVES),
    Fault(
        "audit: views are compared without |f(v(x))|²", COPIES, " + v.square().sum(dim=1, keepdim=True)", "", NEAREST
    ),
    Fault("audit: no sample repeats", COPIES, "repeats(samples[flagged])", "False", FEW),
    Fault("audit: every flagged sample repeats", COPIES, "repeats(samples[flagged])", "True", FIRST),
    Fault("audit: repeats are not shown first", COPIES, "(least - self.repeats.int())", "least", FIRST),
    Fault(
        "audit: repeats are not looked for in views",
        AUDIT,
        "train.images, SHIFTED))",
        "train.images, SHIFTED[:1]))",
        SAID,
    ),
    Fault("audit: what does not calibrate is not said", AUDIT, 'if out else ""', 'if False else ""', SAID),
    Fault("audit: a few repeats are no sign", AUDIT, "    if few:", "    if False:", ACCUSES),
    Fault(
        "audit: nothing left to calibrate by is found late",
        AUDIT,
        "if all(repeats(",
        "if False and all(repeats(",
        NONE_LEFT,
    ),
    Fault("audit: the mirrored are shown unmirrored", AUDIT, "images[j].flip(-1) if flip", "images[j] if flip", SHOWN),
    Fault(
        "cache: a damaged file is used",
        "metric/reference.py",
        'if fields.pop("checksum") != _checksum',
        'if fields.pop("checksum") == _checksum',
        KEPT,
    ),
    Fault(
        "test: a look while training is not noted",
        "training/callbacks.py",
        "LooksAtTest(self.folder).add(new)",
        "new",
        LOOKS,
    ),
    Fault("test: a second look is not refused", COMMANDS, "else looks.refuse()", "else None", INHERITED),
    Fault("test: a look has no number", PROVENANCE, "record | number if test else", "record if test else", INHERITED),
    Fault(
        "training: scored by the default settings", "training/callbacks.py", "distances(metrics)", "distances(())", SET
    ),
    Fault("test: no warning before the last look", "training/run.py", "        looks.warn()", "        pass", LOOKS),
    Fault(
        "test: a run that goes on forgets",
        PROVENANCE,
        "replace(self.path, other.path.read_bytes())",
        "pass",
        INHERITED,
    ),
    Fault("bits: one noise for all images", BITS, 'seed_for("bits", i)', 'seed_for("bits", 0)', BITS_OF),
    Fault(
        "bits: x0 is not clipped",
        BITS,
        "super().__init__(denoise, clip)",
        "super().__init__(denoise, lambda x0: x0)",
        BITS_OF,
    ),
    Fault(
        "too few images to score are found after training",
        "evaluation/pipeline.py",
        "having < 4",
        "having < 0",
        f"{BAD}[too few images to score against]",
    ),
    Fault(
        "compare: 1.96 for Student's quantile",
        "report/recipes.py",
        "stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)",
        "1.96",
        RECIPES,
    ),
    Fault("compare: choosing by test is not warned of", COMPARE, "if tests and len(rows) > 1:", "if False:", RECIPES),
    Fault(
        "compare: the warning is not printed",
        COMPARISON,
        'console.print(f"warning: {warning}", markup=False)',
        "pass",
        RECIPES,
    ),
    Fault(
        "compare: failed runs are dropped",
        COMPARISON,
        'console.print(f"left out: {run.folder}: {reason}", markup=False)',
        "pass",
        RECIPES,
    ),
    Fault("compare: evaluations are one recipe", COMPARE, "else name for run", "else MISSING for run", RECIPES),
    Fault("compare: of several samplers the last", COMPARE, "if several and not mixed:", "if False:", RECIPES),
    Fault("compare: a seed counts as often as it was run", COMPARE, "run.seeds or run.folder", "run.folder", RECIPES),
    Fault(
        "compare: a sampling seed is all",
        "runs/folder.py",
        "for config in (recipe, self",
        "for config in (self",
        RECIPES,
    ),
    Fault("compare: the most crowded is the best", WORDS, '("precision", ', '("precision", "density", ', RECIPES),
    Fault("compare: raw weights are EMA's", "runs/metrics.py", '"val/mse_raw" in each for', "True for", RECIPES),
    Fault("compare: a metric's settings are no protocol", WORDS, " | settings_of(record)\n", "\n", RECIPES),
    Fault(
        "settings: what a choice brings is told",
        SETTINGS,
        "all(column[i] == column[j] for column in above)",
        "True",
        TOLD,
    ),
    Fault("settings: what was given by hand is not", SETTINGS, "key in by_hand or ", "", TOLD),
    Fault("settings: one name for two classes", SETTINGS, "if names.count(name) == 1 else", "if True else", TOLD),
    Fault(
        "duplicates: mirror images are not compared",
        "data/duplicates.py",
        "small[first], EITHER_WAY)",
        "small[first], EITHER_WAY[:1])",
        "data/test_duplicates.py",
    ),
    Fault(
        "grid: each seed has its own",
        "training/module.py",
        "FrozenGrid(draws, grid_seed,",
        "FrozenGrid(draws, seed,",
        "training/test_reproducible.py::test_every_seed_is_validated_on_one_grid",
    ),
    Fault(
        "duplicates: splits are compared at every start",
        "data/duplicates.py",
        "    if stored is None:",
        "    if True:",
        DUPLICATES,
    ),
    Fault(
        "duplicates: the result for other images is used",
        "data/duplicates.py",
        "[(name, split.key, split.names)",
        "[(name, split.names)",
        DUPLICATES,
    ),
    Fault(
        "duplicates: only a folder reports them",
        "data/module.py",
        "            self.report += duplicates.report(splits)\n",
        "",
        "data/test_cifar10.py",
    ),
    Fault("grid: errors on two are ranked", COMPARE, '"schedule", "validation")', '"schedule")', RECIPES),
    Fault(
        "grid: each seed has its own training images",
        "data/module.py",
        'generator_for("overfit")',
        'generator_for(self.seed, "overfit")',
        "data/test_data_module.py",
    ),
    Fault(
        "scores: those while training are of the raw weights",
        "training/callbacks.py",
        "own = network_hash(pl_module.denoiser.network)",
        "own = network_hash((pl_module.raw_denoiser() or pl_module.denoiser).network)",
        f"{WHOSE}[warm]",
    ),
    Fault(
        "scores: half precision is of other weights",
        PROVENANCE,
        "value.float() if value.is_floating_point() else value",
        "value",
        f"{WHOSE}[none]",
    ),
    Fault("gap: tiles are independent", "training/module.py", ".sources = sources", ".sources = {}", PHOTOGRAPHS),
    Fault("gap: a tile is its own photograph", "data/batches.py", 'TILE.sub("", name)', "name", PHOTOGRAPHS),
    Fault("gap: only held-out photographs count", GAP, "sum(apart) - (len(apart) - 1) * _variance(x, both)", "0", GAPS),
    Fault("gap: clusters of both are counted twice", GAP, " - (len(apart) - 1) * _variance(x, both)", "", GAPS),
    Fault("gap: few clusters are many", GAP, "count / (count - 1) * sums", "sums", GAPS),
    Fault(
        "gap: an interval of few photographs is a normal's",
        GAP,
        "stdtrit(float(self.freedom), ndtr(sigmas))",
        "sigmas",
        GAPS,
    ),
    Fault(
        "gap: the notice takes tiles for independent",
        "training/overfitting.py",
        "mean_and_error(x, pl_module.clusters)",
        "mean_and_error(x)",
        FEW_PHOTOGRAPHS,
    ),
    Fault(
        "intervals: an error of 0 gives an interval",
        "metric/estimate.py",
        "return None if self.error == 0 else (low, high)",
        "return low, high",
        "metric/test_intervals.py",
    ),
    Fault("study: its looks at test are not noted", "evaluation/study.py", "looks.add(new)", "new", STUDIED),
    Fault(
        "study: no floor beside", "evaluation/study.py", "device_name(device), beside)", "device_name(device))", FLOOR
    ),
    Fault("study: a sampler that does not fit ends all", "evaluation/study.py", "if not every:", "if True:", FITS),
    Fault("study: a sampler that does not fit is silent", "evaluation/study.py", "if not every:", "if False:", BUDGETS),
    Fault(
        "bits: tiles of a photograph are independent",
        "evaluation/likelihood.py",
        "mean_and_error(bits, torch",
        "mean_and_error(bits) if True else (bits, torch",
        "training/test_bits.py::test_the_interval_is_of_the_photographs",
    ),
    Fault(
        "study: an adaptive sampler has an NFE", "evaluation/study.py", "if samplers[0].adaptive:", "if False:", FITS
    ),
    Fault(
        "study: two samplers look alike",
        "report/study.py",
        "markers[(i + i // 7) % 7]",
        "markers[i % 7]",
        "report/test_report_study.py",
    ),
    Fault("study: beyond its budget", "evaluation/study.py", "if nfe <= budget else", "if True else", BUDGET),
]
