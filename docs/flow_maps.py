"""Flow maps of points against the exact ones: 20 networks, 20,000 steps, float32 and bfloat16; errors.csv, errors.png.

python -m docs.flow_maps     # about 20 minutes of a CPU core; --steps 200 tries it

The 20 networks, each with its own initial weights and data, are those of experiment=points. They are trained as one
module: weights and examples of a network reach no other one. The exact map is that of the mixture (`mixture.Exact`).
"""

import argparse
import copy
import csv
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffusion.base.files import read_table
from diffusion.model import MLP
from diffusion.process import grid, mixture
from diffusion.process.denoiser import Denoiser, denoiser_of, expand
from diffusion.process.flow_map import FlowMap
from diffusion.process.prediction import V
from diffusion.process.sampler import DDIM, DPMSolver, Sampler
from diffusion.process.sampler import FlowMap as FlowMapSampler
from diffusion.process.schedule import cosine
from diffusion.randomness import Streams, generator_for, seeds_for
from diffusion.report import style

NETWORKS, EACH, SHOWN = 20, 32, 500  # networks; examples of each in a step; points of each for the errors
TIMES = (0.1, 0.25, 0.5, 0.75, 0.99)
FOLDER = Path(__file__).parent / "results/flow_map/points"
DATA, SCHEDULE = mixture.gaussians(), cosine()
EXACT: Any = mixture.Exact(DATA, SCHEDULE)


class Together(nn.Module):
    """MLPs as one: rows of x (NETWORKS · B, 2, 1, 1) from i·B to (i + 1)·B are those of network i."""

    def __init__(self) -> None:
        super().__init__()
        made = []
        for seed in range(NETWORKS):
            torch.manual_seed(seed)
            made.append(MLP(2, augment=FlowMap.ends))
        stacked, _ = torch.func.stack_module_state(made)
        self.all = nn.ParameterDict({name.replace(".", "-"): value for name, value in stacked.items()})
        self.one = [made[0].requires_grad_(False)]  # not a submodule

    def forward(self, x: Tensor, label: Tensor, augment: Tensor) -> Tensor:
        def of_one(weights: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            x, label, augment = inputs
            return torch.func.functional_call(self.one[0], weights, (x, label), {"augment": augment})

        weights = {name.replace("-", "."): value for name, value in self.all.items()}
        parts = [each.unflatten(0, (NETWORKS, -1)) for each in (x, label, augment)]
        return torch.func.vmap(of_one)(weights, *parts).flatten(0, 1)


def train(steps: int, dtype: torch.dtype) -> tuple[Denoiser, int, float]:
    """The averaged networks, how many became not finite at any step, and the largest norm of a gradient."""
    denoiser = denoiser_of(Together(), SCHEDULE, V(), ends=FlowMap.ends)
    average = copy.deepcopy(denoiser).requires_grad_(False)
    objective, optimizer = FlowMap(share=1.0), torch.optim.AdamW(denoiser.parameters(), 2e-3)
    failed, largest, n = torch.zeros(NETWORKS, dtype=torch.bool), 0.0, NETWORKS * EACH
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 + math.cos(math.pi * k / steps)) / 2
        x0 = DATA.sample(n, generator_for("points", k))[0].float()[:, :, None, None]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = objective(denoiser, x0, Streams(seeds_for("train", k, last=range(n))))["loss"]
        optimizer.zero_grad()
        loss.unflatten(0, (NETWORKS, EACH)).mean(dim=1).sum().backward()
        failed |= ~loss.detach().isfinite().view(NETWORKS, EACH).all(dim=1)
        squares = sum(w.grad.square().flatten(1).sum(dim=1) for w in denoiser.parameters())  # of each network
        largest = max(largest, float(squares.max().sqrt()))
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), denoiser.parameters(), strict=True):
                mean.lerp_(weight, max(0.01, 1 / (k + 1)))
        if (k + 1) % 1000 == 0:
            print(
                f"{dtype}: step {k + 1}, loss {float(loss.detach().mean()):.4f}, {int(failed.sum())} failed", flush=True
            )
    return average.eval(), int(failed.sum()), largest


def mapped(denoiser: Any, y: Tensor, u: float, w: float) -> Tensor:
    """The map of a denoiser from y (N, 2, 1, 1), float64, at u to w."""
    t, end = (torch.full((len(y),), value, dtype=torch.float64) for value in (u, w))
    t = SCHEDULE.at_flow_time(t)
    found = denoiser((expand(sum(SCHEDULE(t)), y) * y).to(y.dtype if denoiser is EXACT else torch.float32), t, end=end)
    return ((1 - w) * found.x0 + w * found.eps).double()


def rms(difference: Tensor) -> Tensor:
    """(NETWORKS,)"""
    return difference.unflatten(0, (NETWORKS, -1)).square().flatten(1).mean(dim=1).sqrt()


