"""Faults in the safeguards that let runs survive: each removes one, and its test (T1–T10) should fail."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

GOES_ON = "reliability/test_guard.py::test_t6_a_resumed_guard_continues_its_counts"
KILL = "reliability/test_storage.py::test_t1_kill_9"
ORDER = "reliability/test_storage.py::test_t1_the_order_of_calls"
DAMAGE = "reliability/test_storage.py::test_t2_damage"
AGE = "reliability/test_storage.py::test_t2_the_newest_is_that_of_the_most_steps"
UNSEALED = "reliability/test_storage.py::test_t2_a_file_without_a_checksum_is_only_read_by_name"
BEGUN = "reliability/test_storage.py::test_t2_damage_after_the_run_began"
COMMAND_LINE = "reliability/test_storage.py::test_t2_from_the_command_line"
FAILED_SAVE = "reliability/test_storage.py::test_t3_a_failed_save_raises_and_leaves_the_old_file"
FULL_DISK = "reliability/test_storage.py::test_t3_a_full_disk_is_refused_before_the_first_batch"
EFBIG = "reliability/test_storage.py::test_t3_an_error_of_the_operating_system_is_raised_as_it_is"
FULL = "reliability/test_storage.py::test_t3_a_run_on_a_full_disk_ends_with_an_error"
ROOM = "reliability/test_storage.py::test_t3_files_that_will_be_replaced_count_as_room"
READ_ONLY = "reliability/test_storage.py::test_t3_a_read_only_folder_is_refused_before_the_first_batch"
TOLD = "reliability/test_preemption.py::test_t4_signalled_at_a_place"
TWO_TOLD = "reliability/test_preemption.py::test_t4_two_processes_stop_at_the_same_step"
RESUMED = "reliability/test_exact_resume.py::test_a_run_resumed_from_six_steps_is_the_same_run[0]"
FINITE = "reliability/test_guard.py::test_t6_a_number_that_is_not_finite_stops_the_run[%s]"
SPIKES = "reliability/test_guard.py::test_t6_a_spike_warns_and_six_in_a_row_stop[6-4]"
LATE = "reliability/test_guard.py::test_t6_nothing_is_saved_before_it_is_checked"
SKIPPED = "reliability/test_guard.py::test_t6_a_step_is_skipped_and_counted_when_asked"
HOSTILE = "reliability/test_hostile_images.py"
PAYLOAD = "reliability/test_untrusted_files.py::test_no_payload_runs_and_no_secret_leaves"
MISLED = "reliability/test_untrusted_files.py::test_misleading_samplers_and_scores_in_a_file_are_refused_in_one_line"
EXPORTED = "reliability/test_untrusted_files.py::test_an_exported_model_is_the_model[ema]"
SHAPE = "reliability/test_untrusted_files.py::test_a_malformed_checkpoint_is_refused_in_one_line[%s]"
EXPORT_SHAPE = "reliability/test_untrusted_files.py::test_a_malformed_exported_file_is_refused_in_one_line"
WORDS = "test_secrets.py"
DEATHS = "reliability/test_sweep.py::test_jobs_that_die_harm_no_other_and_only_they_run_again"
BEGAN = "reliability/test_sweep.py::test_the_reason_why_a_job_never_began_is_recorded"
EIGHT = "reliability/test_sweep.py::test_eight_launches_at_once_have_eight_folders"
OWN_FOLDER = "reliability/test_sweep.py::test_a_job_gets_its_own_folder_again_and_never_another_jobs"
REFUSED = "reliability/test_sweep.py::test_a_secret_on_the_command_line_or_in_the_configuration_is_refused"
AS_ONE = "reliability/test_two_processes.py::test_two_processes_train_as_one"
DRAWS = "reliability/test_two_processes.py::test_the_draws_of_a_batch_are_those_of_its_images_wherever_they_are"
ONCE = "reliability/test_two_processes.py::test_37_images_are_scored_once_however_divided[18]"
PIXELS = "reliability/test_two_processes.py::test_pixels_are_clamped_never_wrapped"
KEYS = "reliability/test_two_processes.py::test_statistics_are_kept_under_a_key_of_all_they_depend_on"
TORCHRUN = "reliability/test_two_processes.py::test_a_trainer_of_another_size_than_torchruns_is_refused"

FORGET = """        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
"""

FAULTS = [
    Fault(
        "files: a failure leaves a part",
        "            part.unlink(missing_ok=True)\n        if isinstance",
        "            pass\n        if isinstance",
        "test_files.py",
    ),
    Fault("files: written in place", "part = path.with_name(", "part = path or path.with_name(", "test_files.py"),
    Fault(
        "T1 written in place",
        '    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")\n',
        "    part = path\n    path.unlink(missing_ok=True)\n",
        KILL,
    ),
    Fault(
        "T1 written in $TMPDIR and moved",
        'part = path.with_name(f".',
        'part = Path(__import__("tempfile").gettempdir(), f".',
        KILL,
    ),
    Fault("T1 leftovers stay", "    remove_parts(path.parent)\n", "", KILL),
    Fault(
        "T1 the file is not flushed",
        "            file.flush()\n            os.fsync(file.fileno())\n",
        "            pass\n",
        ORDER,
    ),
    Fault("T1 the folder is not flushed", "        _sync_folder(path.parent)\n", "        pass\n", ORDER),
    Fault("T2 no checksum", "if digest.hexdigest().encode() != comment", "if not comment", DAMAGE),
    Fault(
        "T2 the end is not looked at",
        'raise Damaged(f"its end is missing or damaged, at {size} bytes")',
        "return",
        DAMAGE,
    ),
    Fault(
        "T2 a fresh start in silence",
        '    raise UserError(\n        f"ckpt=auto: none of',
        '    return None\n    raise UserError(\n        f"ckpt=auto: none of',
        DAMAGE,
    ),
    Fault(
        "T2 skipped in silence",
        'console.print(f"skipped {str(error).removeprefix(\'ckpt=\')}", style="yellow")',
        "pass",
        DAMAGE,
    ),
    Fault(
        "T2 last.ckpt falls back",
        '    if ckpt == "last":\n        return _read(run / "checkpoints" / "last.ckpt")\n',
        "",
        DAMAGE,
    ),
    Fault(
        "T2 a path falls back",
        '    if ckpt not in ("last", "auto"):\n        return _read(of_run(Path(ckpt)))\n',
        '    if Path(ckpt).exists() and ckpt not in ("last", "auto"):\n        return _read(of_run(Path(ckpt)))\n',
        COMMAND_LINE,
    ),
    Fault(
        "T3 a failed save is swallowed",
        "        raise\n    if durable:",
        "        return\n    if durable:",
        FAILED_SAVE,
    ),
    Fault(
        "T3 a failed save leaves its file",
        "            part.unlink(missing_ok=True)\n        if isinstance",
        "            pass\n        if isinstance",
        FAILED_SAVE,
    ),
    Fault(
        "T3 torch hides the system's reason",
        "                raise error.__context__ from None\n",
        "                raise\n",
        EFBIG,
    ),
    Fault(
        "T3 torch hides the reason",
        "                raise error.__context__ from None\n",
        "                raise\n",
        FAILED_SAVE,
    ),
    Fault(
        "T2 a file without a checksum counts as whole",
        "                if sealed:\n",
        "                if False:\n",
        UNSEALED,
    ),
    Fault(
        "T2 damage after the run began",
        "contents = self.contents if Path(path) == self.path else None",
        "contents = None",
        BEGUN,
    ),
    Fault(
        "T2 age by the clock",
        "found = [(step, file.lstat().st_mtime_ns, file)",
        "found = [(file.lstat().st_mtime_ns, step, file)",
        AGE,
    ),
    Fault("T2 last.ckpt behind all", 'if file.name == "last.ckpt" else', "if False else", AGE),
    Fault("T2 a course that was left stays", "for old in later + files[", "for old in files[", AGE),
    Fault("T3 what is there counts twice", "(self.keep + 2) * one - present", "(self.keep + 2) * one", ROOM),
    Fault("T3 no room for one", "max(one, (self.keep", "max(0, (self.keep", ROOM),
    Fault(
        "T3 the run goes on after a failed save",
        '            raise UserError(\n                f"cannot write {path}',
        '            return\n            raise UserError(\n                f"cannot write {path}',
        FULL,
    ),
    Fault("T3 the folder is not tried", "    check_folder(folder)\n", "", READ_ONLY),
    Fault("T3 the disk is not measured", "if free < needed:", "if False:", FULL_DISK),
    Fault(
        "T4 averaged weights saved as the raw ones",
        "            average.swap(pl_module)\n",
        "            pass\n",
        f"{TOLD}[validation 1, SIGTERM]",
    ),
    Fault(
        "T4 no way back into the validation",
        "            loops.repeat_validation(checkpoint)\n",
        "            pass\n",
        f"{TOLD}[validation 1, SIGTERM]",
    ),
    Fault(
        "T4 stops before the validation that is due",
        "if not self.clock.completes_step(batch_idx) or self.clock.validates(trainer.global_step):",
        "if not self.clock.completes_step(batch_idx):",
        f"{TOLD}[step 6, SIGTERM]",
    ),
    Fault(
        "T4 stops within an accumulation",
        "return (batch_idx + 1) % self.accumulate == 0",
        "return True",
        f"{TOLD}[step 11, SIGTERM]",
    ),
    Fault(
        "T4 Lightning's handlers stay",
        "signals.DeferSignals(), RunProgress",
        "RunProgress",
        f"{TOLD}[step 11, SIGTERM]",
    ),
    Fault(
        "T4 the last loss is not logged",
        "            self.stopping = stop\n",
        "            raise\n",
        f"{TOLD}[step 4, SIGTERM]",
    ),
    Fault(
        "T4 a second signal cuts short",
        "elif number == signal.SIGINT and State.count >= PATIENCE:",
        "else:",
        f"{TOLD}[step 13, SIGTERM SIGTERM]",
    ),
    Fault(
        "T4 exit status 0",
        "            sys.exit(stop.status)\n",
        "            sys.exit(0)\n",
        f"{TOLD}[step 4, SIGTERM]",
    ),
    Fault(
        "T4 dropout in the raw weights' validation",
        ".requires_grad_(False).eval()\n\n    def on_train_start",
        ".requires_grad_(False)\n\n    def on_train_start",
        f"{TOLD}[validation 14, SIGINT]",
    ),
    Fault(
        "T4 sampling is not broken off",
        "    if State.received is not None:\n        raise Interrupted(State.received)\n",
        "    return\n",
        f"{TOLD}[sampling 2, SIGTERM]",
    ),
    Fault(
        "T4 each process stops by itself",
        "return int(ask_all(trainer).read()[0]) if trainer.world_size > 1 else State.received or 0",
        "return State.received or 0",
        TWO_TOLD,
    ),
    Fault(
        "T5 the loader begins the run again",
        'self.seen = state_dict["seen"]',
        "pass",
        RESUMED,
    ),
    Fault(
        "T5 workers begin in the first part",
        "max(self.part, self.done // self.length)",
        "self.part",
        "data/test_data_module.py::test_a_resumed_run_continues_exactly",
    ),
    Fault(
        "T5 with another batch size the position is lost",
        "shift = self.first - self.done",
        "shift = 0",
        "data/test_data_module.py::test_a_run_resumed_with_another_batch_size_continues_at_the_same_image",
    ),
    Fault("T5 the order of epoch 0 again", '(self.seed, "order", epoch)', '(self.seed, "order", 0)', RESUMED),
    Fault("T5 dropout goes on by itself", "torch.default_generator.manual_seed(seed)", "pass", RESUMED),
    Fault(
        "T5 noise is not counted",
        "seeds_for(self.seed, use, batch.epoch, last=batch.index.tolist())",
        "[torch.Generator().seed() for _ in range(n)]",
        RESUMED,
    ),
    Fault(
        "T6 loss not looked at",
        '(("loss", loss), ("gradient", gradient),',
        '(("gradient", gradient),',
        FINITE % "loss-0-nan",
    ),
    Fault(
        "T6 gradient not looked at",
        '("gradient", gradient), ("weights", weights))',
        '("weights", weights))',
        FINITE % "gradient-1-inf",
    ),
    Fault(
        "T6 weights not looked at",
        '("gradient", gradient), ("weights", weights))',
        '("gradient", gradient))',
        FINITE % "ema-2-nan",
    ),
    Fault(
        "T6 raw weights not looked at",
        "[p.detach() for p in self.parameters] if average is None",
        "[torch.zeros(1)] if average is None",
        "reliability/test_guard.py::test_t6_a_weight_that_is_not_finite_stops_the_run_with_and_without_an_average[none]",
    ),
    Fault(
        "T6 files not named",
        'return ", ".join(self.files[i] for i in index[:NAMED]) + more',
        "return more",
        FINITE % "loss-0-nan",
    ),
    Fault("T6 exit status 2", "    status = 3", "    status = 2", FINITE % "loss-0-nan"),
    Fault(
        "T6 stops a step later",
        'keep=0 if pl_module.device.type == "cpu" else 1',
        "keep=1",
        FINITE % "loss-0-nan",
    ),
    Fault(
        "T6 saved before it is looked at",
        '        self.check(keep=0)\n        return {"usual"',
        '        return {"usual"',
        LATE,
    ),
    Fault("T6 a resumed guard knows nothing", 'deque(state_dict.get("usual", [])', "deque([]", GOES_ON),
    Fault("T6 a bad gradient is not left out", "            self.skip(trainer)\n", "            pass\n", SKIPPED),
    Fault("T6 a jump is not told", "        if not self.warned:\n", "        if False:\n", SPIKES),
    Fault("T6 jumps never stop", "        if self.high >= self.spikes:", "        if False:", SPIKES),
    Fault(
        "T6 a jump is measured by the median",
        "FACTOR * percentile_90(self.usual)",
        "FACTOR * statistics.median(self.usual)",
        "reliability/test_guard.py::test_t6_no_false_alarm_along_a_clean_curve_of_1000_losses",
    ),
    Fault("T7 a bomb is decoded", "if width * height > MAX_PIXELS:", "if False:", HOSTILE),
    Fault(
        "T7 as many large images at a time as threads",
        "with ROOM.taken(_weight(file, keep)):",
        "with contextlib.nullcontext():",
        "reliability/test_hostile_images.py::test_large_images_are_decoded_within_a_budget_of_memory",
    ),
    Fault(
        "T4 a process that does not answer ends in a traceback",
        "if silent := re.search(",
        "if silent := None and re.search(",
        "reliability/test_two_processes.py::test_a_process_of_another_machine_that_does_not_answer_ends_the_run",
    ),
    Fault(
        "T7 as many WebP files are read at a time as threads",
        "with OPENING if whole else contextlib.nullcontext(), _open(file) as image:",
        "with _open(file) as image:",
        "reliability/test_hostile_images.py::test_large_images_are_decoded_within_a_budget_of_memory",
    ),
    Fault("T7 a greater bomb crashes", "except Image.DecompressionBombError", "except ZeroDivisionError", HOSTILE),
    Fault("T7 small images are enlarged", "return width >= right and height >= down", "return True", HOSTILE),
    Fault(
        "T7 a PNG's checksums are skipped",
        "                        twin.verify()\n",
        "                        pass\n",
        HOSTILE,
    ),
    Fault(
        "T7 a decoder's error stops the run",
        "except Exception as error:  # decoders",
        "except EOFError as error:  # decoders",
        HOSTILE,
    ),
    Fault(
        "T7 every format that Pillow knows",
        "Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])",
        "Image.open(file)",
        HOSTILE,
    ),
    Fault("T7 as the pixels lie", "ImageOps.exif_transpose(rgb, in_place=True)", "pass", HOSTILE),
    Fault(
        "T7 broken metadata stop the run",
        "except Exception:  # unreadable",
        "except EOFError:  # unreadable",
        HOSTILE,
    ),
    Fault("T7 16 bits saturate", "if image.mode in WIDE:", "if False:", HOSTILE),
    Fault("T7 what lies under transparency shows", "if image.has_transparency_data:", "if False:", HOSTILE),
    Fault("T7 values without a known white", "if not (low >= 0 and high <= white):", "if False:", HOSTILE),
    Fault("T7 links to folders are followed", "follow_symlinks=False", "follow_symlinks=True", HOSTILE),
    Fault(
        "T7 what is no file is opened",
        "            if not stat.S_ISREG(status.st_mode):",
        "            if False:",
        HOSTILE,
    ),
    Fault(
        "T7 a dead link stops the run",
        "                status = entry.stat()\n            except OSError as",
        "                status = entry.stat()\n            except EOFError as",
        HOSTILE,
    ),
    Fault("T7 hidden files are used", 'if entry.name.startswith("."):', "if False:", HOSTILE),
    Fault("T7 duplicates are used", "twins[file.name if self.repeats else file.content]", "twins[file.name]", HOSTILE),
    Fault("T7 the file system's order", "zip(*sorted(found), strict=True)", "zip(*found, strict=True)", HOSTILE),
    Fault(
        "T7 left out in silence",
        "            unknown = isinstance(result, NotAnImage)\n",
        "            return [], Made()\n            unknown = isinstance(result, NotAnImage)\n",
        HOSTILE,
    ),
    Fault(
        "T8 any class is built",
        "        if target not in allowed:",
        "        if False:",
        f"{PAYLOAD}[schedule]",
    ),
    Fault(
        "T8 any sampler is built",
        "for part in (*PARTS, *OPTIONAL_PARTS):",
        "for part in PARTS:",
        f"{PAYLOAD}[sampler's grid]",
    ),
    Fault(
        "T8 any weights are read",
        "inherited not in nodes(group)",
        "False",
        f"{MISLED}[weights of the features]",
    ),
    Fault("T8 a sampler that is none", "not isinstance(sampler, Sampler)", "False", f"{MISLED}[no sampler]"),
    Fault("T8 a seed that is none", "type(value) is not int or", "", f"{MISLED}[seed text]"),
    Fault(
        "T8 targets are looked for at the top alone",
        'yield str(node["_target_"])\n        node = list(node.values())\n',
        'yield str(node["_target_"])\n        return\n',
        f"{PAYLOAD}[sampler's grid]",
    ),
    Fault("T8 interpolated", 'if isinstance(value, str) and "${" in value:', "if False:", f"{PAYLOAD}[secret]"),
    Fault(
        "T8 interpolated while it is read",
        "OmegaConf.create(text), resolve=False",
        "OmegaConf.create(text), resolve=True",
        f"{PAYLOAD}[secret path]",
    ),
    Fault("T8 yaml's tags", "yaml.AnchorToken, yaml.TagToken)", "yaml.AnchorToken)", f"{PAYLOAD}[yaml path]"),
    Fault(
        "T8 yaml's aliases",
        "(yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)",
        "(yaml.TagToken,)",
        f"{PAYLOAD}[aliases]",
    ),
    Fault(
        "T8 depth without end",
        "OmegaConfBaseException, ValueError, RecursionError)",
        "OmegaConfBaseException, ValueError)",
        f"{PAYLOAD}[depth]",
    ),
    Fault(
        "T8 pickles run",
        'contents = torch.load(path, map_location="cpu", weights_only=True)',
        'contents = torch.load(path, map_location="cpu", weights_only=False)',
        f"{PAYLOAD}[torch zip]",
    ),
    Fault(
        "T8 what no checkpoint is raises as it likes",
        "OSError, pickle.UnpicklingError, ValueError",
        "OSError, ValueError",
        f"{PAYLOAD}[torch zip]",
    ),
    Fault(
        "T8 archives are unpacked",
        "    verify(path, sealed)\n    try:\n",
        "    import zipfile\n"
        "    if zipfile.is_zipfile(path):\n"
        "        archive = zipfile.ZipFile(path)\n"
        "        for member in archive.namelist():\n"
        "            (path.parent / member).parent.mkdir(parents=True, exist_ok=True)\n"
        "            (path.parent / member).write_bytes(archive.read(member))\n"
        "    verify(path, sealed)\n    try:\n",
        f"{PAYLOAD}[traversal]",
    ),
    Fault(
        "T8 a file's configuration is trusted",
        'config = untrusted.buildable_config(contents["config"], path)',
        'config = __import__("yaml").safe_load(contents["config"])',
        f"{PAYLOAD}[secret target]",
    ),
    Fault(
        "T8 the report builds what a run names",
        "            check_targets(config[part], part, file)\n",
        "",
        f"{PAYLOAD}[schedule]",
    ),
    Fault(
        "T8 contents of any shape",
        "from error\n    check_contents(contents, path)\n",
        "from error\n",
        SHAPE % "step text",
    ),
    Fault("T8 labels of any shape", "type(n) is int and n >= 0 for name, n", "True for name, n", SHAPE % "labels text"),
    Fault("T8 weights of any shape", "isinstance(key, str) and ", "", SHAPE % "weights 5"),
    Fault(
        "T8 parts of any shape",
        'not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str) or ',
        "",
        SHAPE % "null",
    ),
    Fault(
        "T8 functions are built",
        " or _has_directives(node):\n            raise",
        ":\n            raise",
        SHAPE % "a function",
    ),
    Fault("T8 an export without end", "ValueError, RecursionError,", "ValueError,", EXPORT_SHAPE),
    Fault(
        "T7 what ended a run is not reported",
        "    finally:\n        if data.report",
        "    except ZeroDivisionError:\n        if data.report",
        "training/test_data_report.py",
    ),
    Fault(
        "T8 a damaged export raises as it likes",
        "except (SafetensorError, OSError, *MALFORMED)",
        "except (OSError, *MALFORMED)",
        EXPORTED,
    ),
    Fault(
        "T9 jobs share the launcher's process",
        "return wait_for_process(folder, record.lock)",
        'return __import__("diffusion.training.worker", fromlist=["run"]).run(settings, folder, RunRecord(folder))',
        DEATHS,
    ),
    Fault(
        "T9 complete jobs run again",
        '    if record.content.get("state") != "complete":\n        return False',
        "    if True:\n        return False",
        DEATHS,
    ),
    Fault(
        "T9 a job of other values counts as run",
        "return before == comparable(yaml.safe_load(config_text(settings)))",
        "return True",
        DEATHS,
    ),
    Fault(
        "T9 a death is not recorded",
        "        record.write()\n    raise JobFailed",
        "    raise JobFailed",
        DEATHS,
    ),
    Fault("T9 a failed job fails nothing", "    raise JobFailed(", "    return None\n    raise JobFailed(", DEATHS),
    Fault(
        "T9 an error is not recorded",
        'self.fail("interrupted" if',
        'print("interrupted" if',
        BEGAN,
    ),
    Fault(
        "T9 the environment is kept",
        '"host": platform.node(),',
        '"host": str(dict(os.environ)),',
        DEATHS,
    ),
    Fault(
        "T9 launches share a folder",
        "            path.mkdir()\n",
        "            path.mkdir(exist_ok=True)\n",
        EIGHT,
    ),
    Fault(
        "T9 a job's folder is not its own",
        "        if _read(file) == key:\n",
        "        if False:\n",
        OWN_FOLDER,
    ),
    Fault(
        "T9 a job takes another's folder",
        "        if not file.exists():\n",
        "        if True:\n",
        OWN_FOLDER,
    ),
    Fault(
        "T9 keys on the command line",
        "            secrets.check_words(words)\n",
        "",
        REFUSED,
    ),
    Fault(
        "T9 keys in the configuration",
        "                secrets.check_values(values)\n",
        "",
        REFUSED,
    ),
    Fault(
        "T9 what is called a key",
        'if NAME.search(key) and value not in ("", "null", "None"):',
        "if False:",
        REFUSED,
    ),
    Fault(
        "T9 what is a key's value",
        "if NAME.search(name) and name not in NO_SECRET and len(secret) >= SHORTEST and secret in value:",
        "if False:",
        REFUSED,
    ),
    Fault(
        "T10 dropout by the place in the batch",
        "with examples(batch.index.to(self.device, non_blocking=True)):",
        "if True:",
        AS_ONE,
    ),
    Fault(
        "T10 dropout by the device",
        'seed_for(self.seed, "dropout", self.trainer.global_step)',
        'seed_for(self.seed, "dropout", self.trainer.global_step, self.global_rank)',
        AS_ONE,
    ),
    Fault(
        "T10 dropout by the batch of an accumulation",
        'seed_for(self.seed, "dropout", self.trainer.global_step)',
        'seed_for(self.seed, "dropout", self.trainer.global_step, batch_idx)',
        AS_ONE,
    ),
    Fault("T9 passwords within a URL", "if URL.search(value):", "if False:", WORDS),
    Fault("T9 names within a word", "for inner, held in INNER.findall(value):", "for inner, held in ():", WORDS),
    Fault("T9 a folder is a secret", "name not in NO_SECRET and ", "", WORDS),
    Fault("T10 all devices see the same images", "[:, self.rank]", "[:, 0]", AS_ONE),
    Fault(
        "T10 the global batch is cut otherwise",
        "view(self.per_epoch, self.devices, self.batch_size)[:, self.rank]",
        "view(self.devices, self.per_epoch, self.batch_size)[self.rank]",
        AS_ONE,
    ),
    Fault(
        "T10 validation is padded",
        "self.batches = index.tensor_split(",
        "index = torch.cat([index, index[: -len(index) % devices]])\n        self.batches = index.tensor_split(",
        AS_ONE,
    ),
    Fault(
        "T10 the loss of one device",
        "gathered = self.all_gather(values.detach())",
        "gathered = values.detach()",
        AS_ONE,
    ),
    Fault(
        "T10 every device draws from the batch's start",
        "positions=range(first, first + n)",
        "positions=range(n)",
        DRAWS,
    ),
    Fault("T10 a device's batch is the batch", "batch_size=n * devices * parts", "batch_size=n * parts", DRAWS),
    Fault("T10 each device scores for itself", "if together and gather:", "if False:", ONCE),
    Fault("T10 pixels wrap", "round().clamp(0, 255)", "round()", PIXELS),
    Fault("T10 one cache for all images", 'digest({"images": images}), ', "", KEYS),
    Fault(
        "T10 one cache for every resize",
        "extractor.name, extractor.resize, extractor.weights_hash)",
        "extractor.name, extractor.weights_hash)",
        KEYS,
    ),
    Fault(
        "T10 one cache for all weights",
        "extractor.resize, extractor.weights_hash)",
        "extractor.resize)",
        KEYS,
    ),
    Fault(
        "T10 torchrun's processes are runs of their own",
        'if under_torchrun() and trainer.world_size != int(os.environ["WORLD_SIZE"]):',
        "if False:",
        TORCHRUN,
    ),
]
