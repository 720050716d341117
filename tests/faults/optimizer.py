"""Faults in our own optimizer, and in runs with a library's optimizers."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import hydra.utils  # noqa: F401
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
from faults.fault import Fault

ORTHOGONAL = "test_an_orthogonal_update_keeps_its_directions_and_has_singular_values_near_1"
BOUNDS = "test_five_steps_of_the_polynomial_end_within_their_bounds"
TORCH = "test_a_matrix_is_updated_as_by_torchs_muon"
SIZE = "test_an_update_is_about_as_large_as_adamws"
ADAMW = "test_all_other_parameters_are_updated_as_by_adamw"
SAVED = "test_a_saved_state_goes_on_bit_for_bit"
TABLE = "test_the_table_of_classes_is_adamws"
ENDS = "test_every_network_names_its_ends"
NOT_THERE = "test_ends_that_are_not_there_are_refused"
RUN = "test_a_run_resumes_bit_for_bit_and_takes_its_new_settings"
FREE = "training/test_schedule_free.py"
X = f"{FREE}::test_the_average_is_that_of_the_steps_weighted_by_the_square_of_the_rate"
RATE = f"{FREE}::test_only_a_falling_rate_is_refused"
PLACE = f"{FREE}::test_its_average_takes_the_place_of_ema"
BAD = f"{FREE}::test_what_makes_no_sense_is_one_line"


def fault(what: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, sound, faulty, f"training/test_muon.py::{test}")


FAULTS = [
    fault("Newton–Schulz: sign of b", "beta=B, alpha=C", "beta=-B, alpha=C", ORTHOGONAL),
    fault("Newton–Schulz: X is not scaled", "x = x / x.norm().clamp(min=SMALLEST)", "pass", ORTHOGONAL),
    fault("Newton–Schulz: 0 divided by 0", ".clamp(min=SMALLEST)", "", ORTHOGONAL),
    fault("Newton–Schulz: a tall one stays on its side", "return x.T if tall else x", "return x", ORTHOGONAL),
    fault(
        "Newton–Schulz: b and c swapped",
        "A, B, C = 3.4445, -4.7750, 2.0315",
        "A, C, B = 3.4445, -4.7750, 2.0315",
        BOUNDS,
    ),
    fault(
        "Muon: the momentum alone",
        'orthogonal(g.lerp(state["momentum"], momentum)',
        'orthogonal(state["momentum"]',
        TORCH,
    ),
    fault("Muon: the gradient weighs μ", "lerp_(g, 1 - momentum)", "lerp_(g, momentum)", TORCH),
    fault("Muon: no decay", "p.mul_(1 - lr * weight_decay)", "pass", TORCH),
    fault("Muon: √min", "math.sqrt(max(o.shape))", "math.sqrt(min(o.shape))", SIZE),
    fault("Muon: an update of RMS 1", "alpha=-RMS * lr", "alpha=-lr", SIZE),
    fault("Muon: the ends are hidden", "p.ndim > 1 and id(p) not in apart", "p.ndim > 1", ADAMW),
    fault("Muon: columns are matrices", "if min(p.flatten(1).shape) > 1]", "]", ADAMW),
    fault("Muon: tables are matrices", "if not isinstance(layer, nn.Embedding | nn.EmbeddingBag)]", "]", TABLE),
    fault("Muon: EDM2's classes are a matrix", '            self.ends = (*self.ends, "label")\n', "", TABLE),
    fault("Muon: JiT's first layer is its second", 'ends = ("reduce", "out")', 'ends = ("stem", "out")', ENDS),
    fault("Muon: AdamW keeps the moments it had", "[others], self.state", "[others], self.adamw.state", SAVED),
    fault(
        "Muon: … and its groups",
        "self.adamw.param_groups, self.adamw.state = [others], self.state",
        "self.adamw.state = self.state",
        SAVED,
    ),
    fault(
        "Muon: a network without ends",
        "        if ends is None:\n            raise",
        "        if False:\n            raise",
        NOT_THERE,
    ),
    fault("Muon: a resumed run's settings", "self.new_optimizer().param_groups)", "optimizer.param_groups)", RUN),
    Fault("schedule-free: y with the rounding of x", "torch._foreach_copy_(self.weights, trained)", "pass", X),
    Fault("schedule-free: the average stays", "torch._foreach_copy_(self.averages, self.weights)", "pass", X),
    Fault("schedule-free: y is averaged", "self.optimizer.eval()  # type: ignore[attr-defined]", "pass", X),
    Fault(
        "schedule-free: a resumed run weighs its steps anew",
        "if key in names}",
        'if key not in ("params", "lr")}',
        f"{FREE}::test_a_resumed_run_is_the_same_run",
    ),
    Fault("schedule-free: a falling rate", "for step in steps]).min() < 0", "for step in steps]).min() < -9", RATE),
    Fault("schedule-free: any rate falls", "if not (averages_itself(optimizer) and", "if not (True and", RATE),
    Fault("schedule-free: ema=warm stays", 'update={"ema": {"_target_": target}}', "update={}", PLACE),
    Fault("schedule-free: beside ema=power", "type(given) not in (EMA, OptimizersAverage)", "False", BAD),
    Fault("schedule-free: an average that nobody keeps", "if isinstance(given, OptimizersAverage):", "if False:", BAD),
    Fault(
        "SOAP: a resumed run's settings",
        "isinstance(state[key], int | float)",
        "False",
        f"training/test_soap.py::{RUN}",
    ),
]
