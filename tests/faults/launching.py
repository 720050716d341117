"""Guards of runs that others start and end: SLURM, several processes, sweeps that are taken up again."""

# Libraries are imported here, and not in each copy's process, for speed; nothing of the project's.
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

RUN = "training/run.py"
SIGNALS = "training/signals.py"
SWEEP = "runs/jobs.py"
RECORD = "runs/record.py"
DISTRIBUTED = "training/processes.py"

QUEUED = (
    "reliability/test_slurm.py::test_two_processes_one_of_them_told_are_queued_again_once_and_go_on_in_their_folder"
)
WHOLE_STEPS = "reliability/test_accumulation.py::test_each_checkpoint_is_of_a_whole_step[3-steps0]"
ALL_TOLD = "reliability/test_two_told.py::test_two_processes_told_to_end_wherever_they_are"
AGAIN = "training/test_sweep_again.py"
TASKS = "training/test_slurm_tasks.py::test_the_first_process_alone_queues_the_job_again_on_sigusr1"
QUOTES = "training/test_bad_input.py::test_what_needs_quotes_is_said_with_quotes_that_work"
STATES = "training/test_status.py::test_states"

NEVER = "reliability/test_folders.py::test_a_run_that_ends_before_it_begins_says_why"
FOLDERS = "reliability/test_folders.py::test_no_second_run_starts_beside_one_that_lives"
FORGOTTEN = "reliability/test_storage.py::test_t2_a_forgotten_ckpt_overwrites_nothing"

INSTANT = "reliability/test_folders.py::test_of_two_starts_in_one_instant_one_has_the_folder"
EARLY = "reliability/test_early.py::test_a_run_that_has_not_begun"
EARLY_JOB = "reliability/test_early.py::test_a_job_of_a_sweep_that_has_not_begun"
ALONE = "reliability/test_early.py::test_a_job_that_is_told_by_itself"
NOTED = "reliability/test_early.py::test_another_process_of_a_run_takes_note_and_training_agrees[1-note]"
STUDY = "reliability/test_sweep.py::test_a_killed_optuna_study_goes_on_where_it_stopped"
LAUNCHED = "reliability/test_launchers.py::test_a_job_of_two_processes_has_its_configuration_and_folder_and_dies_alone"
TORCHRUN = "reliability/test_two_processes.py::test_torchrun_makes_one_run"

TOGETHER = """    with contextlib.suppress(Interrupted):
        yield
    stop(trainer)
"""

FAULTS = [
    Fault("SLURM: taken for many tasks", RUN, ", *distributed.environment()]", "]", QUEUED),
    Fault("SLURM: a folder each time", "runs/naming.py", "if before := slurm.own(", "if before := print(", QUEUED),
    Fault("SLURM: from the start again", SWEEP, 'cfg.ckpt = "auto"', "pass", QUEUED),
    Fault("SLURM: every process queues", SIGNALS, "if rank_zero_only.rank == 0:", "if True:", TASKS),
    Fault("a validation within a step", RUN, "    validate_after_steps(trainer)\n", "", WHOLE_STEPS),
    Fault("one process alone breaks off sampling", SIGNALS, TOGETHER, TOGETHER.replace("stop(trainer)", ""), ALL_TOLD),
    Fault("ckpt=auto makes another job", SWEEP, 'in ("auto", "last")', "in ()", AGAIN),
    Fault(
        "a run that never began has no reason",
        SWEEP,
        '        end("interrupted" if isinstance(error',
        '        bool("interrupted" if isinstance(error',
        NEVER,
    ),
    Fault("two runs in one folder", RECORD, "        check_free(folder)\n", "", FOLDERS),
    Fault("a forgotten ckpt overwrites", RECORD, "        before()\n", "", FORGOTTEN),
    Fault("two of one instant in one folder", RECORD, "fcntl.lockf(file, fcntl.LOCK_EX)", "pass", INSTANT),
    Fault("early: a signal has its own way", "train.py", "    early.watch()", "    pass", f"{EARLY}[10-False]"),
    Fault("early: a job's signal has its own way", SWEEP, "    early.watch()", "    pass", ALONE),
    Fault(
        "early: a job's end is not SLURM's",
        SWEEP,
        "if status != 128 + received[0]:",
        "if False:",
        f"{EARLY_JOB}[10-False-0]",
    ),
    Fault(
        "early: a job's record does not hear",
        SWEEP,
        'if record.get("state") == "running":',
        "if False:",
        f"{EARLY_JOB}[10-False-0]",
    ),
    Fault("early: a sweep goes on", SWEEP, "    if received:\n", "    if False:\n", f"{EARLY_JOB}[15-True-0]"),
    Fault("early: each process for itself", "runs/early_signals.py", "end if first else note", "end", NOTED),
    Fault("early: noted in vain", SIGNALS, "early.State.received, False, 0", "None, False, 0", NOTED),
    Fault(
        "early: SLURM does not hear", "runs/early_signals.py", "        queue_again(number)\n", "", f"{EARLY}[10-False]"
    ),
    Fault(
        "early: the record does not hear",
        SWEEP,
        'early.State.last_words = partial(end, "interrupted")',
        "pass",
        f"{EARLY}[15-True]",
    ),
    Fault(
        "Hydra's grammar is told in its words",
        "config/command.py",
        "return _unreadable(cause.override)",
        "pass",
        QUOTES,
    ),
    Fault("a quote within quotes", "config/quoting.py", """value.replace('"', '\\\\"')""", "value", QUOTES),
    Fault(
        "Optuna: all its trials again",
        "runs/optuna_resume.py",
        "sweeper.n_trials - complete)",
        "sweeper.n_trials)",
        STUDY,
    ),
    Fault(
        "Optuna: its first draws again", "runs/optuna_resume.py", "sweeper.sampler.seed += len(trials)", "pass", STUDY
    ),
    Fault(
        "launchers: the command line again",
        DISTRIBUTED,
        "lambda: command,",
        "lambda: [sys.executable, *sys.argv],",
        LAUNCHED,
    ),
    Fault("torchrun: each process a run", "config/command.py", "return follow()", "pass", TORCHRUN),
    Fault("no process, and it runs", "status.py", "alive is not None and ", "", STATES),
]
