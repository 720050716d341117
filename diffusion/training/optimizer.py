"""Building an optimizer from its settings."""

import inspect
from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import Optimizer


def optimizer_of(make: Callable[..., Optimizer], params: Iterable[nn.Parameter], network: nn.Module) -> Optimizer:
    """Return make(params), or make(params, network=network) if it has that argument: `Muon` needs to see the layers."""
    asked = {"network": network} if "network" in inspect.signature(make).parameters else {}
    return make(list(params), **asked)


def setting_names(make: Callable[..., Optimizer]) -> set[str]:
    """The argument names of `make`: they tell settings from other entries of parameter groups, such as step counts."""
    return {*inspect.signature(make).parameters, *getattr(make, "keywords", {})}
