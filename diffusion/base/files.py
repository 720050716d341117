"""File utilities: package and cache folders, the version of the code, atomic replacement, locks, and hashes."""

import contextlib
import csv
import fcntl
import hashlib
import io
import os
import platform
import subprocess
import time
import unicodedata
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from diffusion.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).resolve().parents[1]
VERSION = "1.0.0"
# macOS stores é as two characters, and the order of classes must not differ.
composed = partial(unicodedata.normalize, "NFC")
PART = ".part"  # the suffix of a file that is still being written


def cache_dir(*parts: str) -> Path:
    """`$DIFFUSION_CACHE`, else `$XDG_CACHE_HOME/diffusion-experiments`, else `~/.cache/diffusion-experiments`.

    Creates the folder (joined with `parts`). Everything in it can be deleted; it is recreated when needed.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("DIFFUSION_CACHE") or home / "diffusion-experiments", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def code_version() -> str:
    """`1.0.0`; in a git checkout `1.0.0 3f9a71c2d04e` with the commit; a final `+` if tracked files have changed."""
    if not (PACKAGE.parent / ".git").exists():
        return VERSION
    git = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return f"{VERSION} {subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return VERSION


def versions() -> dict[str, str]:
    """Versions of this program and of the software that its results depend on most."""
    libraries = {name: metadata.version(name) for name in ("torch", "lightning")}
    return {"diffusion": VERSION, "python": platform.python_version(), **libraries}


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file next to `path`; rename it to `path` when the block ends. An exception leaves `path` unchanged.

    With `durable`, first the bytes and then the rename are flushed to disk, to survive a power failure.
    """
    part = _part(path)
    try:
        with part.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    finally:
        part.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def replace(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Replace the content of `path` (a string is encoded as UTF-8); for `durable` see `replacing`."""
    with replacing(path, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by its first line; with or without the mark of UTF-8 that some programs write."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [*csv.DictReader(file)]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file: a line of the names that all rows have, and a line for each row."""
    text = io.StringIO(newline="")
    (writer := csv.DictWriter(text, [*rows[0]])).writeheader()
    writer.writerows(rows)
    replace(path, text.getvalue())


def link(source: Path, path: Path) -> None:
    """Replace `path` by a hard link to `source`, durably; by a copy if the file system has no hard links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    try:
        os.link(source, part)
    except OSError:
        replace(path, source.read_bytes(), durable=True)
        return
    os.replace(part, path)
    part.unlink(missing_ok=True)  # it stays if `path` already was a link to `source`
    _sync_folder(path.parent)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where this is possible: until then, a power failure may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def lock(path: Path, patience: float = 0.0, shared: bool = False) -> BinaryIO | None:
    """Acquire the lock of the file `path`. Closing the returned file releases it, as does the end of this process.

    Returns None if the file system has no locks. Raises BlockingIOError if another process still holds the lock after
    `patience` seconds. For a `shared` lock, the file must exist.
    """
    file, kind = path.open("rb" if shared else "a+b"), fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
        except OSError:
            return None


def digest(*parts: object) -> str:
    """A hash (BLAKE2b) of the content of a single Path or buffer, otherwise of the `repr` of `parts`; 32 digits."""
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


def listed(root: Path) -> dict[str, Path]:
    """The files below `root` that may be used, by name (relative to the root), sorted.

    Output folders of commands are left out: a model must not be trained on its own samples. Raises UserError for a
    folder that cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not an existing folder; set it to a folder of images", key="data.root")
    files: dict[str, Path] = {}

    def unread(error: OSError) -> None:
        line = f"{root}: {error.filename}: {error.strerror}; allow to read it, or remove it"
        raise UserError(line, key="data.root")

    for here, folders, names in os.walk(root, onerror=unread):
        if Path(here) != root and not {"run.json", ".hydra"}.isdisjoint([*folders, *names]):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(here, name) for name in names if not name.startswith(".")):
            if file.is_file():
                name = os.fsencode(os.path.relpath(file, root)).decode("utf-8", "backslashreplace")  # may not be UTF-8
                files[composed(name)] = file
    return dict(sorted(files.items()))
