"""Startup time of a run, from the shell to the line that names its folder, against importing torch and Lightning.

    python bench/start.py [--turns 5] [WORD …]

The words are arguments of `diffusion train`; the default is what a newcomer types. In each turn, one process starts the
run and exits where the run would print its folder, and another only imports torch and Lightning: the floor. All files
are already cached. A number is the least over the turns, in CPU time, which other load on the machine disturbs less,
and in wall time. The ratio is between CPU times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from rich.table import Table

from diffusion.base.console import console

FLOOR = "import torch, lightning.pytorch"
RUN = """
import json, os, sys, time
marks = []
def mark(part):
    marks.append((part, time.process_time(), time.time()))
mark("Python")
from diffusion import train
from diffusion.training import jobs
mark("imports of the command: Hydra, pydantic, rich")
claimed = jobs.claimed
def claim(*args, **kwargs):
    begun = claimed(*args, **kwargs)
    mark("the configuration is composed and checked, the folder claimed")
    import torch
    mark("import of torch")
    import lightning.pytorch
    mark("import of Lightning")
    from diffusion.training import run as of_run
    mark("import of the rest")
    def after(owner, name, part):
        function = getattr(owner, name)
        def marked(*args, **kwargs):
            result = function(*args, **kwargs)
            mark(part)
            return result
        setattr(owner, name, marked)
    after(of_run, "Parts", "the network and the other parts are built, features and images are read")
    after(of_run, "check_parts", "one image goes through all parts")
    def end(*_):
        mark("the rest")
        print(json.dumps(marks), file=sys.__stderr__, flush=True)
        os._exit(0)
    of_run.start_writing = end
    return begun
jobs.claimed = claim
train.main()
"""


def floor() -> tuple[float, float]:
    """CPU seconds and wall seconds of the imports."""
    start = time.time()
    code = f"{FLOOR}; import time; print(time.process_time(), time.time())"
    cpu, end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(cpu), float(end) - start


def parts(words: list[str]) -> dict[str, tuple[float, float]]:
    """CPU seconds and wall seconds of each part of a run's start."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, *words, f"hydra.run.dir={folder}/run"]
        before = 0.0, time.time()
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, env=os.environ)
    if done.returncode:
        sys.exit(done.stderr)
    found = {}
    for part, *moment in json.loads(done.stderr.splitlines()[-1]):
        found[part] = moment[0] - before[0], moment[1] - before[1]
        before = moment[0], moment[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options, words = parser.parse_known_args()
    words = words or ["model=unet_small", "trainer.devices=1", "trainer.max_steps=3"]
    parts(words)  # fill the caches
    turns = [(floor(), parts(words)) for _ in range(options.turns)]
    least = min(turn[0][0] for turn in turns), min(turn[0][1] for turn in turns)
    table = Table(title=f"from the shell to the run's folder: {' '.join(words)}")
    for column in ("part", "CPU s", "wall s", "ratio"):
        table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    rows = {part: tuple(min(found[part][clock] for _, found in turns) for clock in (0, 1)) for part in turns[0][1]}
    rows["all"] = tuple(min(sum(each[clock] for each in found.values()) for _, found in turns) for clock in (0, 1))
    for part, (cpu, wall) in {FLOOR: least, **rows}.items():
        table.add_row(part, f"{cpu:.2f}", f"{wall:.2f}", f"{cpu / least[0]:.2f}", end_section=part == FLOOR)
    console.print(table)


if __name__ == "__main__":
    main()
