"""The recipe of a run for its page: the network's parts and their cost, the schedule, training times and loss weight.

All are computed from objects built from the run's configuration; the network is built on the meta device, which needs
no memory for weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.config.untrusted import check_targets
from diffusion.console import console
from diffusion.errors import UserError, first_line
from diffusion.randomness import Streams

POINTS = 101  # points of the schedule curves
DRAWS = 20_000  # training times drawn for their density
BINS = 50


def built(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Build the network, schedule, prediction and objective of a configuration, as far as possible.

    Only classes that config choices name are built: the folder may come from someone else. A part that cannot be built
    is left out, with a console message.
    """
    parts: dict[str, Any] = {}
    for part in ("model", "schedule", "prediction", "objective"):
        if config.get(part) is None:
            continue
        try:
            check_targets(config[part], part, where)
            with torch.device("meta" if part == "model" else "cpu"):
                parts[part] = make(config[part], part)
        except UserError as error:
            console.print(f"report.html does not show the {part}: {first_line(error)}", style="yellow")
    return parts


def network_table(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The parts of a network on the meta device, in module order: class, output, parameters and GFLOP.

    The cost is that of one forward pass for one image of `shape` (C, H, W); a multiply-add counts as two operations.
    Layers without parameters and without cost are left out.
    """
    parts = dict(_parts(network))
    outputs: dict[str, list[int]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = list(output.shape[1:])

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in parts.items()]
    x, label = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(x, label)
    for hook in hooks:
        hook.remove()
    counts = {name.partition(".")[2]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    total = sum(counter.get_flop_counts()["Global"].values())
    rows = [
        {
            "part": name,
            "class": type(module).__name__,
            "output": "×".join(map(str, outputs.get(name, []))),
            "parameters": sum(p.numel() for p in module.parameters()),
            "gflop": counts.get(name, 0) / 1e9,
        }
        for name, module in parts.items()
    ]
    return {
        "class": type(network).__name__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflop": total / 1e9,
        "rows": [row for row in rows if row["parameters"] or row["gflop"]],
    }


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The direct children of a network, with containers replaced by their elements."""
    found = []
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            found += [(f"{name}.{inner}", module) for inner, module in child.named_children()]
        else:
            found.append((name, child))
    return found


@torch.no_grad()
def schedule_curves(parts: Mapping[str, Any]) -> dict[str, Any] | None:
    """alpha_t, sigma_t, log-SNR and β_t by t; with an objective, also the density of training times and loss weight.

    `density` is the density of the times t drawn in training. `weight` is the factor of the error ‖y − y_θ‖² at t,
    without the importance weights of the times. (The network's own error and a learned weight are not known here.)
    """
    schedule = parts.get("schedule")
    if schedule is None:
        return None
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    curves: dict[str, Any] = {
        "t": t.tolist(), "alpha": alpha.tolist(), "sigma": sigma.tolist(), "log_snr": log_snr.tolist(),
        "preserving": bool(torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-6)),
    }  # fmt: skip
    steps: int | None = getattr(schedule, "steps", None)
    if curves["preserving"] and steps is not None:
        rows = torch.linspace(1, steps, min(steps, 2 * POINTS), dtype=torch.float64).round()
        after, before = schedule(rows / steps)[0], schedule((rows - 1) / steps)[0]
        curves |= {"beta": (1 - (after / before) ** 2).tolist(), "beta_t": (rows / steps).tolist()}
    objective, prediction = parts.get("objective"), parts.get("prediction")
    if objective is not None and hasattr(objective, "timesteps"):
        times, _ = objective.timesteps(schedule, Streams(list(range(DRAWS))))
        density, edges = np.histogram(times.double().numpy(), bins=BINS, range=(0, 1), density=True)
        middle = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
        curves |= {"density": density.tolist(), "middle": middle.tolist()}
        if hasattr(objective, "weighting") and prediction is not None:
            curves["weight"] = objective.weighting(schedule, prediction, middle).tolist()
    return curves
