from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Lt

from diffusion.data import ImageData, Split
from diffusion.errors import UserError
from diffusion.randomness import generator_for


class MyData(ImageData):
    """The arrays of an .npz file: `images`, uint8 (N, H, W, C), and `labels`, (N,) numbers or names.

    A random share of the images is held out for validation, another for the test; `seed` draws them.

    Args:
        file: The .npz file.
        labels: Whether the network is told the labels. false: `labels` may be missing.
        held_out: Each of the two shares.
    """

    def __init__(
        self, file: str, labels: bool = True, held_out: Annotated[float, Gt(0), Lt(0.5)] = 0.1, **options: Any
    ):
        super().__init__(**options)  # resolution, channels, batch_size, …
        self.file, self.labels, self.held_out = Path(file).expanduser(), labels, held_out

    def load(self) -> dict[str, Split]:
        """The splits, with images uint8 (N, C, H, W) and the index of each image's class in `self.classes`."""
        if not self.file.is_file():
            raise UserError(f"data.file: no file {self.file}")
        index = None
        with np.load(self.file) as arrays:
            images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
            if self.labels:
                names, index = np.unique(arrays["labels"], return_inverse=True)
                self.classes, index = [str(name) for name in names], torch.from_numpy(index)
        every = Split(images, [f"{self.file.name} {i}" for i in range(len(images))], index)
        order, n = torch.randperm(len(every), generator=generator_for(self.seed, "split")), len(every)
        ends = round(n * (1 - 2 * self.held_out)), round(n * (1 - self.held_out))
        return dict(zip(("train", "val", "test"), map(every.take, order.tensor_split(ends)), strict=True))
