"""One training step of unet_small against other libraries' U-Nets of the same widths, and against the machine's peak.

    python bench/network.py [--device cuda] [--rounds 10]

Forward pass, backward pass and AdamW at batch 8, 64×64, float32. The networks take turns in one process, so other load
on the machine affects all of them equally; the table shows medians. Products are counted on meta tensors, two
operations per multiply-add. The peak is the best of a matrix product and a 3×3 convolution, measured beforehand; the
floor is the time that a network's products would take at that peak.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator

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
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.choices import conf_dir
from diffusion.training.utilization import peak_flops

BATCH, SIDE = 8, 64
SMALL = OmegaConf.load(conf_dir() / "model" / "unet_small.yaml")
Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]


def ours() -> nn.Module:
    return instantiate(SMALL)


def ours_channels_last() -> nn.Module:
    return instantiate(SMALL).to(memory_format=torch.channels_last)


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


ENTRANTS: dict[str, tuple[Callable[[], nn.Module], Forward]] = {
    "diffusers": (diffusers, unwrapped),
    "unet_small": (ours, plain),
    "unet_small channels_last": (ours_channels_last, plain),
    "denoising-diffusion-pytorch": (denoising_diffusion_pytorch, plain),
}


def batch(device: str) -> tuple[Tensor, Tensor]:
    label = torch.arange(BATCH, device=device, dtype=torch.float32) * 100
    return torch.randn(BATCH, 3, SIDE, SIDE, device=device), label


def gflop_of(build: Callable[[], nn.Module], forward: Forward) -> float:
    """The GFLOP of one forward and backward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        forward(build(), *batch("meta")).square().mean().backward()
    return counter.get_total_flops() / 1e9


def steps(build: Callable[[], nn.Module], forward: Forward, device: str) -> Iterator[float]:
    """Yield the seconds of one training step after another, without end."""
    network = build().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    x, label = batch(device)
    eps = torch.randn_like(x)
    while True:
        start = now(device)
        loss = F.mse_loss(forward(network, x, label), eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield now(device) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()

    best = peak_flops(torch.device(args.device), torch.float32) / 1e9
    runs = {name: steps(*entrant, args.device) for name, entrant in ENTRANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ENTRANTS}
    warm_up = 2
    for turn in track(range(-warm_up, args.rounds), description="rounds", transient=True):
        for name, run in runs.items():
            taken = next(run)
            if turn >= 0:
                seconds[name].append(taken)

    reference = statistics.median(seconds["diffusers"])
    title = f"One training step, batch {BATCH}, {SIDE}×{SIDE}, float32, {args.device} (peak {best:.0f} GFLOP/s)"
    table = Table(title=title, box=box.SIMPLE, padding=0, collapse_padding=True)
    for column in ("network", "param.", "GFLOP", "floor ms", "ms", "of peak", "ratio"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for name, entrant in ENTRANTS.items():
        median, gflop = statistics.median(seconds[name]), gflop_of(*entrant)
        parameters = sum(p.numel() for p in entrant[0]().parameters())
        table.add_row(
            name,
            f"{parameters / 1e6:.2f} M",
            f"{gflop:.1f}",
            f"{1e3 * gflop / best:.0f}",
            f"{1e3 * median:.0f}",
            f"{gflop / median / best:.0%}",
            f"{median / reference:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
