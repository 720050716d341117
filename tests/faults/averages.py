"""Faults in power-function averages of weights and in averages of other lengths."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

MATHEMATICS = "process/test_averaging.py"
TRAINING = "training/test_power.py"
USE = "evaluation/test_averages.py"
HALF = "training/test_parts.py::test_an_average_of_half_precision_weights_follows_them"
RECURRENCE = f"{TRAINING}::test_the_averages_follow_their_recurrence_and_the_first_is_used"
RESUMED = f"{TRAINING}::test_resuming_in_another_folder_gives_the_same_run_and_snapshots"
BACK = f"{TRAINING}::test_resuming_from_an_earlier_step_removes_later_snapshots"
LOST = f"{TRAINING}::test_a_damaged_snapshot_is_reported_and_not_copied"
SPREAD = f"{TRAINING}::test_snapshots_are_spread_over_the_run"
LEFT_OUT = f"{TRAINING}::test_a_skipped_step_makes_no_second_snapshot"
SETTINGS = f"{TRAINING}::test_invalid_power_ema_settings_give_one_line_errors"
TAKEN_OVER = f"{TRAINING}::test_a_run_writes_no_snapshot_after_its_folder_was_taken_over"
UNWRITTEN = f"{TRAINING}::test_a_failed_snapshot_write_gives_a_one_line_error"
OTHER_LENGTHS = f"{TRAINING}::test_changed_ema_lengths_are_refused_on_resume"
MADE = f"{TRAINING}::test_an_average_reconstructed_from_snapshots_equals_a_tracked_one"
TRACKED = f"{TRAINING}::test_a_tracked_length_is_exact_and_needs_no_snapshot"
TWO = "reliability/test_power.py"
NOT_THE_RUNS = f"{USE}::test_an_invalid_snapshot_gives_a_one_line_error"
MALFORMED = f"{USE}::test_a_malformed_state_of_averages_gives_a_one_line_error"
TOO_FAR = f"{USE}::test_a_length_not_covered_by_the_snapshots_gives_a_one_line_error"
NONE = f"{USE}::test_a_run_without_snapshots_gives_a_one_line_error"
APART = f"{USE}::test_scores_of_different_average_lengths_are_distinguished"
EXPORTED = f"{USE}::test_an_exported_average_keeps_its_length"
PRUNED = f"{USE}::test_pruning_keeps_the_snapshots_unless_only_weights_are_kept"
POINTED = f"{USE}::test_setting_ema_outside_training_suggests_weights"
REPEATED = f"{USE}::test_snapshots_with_the_same_number_of_updates_count_once"

FAULTS = [
    Fault("decay: γ instead of γ + 1", "(1 - 1 / n) ** (gamma + 1)", "(1 - 1 / n) ** gamma", MATHEMATICS),
    Fault("decay: delayed by one step", "(1 - 1 / n) ** (gamma + 1)", "(1 - 1 / (n + 1)) ** (gamma + 1)", MATHEMATICS),
    Fault(
        "length: √(γ + 2) instead of √(γ + 3)",
        "((gamma + 2) * (gamma + 3) ** 0.5)",
        "((gamma + 2) ** 1.5)",
        MATHEMATICS,
    ),
    Fault("gamma: wrong coefficient in the cubic", "[1, 7, 16 - t, 12 - t]", "[1, 7, 16 - t, 12]", MATHEMATICS),
    Fault("gamma: the wrong root of the cubic", ".real.max())", ".real.min())", MATHEMATICS),
    Fault("gamma: a length out of range is accepted", "if not 0 < length <= LONGEST:", "if False:", MATHEMATICS),
    Fault(
        "inner product: γ of the earlier profile instead of the later",
        "torch.where(n_i <= n_j, gamma_j, gamma_i)",
        "torch.where(n_i <= n_j, gamma_i, gamma_j)",
        MATHEMATICS,
    ),
    Fault(
        "inner product: without + 1",
        "((gamma_i + gamma_j + 1) * torch.max",
        "((gamma_i + gamma_j) * torch.max",
        MATHEMATICS,
    ),
    Fault(
        "inner product: divided by the earlier step instead of the later",
        "gamma_j + 1) * torch.maximum(n_i, n_j))",
        "gamma_j + 1) * torch.minimum(n_i, n_j))",
        MATHEMATICS,
    ),
    Fault("coefficients: not divided by the norms", "b / norms) / norms\n", "b / norms)\n", MATHEMATICS),
    Fault("coefficients: not normalised to sum 1", "    x = x / x.sum()\n", "", MATHEMATICS),
    Fault("missing: its square instead of itself", "max(0.0, missing) ** 0.5", "max(0.0, missing)", MATHEMATICS),
    Fault(
        "missing: a term of the square is left out", "(square - 2 * x @ b + x @ A @ x)", "(square - x @ b)", MATHEMATICS
    ),
    Fault(
        "average: the second uses the decay of the first",
        "self.follow(others, 1 - decay(gamma, self.updates))",
        "self.follow(others, 1 - decay(self.gammas[0], self.updates))",
        RECURRENCE,
    ),
    Fault(
        "average: the main average has the last length instead of the first",
        "return decay(self.gammas[0], n)",
        "return decay(self.gammas[-1], n)",
        RECURRENCE,
    ),
    Fault(
        "average: moves although the step was skipped", "        if self.updates > n:\n", "        if True:\n", LEFT_OUT
    ),
    Fault(
        "snapshots: written at every step",
        "> (step - 1) * self.snapshots // total",
        ">= (step - 1) * self.snapshots // total",
        SPREAD,
    ),
    Fault(
        "snapshots: a second one with the same number of updates",
        "or any(n == self.updates for n, _ in self.written.values())",
        "",
        LEFT_OUT,
    ),
    Fault(
        "snapshots: written to a folder that another run has taken over",
        "                callback.record.check_owner()\n",
        "                pass\n",
        TAKEN_OVER,
    ),
    Fault(
        "snapshots: a failed write ends in a traceback",
        "files.save(self.named(), file)\n        except OSError as",
        "files.save(self.named(), file)\n        except ZeroDivisionError as",
        UNWRITTEN,
    ),
    Fault(
        "snapshots: every process writes one",
        "self.is_due(self.step, total) and trainer.is_global_zero",
        "self.is_due(self.step, total)",
        TWO,
    ),
    Fault(
        "settings: a repeated length is accepted",
        "if len(set(self.lengths)) < len(self.lengths):",
        "if False:",
        SETTINGS,
    ),
    Fault(
        "settings: a number instead of a choice is not explained",
        're.fullmatch(r"null|[-+.\\d][-+.\\de]*", value)',
        'value == "null"',
        SETTINGS,
    ),
    Fault(
        "settings: ema=NUMBER does not suggest weights=NUMBER",
        'if key == "ema" and command != "train":',
        "if False:",
        POINTED,
    ),
    Fault("resume: other lengths are not refused", '"ema._target_", "ema.lengths")', '"ema._target_")', OTHER_LENGTHS),
    Fault(
        "half precision: the average is rounded at each step",
        "[average.float() for average in self.averages] if half else self.averages",
        "self.averages",
        HALF,
    ),
    Fault("half precision: a resumed average is rounded", "exact.copy_(self.saved_exact[name])", "pass", HALF),
    Fault("resume: the second average is lost", "average.copy_(self.saved[repr(length)][name])", "pass", RESUMED),
    Fault(
        "resume: the list of snapshots is lost",
        'self.written = state_dict["averages"], dict(state_dict["snapshots"])',
        'self.written = state_dict["averages"], {}',
        RESUMED,
    ),
    Fault(
        "resume: snapshots are not linked into the new folder",
        "                link(source, files.snapshot(here, step))\n",
        "",
        RESUMED,
    ),
    Fault(
        "resume: a damaged snapshot is linked into the new folder",
        "            try:\n                storage.verify(source)\n",
        "            try:\n                pass\n",
        LOST,
    ),
    Fault("resume: a missing snapshot stays in the list", "                del self.written[step]\n", "", LOST),
    Fault(
        "resume: snapshots of discarded later steps are not deleted",
        "                if step not in self.written:\n                    file.unlink()",
        "                pass",
        BACK,
    ),
    Fault(
        "reconstruction: the averages in the checkpoint are not used",
        "times = [*listed, state.updates]",
        "times = [*listed]",
        MADE,
    ),
    Fault(
        "reconstruction: a tracked average is not returned as it is",
        "is not None:\n            return tracked",
        "is None:\n            return own",
        TRACKED,
    ),
    Fault("reconstruction: an inaccurate average is accepted", "if not missing <= WORST:", "if False:", TOO_FAR),
    Fault(
        "reconstruction: the requested length is ignored",
        "{**averaged, **averages.of_length(contents, path, weights)}",
        "averaged",
        APART,
    ),
    Fault("reconstruction: the result is labelled ema without its length", 'f"ema {weights:g}"', '"ema"', APART),
    Fault(
        "reconstruction: a run without averages is not refused",
        "    if not isinstance(state, Mapping):\n        raise",
        "    if state == 0:\n        raise",
        NONE,
    ),
    Fault(
        "reconstruction: two snapshots with equal updates are both used",
        "listed = state.averages, {n: (i, key)",
        "listed = state.averages, {n + i / 1e9: (i, key)",
        REPEATED,
    ),
    Fault("snapshot: the hash is not verified", "    if not same:\n", "    if False:\n", NOT_THE_RUNS),
    Fault(
        "snapshot: a file with other contents is accepted",
        "    except (AttributeError, TypeError, RuntimeError) as error:\n",
        "    except ZeroDivisionError as error:\n",
        NOT_THE_RUNS,
    ),
    Fault(
        "snapshot: averages of other lengths or shapes are accepted",
        "if _shapes(found) != _shapes(own):",
        "if False:",
        NOT_THE_RUNS,
    ),
    Fault(
        "snapshot: a damaged one ends in a traceback",
        '    except storage.Damaged as error:\n        raise UserError(\n            f"{asked}',
        '    except ZeroDivisionError as error:\n        raise UserError(\n            f"{asked}',
        NOT_THE_RUNS,
    ),
    Fault(
        "state: malformed averages are accepted", "dict[Length, dict[str, Tensor]], MinLen", "Any, MinLen", MALFORMED
    ),
    Fault(
        "state: a malformed list of snapshots is accepted",
        "snapshots: dict[int, tuple[PositiveInt, str]]",
        "snapshots: Any",
        MALFORMED,
    ),
    Fault(
        "state: a number of updates below 1 is accepted",
        "updates: PositiveInt",
        "updates: int",
        MALFORMED,
    ),
    Fault(
        "state: malformed lengths are accepted", "Predicate(lambda text: repr(float(text)) == text)", "Any", MALFORMED
    ),
    Fault(
        "state: averages with different shapes are accepted",
        ", MinLen(1), Predicate(_alike)]",
        ", MinLen(1)]",
        MALFORMED,
    ),
    Fault(
        "state: numbers that are too large end in a traceback",
        "except (ValidationError, OverflowError, RuntimeError)",
        "except (ValidationError, RuntimeError)",
        MALFORMED,
    ),
    Fault("export: the length of the average is lost", '        contents["weights"] = kind\n', "", EXPORTED),
    Fault("export: averaged weights count as raw", 'r"ema( 0\\.\\d+)?"', 'r"ema"', EXPORTED),
    Fault(
        "pruning: snapshots are never deleted",
        'return [*files, *averages.snapshots(folder / "checkpoints").values()]',
        "return files",
        PRUNED,
    ),
    Fault(
        "pruning: snapshots are always deleted",
        "    if weights:\n        return [*files, *averages",
        "    if True:\n        return [*files, *averages",
        PRUNED,
    ),
    Fault("pruning: the empty snapshot folder is not removed", "        snapshots.rmdir()\n", "        pass\n", PRUNED),
]
