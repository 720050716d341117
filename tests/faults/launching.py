"""Faults in the safeguards of runs started and ended from outside: SLURM, several processes, resumed sweeps."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

SLURM = "reliability/test_slurm.py"
QUEUED = f"{SLURM}::test_two_processes_one_of_them_signalled_are_queued_again_once_and_resume_in_their_folder"
WHOLE_STEPS = "reliability/test_accumulation.py::test_each_checkpoint_is_of_a_whole_step[6-steps0]"
ALL_TOLD = "reliability/test_two_signalled.py::test_two_processes_signalled_wherever_they_are"
AGAIN = "training/test_sweep_again.py"
TASKS = "training/test_slurm_tasks.py::test_only_the_first_process_queues_the_job_again_on_sigusr1"
QUOTES = "training/test_bad_input.py::test_values_that_need_quotes_are_shown_with_quotes_that_work"
STATES = "report/test_status.py::test_states"

NEVER = "reliability/test_folders.py::test_a_run_that_ends_before_it_begins_says_why"
FOLDERS = "reliability/test_folders.py::test_no_second_run_starts_beside_one_that_is_alive"
FORGOTTEN = "reliability/test_storage.py::test_t2_a_forgotten_ckpt_overwrites_nothing"

INSTANT = "reliability/test_folders.py::test_of_two_starts_in_one_instant_one_has_the_folder"
EARLY = "reliability/test_early.py::test_a_run_that_has_not_begun"
EARLY_JOB = "reliability/test_early.py::test_a_job_of_a_sweep_that_has_not_begun"
ALONE = "reliability/test_early.py::test_a_job_that_is_signalled_by_itself"
NOTED = "reliability/test_early.py::test_another_process_of_a_run_takes_note_until_training[1-note]"
STUDY = "reliability/test_sweep.py::test_a_killed_optuna_study_resumes"
LAUNCHED = "reliability/test_launchers.py::test_a_job_of_two_processes_has_its_configuration_and_folder_and_dies_alone"
TORCHRUN = "reliability/test_two_processes.py::test_torchrun_makes_one_run"

TOGETHER = """    with contextlib.suppress(Interrupted):
        yield
    stop(trainer)
