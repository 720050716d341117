"""Faults in the shortcuts of a training step: each shortcut skips too much."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

SETTINGS = "training/test_trainer_settings.py"
READ = f"{SETTINGS}::test_a_custom_callback_can_read_the_loss_of_every_step"
KNOWN = "process/test_schedule.py::test_a_schedule_with_precomputed_coefficients_works_at_other_times"
ONCE = "process/test_objective.py::test_a_step_computes_the_schedules_coefficients_once"

FAULTS = [
    Fault(
        "the logged loss is not updated after the first step",
        "results.update_metrics(key, value, batch_size=1)",
        "pass",
        READ,
    ),
    Fault(
        "cached coefficients are used for other times",
        "self.coefficients if t is self.t else",
        "self.coefficients if True else",
        KNOWN,
    ),
    Fault("the coefficients are computed twice", "schedule or self.schedule, t)", "self.schedule, t)", ONCE),
]
