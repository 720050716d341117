"""The parts of a recipe, built from a run's configuration, and the cost of its network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.config.untrusted import check_targets
from diffusion.report.blocks import Block, Cell, Table, Text
from diffusion.report.formatting import number


def built(node: Mapping[str, Any], part: str, where: Path) -> Any:
    """Build a part of the configuration in `where`; the network on the meta device, which needs no memory for weights.

    Raises UserError for a class that no config choice names: the folder may come from someone else.
    """
    check_targets(node, part, where)
    with torch.device("meta" if part == "model" else "cpu"):
        return make(node, part)


def network_blocks(network: nn.Module, shape: tuple[int, int, int]) -> list[Block]:
    """The parts of a network on the meta device, in module order: class, output, parameters and GFLOP.

    The cost is that of one forward pass for one image of `shape` (C, H, W). Layers without parameters and without cost
    are left out.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inside = isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        parts |= {f"{name}.{k}": part for k, part in child.named_children()} if inside else {name: child}
    outputs: dict[nn.Module, str] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[module] = "×".join(map(str, output.shape[1:]))

    hooks = [module.register_forward_hook(note) for module in parts.values()]
    found = flops(network, shape)
    for hook in hooks:
        hook.remove()
    counts = {name.partition(".")[2]: sum(ops.values()) / 1e9 for name, ops in found.items()}
    rows: list[Any] = []
    for name, module in parts.items():
        if (size := parameters(module)) or counts.get(name):
            flop = counts.get(name, 0.0)
            cells = [Cell(f"{size:,}", size), Cell(f"{flop:.4f}", flop)]
            rows.append([name, type(module).__name__, outputs.get(module, ""), *cells])
    total = sum(found["Global"].values()) / 1e9
    words = (
        f"{type(network).__name__}: {parameters(network):,} parameters; one evaluation of one image takes "
        f"{number(total)} GFLOP (a multiply-add counts as two operations)."
    )
    head = ("part", "class", "output", "parameters", "GFLOP")
    return [Text(words, None), Table(head, rows, "Parts of the network", (3, 4), folded="Parts")]


def flops(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, dict[Any, int]]:
    """Module, or Global -> operation -> FLOP of one forward pass of a network on the meta device, for one image."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta"))
    return counter.get_flop_counts()


def parameters(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters())
