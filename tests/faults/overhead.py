"""Faults in the shortcuts of a training step: each shortcut skips too much."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

SETTINGS = "training/test_trainer_settings.py"
READ = f"{SETTINGS}::test_a_custom_callback_can_read_the_loss_of_every_step"
KNOWN = "process/test_schedule.py::test_a_schedule_with_precomputed_coefficients_works_at_other_times"
ONCE = "process/test_objective.py::test_a_step_computes_the_schedules_coefficients_once_or_looks_rows_up"
ROWS = "process/test_schedule.py::test_coefficients_looked_up_in_a_table_equal_interpolated_ones"
ARE_ROWS = "process/test_timesteps.py::test_times_that_count_as_rows_of_a_table_are_rows"
AWAY = "training/test_device.py::test_objectives_equal_the_cpu_without_device_synchronization"

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
    Fault("the row before is looked up", "(t * self.steps).round().long()", "(t * self.steps).long() - 1", ROWS),
    Fault(
        "the table's coefficients stay on the old device",
        "        self._find_rows()\n        return self\n",
        "        return self\n",
        f"{AWAY}[timesteps=loss_second_moment]",
    ),
    Fault(
        "times between rows count as rows",
        "return (1 + torch.floor(u * steps)) / steps",
        "return (1 + u * steps) / steps",
        ARE_ROWS,
    ),
    Fault("a table's times are interpolated", "    on_rows: ClassVar[bool] = True\n", "", ONCE),
    Fault("the coefficients are computed twice", "schedule or self.schedule, t)", "self.schedule, t)", ONCE),
]
