"""Data whose distribution is known: points of the plane, or images, drawn from a mixture of Gaussians."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from diffusion.data.module import ImageData, Split
from diffusion.kinds.kind import Kind
from diffusion.kinds.pixels import Pixels
from diffusion.kinds.points import PlanePoints
from diffusion.randomness import generator_for


@dataclass(eq=False, repr=False)
class Drawn(ImageData):
    """Independent draws from a mixture (`process.mixture`), of which the best denoiser is known.

    Args:
        resolution: 1 for points; else the side of the images, or [HEIGHT,WIDTH].
        channels: 2 for points of the plane, float32 (2, 1, 1); 1 or 3 for images, in 8 bits.
        mixture: The distribution. In images, its coordinates are the factors of smooth patterns.
        flip: Always false, because a mirrored image is no draw from the mixture.
        train: Number of training points or images.
        val: Number of those for validation, and for the test.
        labels: Label each with its class, such as its moon, for a network with `model.classes`.
    """

    origin = "Draws from a mixture of Gaussians, made by diffusion-experiments."

    channels: Literal[1, 2, 3] = 2  # type: ignore[assignment]
    flip: Literal[False] = False
    mixture: Any = None
    train: Annotated[int, Ge(1)] = 50_000
    val: Annotated[int, Ge(1)] = 2000
    labels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.truth = self.mixture if self.channels == 2 else self.mixture.in_images(*self.shape)

    def make_kind(self) -> Kind:
        return PlanePoints() if self.channels == 2 else Pixels()

    def load(self) -> dict[str, Split]:
        self.classes = [str(k) for k in range(self.truth.classes)] if self.labels else []
        found = {}
        for name, n in (("train", self.train), ("val", self.val), ("test", self.val)):
            seed = self.seed if name == "train" else 0  # scores of all seeds compare with the same points
            x, classes = self.truth.sample(n, generator_for(seed, "points", name))
            names = [f"{name} {i}" for i in range(n)]
            found[name] = Split(self.kind.outside(x.view(n, *self.shape)), names, classes if self.labels else None)
        return found
