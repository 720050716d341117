"""Files of numbers: arrays of numpy, images of 16 bits and of floats, whose values are neither rounded nor scaled."""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor
from torchvision.io import decode_png, read_file

from diffusion.errors import UserError, refusing

IMAGES = ("arr_0", "images", "image")  # names of arrays in an npz
Array = tuple[str, Callable[[], np.ndarray]]
"""The name of an array, and what reads it."""


def pieces(name: str, file: Path, axes: int = 2) -> Iterator[Array]:
    """The arrays (C, *size) in a file, which are read later. Raises an error for an unreadable one."""
    match file.suffix.lower():
        case ".npy":
            yield from rows(name, np.load(file, mmap_mode="r", allow_pickle=False), axes)
        case ".npz":
            with np.load(file, allow_pickle=False) as archive:
                known = [key for key in IMAGES if key in archive] or list(archive)
                if known[0] not in IMAGES and len(known) > 1:
                    raise ValueError(f"it has the arrays {', '.join(known)}; name one of them images")
                yield from rows(name, archive[known[0]], axes)
        case ".tar":
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if member.isfile() and member.name.endswith(".npy"):
                        read = partial(decoded, file, member.offset_data, member.size)
                        yield f"{name}/{member.name.removeprefix('./')}", read
        case ".png":
            yield name, lambda: decode_png(read_file(str(file))).numpy()  # Pillow rounds colours to 8 bits
        case _:
            yield name, partial(levels, name, file)


def rows(name: str, array: np.ndarray, axes: int = 2) -> Iterator[Array]:
    """One array, or each row of (N, C, *size)."""
    if array.ndim == axes + 2:
        yield from ((f"{name} {i}", partial(array.__getitem__, i)) for i in range(len(array)))
    else:
        yield name, partial(np.asarray, array)


def decoded(file: Path, start: int, size: int) -> np.ndarray:
    """The array in the bytes of an .npy file."""
    array: np.ndarray = np.load(io.BytesIO(content_of(file, start, size)), allow_pickle=False)
    return array


def levels(name: str, file: Path) -> np.ndarray:
    """The values of a TIFF, (pages, H, W), without any conversion. Raises UserError for colours."""
    pages = []
    with Image.open(file, formats=["TIFF"]) as image:
        for page in ImageSequence.Iterator(image):
            if page.mode not in ("L", "F") and not page.mode.startswith("I"):
                raise UserError(
                    f"data.root: {name} has colours ({page.mode}), of which 16 bits would be rounded to 8; save its "
                    "channels as the pages of a TIFF, or as an .npy (C, H, W)"
                )
            pages.append(np.array(page))
    return np.stack(pages)


def array_of(place: Path, shape: Sequence[int], name: str = "given") -> Tensor:
    """The arrays (m, *shape) in a file of the kinds of `Arrays`, named by a setting. Raises UserError for others."""
    where, wanted = f"{name}={place}", "×".join(map(str, shape))
    with refusing(where, f"; expected an array of {wanted}, or several"):
        read = [np.asarray(read(), dtype=np.float32) for _, read in pieces(place.name, place)]
        found = [array[None] if array.ndim == 2 else array for array in read]
        if wrong := [array.shape for array in found if array.shape != tuple(shape)]:
            raise ValueError(f"it has {'×'.join(map(str, wrong[0]))}")
        return torch.from_numpy(np.stack(found))


def content_of(file: Path, start: int, size: int) -> bytes:
    """Some bytes of a file."""
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)


def table(file: Path) -> tuple[list[str], np.ndarray]:
    """The names and the columns (C, L) of a table, without dates or equal steps at its left; an empty cell is NaN."""
    values = np.genfromtxt(file, delimiter=",", encoding="utf-8-sig", ndmin=2)
    names = [str(i + 1) for i in range(values.shape[1])]
    if np.isnan(values[0]).all():
        names, values = file.read_text("utf-8-sig").splitlines()[0].split(","), values[1:]
    step = np.diff(values[:, 0])
    is_time = np.isnan(step).all() or (step[0] > 0 and np.allclose(step, step[0]))
    first = int(values.shape[1] > 1 and is_time)
    return names[first:], values[:, first:].T
