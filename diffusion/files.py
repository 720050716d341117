"""File utilities: package and cache folders, atomic replacement of files, locks, and hashes."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from diffusion.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).resolve().parent
VERSION = "0.1.0"
PART = ".part"  # the suffix of a file that is still being written
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # errors of file systems that cannot flush a folder


def cache_dir(*parts: str) -> Path:
    """`$DIFFUSION_CACHE`, else `$XDG_CACHE_HOME/diffusion-experiments`, else `~/.cache/diffusion-experiments`.

    Creates the folder (joined with `parts`). Everything in it can be deleted; it is recreated when needed. Raises
    UserError if there is no home folder.
    """
    chosen = os.environ.get("DIFFUSION_CACHE")
    try:
        home = chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError("there is no home folder for cached images: set DIFFUSION_CACHE to a folder") from error
    folder = Path(home) if chosen else Path(home) / "diffusion-experiments"
    folder = folder.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file next to `path`; rename it to `path` when the block ends. An exception leaves `path` unchanged.

    With `durable`, first the bytes and then the rename are flushed to disk, to survive a power failure. An OSError
    names `path`.
    """
    with _beside(path, durable) as part, part.open("xb") as file:
        yield file
        if durable:
            file.flush()
            os.fsync(file.fileno())


def replace(path: Path, *parts: str | bytes | memoryview, durable: bool = False) -> None:
    """Replace the content of `path` with `parts` (strings are encoded as UTF-8); for `durable` see `replacing`."""
    with replacing(path, durable) as file:
        file.writelines(part.encode() if isinstance(part, str) else part for part in parts)


def link(source: Path, path: Path) -> None:
    """Create `path` as a hard link to `source`, durably; copy if the file system has no hard links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path, durable=True) as part:
        try:
            os.link(source, part)
        except OSError:
            copy(source, part)


def copy(source: Path, path: Path) -> None:
    """Copy a file, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, replacing(path, durable=True) as new:
        shutil.copyfileobj(old, new, 1 << 20)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to make room for a new one. Returns its new path, such as `scores.json.damaged1`."""
    candidates = (path.with_name(f"{path.name}.damaged{number}") for number in itertools.count(1))
    return path.rename(next(aside for aside in candidates if not aside.exists()))


def lock(path: Path, patience: float = 0.0, shared: bool = False) -> BinaryIO | None:
    """Acquire the lock of the file `path`. Closing the returned file releases it.

    The lock is visible to all processes on the same file system and is released when this process ends, for any reason.
    Returns None if the file system has no locks. Raises BlockingIOError if another process still holds the lock after
    `patience` seconds.

    Args:
        shared: Acquire a shared lock; `path` must then exist, and is not written to.
    """
    file = path.open("rb" if shared else "a+b")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise
            time.sleep(0.05)
        except OSError:
            file.close()
            return None
        else:
            return file


def digest(*parts: object) -> str:
    """A hash, 32 hexadecimal digits: of the content of a single Path or buffer, otherwise of the `repr` of `parts`.

    For example `digest(path)`, `digest(array.data)`, `digest("tiles", 64)`. It is a BLAKE2b.
    """
    new = partial(hashlib.blake2b, digest_size=16)
    match parts:
        case (Path() as file,):
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, new).hexdigest()
        case (bytes() | memoryview() as content,):
            return new(content).hexdigest()
    return new(repr(parts).encode()).hexdigest()


def tensor_digest(tensors: "Mapping[str, Tensor]") -> str:
    """The SHA-256 (hexadecimal) of the names, dtypes, shapes and bytes of `tensors`, in any order, on any device."""
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files that killed writers have left in `folder`."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def free_space(folder: Path) -> int:
    """Free bytes on the disk of a folder, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def _beside(path: Path, durable: bool) -> Iterator[Path]:
    """Yield the name of a file next to `path`, which is renamed to `path` when the block ends."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(part):
            error.filename = str(path)
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk: until then, a power failure may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
