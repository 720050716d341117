"""What was decoded once is kept as a file of tensors and plain values, checked by a hash, replaced in one step."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import cache_dir, replace

DIGEST = 32  # bytes of the BLAKE2b hash at the head of a cache file


def place() -> Path:
    """The folder of decoded images. `UserError` when it can't be made."""
    try:
        return cache_dir("data")
    except OSError as error:
        raise UserError(f"the image cache can't be made ({error}); set DIFFUSION_CACHE to a writable folder") from error


def digest(*parts: object) -> str:
    """A hash (32 hex digits) of the representations of `parts`: the name of what was made from them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def cached(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns (tensors and plain values), from `file` when it is whole, else made now and kept there."""
    try:
        blob = memoryview(file.read_bytes())
        if hashlib.blake2b(blob[DIGEST:], digest_size=DIGEST).digest() == blob[:DIGEST]:
            return torch.load(io.BytesIO(blob[DIGEST:]), weights_only=True)
        say(f"the cached images in {file} are damaged: making them again")
    except FileNotFoundError:
        pass
    except OSError as error:
        say(f"the cached images in {file} can't be read ({error.strerror}): making them again")
    value = make()
    buffer = io.BytesIO()
    torch.save(value, buffer)
    content = buffer.getbuffer()
    write(file, hashlib.blake2b(content, digest_size=DIGEST).digest(), content)
    return value


def write(file: Path, *parts: bytes | memoryview) -> None:
    """Replaces `file` in one step. `UserError` when it can't be written."""
    try:
        replace(file, *parts)
    except OSError as error:
        raise UserError(
            f"{file} can't be written ({error.strerror}); free some space or set DIFFUSION_CACHE to a writable folder"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when the file is missing or damaged, since it can be made again."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@rank_zero_only
def say(line: str) -> None:
    """One line on the console, from the first process only."""
    console.print(line)
