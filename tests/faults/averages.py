"""Faults in power-function averages of weights and in averages of other lengths."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

MATHEMATICS = "process/test_averaging.py"
TRAINING = "training/test_power.py"
USE = "evaluation/test_averages.py"
RECURRENCE = f"{TRAINING}::test_the_averages_follow_their_recurrence_and_the_first_is_used"
RESUMED = f"{TRAINING}::test_a_run_resumed_in_another_folder_is_the_same_run_with_its_snapshots"
BACK = f"{TRAINING}::test_a_run_that_goes_back_in_its_folder_keeps_no_snapshot_of_what_it_gave_up"
LOST = f"{TRAINING}::test_a_snapshot_that_is_lost_is_left_behind_and_said"
SPREAD = f"{TRAINING}::test_snapshots_are_spread_over_the_run"
LEFT_OUT = f"{TRAINING}::test_a_step_left_out_makes_no_second_snapshot"
SETTINGS = f"{TRAINING}::test_settings_that_cannot_be_are_one_line"
ROOM = f"{TRAINING}::test_snapshots_for_which_there_is_no_room_are_refused_before_the_first_step"
TAKEN = f"{TRAINING}::test_a_run_whose_folder_was_taken_writes_no_snapshot"
UNWRITTEN = f"{TRAINING}::test_a_snapshot_that_cannot_be_written_is_one_line"
OTHER_LENGTHS = f"{TRAINING}::test_other_lengths_are_refused_when_a_run_is_resumed"
MADE = f"{TRAINING}::test_a_length_made_afterwards_is_the_one_that_was_tracked"
ALONE = f"{TRAINING}::test_a_tracked_length_is_exact_and_needs_no_snapshot"
TWO = "reliability/test_power.py"
NOT_THE_RUNS = f"{USE}::test_a_snapshot_that_is_not_the_runs_is_one_line"
MALFORMED = f"{USE}::test_a_malformed_state_of_averages_is_one_line"
BEYOND = f"{USE}::test_a_length_beyond_the_snapshots_is_one_line"
NONE = f"{USE}::test_a_run_without_snapshots_is_one_line"
APART = f"{USE}::test_scores_of_lengths_are_told_apart"
EXPORTED = f"{USE}::test_an_exported_average_keeps_its_length"
PRUNED = f"{USE}::test_snapshots_stay_of_a_pruned_run_but_where_only_the_weights_do"
POINTED = f"{USE}::test_the_group_of_training_is_pointed_to_the_weights"
REPEATED = f"{USE}::test_two_snapshots_of_as_many_updates_are_one"

FAULTS = [
    Fault("decay: γ instead of γ + 1", "(1 - 1 / n) ** (gamma + 1)", "(1 - 1 / n) ** gamma", MATHEMATICS),
    Fault("decay: a step late", "(1 - 1 / n) ** (gamma + 1)", "(1 - 1 / (n + 1)) ** (gamma + 1)", MATHEMATICS),
    Fault("length: γ + 2 under the root", "((gamma + 2) * (gamma + 3) ** 0.5)", "((gamma + 2) ** 1.5)", MATHEMATICS),
    Fault("gamma: another cubic", "[1, 7, 16 - t, 12 - t]", "[1, 7, 16 - t, 12]", MATHEMATICS),
    Fault("gamma: another root", ".real.max())", ".real.min())", MATHEMATICS),
    Fault("gamma: any length", "if not 0 < length <= LONGEST:", "if False:", MATHEMATICS),
    Fault(
        "inner product: γ of the earlier",
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
        "inner product: over the earlier step",
        "gamma_j + 1) * torch.maximum(n_i, n_j))",
        "gamma_j + 1) * torch.minimum(n_i, n_j))",
        MATHEMATICS,
    ),
    Fault("coefficients: the scale is left in", "b / norms) / norms\n", "b / norms)\n", MATHEMATICS),
    Fault("coefficients: their sum is not 1", "    x = x / x.sum()\n", "", MATHEMATICS),
    Fault("missing: its square", "max(0.0, missing) ** 0.5", "max(0.0, missing)", MATHEMATICS),
    Fault("missing: a term", "(square - 2 * x @ b + x @ A @ x)", "(square - x @ b)", MATHEMATICS),
    Fault(
        "average: the second has the first's decay",
        "self.weights, 1 - decay(gamma, self.updates)",
        "self.weights, 1 - decay(self.gammas[0], self.updates)",
        RECURRENCE,
    ),
    Fault(
        "average: the last is used", "return decay(self.gammas[0], n)", "return decay(self.gammas[-1], n)", RECURRENCE
    ),
    Fault("average: moves when a step is left out", "        if self.updates > n:\n", "        if True:\n", LEFT_OUT),
    Fault(
        "snapshots: at the first step too",
        "> (step - 1) * self.snapshots // total",
        ">= (step - 1) * self.snapshots // total",
        SPREAD,
    ),
    Fault(
        "snapshots: two of as many updates", "or any(n == self.updates for n, _ in self.written.values())", "", LEFT_OUT
    ),
    Fault(
        "snapshots: in a folder that was taken",
        "                callback.record.check_owner()\n",
        "                pass\n",
        TAKEN,
    ),
    Fault(
        "snapshots: a failure is a traceback",
        "files.save(self.named(), file)\n        except OSError as",
        "files.save(self.named(), file)\n        except ZeroDivisionError as",
        UNWRITTEN,
    ),
    Fault(
        "snapshots: no room",
        'free_space(folder)\n        if needed > free:\n            raise UserError(\n                f"{folder}',
        'free_space(folder)\n        if False:\n            raise UserError(\n                f"{folder}',
        ROOM,
    ),
    Fault(
        "snapshots: each process writes",
        "self.is_due(self.step, total) and trainer.is_global_zero",
        "self.is_due(self.step, total)",
        TWO,
    ),
    Fault("settings: a length twice", "if len(set(self.lengths)) < len(self.lengths):", "if False:", SETTINGS),
    Fault(
        "settings: a number for a choice",
        're.fullmatch(r"null|[-+.\\d][-+.\\de]*", value)',
        'value == "null"',
        SETTINGS,
    ),
    Fault("settings: a number for the group ema", 'if key == "ema" and command != "train":', "if False:", POINTED),
    Fault("resume: other lengths", '"ema._target_", "ema.lengths")', '"ema._target_")', OTHER_LENGTHS),
    Fault("resume: the second average is lost", "average.copy_(self.saved[repr(length)][name])", "pass", RESUMED),
    Fault(
        "resume: the list of snapshots is lost",
        'self.written = state_dict["averages"], dict(state_dict["snapshots"])',
        'self.written = state_dict["averages"], {}',
        RESUMED,
    ),
    Fault(
        "resume: the snapshots stay behind", "                link(source, files.snapshot(here, step))\n", "", RESUMED
    ),
    Fault(
        "resume: a torn snapshot is taken along",
        "            try:\n                storage.verify(source, sealed=True)\n",
        "            try:\n                pass\n",
        LOST,
    ),
    Fault("resume: a lost snapshot stays in the list", "                del self.written[step]\n", "", LOST),
    Fault(
        "resume: snapshots of later steps stay",
        "                if step not in self.written:\n                    file.unlink()",
        "                pass",
        BACK,
    ),
    Fault(
        "made: the checkpoint's averages are left out", "times = [*listed, state.updates]", "times = [*listed]", MADE
    ),
    Fault(
        "made: a tracked one is combined",
        "is not None:\n        return dict(tracked)",
        "is None:\n        return dict(own)",
        ALONE,
    ),
    Fault("made: of whatever there is", "if missing > WORST:", "if False:", BEYOND),
    Fault("made: the raw weights", "{**averaged, **averages.of_length(contents, path, weights)}", "averaged", APART),
    Fault("made: it is called ema", 'f"ema {weights:g}"', '"ema"', APART),
    Fault(
        "made: of a run without averages",
        "    if not isinstance(state, Mapping):\n        raise",
        "    if state == 0:\n        raise",
        NONE,
    ),
    Fault(
        "made: of two snapshots of one step",
        "listed = state.averages, {n: (step, key)",
        "listed = state.averages, {n + step / 1e9: (step, key)",
        REPEATED,
    ),
    Fault("snapshot: of another step", "if hash_of(found) != expected:", "if False:", NOT_THE_RUNS),
    Fault("snapshot: of something else", "    if not _are_averages(found):\n", "    if False:\n", NOT_THE_RUNS),
    Fault("snapshot: of other averages", "if _shapes(found) != _shapes(own):", "if False:", NOT_THE_RUNS),
    Fault(
        "snapshot: a damaged one is a traceback",
        '    except storage.Damaged as error:\n        raise UserError(\n            f"{asked}',
        '    except ZeroDivisionError as error:\n        raise UserError(\n            f"{asked}',
        NOT_THE_RUNS,
    ),
    Fault("state: malformed averages", "and _are_averages(averages) and", "and", MALFORMED),
    Fault("state: malformed snapshots", "and _are_listed(listed)):", "):", MALFORMED),
    Fault("state: no updates", "type(updates) is int and updates > 0", "type(updates) is int", MALFORMED),
    Fault("state: odd lengths", "and all(map(_is_length, value))", "", MALFORMED),
    Fault("state: parameters of other shapes", "all(each == shapes[0] for each in shapes) and", "", MALFORMED),
    Fault("exported: the length is lost", '        contents["weights"] = kind\n', "", EXPORTED),
    Fault("exported: it counts as raw", 'r"ema( 0\\.\\d+)?"', 'r"ema"', EXPORTED),
    Fault(
        "pruned: snapshots stay",
        'return [*files, *averages.snapshots(folder / "checkpoints").values()]',
        "return files",
        PRUNED,
    ),
    Fault(
        "pruned: snapshots always go",
        "    if weights:\n        return [*files, *averages",
        "    if True:\n        return [*files, *averages",
        PRUNED,
    ),
    Fault("pruned: an empty folder stays", "        snapshots.rmdir()\n", "        pass\n", PRUNED),
]
