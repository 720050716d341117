"""Faults in the safeguards for starting and ending runs: SLURM, several processes, signals, resumed sweeps."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

SLURM = "reliability/test_slurm.py"
QUEUED = f"{SLURM}::test_a_signal_to_one_of_two_processes_requeues_once_and_the_run_resumes"
WHOLE_STEPS = "reliability/test_accumulation.py::test_checkpoints_contain_whole_steps_and_resume_exactly[6-steps0]"
ALL_SIGNALLED = "reliability/test_two_signalled.py::test_two_processes_signalled_at_any_place_resume_exactly"
AGAIN = "training/test_sweep_again.py"
CHANGED = "training/test_resume_changed.py"
STOPPED = "training/test_stopped.py"
TASKS = "training/test_slurm_tasks.py::test_only_rank_0_requeues_the_job_and_only_on_sigusr1"
QUOTES = "training/test_bad_input.py::test_errors_show_working_quotes_for_values_that_need_them"
STATES = "report/test_status.py::test_the_state_of_a_run_is_detected_even_if_its_process_died"

NEVER = "reliability/test_folders.py::test_a_run_that_fails_before_training_records_the_reason"
FOLDERS = "reliability/test_folders.py::test_a_second_run_in_the_folder_of_a_live_run_is_refused"
FORGOTTEN = "reliability/test_storage.py::test_t2_a_forgotten_ckpt_setting_overwrites_nothing"

INSTANT = "reliability/test_folders.py::test_only_one_of_two_simultaneous_starts_gets_the_folder"
EARLY = "reliability/test_early.py::test_a_signal_before_training_interrupts_the_run"
EARLY_JOB = "reliability/test_early.py::test_a_signal_before_training_interrupts_the_sweep_and_its_job"
JOB_SIGNALLED = "reliability/test_early.py::test_a_signal_to_one_sweep_job_does_not_stop_the_others"
NOTED = "reliability/test_early.py::test_early_signals_end_rank_0_and_are_only_recorded_by_other_ranks[1-note]"
SETTINGS = "training/test_trainer_settings.py"
SEARCH = "training/test_search.py::test_a_search_repeats_a_trial_only_if_its_job_has_ended"
STUDY = "reliability/test_sweep.py::test_a_killed_optuna_study_resumes"
LAUNCHED = "reliability/test_launchers.py::test_two_process_jobs_have_separate_configs_and_folders_and_fail_alone"
TORCHRUN = "reliability/test_two_processes.py::test_torchrun_starts_a_single_run"

FOLDERS_FILE = "reliability/test_folders.py"
HELD = "test_a_run_holds_its_folder_even_if_its_process_is_not_visible"
OUTLIVES = "test_a_worker_that_outlives_its_run_does_not_hold_the_folder"
TAKEN = "test_a_run_writes_nothing_after_its_folder_was_taken_over"
LAUNCHERS = "reliability/test_launchers.py"
CONSOLE = "reliability/test_lost_console.py"
WITHOUT = "test_a_run_without_a_console_completes"
CLOSED = "test_sighup_and_sigxcpu_save_the_run_before_it_ends"
SWEEP_ALONE = "test_ctrl_c_sent_only_to_the_first_sweep_process_saves_and_ends_its_job"
METRICS = "training/test_metrics_file.py"
CONTINUES = "test_a_resumed_run_keeps_the_lines_up_to_its_step"
EARLY_END = "test_interrupting_a_resumed_run_loses_no_lines"
REMADE = "test_a_recomputed_score_replaces_the_earlier_one"
IMAGES = "training/test_changed_images.py"
OTHER_IMAGES = "test_resuming_in_the_same_folder_with_changed_images_is_refused"
LOST = "test_a_run_without_its_configuration_is_not_resumed_with_defaults"
WAITING = "test_importing.py::test_the_thread_spin_count_is_set_before_torch_unless_the_user_sets_it"
KEPT = "test_importing.py::test_freed_memory_is_kept_unless_the_user_sets_it"
METRICS_LEFT_OUT = "test_importing.py::test_a_run_imports_unused_metrics_only_on_demand"

SWEEP_FOLDER = "training/test_sweep_folder.py"

FAULTS = [
    Fault(
        "sweeps: a sweep without a name does not start",
        "        HydraConfig.instance().set_config(config)\n",
        "",
        f"{SWEEP_FOLDER}::test_a_sweep_without_a_name_has_one_folder_named_after_the_model",
    ),
    Fault(
        "sweeps: jobs with other names have other folders",
        "                config.hydra.overrides.hydra.append(",
        "                str(",
        f"{SWEEP_FOLDER}::test_a_sweep_without_a_name_has_one_folder_named_after_the_model",
    ),
    Fault(
        "sweeps: a search is not recognized as a sweep",
        "            OmegaConf.save(config, Path(folder) / SWEEP)\n",
        "",
        f"{SWEEP_FOLDER}::test_a_failed_trial_does_not_end_a_search",
    ),
    Fault(
        "sweeps: a failed trial ends a search",
        "config.hydra.sweeper.max_failure_rate = 1.0",
        "config.hydra.sweeper.max_failure_rate = 0.0",
        f"{SWEEP_FOLDER}::test_a_failed_trial_does_not_end_a_search",
    ),
    Fault(
        "sweeps: two jobs get one folder",
        "with lock(sweep / LOCK, PATIENCE) or",
        "with",
        f"{SWEEP_FOLDER}::test_jobs_that_start_at_once_get_different_folders",
    ),
    Fault("GOMP_SPINCOUNT is not set", 'os.environ.setdefault("GOMP_SPINCOUNT", "4000")', "pass", WAITING),
    Fault("the user's OMP_WAIT_POLICY is overridden", 'if "OMP_WAIT_POLICY" not in os.environ:', "if True:", WAITING),
    Fault(
        "a job that begins after its sweep has died trains on",
        "launcher = int(os.environ.get(LAUNCHER, os.getppid()))",
        "launcher = os.getppid()",
        "reliability/test_sweep.py::test_a_job_whose_sweep_has_died_before_it_began_does_not_train",
    ),
    Fault("freed memory is returned to the system", "mallopt(trim_threshold, -1)", "pass", KEPT),
    Fault("the user's malloc settings are overridden", "for name in os.environ) or", "for name in ()) or", KEPT),
    Fault("all metrics are imported at the start", "        Metrics.install()\n", "", METRICS_LEFT_OUT),
    Fault(
        "SLURM: Lightning's own SLURM environment is not replaced",
        "resumed.storage, *processes.environment()]",
        "resumed.storage]",
        QUEUED,
    ),
    Fault("SLURM: a requeued job gets a new folder", "if before := slurm.marked(", "if before := print(", QUEUED),
    Fault(
        "SLURM: a requeued job starts from scratch",
        "    settings = after_requeue(settings, folder)\n    return settings, claim",
        "    return settings, claim",
        QUEUED,
    ),
    Fault("SLURM: every process requeues the job", "if rank_zero_only.rank == 0:", "if True:", TASKS),
    Fault(
        "validation runs in the middle of a step",
        "every * clock.accumulate\n",
        "every * clock.accumulate - 1\n",
        WHOLE_STEPS,
    ),
    Fault(
        "the processes do not agree before they stop sampling",
        "if agreed(trainer) or images is None:",
        "if images is None:",
        ALL_SIGNALLED,
    ),
    Fault("ckpt=auto counts as a different job", 'config | {"ckpt": None}', "config", AGAIN),
    Fault("a stopped job of a sweep starts from scratch", "continued(settings, record)", "settings", AGAIN),
    Fault(
        "a job of a sweep with other settings overwrites checkpoints",
        "    if not has_same_settings(record, settings):\n",
        "    if False:\n",
        AGAIN,
    ),
    Fault(
        "a job from scratch keeps earlier checkpoints",
        'for name in ("checkpoints", "samples"):',
        "for name in ():",
        AGAIN,
    ),
    Fault(
        "a first run removes files that it finds",
        "    if not holds_checkpoints(folder):\n        return\n",
        "",
        f"{STOPPED}::test_a_first_run_keeps_the_files_that_it_finds_in_its_folder",
    ),
    Fault("a job resumed alone loses its place in the sweep", 'JOB = ".hydra/job.yaml"', "JOB = OVERRIDES", AGAIN),
    Fault(
        "a run from scratch keeps earlier checkpoints",
        "        if resumed is None:\n            discard(folder)\n",
        "",
        f"{STOPPED}::test_a_run_from_scratch_that_is_killed_early_does_not_resume_earlier_weights",
    ),
    Fault(
        "a run stopped before its first step counts as complete",
        'if "asked" in self.content or not',
        'if "steps" in self.content or not',
        f"{STOPPED}::test_a_longer_run_that_is_stopped_before_its_first_step_is_not_complete",
    ),
    Fault(
        "a repeated validation is repeated at each later resume",
        "            loops.complete_validations(checkpoint)\n",
        "            pass\n",
        f"{STOPPED}::test_a_validation_that_was_interrupted_once_is_repeated_once",
    ),
    Fault(
        "a run with nothing left cannot be finished",
        "        if not parts:\n            return\n",
        "",
        f"{STOPPED}::test_a_run_with_nothing_left_to_do_is_finished",
    ),
    Fault(
        "a full disk hides why a run failed",
        "suppress(FolderTaken, OSError)",
        "suppress(FolderTaken)",
        f"{STOPPED}::test_a_full_disk_does_not_hide_why_a_run_failed",
    ),
    Fault(
        "a run with no steps left makes another one",
        "clock.validate_every if done < clock.total else clock.total",
        "clock.validate_every",
        f"{STOPPED}::test_a_run_with_nothing_left_to_do_is_finished",
    ),
    Fault(
        "a run cannot be resumed after an evaluation in its folder",
        '            and str(key).rpartition("@")[2].partition(".")[0] in self.config',
        "            and True",
        f"{STOPPED}::test_a_run_can_be_resumed_after_an_evaluation_in_its_folder",
    ),
    Fault(
        "a run that fails before it begins records no reason",
        'self.fail("interrupted" if',
        'print("interrupted" if',
        NEVER,
    ),
    Fault(
        "a second run can start in the folder of a running one",
        "        if before.seems_alive and not before.queued_again:",
        "        if False:",
        FOLDERS,
    ),
    Fault(
        "a run without ckpt overwrites an earlier run",
        "        check()\n        record =",
        "        record =",
        FORGOTTEN,
    ),
    Fault(
        "simultaneous starts are not prevented by a lock",
        "fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)",
        "pass",
        INSTANT,
    ),
    Fault("a run releases the lock on its folder", "        undo.pop_all()\n", "", f"{FOLDERS_FILE}::{HELD}"),
    Fault(
        "a data loader worker keeps the lock on the folder",
        "[held.close() for held in HELD]",
        "None",
        f"{FOLDERS_FILE}::{OUTLIVES}",
    ),
    Fault(
        "a run saves checkpoints in a folder that was taken over",
        "self.record.check_owner()\n        try:\n            trainer",
        "pass\n        try:\n            trainer",
        f"{FOLDERS_FILE}::{TAKEN}",
    ),
    Fault(
        "a run writes the record of a folder that was taken over",
        "        self.check_owner()\n        self._replace()",
        "        self._replace()",
        f"{FOLDERS_FILE}::{TAKEN}",
    ),
    Fault(
        "a signal after the end changes the record of a complete run",
        'RunRecord(self.folder).content.get("state") == "complete"',
        "False",
        f"{STOPPED}::test_a_signal_after_the_end_leaves_the_run_complete",
    ),
    Fault(
        "other numbers of images per step are not reported",
        "if resumed.step_images not in (0, images):",
        "if False:",
        "training/test_resume.py::test_changed_settings_are_reported_on_resume",
    ),
    Fault(
        "a run that reached its threshold trains on when it is resumed",
        "if self.reached or self.wait_count",
        "if self.wait_count",
        f"{SETTINGS}::test_a_run_that_reached_its_threshold_stays_stopped_when_it_is_resumed",
    ),
    Fault(
        "a reached threshold counts also if another one is set",
        "self.reached = same and self",
        "self.reached = self",
        f"{SETTINGS}::test_a_run_that_reached_its_threshold_stays_stopped_when_it_is_resumed",
    ),
    Fault(
        "a best checkpoint of steps that are made again is kept",
        "            self.best = math.inf\n        if not trainer",
        "            pass\n        if not trainer",
        "training/test_reproducible.py::test_a_best_checkpoint_of_steps_that_are_made_again_is_replaced",
    ),
    Fault(
        "W&B: a run without a checkpoint continues an earlier one",
        "settings.ckpt if resumed else None",
        "settings.ckpt",
        "training/test_train_command.py::test_wandb_records_the_run_and_continues_it_on_resume",
    ),
    Fault("jobs inherit the rendezvous variables of other jobs", "if name not in RENDEZVOUS}", "}", LAUNCHERS),
    Fault(
        "a plain run keeps the rendezvous variables of other jobs",
        "            os.environ.pop(name, None)\n        compose_and_train()",
        "            pass\n        compose_and_train()",
        "training/test_gpus.py::test_a_run_ignores_variables_of_processes_that_it_has_not_started",
    ),
    Fault(
        "torchrun's other processes wait for a run that does not start",
        "        processes.release()",
        "        pass",
        "reliability/test_two_processes.py::test_torchruns_other_processes_end_if_the_first_one_starts_no_run",
    ),
    Fault(
        "the jobs of a parallel sweep outlive it",
        '.startswith("LokyProcess")',
        '.startswith("None")',
        "reliability/test_lost_console.py::test_parallel_jobs_save_and_end_if_their_sweep_ends",
    ),
    Fault(
        "submitit requeues a job before it is saved",
        "os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)\n            requeue",
        "pass\n            requeue",
        "training/test_gpus.py::test_a_job_is_saved_before_submitit_requeues_it",
    ),
    Fault(
        "a skipped step is clipped by value",
        'group["params"]):\n            super().configure_gradient_clipping(',
        'group["params"]) or True:\n            super().configure_gradient_clipping(',
        "reliability/test_guard.py::test_t6_the_skip_action_skips_and_counts_a_bad_step",
    ),
    Fault(
        "the guard names only the images of its own process",
        "index = [i for part in parts for i in part]",
        "pass",
        "reliability/test_guard.py::test_t6_the_images_of_all_processes_are_named",
    ),
    Fault(
        "a refused run begins its dashboards",
        "    trainer = make_trainer(settings, folder, resumed)\n",
        "    trainer = make_trainer(settings, folder, resumed)\n    dashboards(settings, folder, resumed)\n",
        "training/test_dashboards.py::test_a_refused_run_does_not_touch_the_dashboards",
    ),
    Fault(
        "TensorBoard shows the steps before resuming twice",
        'purge_step=recipe["first_step"]',
        "purge_step=None",
        "training/test_dashboards.py::test_tensorboard_shows_each_step_of_a_resumed_run_once",
    ),
    Fault(
        "W&B shows failed runs as finished",
        "logger.experiment.finish(status)",
        "logger.experiment.finish()",
        "training/test_dashboards.py::test_wandb_shows_a_failed_run_as_failed",
    ),
    Fault(
        "W&B can end a run",
        '        if not getattr(logger, "lost", False):\n',
        '        raise\n        if not getattr(logger, "lost", False):\n',
        "training/test_dashboards.py::test_a_run_continues_without_wandb_if_its_process_dies",
    ),
    Fault("a lost console ends the run", "            return len(data)", "            raise", f"{CONSOLE}::{WITHOUT}"),
    Fault(
        "SIGHUP and SIGXCPU are not caught",
        "signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU]",
        "signal.SIGUSR1]",
        f"{CONSOLE}::{CLOSED}",
    ),
    Fault(
        "Ctrl-C sent only to the sweep's first process is not forwarded",
        "stop.start()",
        "pass",
        f"{CONSOLE}::{SWEEP_ALONE}",
    ),
    Fault("metrics: an incomplete line is read", '[: content.rfind(b"\\n") + 1]', "", f"{METRICS}::{CONTINUES}"),
    Fault("metrics: lines after the resumed step are kept", 'if row["step"] < steps]', "]", f"{METRICS}::{CONTINUES}"),
    Fault(
        "metrics: columns are updated before the file is written",
        "        replace(self.file, text.getvalue())\n        self.columns = columns",
        "        self.columns = columns\n        replace(self.file, text.getvalue())",
        f"{METRICS}::{EARLY_END}",
    ),
    Fault(
        "scores: writers do not lock the file",
        '        held = lock(folder / ".scores',
        '        held = None and lock(folder / ".scores',
        f"{METRICS}::test_concurrent_score_writers_lose_no_scores",
    ),
    Fault(
        "scores: a recomputed score does not replace the first",
        "if score.identity not in made]",
        "]",
        f"{METRICS}::{REMADE}",
    ),
    Fault(
        "changed images are not detected on resume", "if now.get(name) != key", "if False", f"{IMAGES}::{OTHER_IMAGES}"
    ),
    Fault(
        "output folders of commands are used as image data",
        'WRITTEN = {"run.json", ".hydra"}',
        "WRITTEN = set()",
        f"{IMAGES}::test_outputs_of_commands_are_not_read_as_training_images",
    ),
    Fault(
        "a lost configuration is replaced by the defaults",
        'if any(file.parent.glob("checkpoints/*.ckpt")):\n            raise',
        "if False:\n            raise",
        f"{IMAGES}::{LOST}",
    ),
    Fault(
        "early: signals during the imports of train are not handled",
        "    early_signals.watch()\n    if os.isatty",
        "    if os.isatty",
        f"{EARLY}[10-False]",
    ),
    Fault(
        "early: signals during the imports of a job are not handled",
        "    early_signals.watch()  # before the imports that take long\n\nimport os",
        "    pass\n\nimport os",
        JOB_SIGNALLED,
    ),
    Fault(
        "early: the launcher does not requeue an interrupted job",
        "if status != 128 + received[0]:",
        "if False:",
        f"{EARLY_JOB}[10-False-0]",
    ),
    Fault(
        "early: the launcher does not record that a job was interrupted",
        'if record.content.get("state") == "running":  # it ended',
        "if False:  # it ended",
        f"{EARLY_JOB}[10-False-0]",
    ),
    Fault(
        "early: a sweep continues after a signal", "    if received:\n", "    if False:\n", f"{EARLY_JOB}[15-True-0]"
    ),
    Fault("early: every process exits on its own", "end if first else note", "end", NOTED),
    Fault(
        "early: a noted signal is forgotten when training begins",
        "= early_signals.State.received, False",
        "= None, False",
        NOTED,
    ),
    Fault(
        "early: an interrupted process does not requeue its job",
        "        queue_again(number)\n",
        "",
        f"{EARLY}[10-False]",
    ),
    Fault(
        "early: the interruption is not recorded",
        '        early_signals.State.before_exit = partial(record.fail, "interrupted")\n',
        "",
        f"{EARLY}[15-True]",
    ),
    Fault(
        "Hydra's parse errors are shown unchanged",
        "return _unreadable(cause.override)",
        "pass",
        QUOTES,
    ),
    Fault(
        "the place of a part of another group is not named",
        "if is_group(key) and (outer := _outer_groups(key)):",
        "if False:",
        "evaluation/test_messages.py::test_unknown_or_malformed_arguments_give_a_one_line_error",
    ),
    Fault(
        "a model is exported without its guidance in silence",
        'if chosen.format != "safetensors" and config.get("guidance"):',
        "if False:",
        "evaluation/test_diffusers_folders.py::test_the_export_says_that_it_leaves_out_guidance",
    ),
    Fault(
        "an edit's command has the path of its model without quotes",
        'f"{key}={hydra_value(value)}" for key',
        'f"{key}={value}" for key',
        "edit/test_edit.py::test_the_recorded_command_has_the_path_of_the_model_in_quotes",
    ),
    Fault("quotes inside a quoted value are not escaped", """text.replace('"', '\\\\"')""", "text", QUOTES),
    Fault(
        "Optuna: completed trials are not subtracted on resume",
        "wanted - complete)",
        "wanted)",
        STUDY,
    ),
    Fault(
        "Optuna: a study mixes two objectives",
        "if before != (score, direction):",
        "if False:",
        "training/test_search.py::test_a_study_keeps_its_objective",
    ),
    Fault(
        "Optuna: a result that is not a number leaves a trial unfinished",
        "None if result is None or math.isnan(result) else result",
        "result",
        "training/test_search.py::test_a_result_that_is_not_a_number_is_none",
    ),
    Fault("Optuna: a resumed study repeats its first draws", "sweeper.sampler.seed += len(trials)", "pass", STUDY),
    Fault("Optuna: a stopped trial is not run again", "study.enqueue_trial(trial.params)", "pass", STUDY),
    Fault("Optuna: a trial that another process runs is run again", "RunRecord(folder).state in ENDED", "True", SEARCH),
    Fault("Optuna: a trial whose job has not begun is run again", "words and words <= {*overrides}", "True", SEARCH),
    Fault("Optuna: a trial without values is run again", "words and words <=", "words <=", SEARCH),
    Fault("Optuna: more trials than asked for are run again", "stopped[: sweeper.n_trials]", "stopped", SEARCH),
    Fault(
        "Optuna: a grid counts a repeated trial twice", "not sweeper.sampler._target_.endswith(GRID)", "True", SEARCH
    ),
    Fault(
        "launchers: further processes repeat the command line",
        'command = [sys.executable, "-m", WORKER, *words]',
        "command = [sys.executable, *sys.argv]",
        LAUNCHED,
    ),
    Fault(
        "torchrun: each process starts its own run",
        '    if os.environ["RANK"] != "0":\n        if words',
        "    if False:\n        if words",
        TORCHRUN,
    ),
    Fault(
        "a run without a process is considered alive",
        'return started is not None and self.content.get("process") == started',
        'return self.content.get("process") == started',
        STATES,
    ),
    Fault(
        "resume: epochs are counted in steps of another size",
        "shift = seen // (batch_size * devices * accumulate) - step if seen else 0",
        "shift = 0",
        f"{CHANGED}::test_epochs_are_counted_in_images_after_a_change_of_the_batch_size",
    ),
    Fault(
        "resume: larger steps begin within a step",
        "self.seen -= self.seen % step",
        "self.seen -= 0 * step",
        f"{CHANGED}::test_a_larger_global_batch_begins_with_a_whole_step",
    ),
    Fault(
        "resume: best.ckpt is that of other images",
        "if not has_same_error(config_text(settings)",
        "if not True and has_same_error(config_text(settings)",
        f"{CHANGED}::test_the_best_checkpoint_is_forgotten_if_the_error_measures_something_else",
    ),
    Fault(
        "resume: early stopping compares with errors of another validation",
        'REMEMBERING = ("Checkpoints", "EarlyStopping", ',
        'REMEMBERING = ("Checkpoints", ',
        f"{CHANGED}::test_early_stopping_starts_anew_if_the_error_measures_something_else",
    ),
    Fault(
        "resume: the guard keeps the losses of another objective",
        "        if self.same_loss:\n",
        "        if True:\n",
        f"{CHANGED}::test_the_guard_forgets_losses_of_another_objective",
    ),
    Fault(
        "resume: a run with adapted settings does not count as complete",
        "before = [comparable(config), ",
        "before = [",
        f"{CHANGED}::test_a_complete_run_with_adapted_settings_is_not_run_again",
    ),
    Fault(
        "resume: the settings that were asked for are forgotten",
        "record.update(asked=kept | asked_for(asked, settings))",
        "record.update(asked=asked_for(asked, settings))",
        f"{CHANGED}::test_a_complete_run_with_adapted_settings_is_not_run_again",
    ),
    Fault(
        "resume: curves of another folder are copied only with the first line",
        "if elsewhere and (rows := self._earlier()):",
        "if False and (rows := self._earlier()):",
        "training/test_metrics_file.py::test_the_lines_of_a_resumed_run_in_another_folder_are_copied_at_once",
    ),
    Fault(
        "sweeps: a job records the command of its process",
        'sys.argv = ["diffusion.train", *map(str, words)]',
        'str(["diffusion.train", *map(str, words)])',
        f"{AGAIN}::test_a_job_records_the_command_that_runs_it_alone",
    ),
    Fault(
        "resume: a changed loss counts as the same",
        "key.startswith(LOSS) and key not in SAME_LOSS",
        "False",
        f"{CHANGED}::test_losses_are_compared_only_if_they_measure_the_same",
    ),
    Fault(
        "reproduce: a job that was resumed alone is left out",
        "if not run.overrides or _parsed(run.overrides) in asked",
        "if _parsed(run.overrides) in asked",
        "reproduce/test_studies.py::test_only_the_runs_of_a_command_are_taken_and_those_without_a_record",
    ),
]
