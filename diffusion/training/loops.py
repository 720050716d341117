"""Corrections to the progress that Lightning saves in a checkpoint, `checkpoint["loops"]["fit_loop"]`.

Lightning restores a run from it correctly, except one that was interrupted in a validation, one that continues after
its last step, and one that changes gradient accumulation. The format is that of Lightning 2.6.
"""

from typing import Any


def repeat_validation(checkpoint: dict[str, Any]) -> None:
    """Make the checkpoint of an interrupted validation repeat it from its first batch.

    Lightning would continue after the batches already seen, whose errors are lost.
    """
    first_batch = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
        "total": first_batch, "current": dict(first_batch), "is_last_batch": False,
    }  # fmt: skip


def complete_validations(checkpoint: dict[str, Any]) -> None:
    """Count all validations so far as complete.

    After a repeated one, Lightning's total counts one batch more that began than ended, which it takes for another
    interrupted validation at each later resume.
    """
    total = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    total.update(dict.fromkeys(total, total["completed"]))


def adapt(checkpoint: dict[str, Any], accumulate: int, total: int, validates: bool) -> None:
    """Adapt a checkpoint before it is restored: to continue a complete run, or to change gradient accumulation.

    The last batch of a shorter run is no longer the last one, and the batches so far are counted as `accumulate` per
    step. A run that is made longer may not validate at this step (`validates`), in whose validation the checkpoint was
    saved; Lightning would then log this step again.
    """
    progress, step = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"], checkpoint["global_step"]
    progress["is_last_batch"] = progress["is_last_batch"] and step >= total
    shift = step * accumulate - progress["total"]["ready"]
    for counts in ("total", "current"):
        progress[counts] = {name: count + shift for name, count in progress[counts].items()}
    if progress["total"]["completed"] == progress["total"]["processed"] and not validates:
        checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] = step
