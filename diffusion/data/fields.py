"""Random fields whose distribution is known, also that of fine fields given coarse ones."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from diffusion.data.arrays import GIVEN, MeasuredData
from diffusion.data.module import Split
from diffusion.errors import UserError
from diffusion.randomness import generator_for


@dataclass(eq=False, repr=False, kw_only=True)
class Fields(MeasuredData):
    """Periodic Gaussian fields x of variance 1 with the power (1 + k²)^(−slope/2) at k periods, and their block means.

    The channel coarse has the mean of each square of pixels, c = A x, in all of them; fine is x. With Σ the covariance
    of x, that of x given c is known (`posterior`):

        x | c ~ N(G c, Σ − G A Σ),    G = Σ Aᵀ (A Σ Aᵀ)⁻¹.

    Args:
        resolution: Side of the fields, a multiple of the factor.
        flip: Always false, because the fields are as many as one likes.
        factor: Side of the squares, in pixels.
        slope: How fast the power falls.
        train: Number of training fields.
        val: Number of those for validation, and for the test.
    """

    origin = "Gaussian random fields, made by diffusion-experiments."

    names: list[str] | None = None
    flip: Literal[False] = False
    factor: Annotated[int, Ge(2)] = 4
    slope: Annotated[float, Ge(0)] = 3.0
    train: Annotated[int, Ge(1)] = 4000
    val: Annotated[int, Ge(1)] = 200

    def __post_init__(self) -> None:
        self.names = ["coarse", "fine"]
        super().__post_init__()
        if any(side % self.factor for side in self.shape[1:]):
            raise UserError(f"data.factor={self.factor}: it does not divide the fields of data.resolution")

    @property
    def power(self) -> Tensor:
        """The variance of each wave, (H, W); the mean is the variance of the field, 1."""
        down, across = (torch.fft.fftfreq(side, dtype=torch.float64) * side for side in self.shape[1:])
        power = (1 + down[:, None].square() + across.square()) ** (-self.slope / 2)
        return power / power.mean()

    def load(self) -> dict[str, Split]:
        found = {}
        for name, n in (("train", self.train), ("val", self.val), ("test", self.val)):
            seed = self.seed if name == "train" else 0  # scores of all seeds compare with the same fields
            noise = torch.randn(n, 1, *self.shape[1:], generator=generator_for(seed, "fields", name)).double()
            fine = torch.fft.ifft2(torch.fft.fft2(noise) * self.power.sqrt()).real
            coarse = F.avg_pool2d(fine, self.factor)
            both = torch.cat([F.interpolate(coarse, scale_factor=self.factor), fine], dim=1).float()
            found[name] = Split(both, [f"{name} {i}" for i in range(n)])
        return self.divided(found)

    def posterior(self, split: Split) -> tuple[Tensor, Tensor]:
        """The mean (m, 1, H, W) and the deviation (1, 1, H, W) of the fine fields, given the coarse ones of a split."""
        size = self.shape[1:]
        one = torch.fft.ifft2(self.power).real  # the covariance with the pixel at the top left
        sigma = torch.stack([one.roll((i, j), (0, 1)).flatten() for i in range(size[0]) for j in range(size[1])])

        def mean_of(x: Tensor) -> Tensor:
            return F.avg_pool2d(x.view(-1, 1, *size), self.factor).flatten(1)

        of_blocks = mean_of(sigma)  # Σ Aᵀ
        gain = torch.linalg.solve(mean_of(of_blocks.T), of_blocks.T).T
        c = split.stored[GIVEN][:, 0, :: self.factor, :: self.factor].double().flatten(1)
        std = (sigma.diagonal() - (gain * of_blocks).sum(dim=1)).sqrt()
        return (c @ gain.T).view(-1, 1, *size), std.view(1, 1, *size)
