"""The cache of decoded images: files that every process memory-maps, so a batch only needs memory for its own images.

NAME.bin contains the images, uint8 (N, C, H, W); NAME.json, which is written last, describes them.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from diffusion.console import console, track
from diffusion.errors import UserError
from diffusion.files import cache_dir, lock, replace, replacing

PATIENCE = 7 * 24 * 3600.0  # seconds to wait for another process that is making the same images
AHEAD = 512  # items that threads process before their results are used

Item = TypeVar("Item")
Result = TypeVar("Result")


class Made(NamedTuple):
    """Images of a file, uint8 (C, H, W), with their names; and report entries of unused files."""

    images: Sequence[np.ndarray]
    names: Sequence[str]
    left_out: Sequence[dict[str, str]] = ()


def stored(
    name: Path, shape: tuple[int, int, int], make: Callable[[], Iterator[Made]]
) -> tuple[Tensor, list[str], list[dict[str, str]]]:
    """The images in the file `name`, uint8 (N, C, H, W), their names, and report entries; made if they are missing.

    Raises UserError if the file cannot be written.
    """
    about, pixels, size = name.with_suffix(".json"), name.with_suffix(".bin"), math.prod(shape)
    with cache_errors(), alone(name.with_suffix(".lock")):
        known = read_json(about)
        if not known or not pixels.is_file() or pixels.stat().st_size != len(known["names"]) * size:
            known = {"names": [], "left_out": []}
            with replacing(pixels) as file:
                for made in make():
                    file.writelines(image.data for image in made.images)
                    known["names"] += made.names
                    known["left_out"] += made.left_out
            write_json(about, known)
    n = len(known["names"])
    images = torch.from_file(str(pixels), size=n * size, dtype=torch.uint8) if n else torch.empty(0).byte()
    return images.view(n, *shape), known["names"], known["left_out"]


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


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Context in which no other process has the lock `file`, if there are locks and the folder is not read-only."""
    held = None
    try:
        held = lock(file, patience=1.0)
    except BlockingIOError:
        print_on_rank_0("another process is preparing these images: waiting for it")
        held = lock(file, PATIENCE)
    except OSError:
        pass
    with held or contextlib.nullcontext():
        yield


print_on_rank_0 = rank_zero_only(console.print)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str = "image"
) -> Iterator[Result]:
    """Apply `work` to each item in threads, and yield the results in order, with a progress bar.

    For work that releases the GIL, such as Pillow's.
    """
    with ThreadPoolExecutor() as pool:
        results = (each for i in range(0, len(items), AHEAD) for each in pool.map(work, items[i : i + AHEAD]))
        yield from track(results, label, len(items), unit)
