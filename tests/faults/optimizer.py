"""Faults in the project's optimizer (Muon), and in runs with optimizers of a library."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import hydra.utils  # noqa: F401
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
from faults.fault import Fault

ORTHOGONAL = "test_an_orthogonal_update_keeps_its_directions_and_has_singular_values_near_1"
BOUNDS = "test_five_polynomial_steps_bring_singular_values_within_bounds"
TORCH = "test_a_matrix_is_updated_like_in_torch_muon"
SIZE = "test_the_update_size_is_similar_to_adamw"
ADAMW = "test_all_other_parameters_are_updated_like_in_adamw"
SAVED = "test_training_resumes_bit_for_bit_from_a_saved_optimizer_state"
TABLE = "test_the_class_embedding_uses_adamw"
ENDS = "test_every_network_declares_its_first_and_last_layers"
NOT_THERE = "test_unknown_or_undeclared_ends_are_refused"
RUN = "test_a_run_resumes_bit_for_bit_and_uses_new_settings"
FREE = "training/test_schedule_free.py"
X = f"{FREE}::test_the_average_weights_iterates_by_the_squared_learning_rate"
RATE = f"{FREE}::test_only_decaying_learning_rates_are_refused"
PLACE = f"{FREE}::test_the_optimizer_average_replaces_ema"
BAD = f"{FREE}::test_incompatible_settings_give_one_line_errors"


def fault(what: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, sound, faulty, f"training/test_muon.py::{test}")


FAULTS = [
    Fault(
        "restored moments keep the layout of the checkpoint",
        "        match_layouts(optimizer)\n",
        "",
        "training/test_resume.py::test_a_fused_optimizer_resumes_in_another_memory_format",
    ),
    fault("Newton–Schulz: wrong sign of b", "beta=B, alpha=C", "beta=-B, alpha=C", ORTHOGONAL),
    fault("Newton–Schulz: X is not scaled", "x = x / x.norm().clamp(min=SMALLEST)", "pass", ORTHOGONAL),
    fault("Newton–Schulz: division of 0 by 0", ".clamp(min=SMALLEST)", "", ORTHOGONAL),
    fault("Newton–Schulz: a tall matrix is returned transposed", "return x.T if tall else x", "return x", ORTHOGONAL),
    fault(
        "Newton–Schulz: b and c swapped",
        "A, B, C = 3.4445, -4.7750, 2.0315",
        "A, C, B = 3.4445, -4.7750, 2.0315",
        BOUNDS,
    ),
    fault(
        "Muon: plain momentum instead of Nesterov's",
        'orthogonal(g.lerp(state["momentum"], momentum)',
        'orthogonal(state["momentum"]',
        TORCH,
    ),
    fault("Muon: the gradient has weight μ instead of 1 − μ", "lerp_(g, 1 - momentum)", "lerp_(g, momentum)", TORCH),
    fault("Muon: no weight decay", "p.mul_(1 - lr * weight_decay)", "pass", TORCH),
    fault("Muon: √min(shape) instead of √max(shape)", "math.sqrt(max(o.shape))", "math.sqrt(min(o.shape))", SIZE),
    fault("Muon: updates are not scaled to AdamW's RMS", "alpha=-RMS * lr", "alpha=-lr", SIZE),
    fault("Muon: first and last layers count as hidden", "p.ndim > 1 and id(p) not in apart", "p.ndim > 1", ADAMW),
    fault("Muon: single rows and columns count as matrices", "if min(p.flatten(1).shape) > 1]", "]", ADAMW),
    fault(
        "Muon: embedding tables count as matrices",
        "if not isinstance(layer, nn.Embedding | nn.EmbeddingBag)]",
        "]",
        TABLE,
    ),
    fault(
        "Muon: EDM2's class embedding counts as a hidden matrix",
        '            self.ends = (*self.ends, "label")\n',
        "",
        TABLE,
    ),
    fault(
        "Muon: JiT declares its second layer as its first", 'ends = ("reduce", "out")', 'ends = ("stem", "out")', ENDS
    ),
    fault("Muon: AdamW does not use the loaded moments", "[others], self.state", "[others], self.adamw.state", SAVED),
    fault(
        "Muon: AdamW does not use the loaded parameter groups",
        "self.adamw.param_groups, self.adamw.state = [others], self.state",
        "self.adamw.state = self.state",
        SAVED,
    ),
    fault(
        "Muon: a network that does not declare its ends is accepted",
        "        if ends is None:\n            raise",
        "        if False:\n            raise",
        NOT_THERE,
    ),
    fault(
        "Muon: new settings are ignored on resume", "self.new_optimizer().param_groups)", "optimizer.param_groups)", RUN
    ),
    Fault(
        "schedule-free: y is not restored exactly after x is computed",
        "torch._foreach_copy_(self.weights, trained)",
        "pass",
        X,
    ),
    Fault("schedule-free: the average is not updated", "torch._foreach_copy_(self.averages, self.weights)", "pass", X),
    Fault(
        "schedule-free: y is stored as the average", "self.optimizer.eval()  # type: ignore[attr-defined]", "pass", X
    ),
    Fault(
        "schedule-free: the step weights restart on resume",
        "if key in names}",
        'if key not in ("params", "lr")}',
        f"{FREE}::test_a_resumed_run_equals_an_uninterrupted_run",
    ),
    Fault(
        "a learning rate that jumps on resume is not printed",
        "if i == 0 and not math.isclose(saved, before * factor, rel_tol=1e-6)",
        "if False",
        "training/test_resume.py::test_a_learning_rate_that_jumps_on_resume_is_printed",
    ),
    Fault(
        "a changed optimizer.lr is printed as a jump of the learning rate",
        "math.isclose(saved, before * factor,",
        "math.isclose(saved, rate * factor,",
        "training/test_resume.py::test_a_learning_rate_that_jumps_on_resume_is_printed",
    ),
    Fault(
        "schedule-free: a falling learning rate is accepted",
        "for step in steps]).min() < 0",
        "for step in steps]).min() < -9",
        RATE,
    ),
    Fault(
        "schedule-free: other optimizers may not have a falling rate",
        "if not (averages_itself(optimizer) and",
        "if not (True and",
        RATE,
    ),
    Fault("schedule-free: ema=warm is not replaced", 'update={"ema": {"_target_": target}}', "update={}", PLACE),
    Fault("schedule-free: ema=power is accepted", "type(given) not in (EMA, OptimizersAverage)", "False", BAD),
    Fault(
        "schedule-free: its average is accepted for other optimizers",
        "if isinstance(given, OptimizersAverage):",
        "if False:",
        BAD,
    ),
    Fault(
        "SOAP: new settings are ignored on resume",
        "isinstance(state[key], int | float)",
        "False",
        f"training/test_soap.py::{RUN}",
    ),
]