"""

FOLDERS_FILE = "reliability/test_folders.py"
HELD = "test_a_run_holds_its_folder_where_its_process_cannot_be_seen"
OUTLIVES = "test_a_worker_that_outlives_its_run_does_not_hold_the_folder"
TAKEN = "test_a_run_whose_folder_was_taken_writes_nothing_more"
LAUNCHERS = "reliability/test_launchers.py"
CONSOLE = "reliability/test_lost_console.py"
WITHOUT = "test_a_run_without_a_console_completes"
CLOSED = "test_a_closed_terminal_or_a_spent_limit_saves_first"
SWEEP_ALONE = "test_ctrl_c_that_reaches_the_first_process_of_a_sweep_alone"
METRICS = "training/test_metrics_file.py"
CONTINUES = "test_a_resumed_run_continues_the_lines_up_to_its_step"
EARLY_END = "test_what_ends_the_resumed_run_early_loses_nothing"
REMADE = "test_a_score_that_is_made_again_takes_the_place_of_the_first"
IMAGES = "training/test_changed_images.py"
OTHER_IMAGES = "test_a_run_is_not_resumed_in_its_folder_with_other_images"
LOST = "test_a_run_whose_configuration_is_lost_does_not_go_on_with_the_defaults"
WAITING = "test_importing.py::test_how_threads_wait_is_said_before_torch_is_imported_unless_the_user_has"
METRICS_LEFT_OUT = "test_importing.py::test_a_run_imports_no_metrics_but_its_own_until_others_are_asked_for"

FAULTS = [
    Fault("threads wait as libgomp likes", 'os.environ.setdefault("GOMP_SPINCOUNT", "4000")', "pass", WAITING),
    Fault("the user's way to wait is overruled", 'if "OMP_WAIT_POLICY" not in os.environ:', "if True:", WAITING),
    Fault("every metric is imported", "        Metrics.install()\n", "", METRICS_LEFT_OUT),
    Fault(
        "SLURM: taken for many tasks",
        "resumed.storage, *processes.environment()]",
        "resumed.storage]",
        QUEUED,
    ),
    Fault("SLURM: a folder each time", "if before := slurm.marked(", "if before := print(", QUEUED),
    Fault(
        "SLURM: from the start again",
        '        settings = settings.model_copy(update={"ckpt": "auto"})\n    return settings, claim',
        "        pass\n    return settings, claim",
        QUEUED,
    ),
    Fault("SLURM: every process queues", "if rank_zero_only.rank == 0:", "if True:", TASKS),
    Fault(
        "a validation within a step",
        "clock.validate_every * clock.accumulate\n",
        "clock.validate_every * clock.accumulate - 1\n",
        WHOLE_STEPS,
    ),
    Fault(
        "one process alone breaks off sampling", "if agreed(trainer) or images is None:", "if images is None:", ALL_TOLD
    ),
    Fault("ckpt=auto makes another job", 'if config["ckpt"] in RESUMING else config', "if False else config", AGAIN),
    Fault(
        "a run that never began has no reason",
        'self.fail("interrupted" if',
        'print("interrupted" if',
        NEVER,
    ),
    Fault(
        "two runs in one folder",
        "        if before.seems_alive and not before.queued_again:",
        "        if False:",
        FOLDERS,
    ),
    Fault("a forgotten ckpt overwrites", "        check()\n        record =", "        record =", FORGOTTEN),
    Fault(
        "two of one instant in one folder",
        "fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)",
        "pass",
        INSTANT,
    ),
    Fault("a run lets go of its folder", "        undo.pop_all()\n", "", f"{FOLDERS_FILE}::{HELD}"),
    Fault("a worker holds the folder", "[held.close() for held in HELD]", "None", f"{FOLDERS_FILE}::{OUTLIVES}"),
    Fault("two runs save in one folder", "self.record.check_owner()", "pass", f"{FOLDERS_FILE}::{TAKEN}"),
    Fault(
        "two runs write one record",
        "        self.check_owner()\n        self._replace()",
        "        self._replace()",
        f"{FOLDERS_FILE}::{TAKEN}",
    ),
    Fault("jobs meet each other's processes", "if name not in RENDEZVOUS}", "}", LAUNCHERS),
    Fault(
        "a worker gets copies of a command's parts",
        'if spec and task.__module__ == "__main__" else task',
        "if False else task",
        f"{LAUNCHERS}::test_evaluations_are_made_side_by_side",
    ),
    Fault("a lost console ends the run", "            return len(data)", "            raise", f"{CONSOLE}::{WITHOUT}"),
    Fault("a closed terminal ends the run", '"SIGUSR1", "SIGHUP", "SIGXCPU")', '"SIGUSR1")', f"{CONSOLE}::{CLOSED}"),
    Fault("Ctrl-C of a sweep alone is not passed on", "stop.start()", "pass", f"{CONSOLE}::{SWEEP_ALONE}"),
    Fault("metrics: a torn line is read", '[: content.rfind(b"\\n") + 1]', "", f"{METRICS}::{CONTINUES}"),
    Fault("metrics: later lines are kept", 'if row["step"] < steps]', "]", f"{METRICS}::{CONTINUES}"),
    Fault(
        "metrics: columns before the lines",
        "        replace(self.file, text.getvalue())\n        self.columns = columns",
        "        self.columns = columns\n        replace(self.file, text.getvalue())",
        f"{METRICS}::{EARLY_END}",
    ),
    Fault(
        "scores: writers do not wait",
        '        held = lock(folder / ".scores',
        '        held = None and lock(folder / ".scores',
        f"{METRICS}::test_writers_of_scores_wait_for_each_other",
    ),
    Fault("scores: made twice, kept twice", "if score.identity not in made]", "]", f"{METRICS}::{REMADE}"),
    Fault("other images at resume", "if now.get(name) != key", "if False", f"{IMAGES}::{OTHER_IMAGES}"),
    Fault(
        "its own samples as photographs",
        'WRITTEN = {"run.json", ".hydra"}',
        "WRITTEN = set()",
        f"{IMAGES}::test_what_a_command_has_written_is_no_data",
    ),
    Fault(
        "a lost configuration is replaced by the defaults",
        'if any(file.parent.glob("checkpoints/*.ckpt")):\n            raise',
        "if False:\n            raise",
        f"{IMAGES}::{LOST}",
    ),
    Fault(
        "early: a signal has its own way",
        "    early_signals.watch()\n    if os.isatty",
        "    if os.isatty",
        f"{EARLY}[10-False]",
    ),
    Fault(
        "early: a job's signal has its own way",
        "    early_signals.watch()  # before the imports that take long\n\nimport os",
        "    pass\n\nimport os",
        ALONE,
    ),
    Fault(
        "early: a job's end is not SLURM's",
        "if status != 128 + received[0]:",
        "if False:",
        f"{EARLY_JOB}[10-False-0]",
    ),
    Fault(
        "early: a job's record does not hear",
        'if record.content.get("state") == "running":  # it ended',
        "if False:  # it ended",
        f"{EARLY_JOB}[10-False-0]",
    ),
    Fault("early: a sweep goes on", "    if received:\n", "    if False:\n", f"{EARLY_JOB}[15-True-0]"),
    Fault("early: each process for itself", "end if first else note", "end", NOTED),
    Fault("early: noted in vain", "= early_signals.State.received, False", "= None, False", NOTED),
    Fault("early: SLURM does not hear", "        queue_again(number)\n", "", f"{EARLY}[10-False]"),
    Fault(
        "early: the record does not hear",
        '        early_signals.State.before_exit = partial(record.fail, "interrupted")\n',
        "",
        f"{EARLY}[15-True]",
    ),
    Fault(
        "Hydra's grammar is told in its words",
        "return _unreadable(cause.override)",
        "pass",
        QUOTES,
    ),
    Fault("a quote within quotes", """value.replace('"', '\\\\"')""", "value", QUOTES),
    Fault(
        "Optuna: all its trials again",
        "sweeper.n_trials - complete)",
        "sweeper.n_trials)",
        STUDY,
    ),
    Fault("Optuna: its first draws again", "sweeper.sampler.seed += len(trials)", "pass", STUDY),
    Fault(
        "launchers: the command line again",
        'command = [sys.executable, "-m", WORKER, *words]',
        "command = [sys.executable, *sys.argv]",
        LAUNCHED,
    ),
    Fault(
        "torchrun: each process a run",
        'if "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0":',
        "if False:",
        TORCHRUN,
    ),
    Fault(
        "no process, and it runs",
        'return started is not None and self.content.get("process") == started',
        'return self.content.get("process") == started',
        STATES,
    ),
]
