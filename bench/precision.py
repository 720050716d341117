"""One network evaluation while sampling, in float32, with matmul_precision=medium, and in bf16-mixed or 16-mixed.

    python bench/precision.py [--models unet_small dit_s_2] [--batch 64] [--precision bf16-mixed]

They take turns in one process, so other load on the machine affects all of them equally; the table shows the minimum of
several turns, its ratio to float32, and in brackets the difference between the estimates of x0 as a share of their
size. The networks have random weights.
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


def denoiser_of(model: str, device: torch.device) -> Denoiser:
    """A denoiser with the network of a choice of conf/model. Zero weights, such as a new last layer's, are replaced."""
    network: nn.Module = make(choice("model", model), "model").to(device, memory_format=torch.channels_last)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    return Denoiser(network, cosine(), V()).to(device).eval()


def timed(products: str, denoise: Denoise, x_t: Tensor, t: Tensor) -> tuple[float, Tensor]:
    """The seconds of an evaluation with this precision of matrix products, and its x0."""
    torch.set_float32_matmul_precision(products)
    start = now(x_t.device)
    x0 = denoise(x_t, t).x0
    return now(x_t.device) - start, x0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=choices("model"), metavar="MODEL")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="bf16-mixed", choices=[*MIXED])
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    table = Table(title=f"Milliseconds of one evaluation of {asked.batch} images, on {where}")
    for column in ("network", "images", "float32", "medium", asked.precision):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in track(asked.models, console=console, transient=True):
        side = MODELS.get(name, 64)
        plain = denoiser_of(name, device)
        mixed = MixedPrecision(plain, MIXED[asked.precision])
        x_t = Streams.of(asked.batch, "bench", device=device).normal(3, side, side)
        t = Streams.of(asked.batch, "time", device=device).uniform()
        turns = []
        with torch.inference_mode():
            for _ in range(TURNS):
                kinds: list[tuple[str, Denoise]] = [("highest", plain), ("medium", plain), ("high", mixed)]
                turns.append([timed(products, denoise, x_t, t) for products, denoise in kinds])
        times = [min(seconds for seconds, _ in each) for each in zip(*turns, strict=True)]
        exact, *others = (result for _, result in turns[-1])
        cells = [
            f"{seconds * 1e3:,.0f}  {seconds / times[0]:.2f}  ({float((other - exact).norm() / exact.norm()):.0e})"
            for seconds, other in zip(times[1:], others, strict=True)
        ]
        table.add_row(name, f"{side}×{side}", f"{times[0] * 1e3:,.0f}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
