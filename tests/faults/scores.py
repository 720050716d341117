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
ERROR = "metric/test_distances.py::test_the_error_of_the_extrapolation_is_the_regressions"
PUBLISHED = "metric/test_features.py::test_inceptions_spatial_features_are_those_of_the_published_evaluator"
SPATIAL = "metric/test_score.py::test_spatial_features_come_out_of_the_same_pass_and_equal_numpy"
HUB = "metric/test_foundation.py::test_weights_from_the_hub_are_hashed"
PLANTED = "metric/test_copies.py::test_planted_copies_of_photographs_are_flagged"
CALIBRATES = "metric/test_copies.py::test_held_out_images_that_repeat_training_images_do_not_calibrate"
FEW = "metric/test_copies.py::test_the_few_samples_that_repeat_training_images_are_told_apart"
FIRST = "metric/test_copies.py::test_what_is_flagged_need_not_repeat_and_what_repeats_comes_first"
NEAREST = "metric/test_copies.py::test_nearest_is_the_brute_force_one"
MOVES = "metric/test_copies.py::test_a_view_moves_with_edges_replicated_then_mirrors"
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
DUPLICATES = "data/test_duplicates.py::test_any_data_set_tells_them_at_every_start_and_compares_its_splits_once"
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
        "    preserving = _preserving(",
        "    preserving = True or _preserving(",
        FILLED,
    ),
    Fault("figures: β_t a spike alone", "> PEAK * float(own.median())", "> 9", f"{FILLED}[cosine]"),
    Fault("figures: noise alone", "> FAR * float(alpha.max())", "> 999", f"{FILLED}[ve]"),
    Fault(
        "evaluate: another seed",
        'NUMBERS = {"seed": ("seed",), ',
        "NUMBERS = {",
        f"{HAD_AGAIN}[ckpt]",
    ),
    Fault("evaluate: another sampler", "(recipe or {}).get(group) or ", "", f"{HAD_AGAIN}[ckpt]"),
    Fault(
        "evaluate: exported without scores",
        ', "seed", "score")',
        ")",
        f"{HAD_AGAIN}[safetensors]",
    ),
    Fault(
        "evaluate: a setting changes nothing",
        "**{key: merged(",
        "**{'': merged(",
        f"{OWN}[one setting]",
    ),
    Fault("evaluate: a folder's images at 64", "own.completed(at_their_size(cfg)", "own.completed((cfg)", SIZE),
    Fault("evaluate: images of any size", " or len(first) > 1:", ":", FOLDER),
    Fault("evaluate: fewer images than asked for", "n is not None and n > len(images)", "False", FOLDER),
    Fault("an interval of one image", "math.isnan(half)", "False", ONE),
    Fault("evaluate: a part is mixed", ' or "_target_" in changes:', ":", f"{OWN}[a part]"),
    Fault("FID∞: influence of a subset's images", " * n / size", "", ERROR),
    Fault("FID∞: sizes from n/4", "linspace(n / 2, n,", "linspace(n / 4, n,", ERROR),
    Fault("FID∞: the mean for the intercept", " - u.mean() * (u - u.mean())", " - 0 * (u - u.mean())", BIAS),
    Fault("sFID: the next block", "Mixed_6d.branch1x1, 7", "Mixed_6e.branch1x1, 7", PUBLISHED),
    Fault("sFID: a hook stays", "        handle.remove()", "        pass", PUBLISHED),
    Fault(
        "sFID: of the pooled features",
        "(maps, reference.spatial) if _spatial",
        "(plain, reference) if _spatial",
        SPATIAL,
    ),
    Fault("sFID: its floor is not divided", "replace(rest, spatial=spatial)", "rest", SPATIAL),
    Fault("hub: the hash is not looked at", "!= kept.name", '== ""', HUB),
    Fault("audit: nothing is kept", "keep=any(torch.equal(x, y) for y in real)", "keep=False", KEPT),
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
    Fault("audit: whatever is flagged repeats", "repeats(samples[flagged])", "True", FIRST),
    Fault("audit: repeats are not shown first", "(least - self.repeats.int())", "least", FIRST),
    Fault(
        "audit: repeats are not looked for in views",
        "train.images, SHIFTED))",
        "train.images, SHIFTED[:1]))",
        SAID,
    ),
    Fault("audit: what does not calibrate is not said", 'if out else ""', 'if False else ""', SAID),
    Fault("audit: a few repeats are no sign", "    if few:", "    if False:", ACCUSES),
    Fault(
        "audit: nothing left to calibrate by is found late",
        "if all(repeats(",
        "if False and all(repeats(",
        NONE_LEFT,
    ),
    Fault("audit: the mirrored are shown unmirrored", "images[j].flip(-1) if flip", "images[j] if flip", SHOWN),
    Fault(
        "cache: a damaged file is believed",
        'if fields.pop("checksum") != digest',
        'if fields.pop("checksum") == digest',
        KEPT,
    ),
    Fault(
        "test: a look while training is not noted",
        "LooksAtTest(self.folder).add(new)",
        "new",
        LOOKS,
    ),
    Fault("test: a second look is not refused", "else looks.refuse()", "else None", INHERITED),
    Fault("test: a look has no number", "record | number if test else", "record if test else", INHERITED),
    Fault("training: scored by the default settings", "distances(metrics)", "distances(())", SET),
    Fault("test: no warning before the last look", "        looks.warn()", "        pass", LOOKS),
    Fault(
        "test: a run that goes on forgets",
        "replace(self.path, other.path.read_bytes())",
        "pass",
        INHERITED,
    ),
    Fault("bits: one noise for all images", 'seed_for("bits", i)', 'seed_for("bits", 0)', BITS_OF),
    Fault(
        "bits: x0 is not clipped",
        "super().__init__(denoise, clip)",
        "super().__init__(denoise, lambda x0: x0)",
        BITS_OF,
    ),
    Fault(
        "too few images to score are found after training",
        "having < 4",
        "having < 0",
        f"{BAD}[too few images to score against]",
    ),
    Fault(
        "compare: 1.96 for Student's quantile",
        "stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)",
        "1.96",
        RECIPES,
    ),
    Fault("compare: choosing by test is not warned of", "if tests and len(rows) > 1:", "if False:", RECIPES),
    Fault(
        "compare: the warning is not printed",
        'console.print(f"warning: {warning}", markup=False)',
        "pass",
        RECIPES,
    ),
    Fault(
        "compare: failed runs are dropped",
        'console.print(f"left out: {run.folder}: {reason}", markup=False)',
        "pass",
        RECIPES,
    ),
    Fault("compare: evaluations are one recipe", "else name for run", "else MISSING for run", RECIPES),
    Fault("compare: of several samplers the last", "if several and not mixed:", "if False:", RECIPES),
    Fault("compare: a seed counts as often as it was run", "run.seeds or run.folder", "run.folder", RECIPES),
    Fault(
        "compare: a sampling seed is all",
        "for config in (recipe, self",
        "for config in (self",
        RECIPES,
    ),
    Fault("compare: the most crowded is the best", '("precision", ', '("precision", "density", ', RECIPES),
    Fault("compare: raw weights are EMA's", '"val/mse_raw" in each for', "True for", RECIPES),
    Fault("compare: a metric's settings are no protocol", " | settings_of(record)\n", "\n", RECIPES),
    Fault(
        "settings: what a choice brings is told",
        "all(column[i] == column[j] for column in above)",
        "True",
        TOLD,
    ),
    Fault("settings: what was given by hand is not", "key in by_hand or ", "", TOLD),
    Fault("settings: one name for two classes", "if names.count(name) == 1 else", "if True else", TOLD),
    Fault(
        "duplicates: mirror images are not seen",
        "small[first], (itself, mirror))",
        "small[first], (itself,))",
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
        "across(splits) if kept is None else",
        "across(splits) if True else",
        DUPLICATES,
    ),
    Fault(
        "duplicates: other images are taken for those compared",
        "[(name, split.key, split.names)",
        "[(name, split.names)",
        DUPLICATES,
    ),
    Fault(
        "duplicates: only a folder tells",
        "            self.report += duplicates.tell(splits)\n",
        "",
        "data/test_cifar10.py",
    ),
    Fault("grid: errors on two are ranked", '"schedule", "validation")', '"schedule")', RECIPES),
    Fault(
        "grid: each seed has its own training images",
        'generator_for("overfit")',
        'generator_for(self.seed, "overfit")',
        "data/test_data_module.py",
    ),
    Fault(
        "scores: those while training are of the raw weights",
        "own = network_hash(pl_module.denoiser.network)",
        "own = network_hash((pl_module.raw_denoiser() or pl_module.denoiser).network)",
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
        "stdtrit(float(self.freedom), ndtr(sigmas))",
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
        "intervals: what never varied never will",
        "self.share_of is None and self.error == 0:",
        "False:",
        "metric/test_intervals.py",
    ),
    Fault("study: its looks at test are not noted", "looks.add(new)", "new", STUDIED),
    Fault("study: no floor beside", "device_name(device), beside)", "device_name(device))", FLOOR),
    Fault("study: a sampler that does not fit ends all", "if not every:", "if True:", FITS),
    Fault("study: a sampler that does not fit is silent", "if not every:", "if False:", BUDGETS),
    Fault(
        "bits: tiles of a photograph are independent",
        "mean_and_error(bits, torch",
        "mean_and_error(bits) if True else (bits, torch",
        "training/test_bits.py::test_the_interval_is_of_the_photographs",
    ),
    Fault("study: an adaptive sampler has an NFE", "if samplers[0].adaptive:", "if False:", FITS),
    Fault(
        "study: two samplers look alike",
        "markers[(i + i // 7) % 7]",
        "markers[i % 7]",
        "report/test_report_study.py",
    ),
    Fault("study: beyond its budget", "if nfe <= budget else", "if True else", BUDGET),
]
