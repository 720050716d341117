"""Faults in the shortcuts of a training step: each shortcut skips too much."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

SETTINGS = "training/test_trainer_settings.py"
READ = f"{SETTINGS}::test_a_callback_of_ones_own_can_read_the_loss_of_every_step"
KNOWN = "process/test_schedule.py::test_a_schedule_that_knows_its_coefficients_at_some_times_answers_for_all"
ONCE = "process/test_objective.py::test_a_step_computes_the_schedule_s_coefficients_once"

FAULTS = [
    Fault("the first loss stays", "results.update_metrics(key, value, batch_size=1)", "pass", READ),
    Fault(
        "the coefficients of other times",
        "self.coefficients if t is self.t else",
        "self.coefficients if True else",
        KNOWN,
    ),
    Fault("coefficients computed again", "schedule or self.schedule, t)", "self.schedule, t)", ONCE),
]
