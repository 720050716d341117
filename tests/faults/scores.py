"""Faults in scores and their reports: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import matplotlib.pyplot  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

BIAS = "metric/test_distances.py::test_extrapolation_is_exact_if_the_bias_is_proportional_to_1_over_n"
ERROR = "metric/test_distances.py::test_the_extrapolation_error_matches_the_regression_error"
PUBLISHED = "metric/test_features.py::test_inception_spatial_features_match_the_published_evaluator"
SPATIAL = "metric/test_score.py::test_spatial_features_need_no_second_pass_and_sfd_matches_numpy"
SIZES = "metric/test_score.py::test_the_floor_has_the_sizes_of_the_sets_even_if_pairwise_metrics_use_fewer"
OLD = "metric/test_score.py::test_cached_statistics_with_too_few_features_are_recomputed"
HUB = "metric/test_foundation.py::test_the_hash_of_weights_from_the_hub_is_verified"
PLANTED = "metric/test_memorization.py::test_planted_copies_of_photographs_are_flagged"
FEW = "metric/test_memorization.py::test_samples_that_repeat_training_images_are_counted_separately"
FIRST = "metric/test_memorization.py::test_not_all_flagged_samples_are_repeats_and_repeats_come_first"
UNFLAGGED = "metric/test_memorization.py::test_repeats_of_an_image_with_many_near_duplicates_are_counted_and_come_first"
NEAREST = "metric/test_memorization.py::test_nearest_equals_brute_force"
MOVES = "metric/test_memorization.py::test_a_view_shifts_with_replicated_edges_then_mirrors"
DUPLICATES = "data/test_duplicates.py::test_near_duplicates_are_printed_at_every_start_but_computed_once"
BY_CHANCE = "metric/test_memorization.py::test_chance_alone_is_called_copying_in_at_most_a_fortieth_of_audits"
EMBEDDINGS = (
    "metric/test_memorization.py::test_the_p_value_is_that_of_the_embedding_which_flags_the_most_times_their_number"
)
CALIBRATES = "metric/test_memorization.py::test_held_out_repeats_of_training_images_do_not_affect_the_threshold"
GAPS = "metric/test_gap.py"

SHOWN = "evaluation/test_memorization.py::test_the_figure_mirrors_training_images_like_their_samples"
REPEATS = "evaluation/test_memorization.py::test_held_out_repeats_are_counted_and_reported"
SENTENCE = "evaluation/test_memorization.py::test_the_summary_reports_copies_beyond_chance_and_repeated_images"
NONE_LEFT = "evaluation/test_memorization.py::test_missing_held_out_images_are_refused"
CACHED = "evaluation/test_memorization.py::test_embeddings_of_real_images_are_cached_until_an_image_changes"
BOUNDED = "evaluation/test_likelihood.py::test_evaluate_reports_the_variational_bound_of_held_out_images"
CLUSTERED = "evaluation/test_likelihood.py::test_the_interval_is_clustered_by_photographs"
REFUSED = "evaluation/test_ledger.py::test_a_second_test_evaluation_needs_again_and_both_are_recorded"
DURING = "evaluation/test_ledger.py::test_test_scores_during_training_give_a_warning_and_are_all_recorded"
CHECKED = "evaluation/test_pipeline.py::test_too_few_images_for_scoring_give_a_one_line_error"
OTHERS = "evaluation/test_pipeline.py::test_the_real_baseline_never_uses_the_reference_split"
REPRODUCED = "evaluation/test_inherited_settings.py::test_evaluate_reproduces_the_scores_of_the_run"
CHANGED = "evaluation/test_inherited_settings.py::test_single_inherited_settings_can_be_overridden"
SIZE = "evaluation/test_inherited_settings.py::test_the_reference_is_loaded_at_the_resolution_of_the_images"
FOLDER = "evaluation/test_inherited_settings.py::test_an_unusable_image_folder_gives_a_one_line_error"
MESSAGES = "evaluation/test_messages.py"
PLAIN = "report/test_plain_text.py"
WHICH = "evaluation/test_which_checkpoint.py"
TIME = "training/test_resume.py::test_the_time_of_a_run_includes_that_of_the_run_it_resumes"
EPOCHS = "training/test_resume.py::test_the_record_contains_the_resume_step_and_the_epoch_lengths"
BUDGETS = "study/test_study.py::test_every_sampler_uses_the_most_steps_within_the_budget"
BUDGET = "study/test_study.py::test_no_setting_exceeds_its_budget_even_if_the_estimate_is_too_high"
FITS = "study/test_study.py::test_all_selects_the_compatible_samplers_and_reports_the_others"
FLOOR = "study/test_study.py::test_the_sampler_study_runs_from_the_command_line"
STUDIED = "study/test_study.py::test_a_study_on_the_test_split_gives_a_warning_and_counts_every_setting"

SCORES = "metric/test_record.py"
RECIPES = "report/test_compare.py"
SAMPLINGS = "test_several_samplings_of_one_model_count_as_one_seed"
NO_INTERVAL = "test_several_samplings_of_one_model_have_no_interval_over_seeds"
STEPS = "test_seeds_trained_for_different_numbers_of_steps_give_a_warning"
MADE = "test_scores_of_images_made_in_different_ways_give_a_warning"
SAME_IMAGES = "test_mse_is_ranked_only_if_all_runs_validated_the_same_images"
EQUAL = "test_equal_recipes_are_rarely_shown_as_worse_than_the_best"
ONE_SEED = "test_a_row_with_one_seed_is_not_shown_to_differ_from_the_best"
SETTINGS = "report/test_differences.py"
FILLED = "report/test_report_figures.py::test_the_lines_of_every_shipped_schedule_fill_their_figures"
JOBS = "report/test_report_sweep.py"

SET = "training/test_train_command.py::test_scores_during_training_use_the_settings_of_the_final_scores"
WHOSE = "training/test_train_command.py::test_scores_record_the_hash_of_the_scored_weights"
PHOTOGRAPHS = "training/test_overfitting.py::test_tiles_of_one_photograph_are_one_cluster"
FEW_PHOTOGRAPHS = "training/test_overfitting.py::test_the_notice_counts_photographs_and_not_tiles"
ONE = "training/test_overfitting.py::test_the_gap_of_one_image_is_printed_without_an_interval"

FAULTS = [
    Fault(
        "compare: the age of an evaluation is not considered",
        "return scores.stat().st_mtime if scores.is_file() else 0.0",
        "return 0.0",
        "report/test_compare.py::test_of_two_evaluations_the_newer_one_counts_in_any_order",
    ),
    Fault(
        "figures: β_t is drawn for a schedule without one",
        "    preserving = _preserving(",
        "    preserving = True or _preserving(",
        FILLED,
    ),
    Fault(
        "figures: β_t with a peak is not on a logarithmic axis",
        "> PEAK * float(values.median())",
        "> 9",
        f"{FILLED}[cosine]",
    ),
    Fault(
        "figures: a small signal is not on a logarithmic axis", "> FAR * float(alpha.max())", "> 999", f"{FILLED}[ve]"
    ),
    Fault(
        "evaluate: the run's seed is not inherited",
        'NUMBERS = {"seed": ("seed",), ',
        "NUMBERS = {",
        f"{REPRODUCED}[ckpt]",
    ),
    Fault("evaluate: the run's sampler is not inherited", "(recipe or {}).get(group) or ", "", f"{REPRODUCED}[ckpt]"),
    Fault(
        "evaluate: the seed and score settings are not exported",
        ', "seed", "score", "label_dropout", "matmul_precision")',
        ")",
        f"{REPRODUCED}[safetensors]",
    ),
    Fault(
        "evaluate: a single changed setting has no effect",
        "**{key: _merged(",
        "**{'': _merged(",
        f"{CHANGED}[one setting]",
    ),
    Fault(
        "evaluate: the reference does not get the size of the images",
        "completed(at_their_size(settings)",
        "completed((settings)",
        SIZE,
    ),
    Fault(
        "evaluate: images of different sizes are accepted",
        "    if len(first) > 1:\n        found",
        "    if False:\n        found",
        FOLDER,
    ),
    Fault("evaluate: n above the number of images is accepted", "n is not None and n > len(images)", "False", FOLDER),
    Fault("an interval is printed for a single image", "math.isnan(half)", "False", ONE),
    Fault(
        "evaluate: a replaced part is merged with the old one", ' or "_target_" in changes:', ":", f"{CHANGED}[a part]"
    ),
    Fault("FID∞: influence is not scaled by the subset's size", " * n / size", "", ERROR),
    Fault("FID∞: sizes from n/4", "linspace(n / 2, n,", "linspace(n / 4, n,", ERROR),
    Fault("FID∞: the mean instead of the intercept", " - u.mean() * (u - u.mean())", " - 0 * (u - u.mean())", BIAS),
    Fault("sFID: features of the next block", "return self.net.Mixed_6d", "return self.net.Mixed_6e", PUBLISHED),
    Fault(
        "sFID: a hook is not removed",
        "with self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):",
        "if self.spatial_layer().register_forward_hook(lambda *call: maps.append(call[2])):",
        PUBLISHED,
    ),
    Fault(
        "sFID: computed from the pooled features",
        "(maps, reference.spatial) if _takes_spatial",
        "(plain, reference) if _takes_spatial",
        SPATIAL,
    ),
    Fault("floor: measured on the pool of the samples", "pool(features, len(features))", "pool(features)", SIZES),
    Fault(
        "reference: only the pool of the features is kept",
        "pool(features, KEPT)",
        "pool(features)",
        SIZES,
    ),
    Fault("reference: pairwise metrics use all features", "self.features[:POOL]", "self.features", SIZES),
    Fault("reference: old statistics with fewer features are used", "len(known.features) == min(", "0 < min(", OLD),
    Fault("sFID: the reference is not divided for the floor", "replace(rest, spatial=spatial)", "rest", SPATIAL),
    Fault("hub: the hash is not verified", "!= path.name", '== ""', HUB),
    Fault("audit: real embeddings are not cached", "keep=any(torch.equal(x, y) for y in real)", "keep=False", CACHED),
    Fault(
        "audit: repeated held-out images are used for the threshold",
        "~repeats(held_out)",
        "repeats(held_out) | True",
        CALIBRATES,
    ),
    Fault("audit: no view is shifted", "(0, -1, 1), (0, -1, 1))", "(0,), (0,))", f"{PLANTED}[rolled diagonally]"),
    Fault(
        "audit: views are shifted only horizontally",
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
    Fault("audit: distances of views lack the term |f(v(x))|²", " + v.square().sum(dim=1, keepdim=True)", "", NEAREST),
    Fault("audit: no sample counts as a repeat", "flagged, repeats(samples),", "flagged, ~flagged,", FEW),
    Fault("audit: every flagged sample counts as a repeat", "flagged, repeats(samples),", "flagged, flagged,", FIRST),
    Fault(
        "audit: only flagged samples count as repeats",
        "flagged, repeats(samples),",
        "flagged, flagged & repeats(samples),",
        UNFLAGGED,
    ),
    Fault("audit: repeats are not shown first", "zip((~self.repeats).tolist(),", "zip([True] * self.n,", FIRST),
    Fault(
        "audit: repeats are not searched in mirrored and shifted views",
        "train.images, SHIFTED))",
        "train.images, SHIFTED[:1]))",
        REPEATS,
    ),
    Fault("audit: images not used for calibration are not reported", 'if out else ""', 'if False else ""', REPEATS),
    Fault(
        "audit: the rate of one calibration set is taken for certain",
        "scipy.stats.betabinom(n, k, m + 1 - k)",
        "scipy.stats.binom(n, k / (m + 1))",
        f"{BY_CHANCE}[249-2048]",
    ),
    Fault("audit: the verdict ignores how many embeddings there are", "len(counts) * chance(", "chance(", EMBEDDINGS),
    Fault(
        "audit: the verdict compares the interval with the rate", 'details["p_value"] < CHANCE', "low > rate", SENTENCE
    ),
    Fault("audit: a few repeats are not reported", "    if repeated:", "    if False:", SENTENCE),
    Fault(
        "audit: a lack of calibration images is not detected early",
        "if all(repeats(",
        "if False and all(repeats(",
        NONE_LEFT,
    ),
    Fault("audit: mirrored matches are shown unmirrored", "[j].flip(-1) if view", "[j] if view", SHOWN),
    Fault(
        "cache: a damaged file is used",
        'if fields.pop("checksum") != _checksum',
        'if fields.pop("checksum") == _checksum',
        CACHED,
    ),
    Fault(
        "test: an evaluation is not recorded in the ledger",
        "self.ledger.record(scores)",
        "list(scores)",
        DURING,
    ),
    Fault("test: a second evaluation is not refused", "else ledger.refuse()", "else None", REFUSED),
    Fault("test: an evaluation has no number", "{**s.source, **number}", "s.source", REFUSED),
    Fault(
        "training: scored with the default settings",
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
    Fault(
        "bins without images move the others",
        '(np.array([int(name.rpartition("bin")[2]) for name in names]) + 0.5) / 10',
        "(np.arange(len(names)) + 0.5) / len(names)",
        "report/test_report_figures.py::test_bins_without_images_leave_the_others_in_their_places",
    ),
    Fault(
        "reproduce: cells of another study count as agreeing",
        "    if again.settings != committed.settings:\n        return 0, len(both)\n",
        "",
        "reproduce/test_table.py::test_every_differing_cell_is_reported",
    ),
    Fault(
        "a study's page has baselines of an earlier study",
        "run.scores[max(ended, default=0) :]",
        "run.scores",
        "report/test_page.py::test_a_studys_page_has_no_baselines_of_an_earlier_study",
    ),
    Fault(
        "early weights have a ledger of their own",
        "if path.parent.name == FOLDER else",
        "if False else",
        "evaluation/test_ledger.py::test_all_files_of_a_run_share_its_ledger",
    ),
    Fault("bits: the same noise for all images", 'seeds_for("bits", last=index.tolist())', "[0] * len(index)", BOUNDED),
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
    Fault("score: the source is read as details", "for key in SOURCE if key in rest}", "for key in ()}", SCORES),
    Fault("score: a missing value is not NaN", 'values["value"] = math.nan', 'values["value"] = 0.0', SCORES),
    Fault("evaluate: warnings are not printed", "level=logging.INFO", "level=logging.ERROR", MESSAGES),
    Fault(
        "compare: 1.96 for Student's quantile",
        "stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)",
        "1.96",
        RECIPES,
    ),
    Fault("compare: no warning about choosing by test scores", "if tests and recipes > 1:", "if False:", RECIPES),
    Fault(
        "compare: the warning is not printed",
        'console.print(f"warning: {warning}")',
        "pass",
        RECIPES,
    ),
    Fault(
        "compare: runs that are left out are not printed",
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
    Fault("compare: scores without a recorded origin raise an error", " if part in made)", ")", RECIPES),
    Fault(
        "compare: evaluations of different models are one recipe", "else name for run", "else MISSING for run", RECIPES
    ),
    Fault(
        "compare: scores of several samplers are mixed without an error",
        "if several and not mixed:",
        "if False:",
        RECIPES,
    ),
    Fault(
        "compare: each test has its own 5%", "level / (len(p_values) - len(found))", "level", f"{RECIPES}::{EQUAL}[20]"
    ),
    Fault(
        "compare: an untested row is shown to differ", "{*means} - {first} -", "{*tested} -", f"{RECIPES}::{ONE_SEED}"
    ),
    Fault("compare: repeated runs of one seed all count", "run.seeds or run.folder", "run.folder", RECIPES),
    Fault(
        "compare: the training seed of an evaluation is ignored",
        "for config in (recipe, self",
        "for config in (self",
        RECIPES,
    ),
    Fault(
        "compare: samplings of one model count as seeds",
        "found.setdefault(seed, []).append(value)",
        "found[len(found)] = [value]",
        f"{RECIPES}::{SAMPLINGS}",
    ),
    Fault(
        "compare: the column of seeds counts samplings",
        "len({self.trained.get(run, run) for run in self.runs})",
        "len(self.runs)",
        f"{RECIPES}::{SAMPLINGS}",
    ),
    Fault(
        "compare: samplings of a model without a training seed count as seeds",
        'return self.config.get("ckpt") or self.config.get("images") if seed is None else seed',
        "return seed",
        f"{RECIPES}::{NO_INTERVAL}",
    ),
    Fault(
        "compare: a mean of samplings is rounded to the interval of one",
        "if len(runs) == 1 else math.nan",
        "if runs else math.nan",
        f"{RECIPES}::{NO_INTERVAL}",
    ),
    Fault(
        "compare: seeds after different numbers of steps give no warning",
        "if steps := _different(",
        "if steps := not _different(",
        f"{RECIPES}::{STEPS}",
    ),
    Fault(
        "compare: the step of best.ckpt gives a warning",
        'if Path(str(run.config.get("ckpt"))).name != BEST else None',
        "",
        f"{RECIPES}::{STEPS}",
    ),
    Fault(
        "compare: training runs that ended at different steps give no warning",
        'return run.info.get("steps")',
        "return None",
        f"{RECIPES}::test_training_runs_that_ended_at_different_steps_give_a_warning",
    ),
    Fault(
        "compare: two steps of one model are averaged like two samplings",
        "[str(run.trained) for run in runs]",
        "[str(run.seeds) for run in runs]",
        f"{RECIPES}::test_two_steps_of_one_training_seed_get_two_rows_whatever_the_sampling_seeds",
    ),
    Fault(
        "compare: a row of images made in different ways gives no warning",
        "            if within:\n",
        "            if False:\n",
        f"{RECIPES}::{MADE}",
    ),
    Fault(
        "compare: rows made in different ways give no warning",
        "if between := _differences(made, hidden):",
        "if between := {}:",
        f"{RECIPES}::{MADE}",
    ),
    Fault(
        "compare: a difference in a row is reported as one between rows, too",
        "for part in hidden if part not in within]",
        "for part in hidden]",
        f"{RECIPES}::{MADE}",
    ),
    Fault(
        "compare: differences that the settings show give a warning",
        "if not any(key.startswith(keys) for key in shown)]",
        "]",
        f"{RECIPES}::test_images_made_as_the_settings_in_the_table_say_give_no_warning",
    ),
    Fault(
        "compare: a setting that a run lacks explains a difference",
        "{row.settings[key] for row in rows} - {MISSING}",
        "{row.settings[key] for row in rows}",
        f"{RECIPES}::test_a_setting_that_only_evaluations_have_does_not_explain_a_difference_from_a_run",
    ),
    Fault(
        "compare: errors over different numbers of validation batches are ranked",
        "setting == LIMIT or (",
        "(",
        f"{RECIPES}::{SAME_IMAGES}",
    ),
    Fault(
        "compare: limited batches of different sizes are ranked",
        "return limited",
        "return False",
        f"{RECIPES}::{SAME_IMAGES}",
    ),
    Fault(
        "compare: the size of validation batches always prevents ranking",
        "return limited",
        "return True",
        f"{RECIPES}::{SAME_IMAGES}",
    ),
    Fault("compare: the highest density counts as the best", '("precision", ', '("precision", "density", ', RECIPES),
    Fault("compare: raw weights are labelled as EMA weights", '"val/mse_raw" in each for', "True for", RECIPES),
    Fault("compare: a metric's settings are not part of the protocol", " | dict(self.settings or {})\n", "\n", RECIPES),
    Fault(
        "settings: those of different choices are shown as differences",
        "tuple(each[i] for each in above)",
        "()",
        SETTINGS,
    ),
    Fault("settings: an override is not shown", "if key in overridden:", "if False:", SETTINGS),
    Fault("settings: two classes are shown under one name", "if names.count(name) == 1 else", "if True else", SETTINGS),
    Fault(
        "duplicates: mirror images are not compared",
        "miniature(view(part)) for view in EITHER_WAY]",
        "miniature(view(part)) for view in EITHER_WAY[:1]]",
        "data/test_duplicates.py",
    ),
    Fault(
        "grid: each seed has its own validation grid",
        "FrozenGrid(grid.draws, grid.seed,",
        "FrozenGrid(grid.draws, settings.seed,",
        "training/test_reproducible.py::test_all_seeds_are_validated_with_the_same_noise",
    ),
    Fault(
        "duplicates: splits are compared at every start",
        "    if stored is None:",
        "    if True:",
        DUPLICATES,
    ),
    Fault(
        "duplicates: the result for other images is reused",
        "[(name, split.key, split.names)",
        "[(name, split.names)",
        DUPLICATES,
    ),
    Fault(
        "duplicates: reported only for folder data",
        "            self.report += duplicates.report(splits)\n",
        "",
        "data/test_cifar10.py",
    ),
    Fault(
        "tiles: one photograph's tiles are in several splits",
        "images.names if self.tiles is None else images.sources",
        "images.names",
        "data/test_folder_tiles.py::test_tiles_of_a_photograph_are_in_one_split",
    ),
    Fault(
        "grid: errors with different validation settings are ranked",
        '"schedule", "validation")',
        '"schedule")',
        RECIPES,
    ),
    Fault(
        "grid: each seed compares other training images",
        'generator_for("overfit")',
        'generator_for(self.seed, "overfit")',
        "data/test_data_module.py",
    ),
    Fault(
        "scores: the raw weights are scored during training",
        "contextlib.suppress(Interrupted), averaged_weights(trainer, module):",
        "contextlib.suppress(Interrupted):",
        f"{WHOSE}[warm]",
    ),
    Fault(
        "scores: half precision changes the hash of the weights",
        "value.float() if value.is_floating_point() else value",
        "value",
        f"{WHOSE}[none]",
    ),
    Fault("gap: tiles are treated as independent", ".sources = sources", ".sources = {}", PHOTOGRAPHS),
    Fault("gap: a tile counts as its own photograph", 'TILE.sub("", name)', "name", PHOTOGRAPHS),
    Fault(
        "gap: the variances of both sets are not added", "sum(apart) - (len(apart) - 1) * _variance(x, both)", "0", GAPS
    ),
    Fault(
        "gap: the variance of the joint clusters is counted twice", " - (len(apart) - 1) * _variance(x, both)", "", GAPS
    ),
    Fault(
        "gap: fewer training images weigh as much as all",
        "sign * n * (means - means.mean()) / len(means)",
        "sign * (means - means.mean())",
        GAPS,
    ),
    Fault(
        "gap: images without a partner count as clusters",
        "int((each >= 0).sum()) for each in names",
        "len(each) for each in names",
        GAPS,
    ),
    Fault("gap: no correction for few clusters", "count / (count - 1) * sums", "sums", GAPS),
    Fault(
        "gap: normal instead of Student quantiles for few photographs",
        "scipy.special.stdtrit(float(self.freedom), scipy.special.ndtr(sigmas))",
        "sigmas",
        GAPS,
    ),
    Fault(
        "gap: the notice treats tiles as independent",
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
        "study: no warning about test evaluations",
        'if settings.split == "test":\n        scorer',
        "if False:\n        scorer",
        STUDIED,
    ),
    Fault(
        "study: the floor is missing in its table",
        "settings.nfe, folder, settings.split, device, baselines)",
        "settings.nfe, folder, settings.split, device)",
        FLOOR,
    ),
    Fault("study: with samplers=all, one that does not fit is an error", "if not every:", "if True:", FITS),
    Fault("study: a named sampler that does not fit is skipped", "if not every:", "if False:", BUDGETS),
    Fault(
        "bits: tiles of a photograph are treated as independent",
        "mean_and_error(bits, torch",
        "mean_and_error(bits) if True else (bits, torch",
        CLUSTERED,
    ),
    Fault("study: an adaptive sampler is accepted", "if samplers[0].adaptive:", "if False:", FITS),
    Fault(
        "study: two samplers have the same colour and marker",
        "MARKERS[(i + i // 7) % 7]",
        "MARKERS[i % 7]",
        "study/test_samplers_report.py",
    ),
    Fault("study: settings exceed the budget", "guidance)) <= budget:", "guidance)) <= 10 * budget:", BUDGET),
    Fault("text: interpreted as markup", "markup=False, emoji=False", "emoji=False", PLAIN),
    Fault("text: emoji codes are replaced", "markup=False, emoji=False", "markup=False", PLAIN),
    Fault("text: a label is parsed as mathematics", ", parse_math=False", "", PLAIN),
    Fault("text: no minimum interval between progress lines", "wait = PAUSE if", "wait = 0.0 if", "test_console.py"),
    Fault("text: slow work prints no progress lines", "else SILENCE\n", 'else float("inf")\n', "test_console.py"),
    Fault("text: the newest run of another name is used", " or _name(run) not in (name, None)", "", WHICH),
    Fault("text: ckpt=RUN is not resolved to a checkpoint", "    if not path.is_dir():", "    if True:", WHICH),
    Fault(
        "text: the digits shown ignore the interval",
        "    if half is None or not 0 < half < math.inf:",
        "    if True:",
        "report/test_score_table.py",
    ),
    Fault(
        "text: the status shows the metric written last",
        "score.name == scored[0].name",
        "True",
        "report/test_status.py",
    ),
    Fault(
        "text: the remaining time ignores where the run was resumed",
        'content.get("first_step", 0)',
        "0",
        "report/test_status.py",
    ),
    Fault(
        "the time of a resumed run is only that of its last start",
        "round(self.earlier + self.session, 1)",
        "round(self.session, 1)",
        TIME,
    ),
    Fault("a run that starts over adds to the time of the earlier one", "record.start_over()", "pass", TIME),
    Fault(
        "a run that continues an early checkpoint has the whole time of the other run",
        'min(1.0, step / before["steps"]) if before.get("steps") else 1.0',
        "1.0",
        TIME,
    ),
    Fault(
        "the times of the parts of a resumed run are only those of its last start",
        'spent.seconds = dict(record.content.get("seconds_of", {}))',
        "pass",
        TIME,
    ),
    Fault(
        "a resumed job of a sweep loses the time of its first start",
        'record.earlier = before.get("seconds", 0.0)',
        "record.earlier = 0.0",
        TIME,
    ),
    Fault(
        "text: earlier epoch lengths are lost on resume",
        "for start, length in self.lengths if start < step",
        "for start, length in ()",
        EPOCHS,
    ),
    Fault(
        "text: the number of frames in a GIF is not limited",
        "min(sampler.steps, MOST_FRAMES)",
        "sampler.steps",
        "evaluation/test_trajectory.py",
    ),
    Fault(
        "the printed cost of the flow leaves out its gradients",
        'gradients", 3 * least',
        'gradients", least',
        "evaluation/test_likelihood.py::test_the_printed_cost_of_the_flow_is_that_of_grey_images_with_gradients",
    ),
    Fault(
        "the bound ignores the chosen variance",
        "likelihood.variance or (fixed_small if",
        "(fixed_small if",
        "evaluation/test_likelihood.py::test_the_bound_can_have_another_variance",
    ),
]
