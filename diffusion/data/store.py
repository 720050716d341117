"""The cache of decoded images: files that every process memory-maps, so a batch only needs memory for its own images.

NAME.bin contains the images, uint8 (N, C, H, W); NAME.json, which is written last, their names.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from diffusion.console import track
from diffusion.errors import UserError
from diffusion.files import cache_dir, lock, replace, replacing

AHEAD = 512  # items that threads process before their results are used

Item = TypeVar("Item")
Result = TypeVar("Result")
Entry = dict[str, str]
"""A file or an image that needs attention: {"path", "reason", "action"}."""


@contextlib.contextmanager
def cache_errors() -> Iterator[None]:
    """Context in which an OSError, such as of a full disk, becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"data: the images can't be read or cached ({error}); allow it, free some space, or set DIFFUSION_CACHE to "
            "a writable folder"
        ) from error


@cache_errors()
def cache_folder(kind: str = "images") -> Path:
    """The folder of decoded images, or of another kind of data."""
    return cache_dir(kind)


@cache_errors()
def cached(file: Path, make: Callable[[], Any]) -> Any:
    """The JSON value in a file; made and written if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_bytes())
    value = make()
    replace(file, json.dumps(value, indent=1))
    return value


@cache_errors()
def stored(
    file: Path, shape: tuple[int, int, int], make: Callable[[], Iterable[tuple[str, np.ndarray | str]]]
) -> tuple[Tensor, list[str], list[Entry]]:
    """The images of a data set, uint8 (N, C, H, W), and their names; and the files that can't be used.

    Args:
        file: their place in the cache, without a suffix.
        shape: (C, H, W).
        make: makes them if they are missing: name and uint8 (C, H, W), or name and why the file can't be used.
    """
    pixels, about = file.with_suffix(".bin"), file.with_suffix(".json")

    def write() -> dict[str, Any]:
        names, unusable = [], []
        with replacing(pixels, durable=True) as stream:
            for name, image in make():
                if isinstance(image, str):
                    unusable.append({"path": name, "reason": image, "action": "left out"})
                else:
                    stream.write(image.data)
                    names.append(name)
        return {"names": names, "unusable": unusable}

    with alone(file.with_suffix(".lock")):
        if not pixels.is_file():
            about.unlink(missing_ok=True)
        known = cached(about, write)
    n = len(known["names"])
    size = n * math.prod(shape)
    images = torch.from_file(str(pixels), size=size, dtype=torch.uint8) if n else torch.empty(0).byte()
    return images.view(n, *shape), known["names"], known["unusable"]


def alone(file: Path) -> contextlib.AbstractContextManager[object]:
    """Wait until no other process has the lock `file`, and return a context in which this one has it."""
    with contextlib.suppress(OSError):  # of a folder that is read-only
        return lock(file, patience=math.inf) or contextlib.nullcontext()
    return contextlib.nullcontext()


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str = "image"
) -> Iterator[Result]:
    """Apply `work` to each item in threads, and yield the results in order, with a progress bar.

    For work that releases the GIL, such as Pillow's.
    """
    with ThreadPoolExecutor() as pool:
        results = (each for i in range(0, len(items), AHEAD) for each in pool.map(work, items[i : i + AHEAD]))
        yield from track(results, label, len(items), unit)
