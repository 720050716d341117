"""Faults in the comparison with the committed results."""

from faults.fault import Fault

TABLE = "reproduce/test_table.py"
NAMED = f"{TABLE}::test_every_cell_that_differs_is_named"
WITHIN = f"{TABLE}::test_means_agree_within_the_interval_of_their_difference"
WHOLE = "reproduce/test_studies.py::test_a_study_is_run_committed_and_compared"
SWEPT = "reproduce/test_studies.py::test_a_change_of_any_swept_choice_is_seen"
RANKS = f"{TABLE}::test_rankings_are_compared_from_good_to_bad"
SEEDS = f"{TABLE}::test_seeds_that_agree_are_no_evidence_about_recipes"
ORDER = "reproduce/test_studies.py::test_runs_are_in_the_order_of_the_study_whatever_their_folders"
NONE = "report/test_differences.py::test_a_choice_that_an_override_made_null_is_none"
JOBS = "reproduce/test_studies.py::test_the_jobs_are_those_that_hydra_makes"

FAULTS = [
    Fault("a number that is lost agrees", 'yield f"{label}: {column.name} was not measured again"', "continue", NAMED),
    Fault("another protocol agrees", "protocols[column.name] != column.words", "False", NAMED),
    Fault("intervals add up", "half = math.hypot(a.half, b.half)", "half = a.half + b.half", WITHIN),
    Fault("one seed agrees with all", "abs(a.mean - b.mean) <= half", "not abs(a.mean - b.mean) > half", WITHIN),
    Fault("the first word changes first", "itertools.product(*values)]", "itertools.product(*values[::-1])]", JOBS),
    Fault("a scored model is scored again", "scores.stat().st_mtime > ckpt.stat().st_mtime", "False", WHOLE),
    Fault("a changed setting is not seen", "in pairs if then != now and", "in [] if then != now and", SWEPT),
    Fault("figures are not kept", 'if read(name).sweeps[sweep].command == "train":', "if False:", WHOLE),
    Fault("runs are in the order of their folders", "return sorted(runs, key=place_of)", "return [*runs]", ORDER),
    Fault("a part that is off has a name", "if settings.get(key) != NULL]", "]", NONE),
    Fault("a ranking is upside down", "(1 if low[name] else -1)", "1", RANKS),
    Fault(
        "seeds count as recipes",
        '    random = np.random.default_rng(seed_for("ranks"))',
        '    clusters = [row[None] for rows in clusters for row in rows]\n    random = np.random.default_rng()',
        SEEDS,
    ),
]  # fmt: skip
