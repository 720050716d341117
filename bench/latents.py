"""Memory while many generated images become latents in the cache, at a tenth and at the end, and of their statistics.

python bench/latents.py --images 100000
"""

import argparse
import math
import os
import tempfile
import threading
import time
from pathlib import Path

import torch

from diffusion.data.module import Split
from diffusion.kinds.encoder import small
from diffusion.kinds.latents import Latents, statistics

SIDE = 32  # pixels


def memory() -> dict[str, float]:
    """The memory of this process that is its own, and with pages of mapped files, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    n, shape, found = parser.parse_args().images, (3, SIDE, SIDE), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        images = torch.from_file(f"{folder}/images", True, n * math.prod(shape), dtype=torch.uint8).view(n, *shape)
        for part in images.split(1000):
            part.random_(256)
        values, ended = Latents(small(), shape), threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                written = sum(each.stat().st_size for each in Path(folder).rglob("*.part"))
                if written >= n * 2 * values.m * (SIDE // values.factor) ** 2 * 2 / 10:
                    found.setdefault("a tenth", memory())

        threading.Thread(target=watch).start()
        began = time.monotonic()
        rows = values.cached(Split(images, [""] * n), "train", True, torch.device("cpu"))
        found["all"], seconds = memory(), time.monotonic() - began
        ended.set()
        statistics(rows, values.channels)
        found["statistics"] = memory()
        print(f"{n} images in {seconds:.0f} s, {rows.nbytes / 1e6:.0f} MB in the cache")
        for when, each in found.items():
            print(f"{when}: {each['RssAnon']:.0f} MB of its own, {each['VmRSS']:.0f} MB with mapped files")


if __name__ == "__main__":
    main()
