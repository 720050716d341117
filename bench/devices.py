"""Training on several devices: gloo processes measured on this machine, and estimates for GPUs.

    python bench/devices.py [--model unet_tiny] [--batch 8] [--steps 10]
    python bench/devices.py --model edm2_s --batch 1 --steps 1          memory of the largest network, 9 GB in all

Measured: a step of a bare loop (forward pass, backward pass, AdamW) at 32×32 with a fixed batch and one thread per
process. It runs in one process, and in two processes over gloo with DistributedDataParallel and with sharded weights as
in trainer.strategy=fsdp2. The table shows the fastest step in wall time and CPU time, the bytes of weights, gradients
and optimizer moments on rank 0 after a step, and rank 0's peak memory beyond the imports. Two processes need two idle
cores.

Estimated: with P parameters and N GPUs, a ring sends 2 (N − 1)/N · 4 P bytes from each GPU in a step, or 3 (N − 1)/N ·
4 P with sharded weights, which are gathered twice while gradients are reduced once. If the slowest link carries L bytes
per second, this takes the time s = 2 (N − 1)/N · 4 P / L. A step of B images with F operations in a forward pass
computes for c = 3 B F / (u R) at a share u of a peak of R operations per second. The efficiency is c / (c + s) without
overlap, and c / max(c, c/3 + s) if everything is sent during the backward pass.
"""

import argparse
import os
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measuring import moment, resident
from rich.table import Table
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.config.composition import choice
from diffusion.console import console
from diffusion.training.sharding import shard
from diffusion.training.spent import size

PEAK, SHARE = 989e12, 0.35  # bfloat16 operations per second of an H100 (data sheet), and the target share
INSIDE, BETWEEN = 450e9, 50e9  # bytes per second per GPU: NVLink within a machine of 8; 400 Gbit/s between machines
MACHINE = 8
LAYOUTS = ((1, "alone"), (2, "ddp"), (2, "fsdp2"))  # number of processes, and their strategy
ON_PAPER = {"unet_base": 128, "edm2_s": 32}  # images per GPU


def work(rank: int, layout: tuple[int, str], asked: argparse.Namespace, answers: "mp.SimpleQueue[tuple]") -> None:
    """Make the steps of one process; rank 0 puts the measurements into `answers`."""
    processes, how = layout
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}
    before = resident("VmRSS")
    if processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=processes)
    network = net = make(choice("model", asked.model), "model")
    if how == "ddp":
        net = DistributedDataParallel(network, gradient_as_bucket_view=True)
    elif how == "fsdp2":
        shard(SimpleNamespace(denoiser=SimpleNamespace(network=network), objective=None), init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(network.parameters())
    x, label = torch.randn(asked.batch, 3, 32, 32), torch.zeros(asked.batch)
    taken = []
    for _ in range(asked.steps + 2):
        start = moment()
        optimizer.zero_grad()
        net(x, label).square().mean().backward()
        optimizer.step()
        taken.append([b - a for a, b in zip(start, moment(), strict=True)])
    weights, moments = list(network.parameters()), optimizer.state.values()
    held = size([*weights, *(p.grad for p in weights), *(value for each in moments for value in each.values())])
    if rank == 0:
        answers.put((*map(min, zip(*taken[2:], strict=True)), held, resident("VmHWM") - before))
    if processes > 1:
        dist.destroy_process_group()


def measured(asked: argparse.Namespace) -> None:
    """Print the measurements of one and of two processes."""
    table = Table(title=f"{asked.model}, {asked.batch} images of 32×32 per process")
    for column in (
        "processes",
        "weights",
        "wall time, ms",
        "CPU time of the first process, ms",
        "images per second",
        "MB held by each",
        "peak MB",
    ):
        table.add_column(column, justify="right")
    for processes, how in LAYOUTS:
        answers = mp.get_context("spawn").SimpleQueue()
        mp.spawn(work, ((processes, how), asked, answers), nprocs=processes)
        wall, cpu, held, peak = answers.get()
        rate = f"{processes * asked.batch / wall:.2g}"
        table.add_row(
            str(processes), how, f"{wall * 1e3:,.0f}", f"{cpu * 1e3:,.0f}", rate, f"{held / 1e6:,.0f}",
            f"{peak / 1e6:,.0f}",
        )  # fmt: skip
    console.print(table)


def on_paper() -> None:
    """Print the estimated bytes and efficiencies."""
    table = Table(title=f"calculated: H100 at {SHARE:.0%} of its peak")
    columns = (
        "network",
        "images per GPU",
        "GPUs",
        "MB sent",
        "compute, ms",
        "send, ms",
        "no overlap",
        "full overlap",
        "MB sent, fsdp2",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for model, batch in ON_PAPER.items():
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = make(choice("model", model), "model")
            network(torch.randn(1, 3, 64, 64), torch.zeros(1))
        parameters = sum(p.numel() for p in network.parameters())
        compute = 3 * batch * counter.get_total_flops() / (SHARE * PEAK)
        for n in (1, 2, 8, 16, 64):
            sent = 2 * (n - 1) / n * 4 * parameters
            send = sent / (INSIDE if n <= MACHINE else BETWEEN)
            apart, together = compute / (compute + send), compute / max(compute, compute / 3 + send)
            table.add_row(
                model, str(batch), str(n), f"{sent / 1e6:,.0f}", f"{compute * 1e3:.1f}", f"{send * 1e3:.1f}",
                f"{apart:.0%}", f"{together:.0%}", f"{1.5 * sent / 1e6:,.0f}",
            )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet_tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    on_paper()
    measured(asked)


if __name__ == "__main__":
    main()
