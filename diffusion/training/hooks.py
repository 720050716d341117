"""The hooks that Lightning calls in each step: what is not used of them costs nothing."""

import contextlib
from collections.abc import Iterable

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden

OF_A_STEP = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip


def leave_out_unused(owners: Iterable[Callback | LightningModule]) -> None:
    """Hooks that are left as Lightning has them do nothing, but it prepares each of their calls.

    It passes over what cannot be called, which they are from here on.
    """
    for owner in owners:
        for hook in OF_A_STEP:
            if not is_overridden(hook, owner):
                setattr(owner, hook, None)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, as Lightning's own does, which runs through a generator at each call of a hook."""

    nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.nullcontext[None]:  # type: ignore[override]
        """What can be entered any number of times."""
        return self.nothing
