"""Per-step learning-rate schedules: functions (optimizer, total_steps, …) -> torch's LambdaLR.

`total_steps` is the number of optimizer steps of the whole run.
"""

import math
from typing import Annotated

from annotated_types import Ge
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The optimizer's learning rate throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


def warmup(optimizer: Optimizer, total_steps: int, warmup: Annotated[int, Ge(0)]) -> LambdaLR:
    """Linear from 0 to the optimizer's rate, then constant.

    Args:
        warmup: the steps over which the rate rises from 0 to the optimizer's.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))


def cosine(optimizer: Optimizer, total_steps: int, warmup: Annotated[int, Ge(0)] = 0, final: float = 0.0) -> LambdaLR:
    """final + (1 − final)·(1 + cos πu)/2; u rises from 0 after the warm-up to 1 after the last step (SGDR, eq. 5).

    Args:
        warmup: the steps over which the rate rises from 0 to the optimizer's.
        final: the last rate, as a fraction of the optimizer's.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        u = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * u)) / 2

    return LambdaLR(optimizer, factor)


def inverse_sqrt(
    optimizer: Optimizer, total_steps: int, warmup: Annotated[int, Ge(0)] = 0, reference: Annotated[int, Ge(1)] = 1000
) -> LambdaLR:
    """After the warm-up, 1/√max(step/reference, 1) times the optimizer's rate (EDM2; Karras et al. 2024, eq. 67).

    Args:
        warmup: the steps over which the rate rises from 0 to the optimizer's.
        reference: the step up to which the rate is constant; afterwards it falls.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)) / math.sqrt(max(step / reference, 1)))
