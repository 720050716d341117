"""Numbers and what is said of them: one thing that makes them trusted taken away at a time."""

# Libraries are imported here, and not in each copy's process, for speed; nothing of the project's.
import matplotlib.pyplot  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

DISTANCES = "metric/distances.py"
FEATURES = "metric/features.py"
SCORE = "metric/score.py"
COMPARE = "report/compare.py"
SETTINGS = "report/settings.py"
BITS = "training/bits.py"

BIAS = "metric/test_distances.py::test_the_extrapolation_is_exact_where_the_bias_is_b_over_n"
ERROR = "metric/test_distances.py::test_the_error_of_the_extrapolation_is_the_regressions"
PUBLISHED = "metric/test_features.py::test_inceptions_spatial_features_are_those_of_the_published_evaluator"
SPATIAL = "metric/test_score.py::test_spatial_features_come_out_of_the_same_pass_and_equal_numpy"
HUB = "metric/test_foundation.py::test_weights_from_the_hub_are_hashed"
KEPT = "training/test_audit.py::test_real_images_are_embedded_once_and_again_when_one_changes"
LOOKS = "training/test_provenance.py::test_scoring_test_while_training_is_warned_of_and_every_look_recorded"
INHERITED = "training/test_provenance.py::test_a_second_look_at_test_is_warned_of_and_both_are_recorded"
BITS_OF = "training/test_bits.py::test_evaluate_bounds_the_bits_of_held_out_images"
BAD = "training/test_bad_input.py::test_one_line_says_what_and_how_to_mend_it"
RECIPES = "report/test_compare.py"
TOLD = "report/test_settings.py"
BUDGET = "training/test_study.py::test_no_setting_is_beyond_its_budget_whatever_was_reckoned"

FAULTS = [
    Fault("FID∞: influence of a subset's images", DISTANCES, " * n / size", "", ERROR),
    Fault("FID∞: sizes from n/4", DISTANCES, "linspace(n / 2, n,", "linspace(n / 4, n,", ERROR),
    Fault("FID∞: the mean for the intercept", DISTANCES, " - u.mean() * (u - u.mean())", " - 0 * (u - u.mean())", BIAS),
    Fault("sFID: the next block", FEATURES, "Mixed_6d.branch1x1, 7", "Mixed_6e.branch1x1, 7", PUBLISHED),
    Fault("sFID: a hook stays", FEATURES, "        handle.remove()", "        pass", PUBLISHED),
    Fault(
        "sFID: of the pooled features",
        SCORE,
        "(maps, reference.spatial) if _spatial",
        "(plain, reference) if _spatial",
        SPATIAL,
    ),
    Fault("sFID: its floor is not divided", SCORE, "replace(rest, spatial=spatial)", "rest", SPATIAL),
    Fault("hub: the hash is not looked at", "metric/foundation.py", "!= kept.name", '== ""', HUB),
    Fault(
        "audit: nothing is kept", "training/audit.py", "keep=any(torch.equal(x, y) for y in real)", "keep=False", KEPT
    ),
    Fault(
        "cache: a damaged file is believed",
        SCORE,
        'if fields.pop("checksum") != digest',
        'if fields.pop("checksum") == digest',
        KEPT,
    ),
    Fault(
        "test: a look while training is not noted",
        "training/callbacks.py",
        "        LooksAtTest(self.folder).add(new)\n",
        "",
        LOOKS,
    ),
    Fault("test: no warning before the last look", "training/run.py", "        looks.warn()", "        pass", LOOKS),
    Fault(
        "test: a run that goes on forgets",
        "training/provenance.py",
        "self.path.write_bytes(other.path.read_bytes())",
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
        "training/scoring.py",
        "having < 4",
        "having < 0",
        f"{BAD}[too few images to score against]",
    ),
    Fault("compare: 1.96 for Student's quantile", COMPARE, "stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)", "1.96", RECIPES),
    Fault("compare: choosing by test is not warned of", COMPARE, "if tests and len(rows) > 1:", "if False:", RECIPES),
    Fault(
        "compare: the warning is not printed",
        COMPARE,
        'console.print(f"warning: {warning}", markup=False)',
        "pass",
        RECIPES,
    ),
    Fault(
        "compare: failed runs are dropped",
        COMPARE,
        'console.print(f"left out: {run.folder}: {reason}", markup=False)',
        "pass",
        RECIPES,
    ),
    Fault("compare: evaluations are one recipe", COMPARE, '{"ckpt"} if all(', '{"ckpt"} if True or all(', RECIPES),
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
        "duplicates: mirror images are not seen",
        "data/duplicates.py",
        "small[first], (itself, mirror))",
        "small[first], (itself,))",
        "data/test_duplicates.py",
    ),
    Fault("study: beyond its budget", "training/study.py", "nfe > budget", "False", BUDGET),
]
