"""Faults in the handling of decoded images: memory mapping, resuming, comparisons."""

from faults.fault import Fault

PIXELS = "data/test_store.py"
KILLED = f"{PIXELS}::test_preparation_resumes_where_it_was_killed"
WHOLE = f"{PIXELS}::test_progress_counts_up_to_the_first_damaged_entry"
NEAREST = "data/test_nearest.py"
COPIED = f"{PIXELS}::test_a_file_with_a_new_timestamp_is_accepted_and_hashed_only_once"
MAPPED = f"{PIXELS}::test_splits_stay_memory_mapped_and_are_not_copied"
AGAIN = f"{PIXELS}::test_a_second_start_needs_no_decoding_and_no_hashing"
COMPARED = f"{PIXELS}::test_near_duplicates_do_not_depend_on_the_block_size"
DAMAGED = "data/test_folder.py::test_a_damaged_cache_is_reported_and_recomputed"

SECOND = "data/test_second_start.py"

FAULTS = [
    Fault(
        "results wait in memory without limit",
        "            while not ahead.acquire(timeout=1):\n",
        "            while False:\n",
        "data/test_threads.py::test_results_that_are_used_slowly_do_not_fill_the_memory",
    ),
    Fault(
        "an interruption forgets which files were read",
        "        finally:  # after an interruption",
        "        except ValueError:\n            pass\n        else:  # after an interruption",
        f"{SECOND}::test_files_that_were_read_before_an_interruption_are_not_read_again",
    ),
    Fault(
        "a read-only cache is refused",
        "contextlib.suppress(UserError):  # in a read-only cache, they",
        "contextlib.nullcontext():  # in a read-only cache, they",
        f"{SECOND}::test_prepared_images_can_be_read_from_a_read_only_cache_with_other_times",
    ),
    Fault(
        "each job of a sweep is read again",
        'self.kept("job", job, version_of(job), partial(Run, job))',
        "Run(job)",
        "report/test_watch.py::test_only_the_changed_job_of_a_sweep_is_read_again",
    ),
    Fault(
        "without locks, two processes write the same file",
        'f".{uuid.uuid4().hex}"',
        '""',
        f"{PIXELS}::test_without_file_locks_two_processes_may_make_the_same_images",
    ),
    Fault(
        "slow progress is not recorded",
        " or time.monotonic() - recorded > SECONDS",
        "",
        f"{PIXELS}::test_progress_is_recorded_after_some_seconds",
    ),
    Fault(
        "the report is written at every start",
        "if not file.exists() or file.read_bytes() != content:",
        "if True:",
        "data/test_folder.py::test_a_prepared_cache_may_be_read_only",
    ),
    Fault(
        "photographs that Pillow cannot read are other files",
        "return extension in UNREADABLE or extension in",
        "return extension in",
        "data/test_folder.py::test_photographs_in_formats_that_pillow_cannot_read_are_refused",
    ),
    Fault(
        "two processes unpack CIFAR-10 at once",
        "held = lock(self.root",
        "held = (lambda *_: None)(self.root",
        "data/test_cifar10.py::test_the_archive_is_unpacked_by_one_process_at_a_time",
    ),
    Fault(
        "everything is decoded again after a kill", "done, made = _progress(log)\n", "done, made = 0, Made()\n", KILLED
    ),
    Fault("bytes after the last progress entry are not removed", "    os.truncate(part, size)\n", "", KILLED),
    Fault(
        "an incomplete progress entry is not handled",
        "        except ValueError:\n            break\n",
        "        except EOFError:\n            break\n",
        WHOLE,
    ),
    Fault(
        "entries after a damaged one count",
        "            break\n        done = values.pop",
        "            continue\n        done = values.pop",
        WHOLE,
    ),
    Fault("a changed file is assumed intact", "if intact and stamp != now and (", "if False and (", DAMAGED),
    Fault("a copied file is hashed at each start", 'json.dumps(about | {"stamp": now})', "json.dumps(about)", COPIED),
    Fault(
        "the images of a split are copied into memory",
        "if len(index) and torch.equal(index, torch.arange(int(index[0]),",
        "if False and torch.equal(index, torch.arange(int(index[0]),",
        MAPPED,
    ),
    Fault(
        "validation copies its training images into memory",
        "Subset(train, fixed.sort().values)",
        "train.take(fixed.sort().values)",
        MAPPED,
    ),
    Fault(
        "a subset of a split has the indices of the whole split",
        "[index], flip, epoch, number]._replace(index=index)",
        "[index], flip, epoch, number]",
        "data/test_data_module.py",
    ),
    Fault(
        "the keys of splits are computed at each start",
        "            if which not in known:\n",
        "            if True:\n",
        AGAIN,
    ),
    Fault(
        "images are sorted by name",
        'key=lambda same: (seed_for(self.seed, "order", same[0].content), same[0].content)',
        "key=lambda same: same[0].name",
        "data/test_folder.py",
    ),
    Fault(
        "near-duplicates: any candidate replaces the nearest",
        "nearer = (distance < best[i])",
        "nearer = (distance >= 0)",
        NEAREST,
    ),
    Fault(
        "near-duplicates: vectors beyond the candidates are not compared",
        "if count < self.tree.n else",
        "if False else",
        NEAREST,
    ),
    Fault("near-duplicates: indices are relative to their chunk", "start * ROWS + i,", "i,", COMPARED),
    Fault(
        "repeats: only the first chunk is compared",
        "for part in known.split(KNOWN):",
        "for part in [known[:KNOWN]]:",
        COMPARED,
    ),
    Fault(
        "repeats: images whose shortened miniatures are near are not compared in full",
        "amin(dim=1) < radius * (1 + SLACK)",
        "amin(dim=1) < radius / 2",
        "data/test_duplicates.py::test_repeats_compares_all_images_that_may_be_near",
    ),
    Fault(
        "the tiles of one photograph are not interleaved with others",
        'np.argsort(turn[part], kind="stable")',
        'np.argsort(0 * turn[part], kind="stable")',
        "data/test_folder_tiles.py::test_tiles_of_a_photograph_are_in_one_split",
    ),
]
