"""Faults in the safeguards that make runs robust: each removes one, and its test (T1–T10) should fail."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

RESUMED_GUARD = "reliability/test_guard.py::test_t6_a_resumed_guard_continues_its_counts"
KILL = "reliability/test_storage.py::test_t1_checkpoints_survive_kill_9_while_saving"
ORDER = "reliability/test_storage.py::test_t1_a_file_is_synced_before_and_its_folder_after_the_rename"
DAMAGE = "reliability/test_storage.py::test_t2_a_damaged_newest_checkpoint_is_skipped_and_reported"
AGE = "reliability/test_storage.py::test_t2_the_newest_checkpoint_is_chosen_by_steps_and_not_by_time"
FLIPS = "reliability/test_storage.py::test_t2_a_flipped_bit_is_detected_or_changes_nothing"
BEGUN = "reliability/test_storage.py::test_t2_damage_after_the_start_does_not_affect_a_resumed_run"
COMMAND_LINE = "reliability/test_storage.py::test_t2_ckpt_choices_handle_missing_and_damaged_checkpoints"
FAILED_SAVE = "reliability/test_storage.py::test_t3_a_failed_save_raises_and_leaves_the_old_file"
FULL_DISK = "reliability/test_storage.py::test_t3_a_full_disk_is_refused_before_the_first_batch"
EFBIG = "reliability/test_storage.py::test_t3_operating_system_errors_are_raised_unchanged"
FULL = "reliability/test_storage.py::test_t3_a_run_on_a_full_disk_ends_with_an_error"
ROOM = "reliability/test_storage.py::test_t3_files_that_will_be_replaced_count_as_free_space"
SIGNALLED = "reliability/test_preemption.py::test_t4_a_run_signalled_at_a_given_place_resumes_exactly"
TWO_SIGNALLED = "reliability/test_preemption.py::test_t4_two_processes_stop_at_the_same_step"
RESUMED = "reliability/test_exact_resume.py::test_runs_resumed_from_six_different_steps_equal_the_uninterrupted_run[0]"
FINITE = "reliability/test_guard.py::test_t6_a_non_finite_number_stops_the_run[%s]"
SPIKES = "reliability/test_guard.py::test_t6_a_loss_spike_warns_and_six_in_a_row_stop_the_run[6-4]"
LATE = "reliability/test_guard.py::test_t6_nothing_is_saved_before_it_is_checked"
SKIPPED = "reliability/test_guard.py::test_t6_the_skip_action_skips_and_counts_a_bad_step"
HOSTILE = "reliability/test_hostile_images.py"
PAYLOAD = "reliability/test_untrusted_files.py::test_payloads_in_files_neither_run_nor_leak_secrets"
MISLED = "reliability/test_untrusted_files.py::test_misleading_samplers_and_scores_in_a_file_are_refused_with_one_line"
EXPORTED = "reliability/test_untrusted_files.py::test_an_exported_model_equals_its_checkpoint[ema]"
SHAPE = "reliability/test_untrusted_files.py::test_a_malformed_checkpoint_is_refused_with_one_line[%s]"
EXPORT_SHAPE = "reliability/test_untrusted_files.py::test_a_malformed_exported_file_is_refused_with_one_line"
SECRETS = "test_secrets.py"
DEATHS = "reliability/test_sweep.py::test_dying_jobs_affect_no_others_and_only_they_run_again"
BEGAN = "reliability/test_sweep.py::test_the_reason_why_a_job_did_not_start_is_recorded"
EIGHT = "reliability/test_sweep.py::test_eight_simultaneous_launches_get_eight_folders"
OWN_FOLDER = "reliability/test_sweep.py::test_a_job_gets_its_previous_folder_and_never_that_of_another_job"
REFUSED = "reliability/test_sweep.py::test_a_secret_on_the_command_line_or_in_the_configuration_is_refused"
AS_ONE = "reliability/test_two_processes.py::test_two_processes_give_the_same_training_as_one"
DRAWS = "training/test_batch.py::test_random_draws_do_not_depend_on_how_a_step_is_divided"
ONCE = "metric/test_score.py::test_processes_count_each_image_once[12]"
PIXELS = "data/test_data_module.py::test_to_unit_and_to_uint8_are_inverse_and_values_are_clamped"
KEYS = "metric/test_score.py::test_the_reference_key_depends_on_the_images_and_the_extractor"
TORCHRUN = "reliability/test_two_processes.py::test_fewer_trainer_devices_than_torchrun_processes_are_refused"

FAULTS = [
    Fault(
        "files: a failed write leaves its temporary file",
        "            part.unlink(missing_ok=True)\n        if isinstance",
        "            pass\n        if isinstance",
        "test_files.py",
    ),
    Fault(
        "files: written without a temporary file",
        "part = path.with_name(",
        "part = path or path.with_name(",
        "test_files.py",
    ),
    Fault(
        "T1 written in place",
        '    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")\n',
        "    part = path\n    path.unlink(missing_ok=True)\n",
        KILL,
    ),
    Fault(
        "T1 written to $TMPDIR and moved",
        'part = path.with_name(f".',
        'part = Path(__import__("tempfile").gettempdir(), f".',
        KILL,
    ),
    Fault("T1 leftover temporary files are not removed", "    remove_parts(path.parent)\n", "", KILL),
    Fault(
        "T1 the file is not synced to disk",
        "            file.flush()\n            os.fsync(file.fileno())\n",
        "            pass\n",
        ORDER,
    ),
    Fault("T1 the folder is not synced to disk", "        _sync_folder(path.parent)\n", "        pass\n", ORDER),
    Fault("T2 the checksums are not compared", "damaged = archive.testzip()", "damaged = None", DAMAGE),
    Fault("T2 an entry marked as a folder is accepted", "    if damaged or folders:\n", "    if damaged:\n", FLIPS),
    Fault(
        "T2 a damaged end of the file ends in a traceback",
        "    except Exception as error:  # damaged records",
        "    except ZeroDivisionError as error:  # damaged records",
        DAMAGE,
    ),
    Fault(
        "T2 training silently starts over if no checkpoint is readable",
        '    raise UserError(\n        f"ckpt=auto: none of',
        '    return None\n    raise UserError(\n        f"ckpt=auto: none of',
        DAMAGE,
    ),
    Fault(
        "T2 damaged checkpoints are skipped silently",
        'console.print(f"skipped {str(error).removeprefix(\'ckpt=\')}", style="yellow")',
        "pass",
        DAMAGE,
    ),
    Fault(
        "T2 ckpt=last falls back to another checkpoint",
        '    if ckpt == "last":\n        return _read(of_run(run))\n',
        "",
        DAMAGE,
    ),
    Fault(
        "T2 ckpt=PATH falls back to another checkpoint",
        '    if ckpt not in ("last", "auto"):\n        return _read(of_run(Path(ckpt)))\n',
        '    if Path(ckpt).exists() and ckpt not in ("last", "auto"):\n        return _read(of_run(Path(ckpt)))\n',
        COMMAND_LINE,
    ),
    Fault(
        "T3 the error of a failed save is swallowed",
        "        raise\n    if durable:",
        "        return\n    if durable:",
        FAILED_SAVE,
    ),
    Fault(
        "T3 a failed save leaves its temporary file",
        "            part.unlink(missing_ok=True)\n        if isinstance",
        "            pass\n        if isinstance",
        FAILED_SAVE,
    ),
    Fault(
        "T3 torch hides the error of the operating system (EFBIG)",
        "                raise error.__context__ from None\n",
        "                raise\n",
        EFBIG,
    ),
    Fault(
        "T3 torch hides the error of the operating system",
        "                raise error.__context__ from None\n",
        "                raise\n",
        FAILED_SAVE,
    ),
    Fault(
        "T2 the checkpoint is read a second time after the run began",
        "contents = self.contents if Path(path) == self.path else None",
        "contents = None",
        BEGUN,
    ),
    Fault(
        "T2 the newest checkpoint is chosen by modification time",
        "found = [(step, file.lstat().st_mtime_ns, file)",
        "found = [(file.lstat().st_mtime_ns, step, file)",
        AGE,
    ),
    Fault("T2 last.ckpt counts as the oldest", 'if file.name == "last.ckpt" else', "if False else", AGE),
    Fault(
        "T2 checkpoints of discarded later steps are not deleted", "for old in later + files[", "for old in files[", AGE
    ),
    Fault(
        "T3 files that will be replaced do not count as free space",
        "(self.keep + 2) * one - present",
        "(self.keep + 2) * one",
        ROOM,
    ),
    Fault("T3 the space for one checkpoint is not required", "max(one, (self.keep", "max(0, (self.keep", ROOM),
    Fault(
        "T3 the run continues after a failed save",
        "raise unwritable(path, self.folder.parent, error) from error",
        "return",
        FULL,
    ),
    Fault("T3 free disk space is not checked", "if free < needed:", "if False:", FULL_DISK),
    Fault(
        "T4 averaged weights saved as the raw ones",
        "            average.swap(pl_module)\n",
        "            pass\n",
        f"{SIGNALLED}[validation 1, SIGTERM]",
    ),
    Fault(
        "T4 a resumed run does not repeat the interrupted validation",
        "            loops.repeat_validation(checkpoint)\n",
        "            pass\n",
        f"{SIGNALLED}[validation 6, SIGINT SIGINT]",
    ),
    Fault(
        "T4 stops before a validation that is due",
        "if not self.clock.completes_step(batch_idx) or self.clock.validates(trainer.global_step):",
        "if not self.clock.completes_step(batch_idx):",
        f"{SIGNALLED}[step 6, SIGTERM]",
    ),
    Fault(
        "T4 stops in the middle of gradient accumulation",
        "return (batch_idx + 1) % self.accumulate == 0",
        "return True",
        f"{SIGNALLED}[step 11, SIGTERM]",
    ),
    Fault(
        "T4 Lightning's signal handlers remain",
        "signals.DeferSignals(), RunProgress",
        "RunProgress",
        f"{SIGNALLED}[step 11, SIGTERM]",
    ),
    Fault(
        "T4 the last loss is not logged",
        "            self.stopping = stop\n",
        "            raise\n",
        f"{SIGNALLED}[step 4, SIGTERM]",
    ),
    Fault(
        "T4 a second signal interrupts the saving",
        "elif number == signal.SIGINT and State.count >= PATIENCE:",
        "else:",
        f"{SIGNALLED}[step 13, SIGTERM SIGTERM]",
    ),
    Fault(
        "T4 exit status 0",
        "            sys.exit(stop.status)\n",
        "            sys.exit(0)\n",
        f"{SIGNALLED}[step 4, SIGTERM]",
    ),
    Fault(
        "T4 dropout is active in the averaged copy",
        ".requires_grad_(False).eval()\n\n    def on_train_start",
        ".requires_grad_(False)\n\n    def on_train_start",
        "training/test_train_command.py::test_raw_and_averaged_weights_are_both_validated_without_dropout",
    ),
    Fault(
        "T4 a signal does not interrupt sampling",
        "    if State.received is not None:\n        raise Interrupted(State.received)\n",
        "    return\n",
        f"{SIGNALLED}[sampling 2, SIGTERM]",
    ),
    Fault(
        "T4 each process stops on its own",
        "return int(ask_all(trainer).read()[0]) if trainer.world_size > 1 else State.received or 0",
        "return State.received or 0",
        TWO_SIGNALLED,
    ),
    Fault(
        "T5 the loader restarts from the beginning",
        'self.seen = state_dict["seen"]',
        "pass",
        RESUMED,
    ),
    Fault(
        "T5 workers restart in the first part",
        "max(self.part, self.done // self.length)",
        "self.part",
        "data/test_data_module.py::test_a_resumed_run_continues_exactly",
    ),
    Fault(
        "T5 the position is lost with another batch size",
        "shift = self.first - self.done",
        "shift = 0",
        "data/test_data_module.py::test_a_run_resumed_with_another_batch_size_continues_at_the_same_image",
    ),
    Fault("T5 every epoch has the order of epoch 0", '(self.seed, "order", epoch)', '(self.seed, "order", 0)', RESUMED),
    Fault("T5 the dropout seed is not set for each step", "torch.default_generator.manual_seed(seed)", "pass", RESUMED),
    Fault(
        "T5 the noise does not depend on seed and epoch",
        "seeds_for(self.settings.seed, use, batch.epoch, last=batch.index.tolist())",
        "[torch.Generator().seed() for _ in range(n)]",
        RESUMED,
    ),
    Fault(
        "T6 the loss is not checked",
        '(("loss", loss), ("gradient", gradient),',
        '(("gradient", gradient),',
        FINITE % "loss-0-nan",
    ),
    Fault(
        "T6 the gradient is not checked",
        '("gradient", gradient), ("weights", weights))',
        '("weights", weights))',
        FINITE % "gradient-1-inf",
    ),
    Fault(
        "T6 the weights are not checked",
        '("gradient", gradient), ("weights", weights))',
        '("gradient", gradient))',
        FINITE % "ema-2-nan",
    ),
    Fault(
        "T6 raw weights are not checked without an average",
        "[p.detach() for p in self.parameters] if average is None",
        "[torch.zeros(1)] if average is None",
        "reliability/test_guard.py::test_t6_a_non_finite_weight_stops_the_run_with_and_without_ema[none]",
    ),
    Fault(
        "T6 the files of the batch are not named",
        'return ", ".join(self.files[i] for i in index[:NAMED]) + more',
        "return more",
        FINITE % "loss-0-nan",
    ),
    Fault("T6 exit status 2", "    status = 3", "    status = 2", FINITE % "loss-0-nan"),
    Fault(
        "T6 stops one step too late on the CPU",
        'keep=0 if pl_module.device.type == "cpu" else 1',
        "keep=1",
        FINITE % "loss-0-nan",
    ),
    Fault(
        "T6 saved before the numbers are checked",
        '        self.check(keep=0)\n        return {"usual"',
        '        return {"usual"',
        LATE,
    ),
    Fault("T6 a resumed guard forgets the usual losses", 'deque(state_dict["usual"]', "deque([]", RESUMED_GUARD),
    Fault(
        "T6 a step with a bad gradient is not skipped",
        "            self.skip(trainer)\n",
        "            pass\n",
        SKIPPED,
    ),
    Fault("T6 a loss spike is not reported", "        if not self.warned:\n", "        if False:\n", SPIKES),
    Fault(
        "T6 repeated loss spikes do not stop the run",
        "        if self.high >= self.spikes:",
        "        if False:",
        SPIKES,
    ),
    Fault(
        "T6 spikes are measured relative to the median",
        "FACTOR * percentile_90(self.usual)",
        "FACTOR * statistics.median(self.usual)",
        "reliability/test_guard.py::test_t6_no_false_alarm_on_1000_clean_synthetic_losses",
    ),
    Fault("T7 a decompression bomb is decoded", "if width * height > MAX_PIXELS:", "if False:", HOSTILE),
    Fault(
        "T7 the memory for decoding large images is not limited",
        "with ROOM.taken(_weight(file, keep)):",
        "with contextlib.nullcontext():",
        "reliability/test_hostile_images.py::test_large_images_are_decoded_within_a_memory_budget",
    ),
    Fault(
        "T4 a process that does not respond ends in a traceback",
        "if silent := re.search(",
        "if silent := None and re.search(",
        "reliability/test_two_processes.py::test_every_gloo_message_after_a_timeout_is_reported",
    ),
    Fault(
        "T4 of gloo's two messages about a process that does not respond, one ends in a traceback",
        'if "Application timeout caused pair closure" in str(error) or',
        "if",
        "reliability/test_two_processes.py::test_every_gloo_message_after_a_timeout_is_reported",
    ),
    Fault(
        "T4 Lightning handles SIGTERM while it prepares a training in several processes",
        "        signals.install_again()\n",
        "",
        "reliability/test_two_signalled.py::"
        "test_a_signal_while_lightning_prepares_the_training_ends_all_processes[ddp]",
    ),
    Fault(
        "T4 a process that does not connect ends in a traceback",
        " or isinstance(error, dist.DistStoreError):",
        ":",
        "reliability/test_two_processes.py::test_every_gloo_message_after_a_timeout_is_reported",
    ),
    Fault(
        "T7 WebP files are read in parallel without a limit",
        "with OPENING if whole else contextlib.nullcontext(), _open(file) as image:",
        "with _open(file) as image:",
        "reliability/test_hostile_images.py::test_large_images_are_decoded_within_a_memory_budget",
    ),
    Fault(
        "T7 Pillow's own decompression bomb error is not handled",
        "except Image.DecompressionBombError",
        "except ZeroDivisionError",
        HOSTILE,
    ),
    Fault(
        "T7 images that are too small are accepted", "return width >= right and height >= down", "return True", HOSTILE
    ),
    Fault(
        "T7 the checksums of a PNG are not verified",
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
        "T7 every format that Pillow supports is accepted",
        "formats = [name for name in FORMATS if name in Image.OPEN]",
        "formats = None",
        HOSTILE,
    ),
    Fault(
        "T7 raw TIFFs are mapped into memory",
        "Image.open(opened, formats=formats)",
        "Image.open(file, formats=formats)",
        "data/test_image.py::test_uncompressed_tiffs_are_rotated",
    ),
    Fault(
        "T7 images whose white is ambiguous are almost black",
        "if (floats and 1 < high < 16) or (values.dtype == np.int32 and 0 < high <= 255):",
        "if False:",
        "data/test_image.py::test_pixel_values_whose_white_is_ambiguous_are_refused",
    ),
    Fault(
        "T7 colour profiles are ignored",
        "    if not profile:\n",
        "    if True:\n",
        "data/test_image.py::test_colours_are_converted_to_srgb_from_the_profile_of_the_file",
    ),
    Fault(
        "T7 a damaged colour profile makes an image unusable",
        "except (ImageCms.PyCMSError, OSError):  # a damaged",
        "except ZeroDivisionError:  # a damaged",
        "data/test_image.py::test_a_damaged_profile_changes_nothing",
    ),
    Fault("T7 the EXIF orientation is ignored", "ImageOps.exif_transpose(rgb, in_place=True)", "pass", HOSTILE),
    Fault(
        "T7 unreadable metadata stop the run",
        "except Exception:  # unreadable",
        "except EOFError:  # unreadable",
        HOSTILE,
    ),
    Fault("T7 16-bit images saturate", "if image.mode in WIDE:", "if False:", HOSTILE),
    Fault("T7 hidden colours of transparent pixels are shown", "if image.has_transparency_data:", "if False:", HOSTILE),
    Fault("T7 pixel values out of range are accepted", "if not (low >= 0 and high <= white):", "if False:", HOSTILE),
    Fault("T7 links to folders are followed", "follow_symlinks=False", "follow_symlinks=True", HOSTILE),
    Fault(
        "T7 files that are not regular are opened",
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
    Fault(
        "T7 files are in the order of the file system",
        "zip(*sorted(found), strict=True)",
        "zip(*found, strict=True)",
        HOSTILE,
    ),
    Fault(
        "T7 unusable images are skipped silently",
        "            unknown = isinstance(result, NotAnImage)\n",
        "            return [], Made()\n            unknown = isinstance(result, NotAnImage)\n",
        HOSTILE,
    ),
    Fault(
        "T8 any class named in a file is built",
        "        if target not in allowed:",
        "        if False:",
        f"{PAYLOAD}[schedule]",
    ),
    Fault(
        "T8 the classes of the sampler are not checked",
        "for part in (*PARTS, *OPTIONAL_PARTS):",
        "for part in PARTS:",
        f"{PAYLOAD}[sampler's grid]",
    ),
    Fault(
        "T8 a file may choose the weights of the features",
        "inherited not in nodes(group)",
        "False",
        f"{MISLED}[weights of the features]",
    ),
    Fault(
        "T8 an object that is not a sampler is accepted",
        "not isinstance(sampler, Sampler)",
        "False",
        f"{MISLED}[no sampler]",
    ),
    Fault("T8 a seed that is not an integer is accepted", "type(value) is not int or", "", f"{MISLED}[seed text]"),
    Fault(
        "T8 nested _target_ entries are not checked",
        'yield str(node["_target_"])\n        node = list(node.values())\n',
        'yield str(node["_target_"])\n        return\n',
        f"{PAYLOAD}[sampler's grid]",
    ),
    Fault(
        "T8 interpolations are accepted",
        'if isinstance(token, yaml.ScalarToken) and "${" in token.value:',
        "if False:",
        f"{PAYLOAD}[secret]",
    ),
    Fault(
        "T8 an interpolation with an escape sequence is accepted",
        'if isinstance(token, yaml.ScalarToken) and "${" in token.value:',
        'if "${" in text:',
        f"{PAYLOAD}[escaped]",
    ),
    Fault(
        "T8 YAML tags are accepted", "yaml.AnchorToken, yaml.TagToken)", "yaml.AnchorToken)", f"{PAYLOAD}[yaml path]"
    ),
    Fault(
        "T8 YAML aliases are accepted",
        "(yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)",
        "(yaml.TagToken,)",
        f"{PAYLOAD}[aliases]",
    ),
    Fault(
        "T8 YAML nested too deeply ends in a traceback",
        "OmegaConfBaseException, ValueError, RecursionError)",
        "OmegaConfBaseException, ValueError)",
        f"{PAYLOAD}[depth]",
    ),
    Fault(
        "T8 pickled code is executed",
        'contents = torch.load(path, map_location="cpu", weights_only=True)',
        'contents = torch.load(path, map_location="cpu", weights_only=False)',
        f"{PAYLOAD}[torch zip]",
    ),
    Fault(
        "T8 an unpickling error ends in a traceback",
        "    except Exception as error:  # unusual",
        "    except ValueError as error:  # unusual",
        f"{PAYLOAD}[torch zip]",
    ),
    Fault(
        "T8 archives are extracted",
        "    verify(path)\n    try:\n",
        "    import zipfile\n"
        "    if zipfile.is_zipfile(path):\n"
        "        archive = zipfile.ZipFile(path)\n"
        "        for member in archive.namelist():\n"
        "            (path.parent / member).parent.mkdir(parents=True, exist_ok=True)\n"
        "            (path.parent / member).write_bytes(archive.read(member))\n"
        "    verify(path)\n    try:\n",
        f"{PAYLOAD}[traversal]",
    ),
    Fault(
        "T8 a file's configuration is trusted",
        'config = untrusted.buildable_config(contents["config"], path)',
        'config = __import__("yaml").safe_load(contents["config"])',
        f"{PAYLOAD}[secret target]",
    ),
    Fault(
        "T8 the report builds any class that a run names",
        "            check_targets(config[part], part, file)\n",
        "",
        f"{PAYLOAD}[schedule]",
    ),
    Fault(
        "T8 the contents of a checkpoint are not checked",
        "from error\n    check_contents(contents, path)\n",
        "from error\n",
        SHAPE % "step text",
    ),
    Fault(
        "T8 the counts of labels are not checked",
        "    labels: dict[str, NonNegativeInt] = {}",
        "    labels: dict[str, Any] = {}",
        SHAPE % "labels text",
    ),
    Fault(
        "T8 the names of weights are not checked",
        "    state_dict: dict[str, Tensor]\n",
        "    state_dict: dict[Any, Tensor]\n",
        SHAPE % "weights 5",
    ),
    Fault(
        "T8 malformed parts of the configuration are accepted",
        'not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str) or ',
        "",
        SHAPE % "null",
    ),
    Fault(
        "T8 Hydra directives in a part are accepted",
        " or has_directives(node):\n            raise",
        ":\n            raise",
        SHAPE % "a function by text",
    ),
    Fault(
        "T8 exported metadata nested too deeply end in a traceback",
        "ValueError, RecursionError,",
        "ValueError,",
        EXPORT_SHAPE,
    ),
    Fault(
        "T7 data_report.json is not written if loading fails",
        "    finally:\n        if data.report",
        "    except ZeroDivisionError:\n        if data.report",
        "training/test_data_report.py",
    ),
    Fault(
        "T8 a damaged exported file ends in a traceback",
        "except (SafetensorError, OSError, *MALFORMED)",
        "except (OSError, *MALFORMED)",
        EXPORTED,
    ),
    Fault(
        "T9 jobs run in the launcher's process",
        "return wait_for_process(folder, record.lock)",
        'return __import__("diffusion.training.worker", fromlist=["run"]).run(settings, folder, RunRecord(folder))',
        DEATHS,
    ),
    Fault(
        "T9 complete jobs are run again",
        'record.content.get("state") == "complete" and',
        "False and",
        DEATHS,
    ),
    Fault(
        "T9 a job with other settings counts as complete",
        "return comparable(yaml.safe_load(config_text(settings))) in before",
        "return True",
        DEATHS,
    ),
    Fault(
        "T9 the death of a job is not recorded",
        "        record.write()\n    raise JobFailed",
        "    raise JobFailed",
        DEATHS,
    ),
    Fault(
        "T9 a failed job is not reported as failed",
        "\n    raise JobFailed(",
        "\n    return None\n    raise JobFailed(",
        DEATHS,
    ),
    Fault(
        "T9 an error is not recorded",
        'self.fail("interrupted" if',
        'print("interrupted" if',
        BEGAN,
    ),
    Fault(
        "T9 the environment variables are recorded",
        '"host": platform.node(),',
        '"host": str(dict(os.environ)),',
        DEATHS,
    ),
    Fault(
        "T9 simultaneous launches share a folder",
        "            path.mkdir()\n",
        "            path.mkdir(exist_ok=True)\n",
        EIGHT,
    ),
    Fault(
        "T9 a job does not get its folder again",
        "        if before == key:\n",
        "        if False:\n",
        OWN_FOLDER,
    ),
    Fault(
        "T9 a job takes the folder of another job",
        "        if not file.exists():\n",
        "        if True:\n",
        OWN_FOLDER,
    ),
    Fault(
        "T9 the command line is not checked for secrets",
        "            secrets.check_words(words)\n",
        "",
        REFUSED,
    ),
    Fault(
        "T9 the configuration is not checked for secrets",
        "                secrets.check_values(values)\n",
        "",
        "reliability/test_sweep.py::test_a_secret_in_a_file_of_choices_is_refused",
    ),
    Fault(
        "T9 settings named like a secret are accepted",
        'if NAME.search(key) and value not in ("", "null", "None"):',
        "if False:",
        REFUSED,
    ),
    Fault(
        "T9 values of secret environment variables are accepted",
        "if NAME.search(name) and name not in NO_SECRET and len(secret) >= SHORTEST and secret in value:",
        "if False:",
        REFUSED,
    ),
    Fault(
        "T10 dropout depends on the position in the batch",
        "with examples(to_device(batch.index, self.device)):",
        "if True:",
        AS_ONE,
    ),
    Fault(
        "T10 dropout depends on the device",
        'seed_for(self.settings.seed, "dropout", self.trainer.global_step)',
        'seed_for(self.settings.seed, "dropout", self.trainer.global_step, self.global_rank)',
        AS_ONE,
    ),
    Fault(
        "T10 dropout depends on the batch within an accumulation",
        'seed_for(self.settings.seed, "dropout", self.trainer.global_step)',
        'seed_for(self.settings.seed, "dropout", self.trainer.global_step, batch_idx)',
        AS_ONE,
    ),
    Fault("T9 passwords in a URL are accepted", "if URL.search(value):", "if False:", SECRETS),
    Fault(
        "T9 secret names nested in a value are accepted",
        "for inner, held in INNER.findall(value):",
        "for inner, held in ():",
        SECRETS,
    ),
    Fault("T9 the value of $PWD counts as a secret", "name not in NO_SECRET and ", "", SECRETS),
    Fault("T10 all devices see the same images", "[:, self.rank]", "[:, 0]", AS_ONE),
    Fault(
        "T10 the global batch is divided wrongly among devices",
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
        "T10 the loss of one device is logged",
        "gathered = self.all_gather(values.detach())",
        "gathered = values.detach()",
        AS_ONE,
    ),
    Fault(
        "T10 every device draws for the first positions of the batch",
        "positions=range(first, first + n)",
        "positions=range(n)",
        DRAWS,
    ),
    Fault(
        "T10 the batch of one device counts as the whole batch",
        "batch_size=n * devices * parts",
        "batch_size=n * parts",
        DRAWS,
    ),
    Fault("T10 each device scores on its own", "if together and gather:", "if False:", ONCE),
    Fault("T10 pixel values wrap around", "round().clamp(0, 255)", "round()", PIXELS),
    Fault("T10 cached statistics are shared by all images", 'digest({"images": images}), ', "", KEYS),
    Fault(
        "T10 cached statistics are shared by all resize methods",
        "extractor.name, extractor.resize, extractor.weights_hash)",
        "extractor.name, extractor.weights_hash)",
        KEYS,
    ),
    Fault(
        "T10 cached statistics are shared by all feature weights",
        "extractor.resize, extractor.weights_hash)",
        "extractor.resize)",
        KEYS,
    ),
    Fault(
        "T10 a trainer of another size than torchrun's is accepted",
        'if under_torchrun() and trainer.world_size != int(os.environ["WORLD_SIZE"]):',
        "if False:",
        TORCHRUN,
    ),
]
