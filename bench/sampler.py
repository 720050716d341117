"""A sampler's cost outside the network, as a share of the network's time.

    python bench/sampler.py [--model unet_small] [--batch 8] [--resolution 64]

Every sampler of conf/sampler runs with a network that returns immediately; its time per evaluation is divided by the
time of one forward pass of the real network. The floor is 0: a step touches a few arrays of the images' size.
"""

import argparse
import statistics

import torch
from measuring import now
from rich.table import Table
from torch import Tensor, nn

from diffusion.base.console import console
from diffusion.config.build import make
from diffusion.config.choices import choice, choices
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import V
from diffusion.process.schedule import VP
from diffusion.randomness import Streams


class Instant(nn.Module):
    """A network that always returns the same tensor, and counts its `calls`."""

    def __init__(self, like: Tensor, channels: int):
        super().__init__()
        self.calls, self.answer = 0, 0.1 * torch.randn(len(like), channels, *like.shape[2:], device=like.device)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        return self.answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet_small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=64)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    noise = torch.randn(options.batch, 3, options.resolution, options.resolution, device=device)
    schedule = VP(beta_min=0.1, beta_max=20.0).to(device)
    network = make(choice("model", options.model), "model").to(device).eval()
    network.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        passes = []
        for _ in range(8):
            start = now(device)
            network(noise, torch.zeros(len(noise), device=device))
            passes.append(now(device) - start)
    forward = statistics.median(passes[2:])

    table = Table(
        title=f"{options.model}: {forward * 1e3:.1f} ms per forward pass of {options.batch} images, on {device}"
    )
    for column in ("sampler", "evaluations", "ms outside the network", "share of a forward pass"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for name in choices("sampler"):
        sampler = make(choice("sampler", name), "sampler")
        sampler.steps = min(sampler.steps, 20)
        network = Instant(noise, 3)
        denoise, times = Denoiser(network, schedule, V()), []
        for _ in range(4):
            start, network.calls = now(device), 0
            sampler(denoise, noise, Streams(range(len(noise)), device))
            times.append((now(device) - start) / network.calls)
        outside = min(times[1:])
        table.add_row(name, str(network.calls), f"{outside * 1e3:.2f}", f"{100 * outside / forward:.2f} %")
    console.print(table)


if __name__ == "__main__":
    main()
