"""The cost of counter-based noise, compared with torch.randn and as a share of a training step.

    python bench/noise.py [--model unet_small] [--resolution 64] [--batch 8 512]

The step is a forward and backward pass of the network with the smallest batch; the time for larger batches is assumed
to be proportional. Each time is the least of several. The floor is torch.randn. "streams" hashes the seeds of a batch
and copies them to the device; "times" draws a uniform number for each example.
"""

import argparse
from collections.abc import Callable

import torch
from measuring import now
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion.base.console import console
from diffusion.config.build import make
from diffusion.config.choices import choice, choices
from diffusion.randomness import Streams


class Counter(TorchDispatchMode):
    """Counts torch's operations that compute, about the number of kernels that a GPU launches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += not func.is_view and not func.name().startswith("aten::empty")
        return func(*args, **(kwargs or {}))


def measured(work: Callable[[], object], device: torch.device, times: int) -> tuple[float, int]:
    """The seconds of the fastest of several calls, and the number of operations of a call."""
    with Counter() as counter:
        work()
    seconds = []
    for _ in range(times):
        start = now(device)
        work()
        seconds.append(now(device) - start)
    return min(seconds), counter.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet_small", choices=choices("model"))
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 512])
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape, smallest = (3, options.resolution, options.resolution), min(options.batch)
    network = make(choice("model", options.model), "model").to(device).to(memory_format=torch.channels_last)
    images, labels = torch.randn(smallest, *shape, device=device), torch.zeros(smallest, device=device)

    def backward() -> None:
        answer: Tensor = network(images, labels)
        answer.square().mean().backward()

    step, _ = measured(backward, device, 5)
    table = Table(
        title=f"{options.model}: {step * 1e3:.0f} ms per forward and backward pass of {smallest} images, on {device}"
    )
    for column in ("batch", "what", "ms", "operations", "share of a step"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for batch in options.batch:
        streams = Streams.of(batch, "bench", device=device)
        works: dict[str, Callable[[], object]] = {
            "torch.randn": lambda n=batch: torch.randn(n, *shape, device=device),
            "noise": lambda streams=streams: streams.normal(*shape),
            "times": streams.uniform,
            "streams": lambda n=batch: Streams.of(n, "bench", device=device),
        }
        for what, work in works.items():
            seconds, count = measured(work, device, 15)
            share = seconds / (step * batch / smallest)
            table.add_row(str(batch), what, f"{seconds * 1e3:.2f}", str(count), f"{100 * share:.2f} %")
    console.print(table)


if __name__ == "__main__":
    main()
