"""The cache of decoded images: its folder, the names of what is in it, and files that are replaced atomically."""

import contextlib
import gc
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import cache_dir, replace


def cache_folder(kind: str = "data") -> Path:
    """The folder of decoded images, or of another kind of data. Raises UserError if it cannot be created."""
    try:
        return cache_dir(kind)
    except OSError as error:
        raise UserError(
            f"the image cache can't be created ({error}); set DIFFUSION_CACHE to a writable folder"
        ) from error


def digest(*parts: object) -> str:
    """A hash (32 hexadecimal digits) of the `repr` of `parts`, to name what is made from them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def write(file: Path, content: bytes) -> None:
    """Replace `file` atomically. Raises UserError if it cannot be written."""
    try:
        replace(file, content)
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(file: Path, error: OSError) -> UserError:
    """The error for a cache file that cannot be written."""
    return UserError(
        f"{file} can't be written ({error.strerror}); free some space or set DIFFUSION_CACHE to a writable folder"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of the cache; empty if the file is missing or damaged."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Disable garbage collection, which would scan a million new lists and tuples again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@rank_zero_only
def print_on_rank_0(line: str) -> None:
    """Print a line on rank 0 only."""
    console.print(line)
