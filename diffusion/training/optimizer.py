"""Building an optimizer from its settings."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def optimizer_of(
    make: Callable[..., Optimizer], params: Iterable[nn.Parameter], network: nn.Module, fuse: bool = True
) -> Optimizer:
    """Return make(params), with two more arguments if `make` has them: `network` and `fused`.

    `Muon` needs to see the layers of `network`. With fused=True, torch's optimizers update each tensor in a single
    pass, on a CPU in a quarter of the time, which differs in the last bit of a few weights. With `fuse` False, or if
    the settings choose an implementation (`fused` or `foreach`), it is left to them.
    """
    arguments = inspect.signature(make).parameters
    asked: dict[str, Any] = {"network": network} if "network" in arguments else {}
    chosen = {arguments[name].default for name in ("fused", "foreach") if name in arguments}
    if fuse and "fused" in arguments and chosen == {None}:
        asked["fused"] = True
    return make(list(params), **asked)


def setting_names(make: Callable[..., Optimizer]) -> set[str]:
    """The argument names of `make`: they tell settings from other entries of parameter groups, such as step counts."""
    return {*inspect.signature(make).parameters, *getattr(make, "keywords", {})}
