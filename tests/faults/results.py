"""Faults in running the studies and comparing them with the committed results."""

from faults.fault import Fault

TABLE = "reproduce/test_table.py"
NAMED = f"{TABLE}::test_every_differing_cell_is_reported"
WITHIN = f"{TABLE}::test_means_agree_within_the_interval_of_their_difference"
WHOLE = "reproduce/test_studies.py::test_a_study_is_run_committed_and_compared"
SWEPT = "reproduce/test_studies.py::test_changed_settings_and_removed_sweeps_are_detected"
SAMPLINGS = f"{TABLE}::test_several_samplings_of_one_model_count_as_one_seed"
RANKS = f"{TABLE}::test_rank_correlations_account_for_the_direction_of_each_metric"
SEEDS = f"{TABLE}::test_more_seeds_do_not_narrow_the_interval_of_a_rank_correlation"
ORDER = "reproduce/test_studies.py::test_runs_are_ordered_as_in_the_study_not_by_folder"
NONE = "report/test_differences.py::test_a_choice_overridden_with_null_is_shown_as_none"
JOBS = "reproduce/test_studies.py::test_the_jobs_match_those_of_hydras_sweeper"
RECIPE = "evaluation/test_which_checkpoint.py::test_the_recipe_of_a_run_with_only_weights_is_read_from_the_run"
ONCE = "reproduce/test_studies.py::test_equal_models_of_two_studies_are_evaluated_once"

CHECKPOINT = "evaluation/test_sweep.py::test_an_evaluation_is_complete_only_for_the_checkpoint_that_it_scored"

FAULTS = [
    Fault("a missing number counts as equal", 'yield f"{name} was not measured again"', "continue", NAMED),
    Fault("another protocol counts as equal", "protocols[column.name] != column.words", "False", NAMED),
    Fault("half-widths of intervals are added", "half = math.hypot(a.half, b.half)", "half = a.half + b.half", WITHIN),
    Fault(
        "a mean without an interval agrees with every other",
        "abs(a.mean - b.mean) <= half",
        "not abs(a.mean - b.mean) > half",
        WITHIN,
    ),
    Fault(
        "jobs are in another order than Hydra's",
        "itertools.product(*values)]",
        "itertools.product(*values[::-1])]",
        JOBS,
    ),
    Fault("a scored model is scored again", "same = file.is_file() and scored ==", "same = False and scored ==", WHOLE),
    Fault(
        "scores of another checkpoint count",
        'scored == [{"path": str(ckpt), "sha256": file_hash(file)}]',
        "scored != []",
        CHECKPOINT,
    ),
    Fault("samplings of one model count as seeds", 'return seed.partition("/")[0]', "return seed", SAMPLINGS),
    Fault("a changed setting is not detected", "in pairs if then != now and", "in [] if then != now and", SWEPT),
    Fault(
        "figures are not saved with the results", 'if read(name).sweeps[sweep].command == "train":', "if False:", WHOLE
    ),
    Fault(
        "runs are not sorted in the order of the study", "return sorted(runs, key=place_of)", "return [*runs]", ORDER
    ),
    Fault("a disabled part gets a name", "if settings.get(key) != NULL]", "]", NONE),
    Fault("metrics for which higher is better are ranked in reverse", "(1 if low[name] else -1)", "1", RANKS),
    Fault(
        "the bootstrap resamples seeds instead of recipes",
        '    random = np.random.default_rng(seed_for("ranks"))',
        "    clusters = [row[None] for rows in clusters for row in rows]\n    random = np.random.default_rng()",
        SEEDS,
    ),
    Fault(
        "an evaluation of only weights has no training recipe", "    return whole if same else", "    return", RECIPE
    ),
    Fault(
        "the recipe of another run is taken over",
        "all(whole.get(key) == value for key, value in restored.config.items())",
        "True",
        RECIPE,
    ),
    Fault("equal models are evaluated twice", " if run.config not in [r.config for r in trained[:i]]]", "]", ONCE),
]
