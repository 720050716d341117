"""How samples are drawn: by which sampler and guidance, of which classes, from which noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import restore
from diffusion.config.build import make
from diffusion.console import count
from diffusion.errors import UserError
from diffusion.evaluation.classes import conditions
from diffusion.evaluation.cost import evaluations, print_estimate
from diffusion.evaluation.generate import generate, seeds_of
from diffusion.evaluation.pipeline import describe_sampler
from diffusion.process.denoiser import Denoise, Denoiser, Estimate
from diffusion.process.editing import Between
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule


@dataclass(frozen=True)
class Drawing:
    """Draws samples from a denoiser; sample i is the same whatever n, the batches and the devices are.

    `labels` are those of `classes.conditions`, and `counts` the images of each class whose proportions the samples have
    without them; empty for a model without labels. `weak` is the worse model of the guidance, where it has one.

    With `between`, two seeds, the images are on the way from image 0 of the one to image 0 of the other.
    """

    sampler: Sampler
    shape: tuple[int, int, int]  # (C, H, W)
    seed: int
    guidance: Guidance | None = None
    weak: Denoiser | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    labels: int | str | Sequence[int | str] | None = None
    between: tuple[int, int] | None = None

    def __call__(
        self,
        denoiser: Denoiser,
        n: int,
        device: torch.device,
        batch_size: int = 64,
        description: str | None = None,
        watch: Callable[[int, int, Tensor, Estimate], None] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Tensor:
        """uint8 (n, C, H, W) on the CPU; see `generate`."""
        given = self.conditions(denoiser, n)
        guided = self.guided(denoiser, device)
        streams_of = None if self.between is None else partial(self.streams_between, self.between, n, device)
        return generate(
            guided, self.sampler, n, self.shape, self.seed, device, batch_size, description, watch, share, given,
            streams_of,
        )  # fmt: skip

    def conditions(self, denoiser: Denoiser, n: int) -> dict[str, Tensor]:
        """What the network is given beside x_t and t for n samples. Raises UserError for a class that there is not.

        With `between` all are given what the first one is.
        """
        if self.between is None:
            return conditions(self.labels, n, denoiser.network, self.counts)
        first = conditions(self.labels, 1, denoiser.network, self.counts)
        return {name: row.expand(n) for name, row in first.items()}

    def guided(self, denoiser: Denoiser, device: torch.device | str = "cpu") -> Denoise:
        """The denoiser with the guidance. Raises UserError where they do not fit."""
        if self.guidance is None:
            return denoiser
        return self.guidance(denoiser, None if self.weak is None else self.weak.to(device))

    @staticmethod
    def streams_between(ends: tuple[int, int], n: int, device: torch.device, indices: Sequence[int]) -> Between:
        """The random streams of the images at `indices` of n on the way from one seed to another."""
        seeds, others = (seeds_of(end, [0] * len(indices)) for end in ends)
        return Between(seeds, others, [i / max(1, n - 1) for i in indices], device)

    def evaluations(self, schedule: Schedule) -> int:
        """Network evaluations for each sample."""
        return evaluations(self.sampler, schedule, self.guidance)

    def print_cost(
        self, denoiser: Denoiser, n: int, batch_size: int, device: torch.device, untrained: int = 0
    ) -> float:
        """Print how many evaluations `n` samples need and how long they will take; returns the seconds.

        Args:
            untrained: How many samples of an untrained network are drawn besides.
        """
        nfe = self.evaluations(denoiser.schedule)
        work, total = f"{count(n, 'sample')} × {count(nfe, 'network evaluation')}", n * nfe
        if untrained:
            work += f", and {untrained} of an untrained network"
            total += untrained * self.unguided.evaluations(denoiser.schedule)
        return print_estimate(work, denoiser, self.shape, n, total, batch_size, device)

    @property
    def unguided(self) -> "Drawing":
        """The same without guidance, as an untrained network is sampled."""
        return replace(self, guidance=None, weak=None)


def make_guidance(
    node: Mapping[str, Any] | None, shape: tuple[int, int, int], label_dropout: float, own: Path | None
) -> tuple[Guidance | None, Denoiser | None]:
    """The guidance of a configuration, and the worse model that it names.

    Args:
        shape: (C, H, W) of the model's images.
        label_dropout: of the model's training.
        own: the file of the model, whose other weights `guidance.weights` may mean; None in training.

    Raises UserError where they do not fit together.
    """
    if not node:
        return None, None
    guidance: Guidance = make(dict(node), "guidance")
    file = None if guidance.weights is None else own
    if guidance.ckpt is not None:
        file = trained(guidance.ckpt)
    elif file is None and guidance.weights is not None:
        raise UserError(
            f"guidance.weights={guidance.weights}: in training it needs guidance.ckpt, the model whose weights they are"
        )
    if file is None:
        if guidance.drops_labels and label_dropout == 0:
            raise UserError(
                "guidance: the model was trained with label_dropout=0, so it knows no estimate without a label; train "
                "it with label_dropout=0.1, or give an unconditional model, guidance.ckpt=…"
            )
        return guidance, None
    restored = restore(file, guidance.weights or "ema")
    if restored.shape != shape:
        raise UserError(
            f"guidance.ckpt={file}: its images are {describe_shape(restored.shape)}, and those of the model "
            f"{describe_shape(shape)}; choose a model of the same images"
        )
    return guidance, restored.denoiser


def describe_shape(shape: tuple[int, int, int]) -> str:
    """`3×64×64`."""
    return "×".join(map(str, shape))


def source_of(sampler: Mapping[str, Any], guidance: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a score's source says of how its samples were drawn: the configuration of the sampler and the guidance."""
    source = {"sampler": describe_sampler(sampler)}
    return source | {"guidance": describe_sampler(guidance)} if guidance else source
