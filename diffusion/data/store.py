"""Decoded images in a file that every process memory-maps, so a batch only needs memory for its own images.

NAME.bin contains the images, uint8 (N, C, H, W); NAME.json, which is written last, describes them. Images are first
written to NAME.part, and NAME.progress records its content, so interrupted work resumes where it stopped. NAME.bin is
assumed to be intact if its size and modification time are those in NAME.json; otherwise its hash is verified.
"""

import contextlib
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion.data.cache import print_on_rank_0, read_json, unwritable, write
from diffusion.errors import UserError
from diffusion.files import lock

EVERY, SECONDS = 1000, 10.0  # items and seconds after which the progress is recorded
CHUNK = 1 << 24  # bytes hashed at a time
PATIENCE = 7 * 24 * 3600.0  # seconds to wait for another process that is making the same images


@dataclass
class Made:
    """A description of the images of some items: their names, and report entries of unused files."""

    names: list[str] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)


class Decoded(NamedTuple):
    """The images of a file, uint8 (N, C, H, W), which are read from disk when they are used."""

    images: Tensor
    made: Made
    hash: str


Make = Callable[[int], Iterator[tuple[Sequence[np.ndarray], Made]]]
"""The number of the first item -> for each item from there on: its images, uint8 (C, H, W), and their description."""


def stored(name: Path, shape: tuple[int, int, int], make: Make) -> Decoded:
    """The images in the file `name`, which are made if they are missing or damaged.

    Raises UserError if the file cannot be written, or if it changes while it is read.
    """
    if (found := read(name, shape, complain=True)) is not None:
        return found
    try:
        held = lock(name.with_suffix(".lock"))
    except BlockingIOError:
        print_on_rank_0("another process is preparing these images: waiting for it")
        held = lock(name.with_suffix(".lock"), PATIENCE)
    except OSError as error:
        raise unwritable(name, error) from error
    with held or contextlib.nullcontext():
        if (found := read(name, shape)) is None:
            try:
                # Without locks, another process may be making the same file: each writes its own, and the last stays.
                _write(name, shape, make, "" if held is not None else f".{uuid.uuid4().hex}")
            except OSError as error:
                raise unwritable(name.with_suffix(".bin"), error) from error
            found = read(name, shape)
    if found is None:
        raise UserError(f"{name}.bin changed right after it was written; run the command again")
    return found


def read(name: Path, shape: tuple[int, int, int], complain: bool = False) -> Decoded | None:
    """The images in the file `name`; None if it is missing or damaged.

    Args:
        complain: print a message if it is damaged.
    """
    file, about = name.with_suffix(".bin"), read_json(name.with_suffix(".json"))
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    now = [status.st_size, status.st_mtime_ns]
    try:
        made, stamp, whole = Made(**about["made"]), about["stamp"], about["hash"]
        intact = status.st_size == len(made.names) * math.prod(shape)
        if intact and stamp != now and (intact := _hash(file).hexdigest() == whole):
            with contextlib.suppress(UserError):  # in a read-only cache it is hashed at each start
                write(name.with_suffix(".json"), json.dumps(about | {"stamp": now}).encode())
    except (KeyError, TypeError, OSError):
        intact = False
    if not intact:
        if complain:
            print_on_rank_0(f"the cached images in {file} are damaged: recreating them")
        return None
    flat = torch.from_file(str(file), size=status.st_size, dtype=torch.uint8) if status.st_size else torch.empty(0)
    return Decoded(flat.to(torch.uint8).view(len(made.names), *shape), made, whole)


def _write(name: Path, shape: tuple[int, int, int], make: Make, own: str = "") -> None:
    """Make the images that are still missing, in files whose names contain `own`."""
    part, log = name.with_suffix(f"{own}.part"), name.with_suffix(f"{own}.progress")
    done, made = _progress(log)
    size = len(made.names) * math.prod(shape)
    if not part.exists() or part.stat().st_size < size:
        done, made, size = 0, Made(), 0
        log.unlink(missing_ok=True)
        part.write_bytes(b"")
    os.truncate(part, size)
    sha, noted, recorded = _hash(part), Made(), time.monotonic()
    with part.open("ab") as pixels, log.open("a", encoding="utf-8") as progress:

        def note(items: int) -> None:
            pixels.flush()
            os.fsync(pixels.fileno())
            progress.write(json.dumps({"items": items, **asdict(noted)}) + "\n")
            progress.flush()

        items = done
        for items, (images, what) in enumerate(make(done), done + 1):
            for image in images:
                row = np.ascontiguousarray(image).data
                pixels.write(row)
                sha.update(row)
            for each in (made, noted):
                _extend(each, what)
            if items % EVERY == 0 or time.monotonic() - recorded > SECONDS:
                note(items)
                noted, recorded = Made(), time.monotonic()
        note(items)
    os.replace(part, name.with_suffix(".bin"))
    status = name.with_suffix(".bin").stat()
    about = {"made": asdict(made), "hash": sha.hexdigest(), "stamp": [status.st_size, status.st_mtime_ns]}
    write(name.with_suffix(".json"), json.dumps(about).encode())
    log.unlink()


def _progress(log: Path) -> tuple[int, Made]:
    """The number of finished items, and the description of their images. An incomplete last line is ignored."""
    done, made = 0, Made()
    for line in log.read_text("utf-8").splitlines() if log.exists() else []:
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            break
        done = values.pop("items")
        _extend(made, Made(**values))
    return done, made


def _extend(made: Made, more: Made) -> None:
    made.names += more.names
    made.left_out += more.left_out


def _hash(file: Path) -> Any:
    """The BLAKE2b hash object of a file's content."""
    whole = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while content := stream.read(CHUNK):
            whole.update(content)
    return whole
