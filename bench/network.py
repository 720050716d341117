"""One training step of unet_small against other libraries' U-Nets of the same widths, and against the machine's peak.

    python bench/network.py [--device cuda] [--rounds 10]

Forward pass, backward pass and AdamW at batch 8, 64×64, in float32 and with autocast to bfloat16; ours in the memory
format of a run, the others in PyTorch's. The networks take turns in one process, so other load on the machine affects
all of them equally, and all of them profit from the memory that `diffusion` keeps (bench/memory.py); the table shows
medians and their ratio to diffusers in float32. Products are counted on meta tensors, two operations per multiply-add.
The peak is the best of a matrix product and a 3×3 convolution, measured beforehand; the floor is the time that a
network's products would take at that peak.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from itertools import product

import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch import Unet
from diffusers import UNet2DModel
from hydra.utils import instantiate
from measuring import now
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.choices import choice

BATCH, SIDE = 8, 64
SMALL = OmegaConf.create(choice("model", "unet_small"))
Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]


def ours() -> nn.Module:
    return instantiate(SMALL)


def diffusers() -> nn.Module:
    return UNet2DModel(  # type: ignore[return-value]
        block_out_channels=list(SMALL.channels),
        layers_per_block=SMALL.blocks,
        down_block_types=[f"{'Attn' * attend}DownBlock2D" for attend in SMALL.attention],
        up_block_types=[f"{'Attn' * attend}UpBlock2D" for attend in reversed(SMALL.attention)],
        norm_num_groups=SMALL.groups,
        attention_head_dim=SMALL.head_dim,
        norm_eps=1e-6,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )


def denoising_diffusion_pytorch() -> nn.Module:
    """Not the same network: 7×7 stem, linear attention on the levels without full attention."""
    width = SMALL.channels[0]
    multiples = tuple(c // width for c in SMALL.channels)
    return Unet(dim=width, dim_mults=multiples, full_attn=tuple(SMALL.attention))


def plain(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return network(x, label)


def unwrapped(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return network(x, label).sample


OURS = "unet_small"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Forward]] = {
    "diffusers": (diffusers, unwrapped),
    OURS: (ours, plain),
    "denoising-diffusion-pytorch": (denoising_diffusion_pytorch, plain),
}
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def batch(device: str) -> tuple[Tensor, Tensor]:
    label = torch.arange(BATCH, device=device, dtype=torch.float32) * 100
    return torch.randn(BATCH, 3, SIDE, SIDE, device=device), label


def gflop_of(build: Callable[[], nn.Module], forward: Forward) -> float:
    """The GFLOP of one forward and backward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        forward(build(), *batch("meta")).square().mean().backward()
    return counter.get_total_flops() / 1e9


def steps(name: str, dtype: torch.dtype, device: str) -> Iterator[float]:
    """Yield the seconds of one training step after another, without end."""
    build, forward = NETWORKS[name]
    network = build().to(device).train()
    if name == OURS:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    x, label = batch(device)
    eps = torch.randn_like(x)
    while True:
        start = now(device)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            y = forward(network, x, label)
        loss = F.mse_loss(y.float(), eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield now(device) - start


@torch.no_grad()
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The operations per second of a large matrix product or of a large 3×3 convolution, whichever is faster."""
    n, batch, channels = (1024, 8, 128) if device.type == "cpu" else (4096, 32, 256)  # they keep the device busy
    a = torch.ones(n, n, dtype=dtype, device=device)
    x = torch.ones(batch, channels, 32, 32, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    w = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    operations = {"a @ a": 2 * n**3, "conv2d(x, w, padding=1)": 2 * 9 * channels**2 * x[:, 0].numel()}
    given = {"a": a, "x": x, "w": w, "conv2d": F.conv2d}
    return max(
        n / Timer(work, globals=given, num_threads=torch.get_num_threads()).blocked_autorange().median
        for work, n in operations.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()

    best = {name: peak_flops(torch.device(args.device), dtype) / 1e9 for name, dtype in PRECISIONS.items()}
    entrants = [*product(NETWORKS, PRECISIONS)]
    runs = {(name, precision): steps(name, PRECISIONS[precision], args.device) for name, precision in entrants}
    seconds: dict[tuple[str, str], list[float]] = {entrant: [] for entrant in entrants}
    warm_up = 2
    for turn in track(range(-warm_up, args.rounds), description="rounds", transient=True):
        for entrant, run in runs.items():
            taken = next(run)
            if turn >= 0:
                seconds[entrant].append(taken)

    reference = statistics.median(seconds["diffusers", "float32"])
    peaks = ", ".join(f"{name} {flops:.0f}" for name, flops in best.items())
    title = f"One training step, batch {BATCH}, {SIDE}×{SIDE}, {args.device} (peak: {peaks} GFLOP/s)"
    table = Table(title=title, box=box.SIMPLE, padding=0, collapse_padding=True)
    for column in ("network", "", "param.", "GFLOP", "floor ms", "ms", "of peak", "ratio"):
        table.add_column(column, justify="left" if column in ("network", "") else "right", no_wrap=True)
    for name, precision in entrants:
        median, gflop = statistics.median(seconds[name, precision]), gflop_of(*NETWORKS[name])
        parameters = sum(p.numel() for p in NETWORKS[name][0]().parameters())
        table.add_row(
            name,
            precision,
            f"{parameters / 1e6:.2f} M",
            f"{gflop:.1f}",
            f"{1e3 * gflop / best[precision]:.0f}",
            f"{1e3 * median:.0f}",
            f"{gflop / median / best[precision]:.0%}",
            f"{median / reference:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
