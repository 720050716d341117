"""Corrections of the progress that Lightning saves in a checkpoint, `checkpoint["loops"]["fit_loop"]`.

Lightning restores a run from it by itself, in all cases but these three. The format is that of Lightning 2.6.
"""

from typing import Any


def repeat_validation(checkpoint: dict[str, Any]) -> None:
    """The checkpoint of a validation that was broken off: repeat it from its first batch.

    Lightning would continue after the batches that it has seen, whose errors are lost.
    """
    first_batch = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
        "total": first_batch, "current": dict(first_batch), "is_last_batch": False,
    }  # fmt: skip


def adapt(checkpoint: dict[str, Any], accumulate: int, total: int) -> None:
    """Before a checkpoint is restored: continue a run that was complete, and with another accumulation.

    The last batch of a run that was shorter is not the last one any more, and the batches so far are `accumulate` for
    each step.
    """
    progress, step = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"], checkpoint["global_step"]
    progress["is_last_batch"] = progress["is_last_batch"] and step >= total
    shift = step * accumulate - progress["total"]["ready"]
    for counts in ("total", "current"):
        progress[counts] = {name: count + shift for name, count in progress[counts].items()}
