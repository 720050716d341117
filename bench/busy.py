"""The cost of waiting threads on a busy machine: the demo's steps under each of OpenMP's ways of waiting.

    python bench/busy.py [--experiment demo] [--steps 3] [--turns 4] [--busy 0 1 2]

Each OpenMP setting has its own process, because OpenMP reads it only once. The processes make their steps (steps of the
bare loop of bench/loop.py) one at a time, next to `--busy` processes that do nothing but count. A time is the least of
the turns' means. The first row is libgomp's default: a waiting thread spins for milliseconds and so keeps a core from
the very thread that it waits for.

A step of the network on two cores with no other load, in ms, the median of 7 (– is more than 7 s):

    spin count                  0 busy          1 busy     2 busy
    300,000 (libgomp)           207             551        –
    30,000                      235             866        556
    10,000                      212             799        581
    4,000 (as commands run)     231             622        555
    1,000                       245             480        505
    passive                     281             492        619
    one thread                  321             403        716

A second round of 12 steps without busy processes: 241 and 264 with libgomp's default, 295 and 325 with a spin count of
1,000, 312 and 370 passive, 399 and 392 in one thread. Times next to busy processes scatter by a third. With two busy
processes and other programs that already used 1.2 to 1.7 cores, a step took 1.8 s with a spin count of 1,000, 4.2 s
with 10,000, and 16 to 35 s with libgomp's default.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from loop import bare_loop
from rich.table import Table

from diffusion.config.build import make
from diffusion.config.composition import composed, plain
from diffusion.config.schema import Train
from diffusion.config.validation import validated
from diffusion.console import console
from diffusion.runs import naming

SETTINGS = {
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "as set by the commands": {"GOMP_SPINCOUNT": "4000"},  # by diffusion/__init__.py, before torch is imported
    "1,000 polls": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
COUNTING = "import os\nstarter = os.getppid()\nwhile os.getppid() == starter: pass"


def work(experiment: str) -> None:
    """For each line of the input, make that number of steps and print the mean seconds of a step."""
    console.quiet = True  # the parent reads the output
    naming.register()
    settings = validated(Train, plain(composed("train", [f"experiment={experiment}"])))
    data = make(settings.data, "data")
    data.prepare_data()
    step = bare_loop(settings, data, torch.device("cpu"))
    for _ in range(2):  # allocate memory and choose kernels
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print((time.perf_counter() - start) / int(line), flush=True)


@contextlib.contextmanager
def started(commands: list[list[str]], settings: list[dict[str, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Context manager: run these commands as processes, each with its own OpenMP variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env=own | each, **pipes)  # type: ignore[call-overload]
        for command, each in zip(commands, settings, strict=True)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of busy processes")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.experiment)
        return
    commands = [[sys.executable, __file__, "--work", "--experiment", options.experiment]] * len(SETTINGS)
    took: dict[tuple[str, int], float] = {}
    with started(commands, list(SETTINGS.values())) as processes:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for busy in options.busy:
            with started([[sys.executable, "-c", COUNTING]] * busy, [{}] * busy):
                for _ in range(options.turns):
                    for name, process in zip(SETTINGS, processes, strict=True):
                        assert process.stdin is not None
                        assert process.stdout is not None
                        process.stdin.write(f"{options.steps}\n")
                        process.stdin.flush()
                        seconds = float(process.stdout.readline())
                        took[name, busy] = min(seconds, took.get((name, busy), seconds))
    table = Table(
        title=f"ms per step of {options.experiment}, and the ratio to libgomp's default, {os.cpu_count()} cores"
    )
    table.add_column("how threads wait", no_wrap=True)
    for busy in options.busy:
        table.add_column(f"{busy} busy processes", justify="right", no_wrap=True)
    first = next(iter(SETTINGS))
    for name in SETTINGS:
        cells = [f"{took[name, busy] * 1e3:.0f}  {took[name, busy] / took[first, busy]:.2f}" for busy in options.busy]
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
