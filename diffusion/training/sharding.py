"""`trainer.strategy=fsdp2`: the weights are sharded across the processes of a run by torch's `fully_shard` (FSDP2).

Each process holds a shard of each parameter, its gradient, the optimizer's moments and the moving average. The layers
of a block are gathered for its forward pass, and again for its backward pass, which leaves each process its shard of
the mean gradient. Elementwise operations treat shards like whole tensors.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW

from diffusion.config.build import make
from diffusion.config.schema import Train
from diffusion.config.validation import shown
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser
from diffusion.training.ema import EMA, average_of
from diffusion.training.module import Diffusion
from diffusion.training.processes import Replicas

NAME = "fsdp2"
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)  # their members are evaluated one by one
ELEMENTWISE = (Adam, AdamW, SGD)  # optimizers that update each element independently
WEIGHTS = ("state_dict", "current_model_state")  # keys of the weights in a checkpoint


class Sharded(Replicas):
    """Lightning's strategy for sharded weights, with the processes of `ddp`.

    Checkpoints are the same as those of other runs: whole tensors, gathered one by one on the first process, which
    writes them. To resume, all processes read the checkpoint, and each keeps its shards.
    """

    def configure_ddp(self) -> None:
        """Shard the weights and their average, after a checkpoint is loaded and before the optimizer is created.

        (This is where DDPStrategy would wrap the module.)
        """
        module = self.lightning_module
        assert isinstance(module, Diffusion)
        average, mesh = average_of(module.trainer), init_device_mesh(self.root_device.type, (self.world_size,))
        self.shapes = {name: weight.shape for name, weight in module.named_parameters()}
        self.outline = outline(module.denoiser)
        for each in [module] if average is None else [module, average.average.to(self.root_device)]:
            shard(each, mesh)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Gather sharded tensors and write the checkpoint on the first process. All processes must call this."""
        whole: dict[str, Any] = {
            kind: {name: self.gathered(value, self.shapes.get(name)) for name, value in checkpoint[kind].items()}
            for kind in WEIGHTS
            if kind in checkpoint
        }
        shapes = list(self.shapes.values())  # in the order of the optimizer's indices
        whole["optimizer_states"] = [changed(each, self.gathered, shapes) for each in checkpoint["optimizer_states"]]
        super().save_checkpoint({**checkpoint, **whole}, filepath, storage_options)

    def gathered(self, value: Any, shape: torch.Size | None) -> Any:
        """Return a sharded tensor in its original shape, on the CPU of the first process; other values unchanged."""
        if not isinstance(value, DTensor):
            return value
        full = value.full_tensor().detach()
        return full.reshape(shape or ()).cpu() if self.is_global_zero else full.new_empty(0)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's shards of the moments."""
        (optimizer,) = self.optimizers
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        parts = [changed(each, part, parameters) for each in checkpoint["optimizer_states"]]
        super().load_optimizer_state_dict({"optimizer_states": parts})

    @torch.no_grad()
    def whole(self, denoiser: Denoiser) -> Denoiser:
        """See the function `whole`."""
        copied = copy.deepcopy(self.outline).train(denoiser.training)
        shapes = {name: weight.shape for name, weight in copied.named_parameters()}
        state = {
            name: value.full_tensor().reshape(shapes[name]) if isinstance(value, DTensor) else value
            for name, value in denoiser.state_dict().items()
        }
        copied.load_state_dict(state, assign=True)
        return copied


StrategyRegistry.register(NAME, Sharded, description="weights sharded across the processes by fully_shard")


def shard(module: Diffusion, mesh: DeviceMesh) -> None:
    """Shard the parameters of a module's network and objective across the processes, along their first dimension.

    The network's layers and blocks, in containers or not, are gathered one by one. Code in the network's own forward
    pass that reads or writes weights, such as EDM2's forced normalisation, sees sharded tensors. A scalar parameter,
    which cannot be sharded, gets a dimension of length 1.
    """
    roots = [module.denoiser.network]
    if isinstance(module.objective, nn.Module):
        roots.append(module.objective)
    for root in roots:
        for layer in root.modules():
            for name, weight in list(layer.named_parameters(recurse=False)):
                if weight.ndim == 0:
                    setattr(layer, name, nn.Parameter(weight.detach().reshape(1), weight.requires_grad))
    for each in [*units(module.denoiser.network), *roots]:
        fully_shard(each, mesh=mesh, reshard_after_forward=True)