@torch.no_grad()
def errors(denoiser: Denoiser) -> dict[tuple[float, float], tuple[Tensor, Tensor]]:
    """(u, w) -> the error of each network's map from u to w, and of the two maps u → (u + w)/2 → w against it."""
    found = {}
    for u in TIMES:
        x0 = DATA.sample(SHOWN, generator_for("shown"))[0]
        eps = torch.randn(x0.shape, generator=generator_for("eps"), dtype=torch.float64)
        y = ((1 - u) * x0 + u * eps)[:, :, None, None]
        for w in (0.0, *(time for time in TIMES if time < u)):
            true, tiled = mapped(EXACT, y, u, w), y.repeat(NETWORKS, 1, 1, 1)
            once = mapped(denoiser, tiled, u, w)
            twice = mapped(denoiser, mapped(denoiser, tiled, u, (u + w) / 2), (u + w) / 2, w)
            found[u, w] = rms(once - true.repeat(NETWORKS, 1, 1, 1)), rms(twice - once)
    return found


@torch.no_grad()
def drawn(denoiser: Denoiser) -> dict[tuple[str, int], Tensor]:
    """(sampler, evaluations) -> the distance of each network's samples from the exact ends of their paths."""
    noise = torch.randn(SHOWN, 2, 1, 1, generator=generator_for("noise"), dtype=torch.float64)
    true = FlowMapSampler(1)(EXACT, noise, Streams(range(SHOWN))).repeat(NETWORKS, 1, 1, 1)
    start, samplers, found = noise.float().repeat(NETWORKS, 1, 1, 1), dict[str, Any](), {}
    samplers["flow_map"] = FlowMapSampler
    samplers["ddim"] = lambda steps: DDIM(steps, grid.flow)
    samplers["dpm_2m"] = lambda steps: DPMSolver(steps, grid.flow)
    for name, made in samplers.items():
        for steps in (1, 2, 4, 8, 64):
            sampler: Sampler = made(steps=steps)
            ends = sampler(denoiser, start, Streams(range(len(start)))).double()
            found[name, steps] = rms(ends - true)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    steps, rows, ends = parser.parse_args().steps, list[list[Any]](), {}
    for dtype in (torch.float32, torch.bfloat16):
        denoiser, failed, largest = train(steps, dtype)
        name = str(dtype).removeprefix("torch.")
        rows.append([name, "networks that became not finite", "", "", failed, ""])
        rows.append([name, "largest norm of a gradient", "", "", f"{largest:.3g}", ""])
        for (u, w), (error, semigroup) in errors(denoiser).items():
            rows.append([name, "error of the map", u, w, *mean_of(error)])
            rows.append([name, "two maps against one", u, w, *mean_of(semigroup)])
        ends[name] = drawn(denoiser)
        for (sampler, evaluations), error in ends[name].items():
            rows.append([name, f"ends of {sampler}", evaluations, "", *mean_of(error)])
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "errors.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["precision", "what", "from or evaluations", "to", "mean", "deviation"], *rows])


@style.chart("errors.png", (7.2, 3.1))
def chart(figure: Figure, rows: list[dict[str, str]]) -> str:
    """Left: the error of the map by its ends; right: the distance of samples from the ends of their paths."""
    left, right = figure.subplots(1, 2)
    for i, u in enumerate(TIMES):
        for what, line in (("error of the map", "-"), ("two maps against one", ":")):
            found = [row for row in rows if row["what"] == what and float(row["from or evaluations"]) == u]
            label = {"label": f"from {u:g}"} if line == "-" else {}
            x, y = ([float(row[key]) for row in found] for key in ("to", "mean"))
            left.plot(x, y, line, color=style.HUES[i], marker="o", markersize=3, **label)
    left.set(xlabel="to $w$", ylabel="root mean square error", yscale="log", title="maps (dotted: two against one)")
    for i, name in enumerate(("flow_map", "ddim", "dpm_2m")):
        found = [row for row in rows if row["what"] == f"ends of {name}"]
        x, y, error = ([float(row[key]) for row in found] for key in ("from or evaluations", "mean", "deviation"))
        right.errorbar(x, y, error, color=style.HUES[i], marker="o", markersize=3, linewidth=1.3, label=name)
    right.set(xlabel="evaluations", xscale="log", yscale="log", title="samples")
    left.legend()
    right.legend()
    return ""


def mean_of(values: Tensor) -> tuple[str, str]:
    """The mean over networks, and their standard deviation."""
    return f"{float(values.mean()):.5f}", f"{float(values.std()):.5f}"


if __name__ == "__main__":
    main()
    rows = [row for row in read_table(FOLDER / "errors.csv") if row["precision"] == "float32"]
    chart(rows).save(FOLDER)
