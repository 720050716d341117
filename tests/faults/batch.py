"""Faults in the division of an optimizer step, and in the trials of batch size and compilation."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

ON = "training/test_batch.py"
DIVISION = f"{ON}::test_the_numbers_do_not_depend_on_the_division"
TRACE = f"{ON}::test_finding_it_draws_no_number_and_changes_no_weight"
SWAP = f"{ON}::test_a_cpu_gets_small_batches_and_is_never_made_to_swap"
GPU = f"{ON}::test_a_tenth_of_the_memory_of_a_gpu_stays_free"
KEPT = f"{ON}::test_a_resumed_run_keeps_its_batch_where_that_fits"
COMPILE = "training/test_compilation.py"
PAYS = f"{COMPILE}::test_it_is_compiled_where_that_pays_back_and_stays_so"

FAULTS = [
    Fault("each batch draws for itself", "divmod(batch.number, parts)", "batch.number, 0", f"{DIVISION}[crops]"),
    Fault("times adapt within a step", "if len(self.gathered) == self.clock.together:", "if True:", DIVISION),
    Fault("the last batch's loss is the step's", 'whole["loss"].mean()', 'losses["loss"].mean()', DIVISION),
    Fault("a step's mean is averaged again", "self.losses[-1] if self.clock.together > 1 else ", "", DIVISION),
    Fault(
        "an epoch is of batches",
        "Clock.of(settings.trainer, images, whole, 1, settings.least_interval)",
        "Clock.of(settings.trainer, images, size, 1, settings.least_interval)",
        f"{DIVISION}[crops]",
    ),
    Fault("trials draw from torch", "self.undo.enter_context(torch.random.fork_rng(", "str((", TRACE),
    Fault("trials train the run", "copy.deepcopy(self.module)", "self.module", TRACE),
    Fault("what a step needs is not foretold", "return WORKING * self.kept * size <= self.room", "return True", SWAP),
    Fault("a CPU gets what fits", 'MOST = {"cpu": 8}', "MOST: dict[str, int] = {}", SWAP),
    Fault("the whole of a GPU", "SHARE * (torch.cuda", "1 * (torch.cuda", GPU),
    Fault("another batch after each resume", "if before in sizes and", "if False and", KEPT),
    Fault(
        "a batch of one device on many",
        'size = int(RunRecord(folder).content["batch"]["size"])',
        "size = whole",
        "reliability/test_two_processes.py::test_two_processes_train_as_one",
    ),
    Fault(
        "compiling is tried after each resume",
        "    if before is None:\n        found, why",
        "    if True:\n        found, why",
        PAYS,
    ),
    Fault(
        "compiling takes no time",
        "return saved > first,",
        "return saved > 0,",
        f"{COMPILE}::test_it_is_not_compiled_where_that_does_not_pay_back",
    ),
    Fault("what is tried is not compiled", "    if module.compiled:\n", "    if False:\n", PAYS),
    Fault(
        "a short run is worth a trial",
        "if plain * batches < LEAST:",
        "if False:",
        f"{COMPILE}::test_a_short_training_is_not_worth_a_trial",
    ),
    Fault(
        "each process decides for itself",
        'return bool(RunRecord(folder).content["compiled"])',
        "return False",
        f"{COMPILE}::test_the_further_processes_do_as_the_first_one_has_written",
    ),
]
