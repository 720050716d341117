"""Making an optimizer out of its settings."""

import inspect
from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import Optimizer


def optimizer_of(make: Callable[..., Optimizer], params: Iterable[nn.Parameter], network: nn.Module) -> Optimizer:
    """make(params), or make(params, network=network) if it asks for the network: `Muon` looks at where a weight is."""
    asked = {"network": network} if "network" in inspect.signature(make).parameters else {}
    return make(list(params), **asked)


def setting_names(make: Callable[..., Optimizer]) -> set[str]:
    """What `make` takes: the settings among what an optimizer keeps with its groups, where some count steps as well."""
    return {*inspect.signature(make).parameters, *getattr(make, "keywords", {})}
