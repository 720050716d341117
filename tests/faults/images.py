"""Faults in the safeguards of decoded images: memory mapping, finished work, comparisons."""

from faults.fault import Fault

PIXELS = "data/test_store.py"
GOES_ON = f"{PIXELS}::test_preparing_goes_on_where_it_was_killed"
WHOLE = f"{PIXELS}::test_a_note_that_was_not_written_whole_does_not_count"
NEAREST = "data/test_nearest.py"
COPIED = f"{PIXELS}::test_a_file_that_was_only_copied_is_intact_and_is_hashed_once"
MAPPED = f"{PIXELS}::test_nothing_is_copied_but_the_batch"
AGAIN = f"{PIXELS}::test_another_seed_decodes_nothing_and_a_second_start_hashes_nothing"
COMPARED = f"{PIXELS}::test_near_duplicates_do_not_depend_on_how_many_are_compared_at_once"
DAMAGED = "data/test_folder.py::test_a_damaged_cache_is_reported_and_made_again"

FAULTS = [
    Fault("all is decoded again after a kill", "done, made = _progress(log)\n", "done, made = 0, Made()\n", GOES_ON),
    Fault("what follows the last note stays", "    os.truncate(part, size)\n", "", GOES_ON),
    Fault(
        "half a note counts",
        "        except ValueError:\n            break\n",
        "        except EOFError:\n            break\n",
        WHOLE,
    ),
    Fault("a changed file is taken to be intact", "if intact and stamp != now and (", "if False and (", DAMAGED),
    Fault("a copied file is hashed at each start", 'json.dumps(about | {"stamp": now})', "json.dumps(about)", COPIED),
    Fault(
        "a split is copied",
        "if len(index) and torch.equal(index, torch.arange(int(index[0]),",
        "if False and torch.equal(index, torch.arange(int(index[0]),",
        MAPPED,
    ),
    Fault(
        "validation copies training images",
        "Some(train, fixed.sort().values)",
        "train.take(fixed.sort().values)",
        MAPPED,
    ),
    Fault(
        "the images of a part of a split have the split's numbers",
        "[index], flip, epoch, number]._replace(index=index)",
        "[index], flip, epoch, number]",
        "data/test_data_module.py",
    ),
    Fault(
        "another seed decodes again",
        "if (other := self._other_order(key)) is not None:",
        "if (other := None) is not None:",
        AGAIN,
    ),
    Fault("keys are not kept", "            if which not in known:\n", "            if True:\n", AGAIN),
    Fault(
        "images are in the order of names",
        "key=lambda same: (self._place(same[0].content), same[0].content)",
        "key=lambda same: same[0].name",
        "data/test_folder.py",
    ),
    Fault(
        "near-duplicates: any candidate counts",
        "nearer = (distance < best[i])",
        "nearer = (distance >= 0)",
        NEAREST,
    ),
    Fault("near-duplicates: candidates are enough", "if count < self.tree.n else", "if False else", NEAREST),
    Fault("near-duplicates: numbers in their part", "start * ROWS + i,", "i,", COMPARED),
    Fault("repeats: the first part only", "for part in known.split(KNOWN):", "for part in [known[:KNOWN]]:", COMPARED),
    Fault(
        "tiles of one photograph follow each other",
        'np.argsort(turn[part], kind="stable")',
        'np.argsort(0 * turn[part], kind="stable")',
        "data/test_folder_tiles.py::test_tiles_of_a_photograph_are_in_one_split",
    ),
]
