"""The parts of a recipe, built from a run's configuration, and the cost of its network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.config.untrusted import check_targets
from diffusion.report.blocks import Block, Cell, Table, paragraph
from diffusion.report.formatting import number


def built(node: Mapping[str, Any], part: str, where: Path) -> Any:
    """Build a part of the configuration in `where`; the network on the meta device, which needs no memory for weights.

    Raises UserError for a class that no config choice names: the folder may come from someone else.
    """
    check_targets(node, part, where)
    with torch.device("meta" if part == "model" else "cpu"):
        return make(node, part)


def network_blocks(network: nn.Module, shape: tuple[int, int, int]) -> list[Block]:
    """The parts of a network on the meta device, in module order: class, parameters and GFLOP.

    The cost is that of one forward pass for one image of `shape` (C, H, W). Layers without parameters and without cost
    are left out.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inside = isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        parts |= {f"{name}.{k}": part for k, part in child.named_children()} if inside else {name: child}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta"))
    found = counter.get_flop_counts()
    counts = {name.partition(".")[2]: sum(ops.values()) / 1e9 for name, ops in found.items()}
    rows: list[Any] = []
    for name, module in parts.items():
        if (size := parameters(module)) or counts.get(name):
            flop = counts.get(name, 0.0)
            cells = [Cell(f"{size:,}", size), Cell(f"{flop:.4f}", flop)]
            rows.append([name, type(module).__name__, *cells])
    total = counter.get_total_flops() / 1e9
    words = (
        f"{type(network).__name__}: {parameters(network):,} parameters; one evaluation of one image takes "
        f"{number(total)} GFLOP (a multiply-add counts as two operations)."
    )
    head = ("part", "class", "parameters", "GFLOP")
    return [paragraph(words, None), Table(head, rows, "Parts of the network", (2, 3), folded="Parts")]


def parameters(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters())
