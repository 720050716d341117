"""Building an optimizer from its settings."""

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def optimizer_of(make: Callable[..., Optimizer], params: Iterable[nn.Parameter], network: nn.Module) -> Optimizer:
    """Return make(params), or make(params, network=network) if it has that argument: `Muon` needs to see the layers."""
    asked = {"network": network} if "network" in inspect.signature(make).parameters else {}
    return make(list(params), **asked)


def match_layouts(optimizer: Optimizer) -> None:
    """Store each restored moment in the memory layout of its weight.

    They differ after a change of `channels_last` or `trainer.strategy`. With `optimizer.fused=true`, torch pairs the
    elements in the order of memory, whatever the layouts.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def match_devices(optimizer: Optimizer) -> None:
    """Move each restored step count to where the group's `fused` and `capturable` need it: the weight's device, or CPU.

    They differ after a change of these settings, since torch chooses the device by the saved ones.
    """
    for group in optimizer.param_groups:
        if "fused" not in group:  # not an optimizer of torch
            continue
        on_device = group["fused"] or group.get("capturable")
        for weight in group["params"]:
            if isinstance(step := optimizer.state.get(weight, {}).get("step"), Tensor):
                optimizer.state[weight]["step"] = step.to(weight.device if on_device else "cpu")


def setting_names(make: Callable[..., Optimizer]) -> set[str]:
    """The argument names of `make`: they tell settings from other entries of parameter groups, such as step counts."""
    return {*inspect.signature(make).parameters, *getattr(make, "keywords", {})}
