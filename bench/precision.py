"""One network evaluation while sampling: float32 against mixed precision.

    python bench/precision.py [--models unet_small dit_s_2] [--batch 64] [--precision bf16-mixed]

Both take turns in one process, so other load on the machine affects them equally; the table shows the minimum of
several turns, and the difference between the estimates of x0 as a share of their size. The networks have random
weights.
"""

import argparse

import torch
from measuring import now
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import choice
from diffusion.console import console
from diffusion.evaluation.drawing import MIXED
from diffusion.process.denoiser import Denoise, Denoiser, MixedPrecision
from diffusion.process.prediction import V
from diffusion.process.schedule import cosine
from diffusion.randomness import Streams

MODELS = {"unet_tiny": 32, "unet_small": 64, "unet_memoire": 64, "dit_tiny": 32, "dit_s_2": 32}  # and their resolutions
TURNS = 5


def seconds(denoise: Denoise, x_t: Tensor, t: Tensor) -> float:
    """The seconds of one evaluation."""
    start = now(x_t.device)
    denoise(x_t, t)
    return now(x_t.device) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=choices("model"), metavar="MODEL")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="bf16-mixed", choices=[*MIXED])
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    table = Table(title=f"Milliseconds of one evaluation of {asked.batch} images, on {where}")
    for column in ("network", "images", "float32", asked.precision, "ratio", "difference"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in track(asked.models, console=console, transient=True):
        side = MODELS.get(name, 64)
        network: nn.Module = make(choice("model", name), "model").to(device, memory_format=torch.channels_last)
        for weight in network.parameters():  # a new network's last layer is zero
            if not weight.any():
                nn.init.normal_(weight, std=0.02)
        exact = Denoiser(network, cosine(), V()).to(device).eval()
        mixed = MixedPrecision(exact, MIXED[asked.precision])
        x_t = Streams.of(asked.batch, "bench", device=device).normal(3, side, side)
        t = Streams.of(asked.batch, "time", device=device).uniform()

        with torch.inference_mode():
            turns = [(seconds(exact, x_t, t), seconds(mixed, x_t, t)) for _ in range(TURNS)]
            difference = (mixed(x_t, t).x0 - exact(x_t, t).x0).norm() / exact(x_t, t).x0.norm()
        before, after = map(min, zip(*turns, strict=True))
        milliseconds = f"{before * 1e3:,.0f}", f"{after * 1e3:,.0f}"
        table.add_row(name, f"{side}×{side}", *milliseconds, f"{after / before:.2f}", f"{float(difference):.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
