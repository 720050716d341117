"""Drawn images on disk: several processes fill one file batch by batch, and the file survives them.

So memory holds only one batch at a time, however many images there are, and a killed command resumes where it stopped.
`drawn.bin` contains the pixels, then one byte per batch that is 1 once the batch is written; `drawn.json` records how
the images are drawn.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.config.quoting import override
from diffusion.console import console, count
from diffusion.errors import UserError, first_line
from diffusion.files import replace


def batches_of(n: int, batch_size: int, share: tuple[int, int] = (0, 1)) -> list[range]:
    """Split the indices of n images into batches; `share` = (rank, devices) selects batches rank, rank + devices, ….

    The batches are the same for any number of devices, so rounding does not depend on it.
    """
    rank, devices = share
    starts = range(rank * batch_size, n, devices * batch_size)
    return [range(first, min(first + batch_size, n)) for first in starts]


@dataclass(frozen=True)
class Drawn:
    """`n` images of a `shape` (C, H, W) in a file, drawn in batches of `batch_size`."""

    file: Path
    n: int
    shape: tuple[int, int, int]
    batch_size: int

    @classmethod
    def begin(
        cls,
        file: Path,
        n: int,
        shape: tuple[int, int, int],
        batch_size: int,
        source: Mapping[str, Any],
        discard: bool = False,
    ) -> "Drawn":
        """Open a partially drawn `file`, or create a new one; call it in one process, before the others draw.

        Args:
            source: how the images are drawn, as plain values.
            discard: remove images from another source, with a message.

        Raises UserError if the file contains images from another source, unless they are discarded.
        """
        drawn = cls(file, n, shape, batch_size)
        about = {"n": n, "shape": [*shape], "batch_size": batch_size, **json.loads(json.dumps(source))}
        try:
            before = json.loads(drawn.label.read_text("utf-8")) if file.is_file() else None
        except (OSError, ValueError):
            before = None  # the origin of the pixels is unknown
        if isinstance(before, dict):
            changed = sorted(key for key in {*before, *about} if before.get(key) != about.get(key))
            if changed and not discard:
                what = changed[0]
                raise UserError(
                    f"{file}: contains part of another command's images: their {what} is {before.get(what)!r}, now "
                    f"{about.get(what)!r}; rerun that command, choose another hydra.run.dir, or remove the file"
                )
            if changed:
                console.print(f"{file}: contains part of other images; removed, and all are drawn again")
            elif file.stat().st_size == drawn.size:
                return drawn
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                stream.truncate(drawn.size)
            replace(drawn.label, json.dumps(about, indent=1))
        except OSError as error:
            raise drawn.unwritable(error) from error
        return drawn

    @property
    def label(self) -> Path:
        """The file that records how the images are drawn."""
        return self.file.with_suffix(".json")

    @property
    def pixels(self) -> int:
        """The size of all images in bytes."""
        return self.n * math.prod(self.shape)

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.pixels + math.ceil(self.n / self.batch_size)

    def missing(self, share: tuple[int, int] = (0, 1)) -> list[range]:
        """The batches of a device that are not drawn yet; `share` is (rank, devices)."""
        with self.file.open("rb") as stream:
            stream.seek(self.pixels)
            there = stream.read()
        return [batch for batch in batches_of(self.n, self.batch_size, share) if not there[self._number(batch)]]

    def put(self, batch: range, images: Tensor) -> None:
        """Write the images of a batch, uint8 (B, C, H, W), and mark it as drawn once they are flushed to disk."""
        try:
            with self.file.open("r+b") as stream:
                stream.seek(batch.start * math.prod(self.shape))
                stream.write(images.contiguous().numpy().data)
                stream.flush()
                os.fsync(stream.fileno())
                stream.seek(self.pixels + self._number(batch))
                stream.write(b"\1")
        except OSError as error:
            raise self.unwritable(error) from error

    def images(self) -> Tensor:
        """All images, uint8 (n, C, H, W), memory-mapped. Raises UserError if some are missing.

        They stay readable after `remove`.
        """
        if left := sum(map(len, self.missing())):
            raise UserError(f"{self.file}: {left} of {count(self.n, 'image')} are missing; draw them first")
        flat = torch.from_file(str(self.file), size=self.pixels, dtype=torch.uint8)
        return flat.view(self.n, *self.shape)

    def remove(self) -> None:
        """Remove the files."""
        self.file.unlink(missing_ok=True)
        self.label.unlink(missing_ok=True)

    def resume_hint(self) -> str:
        """A message: how many images are drawn, and how to draw the rest."""
        there = self.n - sum(map(len, self.missing()))
        same = f"the same command with {override('hydra.run.dir', self.file.parent)}"
        return f"{there:,} of {count(self.n, 'image')} are kept in {self.file}; {same} draws the rest"

    def unwritable(self, error: OSError) -> UserError:
        """The error for images that cannot be written to disk."""
        why = error.strerror or first_line(error)
        return UserError(f"{self.file} can't be written ({why}); free {self.size:,} bytes, and rerun the command")

    def _number(self, batch: range) -> int:
        return batch.start // self.batch_size
