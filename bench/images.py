"""Large folders of images: the cost of preparing them, the cost of a second start, and the memory of processes.

    python bench/images.py [--images 200000] [--size 96] [--resolution 64] [--processes 4] [--folder FOLDER]

The script generates JPEG files of colour blobs, in which large blobs are stronger than small ones, as in photographs.
They stay in FOLDER; without one, they are in a temporary folder. It then measures

- preparing: images per second, compared with Pillow alone (the same files decoded, cropped and resized by the same
  number of threads)
- a second start: wall seconds and CPU seconds of `prepare_data` and `setup` in a new process, without imports
- memory of one process and of several, after 200 batches of 64 images: anonymous memory, which each process has for
  itself, and the pages of the file of images, which all share and which the system reclaims when it needs them
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.data.image import crop_box, planes, read, resized
from diffusion.data.store import in_threads

START = """
import json, re, sys, time
import torch
from pathlib import Path
from diffusion.data import Folder

def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = kilobytes("RssAnon")
began, used = time.perf_counter(), time.process_time()
data = Folder(root=sys.argv[1], resolution=int(sys.argv[2]), batch_size=64)
data.prepare_data()
data.setup()
seconds, cpu = time.perf_counter() - began, time.process_time() - used
for i, batch in enumerate(data.train_dataloader()):
    batch.image.float().mean()
    if i == 200:
        break
print(json.dumps({
    "images": sum(map(len, data.splits.values())), "seconds": seconds, "processor": cpu,
    "own": kilobytes("RssAnon") - before, "shared": kilobytes("RssFile"),
}), flush=True)
sys.stdin.read()  # stay, while the others start
"""


def blobs(seed: int) -> Image.Image:
    """16×16 pixels of noise with an amplitude that falls with the frequency f as 1/f, as in photographs.

    (Field 1987, "Relations between the statistics of natural images and the response properties of cortical cells".)
    """
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((16, 16, 3)), axes=(0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    pixels = np.fft.ifft2(noise / np.maximum(frequency, 1 / 32)[..., None], axes=(0, 1)).real
    return Image.fromarray((128 + 13 * pixels).clip(0, 255).astype(np.uint8))


@contextmanager
def pictures(images: int, size: int, folder: Path | None) -> Iterator[Path]:
    """Context manager: a folder with `images` different JPEG files."""
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary) / "photos"
        root.mkdir(parents=True, exist_ok=True)

        def write(i: int) -> None:
            path = root / f"{i // 1000:04d}" / f"{i:07d}.jpg"
            if path.exists():
                return
            path.parent.mkdir(exist_ok=True)
            buffer = BytesIO()
            blobs(i).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            path.write_bytes(buffer.getvalue())

        list(in_threads(write, range(images), "writing images"))
        yield root


def pillow(root: Path, resolution: int, images: int) -> float:
    """Images per second with Pillow alone."""
    files = sorted(root.rglob("*.jpg"))[:images]

    def decode(file: Path) -> None:
        image = read(file, resolution, 2 * resolution)
        planes(resized(image, resolution, crop_box(image.size, 0.5)))

    began = time.perf_counter()
    list(in_threads(decode, files, "Pillow alone"))
    return len(files) / (time.perf_counter() - began)


def started(root: Path, resolution: int, cache: Path, processes: int) -> list[dict[str, float]]:
    """Start several processes that use the images at the same time, and return their reports."""
    command = [sys.executable, "-c", START, str(root), str(resolution)]
    environment = os.environ | {"DIFFUSION_CACHE": str(cache)}
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    reports = []
    for process in running:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        reports.append(json.loads(next(line for line in lines if line.startswith("{"))))
    for process in running:
        process.communicate("")
    return reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"images": 200_000, "size": 96, "resolution": 64, "processes": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.images < 100:
        parser.error("--images: at least 100, for whole batches")
    with (
        pictures(given.images, given.size, given.folder) as root,
        tempfile.TemporaryDirectory() as temporary,
    ):
        cache = Path(temporary)
        limit = pillow(root, given.resolution, min(given.images, 20_000))
        (first,) = started(root, given.resolution, cache, 1)
        (second,) = started(root, given.resolution, cache, 1)
        several = started(root, given.resolution, cache, given.processes)
    size = first["images"] * 3 * given.resolution**2 / 1e6
    print(f"{first['images']:,} images of {given.resolution}×{given.resolution}: {size:,.0f} MB")
    print(f"Pillow alone                {limit:,.0f} images/s")
    print(f"first start                 {first['seconds']:.1f} s, {first['images'] / first['seconds']:,.0f} images/s")
    print(f"second start                {second['seconds']:.2f} s ({second['processor']:.2f} s of CPU time)")
    for what, reports in {"one process": [second], f"{given.processes} processes": several}.items():
        own, shared = (sum(report[key] for report in reports) / len(reports) / 1e3 for key in ("own", "shared"))
        print(f"memory of {what:<17} {own:,.0f} MB private per process, {shared:,.0f} MB of shared files")


if __name__ == "__main__":
    main()
