"""What reusing freed memory gains on a CPU: a training step and a network evaluation, with glibc's settings and ours.

    python bench/memory.py [--model unet_small] [--resolution 64] [--rounds 3]

`diffusion/__init__.py` lets glibc keep freed memory unless the environment has settings of its own: an empty
GLIBC_TUNABLES restores glibc's defaults. The two take turns as separate processes, and each ratio is that of the
fastest times. Page faults are the pages that the system handed out while the work was repeated.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measuring import resident
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from diffusion.config.build import make
from diffusion.config.composition import choice

REPEATS = 6
WORKS = {"training step": 8, "evaluation": 64}  # with their numbers of images


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """The milliseconds of the fastest repeat, and the page faults of each."""
    for _ in range(3):
        work()
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / REPEATS


def measure(work: str, model: str, resolution: int) -> tuple[float, float, float]:
    """Milliseconds, page faults and peak megabytes of one kind of work, in this process."""
    network = make(choice("model", model), "model").to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    n = WORKS[work]
    x, label = torch.randn(n, 3, resolution, resolution), torch.arange(n, dtype=torch.float32)

    def step() -> None:
        loss = (network(x, label) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def evaluation() -> None:
        network(x, label)

    return *measured(step if work == "training step" else evaluation), resident("VmHWM") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet_small")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(measure(options.work, options.model, options.resolution)))
        return

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environments = {"returned": {**clean, "GLIBC_TUNABLES": ""}, "kept": clean}
    command = [sys.executable, __file__, "--model", options.model, "--resolution", str(options.resolution)]
    found: dict[tuple[str, str], list[list[float]]] = {(work, name): [] for work in WORKS for name in environments}
    for _ in track(range(options.rounds), description="rounds", transient=True):
        for (work, name), results in found.items():
            process = subprocess.run(
                [*command, "--work", work], env=environments[name], stdout=subprocess.PIPE, text=True, check=True
            )
            results.append(json.loads(process.stdout))

    table = Table(title=f"{options.model}, {options.resolution}×{options.resolution}: freed memory returned and kept",
                  box=box.SIMPLE, padding=0, collapse_padding=True)  # fmt: skip
    for column in ("work", "returned ms", "kept ms", "ratio", "page faults", "peak MB"):
        table.add_column(column, justify="left" if column == "work" else "right", no_wrap=True)
    for work, n in WORKS.items():
        returned, kept = ([min(each) for each in zip(*found[work, name], strict=True)] for name in environments)
        table.add_row(
            f"{work}, {n} images", f"{returned[0]:.0f}", f"{kept[0]:.0f}", f"{kept[0] / returned[0]:.2f}",
            f"{returned[1]:,.0f} → {kept[1]:,.0f}", f"{returned[2]:.0f} → {kept[2]:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
