"""The cache of decoded images: files that every process memory-maps, so a batch only needs memory for its own images.

NAME.bin contains the images, uint8 (N, C, H, W); NAME.json, which is written last, describes them. Images are first
appended to NAME.part, and NAME.progress records its content, so interrupted work resumes where it stopped.
"""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from diffusion.console import console, track
from diffusion.errors import UserError
from diffusion.files import cache_dir, lock, replace

EVERY = 500  # items after which the progress is recorded
PATIENCE = 7 * 24 * 3600.0  # seconds to wait for another process that is making the same images
AHEAD = 512  # items that threads process before their results are used

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Made:
    """A description of the images of some items: their names, and report entries of unused files."""

    names: list[str] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def add(self, more: "Made") -> None:
        """Append a description."""
        self.names += more.names
        self.left_out += more.left_out


Make = Callable[[int], Iterator[tuple[Sequence[np.ndarray], Made]]]
"""The number of the first item -> for each item from there on: its images, uint8 (C, H, W), and their description."""


def stored(name: Path, shape: tuple[int, int, int], make: Make) -> tuple[Tensor, Made]:
    """The images in the file `name`, uint8 (N, C, H, W), and their description; made if they are missing.

    Raises UserError if the file cannot be written.
    """
    if (found := _read(name, shape)) is not None:
        return found
    with cache_errors(), _alone(name.with_suffix(".lock")) as held:
        # Without locks, another process may be making the same file: each writes its own, and the last stays.
        return _read(name, shape) or _write(name, shape, make, "" if held else f".{uuid.uuid4().hex}")


def cache_folder(kind: str = "images") -> Path:
    """The folder of decoded images, or of another kind of data. Raises UserError if it cannot be created."""
    with cache_errors():
        return cache_dir(kind)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of the cache; empty if the file is missing or damaged."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(file: Path, value: Any) -> None:
    """Replace `file` atomically. Raises UserError if it cannot be written."""
    with cache_errors():
        replace(file, json.dumps(value, indent=1))


@contextlib.contextmanager
def cache_errors() -> Iterator[None]:
    """Context in which an OSError, such as of a full disk, becomes a UserError about the cache."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the image cache can't be written ({error}); free some space or set DIFFUSION_CACHE to a writable folder"
        ) from error


@rank_zero_only
def print_on_rank_0(line: str) -> None:
    """Print a line on rank 0 only."""
    console.print(line)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str = "image"
) -> Iterator[Result]:
    """Apply `work` to each item in threads, and yield the results in order, with a progress bar.

    For work that releases the GIL, such as Pillow's.
    """
    with ThreadPoolExecutor() as pool:
        results = (each for i in range(0, len(items), AHEAD) for each in pool.map(work, items[i : i + AHEAD]))
        yield from track(results, label, len(items), unit)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[bool]:
    """Context in which no other process has the lock `file`; false if the file system has no locks."""
    try:
        held = lock(file)
    except BlockingIOError:
        print_on_rank_0("another process is preparing these images: waiting for it")
        held = lock(file, PATIENCE)
    with held or contextlib.nullcontext():
        yield held is not None


def _read(name: Path, shape: tuple[int, int, int]) -> tuple[Tensor, Made] | None:
    """The images in the file `name`, and their description; None if one of them is missing or incomplete."""
    about, file = read_json(name.with_suffix(".json")), name.with_suffix(".bin")
    if not about or not file.exists() or file.stat().st_size != len(about["names"]) * math.prod(shape):
        return None
    n = len(about["names"])
    images = torch.from_file(str(file), size=n * math.prod(shape), dtype=torch.uint8) if n else torch.empty(0).byte()
    return images.view(n, *shape), Made(**about)


def _write(name: Path, shape: tuple[int, int, int], make: Make, own: str) -> tuple[Tensor, Made]:
    """Make the images that are still missing, in files whose names contain `own`."""
    part, log = name.with_suffix(f"{own}.part"), name.with_suffix(f"{own}.progress")
    done, made = _progress(log)
    if not part.exists() or part.stat().st_size < len(made.names) * math.prod(shape):
        done, made = 0, Made()
        log.unlink(missing_ok=True)
    with part.open("ab") as pixels, log.open("a", encoding="utf-8") as progress:
        pixels.truncate(len(made.names) * math.prod(shape))
        noted = Made()
        for items, (images, what) in enumerate(make(done), done + 1):
            pixels.writelines(np.ascontiguousarray(image).data for image in images)
            made.add(what)
            noted.add(what)
            if items % EVERY == 0:
                pixels.flush()
                os.fsync(pixels.fileno())
                progress.write(json.dumps({"items": items, **asdict(noted)}) + "\n")
                progress.flush()
                noted = Made()
    os.replace(part, name.with_suffix(".bin"))
    replace(name.with_suffix(".json"), json.dumps(asdict(made)))
    log.unlink()
    found = _read(name, shape)
    assert found is not None
    return found


def _progress(log: Path) -> tuple[int, Made]:
    """The number of finished items, and the description of their images. An incomplete last line is ignored."""
    done, made = 0, Made()
    for line in log.read_text("utf-8").splitlines() if log.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:
            break
        done = values.pop("items")
        made.add(Made(**values))
    return done, made
