"""Parts with mistakes that their authors make, and unusual parts, for tests of what is refused."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.data import ImageData, Split
from diffusion.metric.features import FeatureExtractor


class Plain(nn.Module):
    """A convolution. The subclasses are its variants.

    Args:
        activation: A function.
    """

    def __init__(self, activation: Any = F.silu):
        super().__init__()
        self.layer, self.activation = nn.Conv2d(3, 3, 3, padding=1), activation

    def forward(self, x: Tensor, label: Tensor) -> Any:
        return self.activation(self.layer(x))


class Volumes(Plain):
    """With a weight of five dimensions, which has no memory format channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Any:
        return super().forward(x, label) + self.deep(x[:, None])[:, 0]


class Pair(Plain):
    def forward(self, x: Tensor, label: Tensor) -> Any:
        return super().forward(x, label), label


class OneImage(Plain):
    def forward(self, x: Tensor, label: Tensor) -> Any:
        return super().forward(x, label)[:1]


class Number(Plain):
    def forward(self, x: Tensor, label: Tensor) -> Any:
        return super().forward(x, label).sum()


class Inner(Plain):
    """Passes a wrong argument to another class."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3, paddding=1)  # type: ignore[call-arg]


class State(Plain):
    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Unlabelled(Plain):
    """Without the attribute `classes`."""

    def __init__(self, classes: int = 0):
        super().__init__()

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Any:
        return super().forward(x, label)


class ShortTable(Unlabelled):
    """Without a row for "no class"."""

    def __init__(self, classes: int = 0):
        super().__init__()
        self.classes, self.table = classes, nn.Embedding(classes, 3) if classes else None

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Any:
        return super().forward(x, label) + (0 if self.table is None else self.table(classes)[:, :, None, None])


class Function:
    """Not a module."""


class Images(ImageData):
    """Grey images; `how` says what is wrong with them."""

    def __init__(self, how: str = "", **options: Any):
        super().__init__(**options)
        self.how = how

    def load(self) -> Any:
        images = torch.randint(256, (12, *self.shape), dtype=torch.uint8)
        names = [str(i) for i in range(12)]
        wrong: dict[str, Any] = {
            "float": Split(images.float() / 127.5 - 1, names),  # type: ignore[arg-type]
            "names": Split(images, names[:3]),
            "arrays": Split(images.numpy(), names),  # type: ignore[arg-type]
            "tensors": images,
        }
        part = wrong.get(self.how, Split(images, names))
        return (
            None
            if self.how == "none"
            else {"train": part, "val": part} | ({} if self.how == "missing" else {"test": part})
        )


class FixedSize(Images):
    """Its size is no argument, so a checkpoint does not know it."""

    def __init__(self) -> None:
        super().__init__(resolution=8)


class Features(FeatureExtractor):
    """The mean colour, without weights."""

    name, num_features, resize = "mine", 3, "none"
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3)) * self.scale


class Fixed(Features):
    """For images of 99×99 pixels."""

    def features(self, images: Tensor) -> Tensor:
        return images.float().flatten(1) @ torch.ones(3 * 99 * 99, 3)


class Unfrozen(Features):
    def __init__(self) -> None:
        nn.Module.__init__(self)


class Wide(Features):
    num_features = 5


def column(schedule: Any, prediction: Any, t: Tensor) -> Tensor:
    """A weight of shape (B, 1)."""
    return torch.ones(len(t), 1)
