"""Signals in files, or those of an autoregressive process, whose distribution is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, MinLen

from diffusion.data.arrays import Arrays
from diffusion.data.module import Split
from diffusion.kinds.kind import Kind
from diffusion.kinds.signals import Signals
from diffusion.process.gaussian import Autoregressive, Gaussian
from diffusion.randomness import generator_for


@dataclass(eq=False, repr=False, kw_only=True)
class Series(Arrays):
    """Signals in files; without a root, series x_i = Σ_k a_k x_{i−k} + ε_i (`process.gaussian.Autoregressive`).

    Args:
        root: As of `Arrays`; null: the series of a process, of which the best denoiser and all forecasts are known.
        coefficients: a_1, a_2, … of this process.
        deviation: That of its noise ε.
        train: Number of training series of the process.
        held_out: Number of those for validation, and for the test.
    """

    origin = "Signals of the model's author, or of an autoregressive process, made by diffusion-experiments."

    root: str | Path | None = None  # type: ignore[assignment]
    coefficients: Annotated[Sequence[float], MinLen(1)] = (1.6, -0.8)
    deviation: Annotated[float, Gt(0)] = 1.0
    train: Annotated[int, Ge(1)] = 4000
    held_out: Annotated[int, Ge(1)] = 200

    def __post_init__(self) -> None:
        self.process = Autoregressive(self.coefficients, self.deviation)
        if self.root is None:
            deviation = float(self.process.autocovariance(1)[0].sqrt())
            self.channels, self.mean, self.std = 1, [0.0], [deviation]
        super().__post_init__()
        if self.root is None:
            series = self.process.series(self.shape[1])
            self.truth = Gaussian(series.mean, series.covariance / (2 * deviation) ** 2)

    def make_kind(self) -> Kind:
        return self.kind or Signals()

    def load(self) -> dict[str, Split]:
        if self.root is not None:
            return super().load()
        series, found = self.process.series(self.shape[1]), {}
        for name, n in (("train", self.train), ("val", self.held_out), ("test", self.held_out)):
            seed = self.seed if name == "train" else 0  # scores of all seeds compare with the same series
            x = series.sample(n, generator_for(seed, "series", name))
            found[name] = Split(x[:, None].to(torch.float32), [f"{name} {i}" for i in range(n)])
        return self.divided(found)
