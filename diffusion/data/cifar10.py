"""CIFAR-10 (Krizhevsky 2009): 60,000 photographs of 32x32 pixels, read by torchvision."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torchvision.datasets import CIFAR10

from diffusion.data.module import ImageData, Split
from diffusion.data.store import alone, cache_folder
from diffusion.errors import UserError
from diffusion.randomness import generator_for


class Cifar10(ImageData):
    """CIFAR-10 with the official test split; the seed divides the official training split into train and val.

    Args:
        root: Folder that contains cifar-10-batches-py or its archive, which is downloaded if it is missing (170 MB);
            null for the project's cache.
        resolution: Side of the images, always 32 pixels.
        channels: Always 3 (RGB).
        val: Number of validation images, taken from the 50,000 training images.
        labels: Label each image with its class, one of ten such as airplane, for a network with `model.classes`.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        resolution: Literal[32] = 32,
        channels: Literal[3] = 3,
        val: Annotated[int, Ge(0), Lt(50_000)] = 5000,
        labels: bool = False,
        **options: Any,
    ):
        super().__init__(resolution, channels, **options)
        self.root = Path(root).expanduser() if root else cache_folder("cifar10")
        self.val, self.labels = val, labels

    def load(self) -> dict[str, Split]:
        official = self._official(train=True)
        order = torch.randperm(len(official), generator=generator_for(self.seed, "split"))
        val, train = order[: self.val].sort().values, order[self.val :].sort().values
        return {"train": official.take(train), "val": official.take(val), "test": self._official(train=False)}

    def _official(self, train: bool) -> Split:
        try:
            with alone(cache_folder() / "cifar10.lock"):
                data = CIFAR10(self.root, train=train, download=True)
        except (RuntimeError, OSError) as error:  # missing or damaged files, no network, or no space on the disk
            raise UserError(
                f"CIFAR-10 is not in {self.root} and can't be downloaded ({' '.join(str(error).split())}): put "
                f"{CIFAR10.filename} there, or set data.root to its folder"
            ) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        names = [f"{'train' if train else 'test'} {i}" for i in range(len(images))]
        self.classes = list(data.classes) if self.labels else []
        return Split(images, names, torch.tensor(data.targets) if self.labels else None)
