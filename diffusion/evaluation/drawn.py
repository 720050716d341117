"""Drawn images on disk, one file for each batch: processes share the batches, and a killed command goes on from them.

A file is written beside its place and renamed, so a file that exists is whole. A process draws the batches rank,
rank + processes, …; image i is the same whichever process draws it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.config.quoting import override
from diffusion.console import count
from diffusion.errors import UserError
from diffusion.files import digest, replacing

FOLDER = ".drawn"  # in the folder of a command; removed when its images are written or scored
Share = tuple[int, int]
"""(rank, processes)"""


def batches_of(n: int, batch_size: int, share: Share = (0, 1)) -> list[range]:
    """Split the indices of n images into batches, and take those of a process.

    The batches are the same for any number of processes, so rounding does not depend on it.
    """
    rank, processes = share
    starts = range(rank * batch_size, n, processes * batch_size)
    return [range(first, min(first + batch_size, n)) for first in starts]


@dataclass(frozen=True)
class Drawn:
    """The files of `n` images, drawn in batches of `batch_size`."""

    folder: Path
    n: int
    batch_size: int

    @classmethod
    def of(cls, folder: Path, n: int, batch_size: int, source: Mapping[str, Any]) -> "Drawn":
        """The images in a command's `folder` that are drawn as `source` says, in plain values.

        Each source has its own subfolder, so images drawn in another way are never mistaken for these.
        """
        about = json.dumps([n, batch_size, source], sort_keys=True)
        return cls(folder / FOLDER / digest(about), n, batch_size)

    def missing(self, share: Share = (0, 1)) -> list[range]:
        """The batches of a process that are not drawn yet."""
        return [batch for batch in batches_of(self.n, self.batch_size, share) if not self._file(batch).is_file()]

    def put(self, batch: range, images: Tensor, seconds: float) -> None:
        """Keep the images of a batch, uint8 (B, C, H, W), and the time that it took."""
        file = self._file(batch)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file, durable=True) as part:
                torch.save({"images": images, "seconds": seconds}, part)
        except OSError as error:
            why = error.strerror or "not writable"
            raise UserError(f"{file} can't be written ({why}); free some space, and rerun the command") from error

    def images(self) -> Tensor:
        """All images, uint8 (n, C, H, W), once they are drawn."""
        return torch.cat([batch["images"] for batch in self._read()])

    def seconds(self) -> float:
        """The time that all processes took together."""
        return sum(batch["seconds"] for batch in self._read())

    def remove(self) -> None:
        """Remove the files, and those of images that were drawn in another way in the same folder."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _file(self, batch: range) -> Path:
        return self.folder / f"{batch.start}-{batch.stop}.pt"

    def _read(self) -> Iterator[dict[str, Any]]:
        for batch in batches_of(self.n, self.batch_size):
            yield torch.load(self._file(batch), weights_only=True)


def kept(folder: Path, *drawn: Drawn) -> str:
    """A message: how many images are drawn in a command's folder, and how to draw the rest."""
    n, left = sum(each.n for each in drawn), sum(len(batch) for each in drawn for batch in each.missing())
    same = f"the same command with {override('hydra.run.dir', folder)}"
    return f"{n - left:,} of {count(n, 'image')} are kept in {folder / FOLDER}; {same} draws the rest"