def units(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a network that its forward pass evaluates one by one, if they have parameters."""
    for child in network.children():
        if isinstance(child, CONTAINERS):
            yield from units(child)
        elif next(child.parameters(), None) is not None:
            yield child


def outline(denoiser: Denoiser) -> Denoiser:
    """Return a copy whose parameters have their shapes, but no memory."""
    memory = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in denoiser.parameters()}
    return copy.deepcopy(denoiser, memory)


def changed(saved: Mapping[str, Any], change: Callable[[Any, Any], Any], like: Sequence[Any]) -> dict[str, Any]:
    """Return an optimizer's state dict with change(value, like[parameter index]) in place of each value but "step"."""
    state = {
        i: {key: value if key == "step" else change(value, like[i]) for key, value in kept.items()}
        for i, kept in saved["state"].items()
    }
    return {**saved, "state": state}


def in_channels_last(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook that converts images to channels_last; weights stay contiguous, as `fully_shard` requires.

    Convolutions adopt the layout of their input. (So dropout is the same as in other runs: its masks depend on the
    layout.)
    """
    x, *others = inputs
    return x.contiguous(memory_format=torch.channels_last), *others


def part(value: Any, parameter: nn.Parameter) -> Any:
    """Return this process's shard of a whole tensor, sharded like `parameter`; other values unchanged."""
    if not isinstance(value, Tensor):
        return value
    assert isinstance(parameter, DTensor)
    shaped = value.reshape(parameter.shape)
    return distribute_tensor(shaped, parameter.device_mesh, parameter.placements, src_data_rank=None).clone()


def whole(trainer: pl.Trainer, denoiser: Denoiser) -> Denoiser:
    """Return a denoiser that each process can evaluate by itself: if weights are sharded, a copy with whole weights.

    In that case all processes must call this.
    """
    strategy = trainer.strategy
    return strategy.whole(denoiser) if isinstance(strategy, Sharded) else denoiser


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm over all elements of the tensors (at least one). If they are sharded, all processes must call this.

    Like torch's `get_total_norm`, but without sorting tensors by device: here all are on one.
    """
    if isinstance(tensors[0], DTensor):
        norm = get_total_norm(tensors)
        assert isinstance(norm, DTensor)
        return norm.full_tensor()
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def held(tensor: Tensor) -> Tensor:
    """The local part of a tensor, sharded or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(settings: Train) -> bool:
    """Whether the run shards its weights."""
    strategy = (settings.trainer.model_extra or {}).get("strategy")
    target = strategy.get("_target_") if isinstance(strategy, Mapping) else None
    return strategy == NAME or target == f"{Sharded.__module__}.{Sharded.__qualname__}"


def check_sharding(settings: Train) -> None:
    """Reject settings that need whole weights if the weights are sharded."""
    if not is_sharded(settings):
        return
    beside = f"with trainer.strategy={NAME}, which shards the weights"
    average = make(settings.ema, "ema") if settings.ema else None
    if average is not None and type(average) is not EMA:
        raise UserError(f"ema: {type(average).__name__} is not supported {beside}; choose ema=warm, or ema=none")
    optimizer = make(settings.optimizer, "optimizer")
    if (made := getattr(optimizer, "func", optimizer)) not in ELEMENTWISE:
        known = ", ".join(each.__name__ for each in ELEMENTWISE)
        raise UserError(
            f"optimizer: {getattr(made, '__name__', made)} is not supported {beside}; expected one of {known}, such as "
            "optimizer=adamw"
        )
    if settings.compile:
        raise UserError(f"compile={shown(settings.compile)}: not supported {beside}; remove one of the two")
    if settings.data.get("batch_size") == "auto":
        raise UserError(f"data.batch_size=auto: it would try the whole network on one device {beside}; set a number")
    precision = str((settings.trainer.model_extra or {}).get("precision"))
    if precision in ("16", "16-mixed"):
        raise UserError(f"trainer.precision={precision}: not supported {beside}; use bf16-mixed or 32-true")
    if average is not None and precision in ("bf16-true", "16-true"):
        raise UserError(
            f"trainer.precision={precision}: with an average of the weights, not supported {beside}; use "
            "bf16-mixed, 32-true or ema=none"
        )
