"""Faults in the division of an optimizer step into batches, and in the trials of batch size and compilation."""

import lightning.pytorch  # noqa: F401  # here, and not in each copy's process, for speed
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

BATCH = "training/test_batch.py"
DIVISION = f"{BATCH}::test_results_do_not_depend_on_how_the_global_batch_is_divided"
TRACE = f"{BATCH}::test_the_batch_size_search_changes_no_weights_and_no_random_state"
SWAP = f"{BATCH}::test_auto_batch_size_on_a_cpu_is_small_and_fits_in_memory"
GPU = f"{BATCH}::test_a_tenth_of_the_gpu_memory_stays_free"
KEPT = f"{BATCH}::test_a_resumed_run_keeps_its_batch_size_if_it_fits"
COMPILE = "training/test_compilation.py"
WORTHWHILE = f"{COMPILE}::test_auto_compiles_if_that_saves_time_and_resuming_keeps_the_decision"

FAULTS = [
    Fault(
        "trials do not hold the averages",
        "for _ in range(self.copies)",
        "for _ in range(0)",
        f"{BATCH}::test_trials_hold_the_copies_of_the_weights_that_the_run_will_hold",
    ),
    Fault(
        "too little memory on MPS is a bug",
        ' or "MPS backend out of memory" in str(error)',
        "",
        f"{BATCH}::test_a_batch_that_does_not_fit_is_recognised_on_every_device",
    ),
    Fault(
        "a trial waits for another GPU than its own",
        "torch.cuda.synchronize(trials.device)",
        "torch.cuda.synchronize()",
        f"{COMPILE}::test_a_trial_waits_for_the_device_that_it_runs_on",
    ),
    Fault(
        "free memory is measured before the weights are allocated",
        "        self.memory.ready()\n",
        "",
        f"{BATCH}::test_memory_is_measured_once_the_weights_are_allocated",
    ),
    Fault(
        "the batches of a step do not share their random draws",
        "divmod(batch.number, parts)",
        "batch.number, 0",
        f"{DIVISION}[crops]",
    ),
    Fault(
        "the training times adapt in the middle of a step",
        "if len(self.gathered) == self.clock.together:",
        "if True:",
        DIVISION,
    ),
    Fault(
        "the logged loss is that of the last batch, not of the step",
        'whole["loss"].mean()',
        'losses["loss"].mean()',
        DIVISION,
    ),
    Fault(
        "the guard averages the mean loss of a step again",
        "self.losses[-1] if self.clock.together > 1 else ",
        "",
        DIVISION,
    ),
    Fault(
        "an epoch is measured in batches instead of steps",
        "Clock.of(settings.trainer, images, whole, 1, settings.least_interval, done)",
        "Clock.of(settings.trainer, images, size, 1, settings.least_interval, done)",
        f"{DIVISION}[crops]",
    ),
    Fault("trials advance torch's random generator", "self.undo.enter_context(torch.random.fork_rng(", "str((", TRACE),
    Fault("trials change the weights of the run", "copy.deepcopy(self.module)", "self.module", TRACE),
    Fault(
        "the memory of a trial step is not estimated beforehand",
        "return WORKING * self.kept * size <= self.room",
        "return True",
        SWAP,
    ),
    Fault("the batch size on a CPU is not limited to 8", 'MOST = {"cpu": 8}', "MOST: dict[str, int] = {}", SWAP),
    Fault("no part of the GPU memory is left free", "SHARE * (torch.cuda", "1 * (torch.cuda", GPU),
    Fault("the batch size is searched again on resume", "if before in sizes and", "if False and", KEPT),
    Fault(
        "further processes use the whole batch size",
        'size = int(RunRecord(folder).content["batch"]["size"])',
        "size = whole",
        "reliability/test_two_processes.py::test_two_processes_give_the_same_training_as_one",
    ),
    Fault(
        "the compilation trial is repeated on resume",
        "    if before is None:\n        found, why",
        "    if True:\n        found, why",
        WORTHWHILE,
    ),
    Fault(
        "the compile time is not counted",
        "return saved > first,",
        "return saved > 0,",
        f"{COMPILE}::test_auto_does_not_compile_if_that_saves_no_time_or_fails",
    ),
    Fault(
        "the network is not compiled after a successful trial",
        "    if module.compiled:\n",
        "    if False:\n",
        WORTHWHILE,
    ),
    Fault(
        "compilation is tried even for a short run",
        "if plain * batches < LEAST:",
        "if False:",
        f"{COMPILE}::test_auto_makes_no_trial_for_a_short_training",
    ),
    Fault(
        "further processes ignore the decision of the first",
        'return bool(RunRecord(folder).content["compiled"])',
        "return False",
        f"{COMPILE}::test_other_processes_follow_the_recorded_decision_of_the_first",
    ),
]
