"""The committed results: what is compared, and with what."""

from faults.fault import Fault

TABLE = "results/test_table.py"
NAMED = f"{TABLE}::test_every_cell_that_differs_is_named"
WITHIN = f"{TABLE}::test_means_agree_within_the_interval_of_their_difference"
WHOLE = "results/test_studies.py::test_a_study_is_run_committed_and_compared"
JOBS = "results/test_studies.py::test_the_jobs_are_those_that_hydra_makes"

FAULTS = [
    Fault("a number that is lost agrees", 'yield f"{label}: {column.name} was not measured again"', "continue", NAMED),
    Fault("another protocol agrees", "protocols[column.name] != column.words", "False", NAMED),
    Fault("intervals add up", "half = math.hypot(a.half, b.half)", "half = a.half + b.half", WITHIN),
    Fault("one seed agrees with all", "abs(a.mean - b.mean) <= half", "not abs(a.mean - b.mean) > half", WITHIN),
    Fault("the first word changes first", "itertools.product(*values)]", "itertools.product(*values[::-1])]", JOBS),
    Fault("a scored model is scored again", "scores.stat().st_mtime > ckpt.stat().st_mtime", "False", WHOLE),
    Fault("a changed setting is not seen", "                if then != now:", "                if False:", WHOLE),
]  # fmt: skip
