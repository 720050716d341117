"""`Drawing`: the sampler, guidance, classes and noise that samples are drawn with."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.provenance import network_hash
from diffusion.console import console, count, progress_bar
from diffusion.data import to_uint8
from diffusion.errors import NotFinite, UserError
from diffusion.evaluation.classes import NONE, conditions
from diffusion.evaluation.cost import evaluations, print_estimate
from diffusion.evaluation.drawn import Drawn, Share, batches_of
from diffusion.evaluation.guided import UNLABELLED, check_label_dropout, has_classes
from diffusion.files import tensor_digest
from diffusion.process.denoiser import Conditioned, Denoise, Denoiser, Estimate, MixedPrecision
from diffusion.process.editing import Between
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, seeds_for

Watch = Callable[[int, int, Tensor, Estimate], None]
"""Called after every step: index of the batch's first image, step k (from 1), x (B, C, H, W), the estimate."""

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Drawing:
    """Draws samples from a denoiser; sample i does not depend on n, the batches or the processes.

    `labels` are as for `classes.conditions`. Without labels, the samples have the class proportions of `counts`, the
    number of images in each class; `counts` is empty for a model without labels. `weak` is the worse model of the
    guidance, if it has one; a drawing `waits` if this is the training run itself, at a step that it has not reached.

    With `between`, a pair of seeds, the images interpolate from image 0 of the first seed to image 0 of the second.
    `precision` is that of the network's products: one of `MIXED`, or None for that of the weights. Samples that are not
    finite are an error if `finite`; otherwise, as in training, a warning is printed.
    """

    sampler: Sampler
    shape: tuple[int, int, int]  # (C, H, W)
    seed: int
    guidance: Guidance | None = None
    weak: Denoiser | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    labels: int | str | Sequence[int | str] | None = None
    between: tuple[int, int] | None = None
    precision: str | None = None
    finite: bool = False
    waits: bool = False

    def __call__(
        self,
        denoiser: Denoiser,
        n: int,
        device: torch.device,
        batch_size: int = 64,
        description: str | None = None,
        watch: Watch | None = None,
        share: Share = (0, 1),
    ) -> Tensor:
        """Draw n samples, uint8 (n, C, H, W) on the CPU.

        Args:
            description: label of the progress bar; None: no bar.
            watch: called after every step.
            share: draw only the batches of this process, see `batches_of`.
        """
        drawn = self._draw(denoiser, n, batches_of(n, batch_size, share), device, description, watch)
        return torch.cat([torch.empty(0, *self.shape, dtype=torch.uint8), *(images for _, images in drawn)])

    def begin(self, folder: Path, denoiser: Denoiser, n: int, batch_size: int, source: Mapping[str, Any]) -> Drawn:
        """The files in a command's folder that n samples are drawn into; some may be there already.

        Args:
            source: the sampler and the guidance, see `source_of`.
        """
        about = {name: tensor_digest({name: rows}) for name, rows in self.conditions(denoiser, n).items()}
        about |= {"weights": network_hash(denoiser.network), **self.weak_source}
        return Drawn.of(folder, n, batch_size, {**source, **about, "seed": self.seed})

    def into(
        self,
        drawn: Drawn,
        denoiser: Denoiser,
        device: torch.device,
        description: str | None = None,
        watch: Watch | None = None,
        share: Share = (0, 1),
    ) -> None:
        """Draw the missing samples of a process's share into their files; the arguments are those of a call."""
        began = time.perf_counter()
        for batch, images in self._draw(denoiser, drawn.n, drawn.missing(share), device, description, watch):
            drawn.put(batch, images, time.perf_counter() - began)
            began = time.perf_counter()

    def _draw(
        self,
        denoiser: Denoiser,
        n: int,
        batches: Sequence[range],
        device: torch.device,
        description: str | None,
        watch: Watch | None,
    ) -> Iterator[tuple[range, Tensor]]:
        """Yield the indices and images, uint8 (B, C, H, W) on the CPU, of `batches` of the n samples, once drawn."""
        conditions, denoise = self.conditions(denoiser, n), self.guided(denoiser, device)
        total = sum(map(len, batches)) * self.sampler.steps
        with progress_bar(enabled=description is not None) as progress:
            bar = progress.add_task(description or "", total=total, unit="im·step", note="")
            for indices in batches:
                streams = self.streams(indices, n, device)

                def after_step(k: int, x: Tensor, estimate: Estimate, first: int = indices.start) -> None:
                    progress.update(bar, advance=len(x))
                    if watch is not None:
                        watch(first, k, x, estimate)

                given = {name: rows[list(indices)].to(device) for name, rows in conditions.items()}
                under = Conditioned(denoise, **given) if given else denoise
                x0 = self.sampler(under, streams.normal(*self.shape), streams, after_step)
                if wrong := int((~x0.isfinite()).flatten(1).any(dim=1).sum()):
                    problem = f"{wrong} of {count(len(x0), 'sample')} {'is' if wrong == 1 else 'are'} not finite"
                    if self.finite:
                        raise NotFinite(f"{problem}; use another checkpoint or precision=null")
                    console.print(f"warning: {problem}", style="yellow")
                yield indices, to_uint8(x0).cpu()

    def conditions(self, denoiser: Denoiser, n: int) -> dict[str, Tensor]:
        """The network's inputs besides x_t and t, for n samples. Raises UserError for an unknown class.

        With `between`, all samples get the inputs of the first.
        """
        if self.between is None:
            return conditions(self.labels, n, denoiser.network, self.counts)
        first = conditions(self.labels, 1, denoiser.network, self.counts)
        return {name: row.expand(n) for name, row in first.items()}

    def guided(self, denoiser: Denoiser, device: torch.device | str = "cpu") -> Denoise:
        """The denoiser with the guidance, in the precision. Raises UserError if they do not fit together."""
        if self.guidance is None:
            return self.in_precision(denoiser)
        return self.in_precision(self.guidance(denoiser, None if self.weak is None else self.weak.to(device)))

    def in_precision(self, denoise: Denoise) -> Denoise:
        """The denoiser, computing in the drawing's precision."""
        return denoise if self.precision is None else MixedPrecision(denoise, MIXED[self.precision])

    def check(self, denoiser: Denoiser, label_dropout: float, device: torch.device | str = "cpu") -> None:
        """Raise UserError if the labels, the guidance and the model do not fit together.

        Args:
            label_dropout: the label dropout that the model was trained with.
        """
        given, known = self.conditions(denoiser, 1), has_classes(denoiser)
        self.guided(denoiser, device)
        if known and self.labels == NONE and label_dropout == 0:
            raise UserError(f"label={NONE}: {UNLABELLED}; choose a class")
        if self.guidance is None:
            return
        if self.weak is None:
            check_label_dropout(self.guidance, label_dropout)
        if self.guidance.drops_labels and not known:
            raise UserError(
                "guidance: the model was trained without labels, which classifier-free guidance needs; use "
                "guidance=none"
            )
        self.guidance.weak_conditions(given)

    def streams(self, indices: Sequence[int], n: int, device: torch.device) -> Streams:
        """The random streams of the samples at `indices`, out of n."""
        if self.between is None:
            return Streams(seeds_for(self.seed, "sample", last=indices), device)
        seeds, others = (seeds_for(end, "sample", last=[0] * len(indices)) for end in self.between)
        return Between(seeds, others, [i / max(1, n - 1) for i in indices], device)

    def evaluations(self, schedule: Schedule) -> int:
        """Network evaluations per sample (NFE)."""
        return evaluations(self.sampler, schedule, self.guidance)

    def print_cost(
        self,
        denoiser: Denoiser,
        n: int,
        batch_size: int,
        device: torch.device,
        untrained: int = 0,
        devices: int = 1,
    ) -> float:
        """Print how many evaluations `n` samples need and how long they will take; returns the seconds.

        Args:
            untrained: Number of additional samples to draw from an untrained network.
            devices: Number of processes; the estimate is for the first one, which draws the most.
        """
        nfe = self.evaluations(denoiser.schedule)
        work = f"{count(n, 'sample')} × {count(nfe, 'network evaluation')}"
        total = most_of(n, batch_size, devices) * nfe
        if untrained:
            work += f", and {untrained} of an untrained network"
            total += most_of(untrained, batch_size, devices) * self.unguided.evaluations(denoiser.schedule)
        return print_estimate(work, self.in_precision(denoiser), self.shape, n, total, batch_size, device)

    @property
    def weak_source(self) -> dict[str, str]:
        """The weights of the worse model, for a score's source; {} without one."""
        return {} if self.weak is None else {"guidance_hash": network_hash(self.weak.network)}

    @property
    def in_training(self) -> "Drawing":
        """The drawing to use during training: without guidance while the worse model does not exist yet (`waits`)."""
        return self.unguided if self.waits else self

    @property
    def unguided(self) -> "Drawing":
        """The drawing without guidance, for example for an untrained network."""
        return replace(self, guidance=None, weak=None, waits=False)


def most_of(n: int, batch_size: int, processes: int) -> int:
    """The number of samples, out of n, that the first of several processes draws; no other one draws more."""
    return sum(map(len, batches_of(n, batch_size, (0, processes))))


def source_of(
    sampler: Mapping[str, Any], guidance: Mapping[str, Any] | None, precision: str | None = None
) -> dict[str, Any]:
    """The configuration of the sampler and the guidance, and the precision if it is mixed, for a score's source."""
    source: dict[str, Any] = {"sampler": describe_sampler(sampler)}
    if guidance:
        source["guidance"] = describe_sampler(guidance)
    return source | {"precision": precision} if precision else source


def describe_sampler(node: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's configuration for the source of a score: names and values, including those of its parts.

    Infinite numbers become strings, "inf", because JSON has none.
    """

    def described(value: Any) -> Any:
        if isinstance(value, Mapping):
            return describe_sampler(value)
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    values = {key: described(value) for key, value in node.items() if not key.startswith("_")}
    return {"name": str(node["_target_"]).rpartition(".")[2], **values}
