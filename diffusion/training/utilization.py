"""Model FLOPs utilization: the share of a device's peak that training uses (Chowdhery et al. 2022, appendix B).

The operations are those of the network's matrix products and convolutions, where a multiply-add counts as two. A
training step counts as three forward passes. Operations that activation checkpointing repeats do not count. The peak is
measured: the higher rate of a large matrix product and a large convolution, in the precision of the run.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.config.build import make
from diffusion.console import console
from diffusion.errors import first_line
from diffusion.report.page.recipe import network_table

SECONDS = 0.1  # for each of the two measurements
# Side of the matrices; batch and channels of the convolution's images. Large enough to keep the device busy.
SIZES = {"cpu": (1024, 8, 128)}
OTHER_SIZES = 4096, 32, 256


def utilization(
    trainer: pl.Trainer, module: pl.LightningModule, model: Mapping[str, Any], shape: tuple[int, int, int], rate: float
) -> dict[str, Any] | None:
    """Return "tflops" per second and device, "peak_tflops" and the "precision" of the products, for run.json.

    None if the operations of the network cannot be counted, or if there is no memory for the measurement.

    Args:
        model: The configuration of the network.
        shape: (C, H, W) of the images.
        rate: Forward passes per second on one device, each of one image; a training step counts as three per image.
    """
    with trainer.precision_plugin.forward_context():
        one = torch.ones(1, 1, dtype=next(module.parameters()).dtype, device=module.device)
        dtype = (one @ one).dtype
    try:
        with torch.device("meta"):
            network = make(model, "model")
        flops, peak = 1e9 * network_table(network, shape)["gflop"] * rate, peak_flops(module.device, dtype)
    except Exception as error:  # a custom network may need a device with values, or other inputs
        console.print(f"the utilization of the device is unknown: {first_line(error)}", style="yellow")
        return None
    precision = str(dtype).removeprefix("torch.")
    return {"tflops": flops / 1e12, "peak_tflops": peak / 1e12, "precision": precision}


@torch.no_grad()
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The operations per second of a matrix product or of a 3×3 convolution, whichever is faster."""
    n, batch, channels = SIZES.get(device.type, OTHER_SIZES)
    a = torch.ones(n, n, dtype=dtype, device=device)
    x = torch.ones(batch, channels, 32, 32, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    w = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    product = 2 * n**3 / seconds_of(lambda: a @ a)
    convolution = 2 * 9 * channels**2 * x[:, 0].numel() / seconds_of(lambda: F.conv2d(x, w, padding=1))
    return max(product, convolution)


def seconds_of(work: Callable[[], Tensor]) -> float:
    """The shortest time of a call, measured over several calls in a row, so that waiting for a GPU hardly counts."""
    best, calls, end = float("inf"), 1, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(calls):
            y = work()
        y[0, 0].sum().item()  # waits for the device
        taken = time.perf_counter() - began
        best = min(best, taken / calls)
        if taken < SECONDS / 5:
            calls *= 2
    return best
