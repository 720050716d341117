"""`Drawing`: the sampler, guidance, classes and noise that samples are drawn with."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint import early
from diffusion.checkpoint.find import trained
from diffusion.checkpoint.provenance import network_hash
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.console import console, count, progress_bar
from diffusion.data import to_uint8
from diffusion.errors import NotFinite, UserError
from diffusion.evaluation.classes import NONE, conditions
from diffusion.evaluation.cost import evaluations, print_estimate
from diffusion.evaluation.drawn import Drawn, batches_of
from diffusion.evaluation.pipeline import describe_sampler
from diffusion.files import tensor_digest
from diffusion.process.denoiser import Conditioned, Denoise, Denoiser, Estimate, MixedPrecision
from diffusion.process.editing import Between, Edited
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, seeds_for

Watch = Callable[[int, int, Tensor, Estimate], None]
"""Called after every step: index of the batch's first image, step k (from 1), x (B, C, H, W), the estimate."""

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
UNLABELLED = "the model was trained with label_dropout=0, so it cannot estimate without a label"
LARGE = 100  # factor of an error in the first step, above which a note is printed


@dataclass(frozen=True)
class Drawing:
    """Draws samples from a denoiser; sample i does not depend on n, the batches or the devices.

    `labels` are as for `classes.conditions`. Without labels, the samples have the class proportions of `counts`, the
    number of images in each class; `counts` is empty for a model without labels. `weak` is the worse model of the
    guidance, if it has one.

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

    def __call__(
        self,
        denoiser: Denoiser,
        n: int,
        device: torch.device,
        batch_size: int = 64,
        description: str | None = None,
        watch: Watch | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Tensor:
        """Draw n samples, uint8 (n, C, H, W) on the CPU.

        Args:
            description: label of the progress bar; None: no bar.
            watch: called after every step.
            share: (rank, devices): draw only the batches of this device, see `batches_of`.
        """
        if share[0] == 0:
            note_first_step(denoiser, self.sampler)
        batches = batches_of(n, batch_size, share)
        drawn = self._draw(denoiser, n, batches, device, description, watch)
        return torch.cat([torch.empty(0, *self.shape, dtype=torch.uint8), *(images for _, images in drawn)])

    def begin(
        self,
        file: Path,
        denoiser: Denoiser,
        n: int,
        batch_size: int,
        source: Mapping[str, Any],
        discard: bool = False,
    ) -> Drawn:
        """Open or create the file that n samples are drawn into; it may already contain some of them.

        Args:
            source: the sampler and the guidance, see `source_of`.
            discard: remove other samples from the file; otherwise they raise UserError.
        """
        drawn_by = {**source, "seed": self.seed, "weights": network_hash(denoiser.network)}
        if self.weak is not None:
            drawn_by["weights of the worse model"] = network_hash(self.weak.network)
        drawn_by |= {name: tensor_digest({name: rows})[:16] for name, rows in self.conditions(denoiser, n).items()}
        return Drawn.begin(file, n, self.shape, batch_size, drawn_by, discard)

    def into(
        self,
        drawn: Drawn,
        denoiser: Denoiser,
        device: torch.device,
        description: str | None = None,
        watch: Watch | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Draw the missing samples of a device's share into their file; the arguments are those of a call."""
        if share[0] == 0:
            note_first_step(denoiser, self.sampler)
        for batch, images in self._draw(denoiser, drawn.n, drawn.missing(share), device, description, watch):
            drawn.put(batch, images)

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
                    progress.advance(bar, len(x))
                    if watch is not None:
                        watch(first, k, x, estimate)

                given = {name: rows[list(indices)].to(device) for name, rows in conditions.items()}
                under = Conditioned(denoise, **given) if given else denoise
                x0 = self.sampler(under, streams.normal(*self.shape), streams, after_step)
                self.check_finite(x0)
                yield indices, to_uint8(x0).cpu()

    def check_finite(self, x0: Tensor) -> None:
        """Raise NotFinite or print a warning if there are samples that are not finite: see `finite`."""
        wrong = int((~x0.isfinite()).flatten(1).any(dim=1).sum())
        if not wrong:
            return
        advice = (
            "; float16 may overflow: use precision=bf16-mixed or precision=null" if self.precision == "16-mixed" else ""
        )
        problem = f"{wrong} of {count(len(x0), 'sample')} {'is' if len(x0) == 1 else 'are'} not finite{advice}"
        if self.finite:
            raise NotFinite(problem)
        console.print(f"warning: {problem}", style="yellow")

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
        given = self.conditions(denoiser, 1)
        self.guided(denoiser, device)
        known = has_classes(denoiser)
        if known and self.labels == NONE and label_dropout == 0:
            raise UserError(f"label={NONE}: {UNLABELLED}; choose a class")
        if self.guidance and self.weak is None:
            check_label_dropout(self.guidance, label_dropout)
        if self.guidance and self.guidance.drops_labels and not known:
            raise UserError(
                "guidance: the model was trained without labels, which classifier-free guidance needs; use "
                "guidance=none"
            )
        if self.guidance:
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
            devices: Number of devices; the estimate is for the first one, which draws the most.
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
    def waits(self) -> bool:
        """Whether the worse model is the run itself at a step that it has not reached yet."""
        return self.weak is None and self.guidance is not None and self.guidance.step is not None

    @property
    def in_training(self) -> "Drawing":
        """The drawing to use during training: without guidance while the worse model does not exist yet (`waits`)."""
        return self.unguided if self.waits else self

    @property
    def unguided(self) -> "Drawing":
        """The drawing without guidance, for example for an untrained network."""
        return replace(self, guidance=None, weak=None)


def note_first_step(denoiser: Denoiser, sampler: Sampler) -> None:
    """Print a note if a network's error is large in the first estimate of x0, which the sampler uses unlimited."""
    inner: Sampler = getattr(sampler, "inner", sampler)  # of an edit or an inpainting
    if inner.threshold is not None or not inner.uses_x0:
        return
    schedule = copy.deepcopy(denoiser.schedule).cpu()
    first = sampler.begins(schedule)[0] if isinstance(sampler, Edited) else sampler.grid(schedule, sampler.steps)[0]
    factor = float(denoiser.prediction.error_factor(schedule, torch.as_tensor([first], dtype=torch.float64)))
    if factor > LARGE:
        print_new(
            f"note: without a threshold, an error of the predicted {type(denoiser.prediction).__name__.lower()} is "
            f"multiplied by {float(f'{factor:.2g}'):,.0f} in the first step of {type(inner).__name__}, which can "
            "saturate pixels; threshold@sampler.threshold=clip limits it"
        )


@cache
def print_new(message: str) -> None:
    """Print a message, unless it was printed before."""
    console.print(message)


def guidance_of(node: Mapping[str, Any] | None, model: Restored) -> tuple[Guidance | None, Denoiser | None]:
    """Build the guidance of a configuration for a trained model: see `make_guidance`."""
    guidance, worse = make_guidance(node, model.shape, model.label_dropout, model.path)
    if worse is None:
        return guidance, None
    check_classes(guidance, worse, [*model.labels])
    return guidance, worse.denoiser


def make_guidance(
    node: Mapping[str, Any] | None, shape: tuple[int, int, int], label_dropout: float, own: Path | None
) -> tuple[Guidance | None, Restored | None]:
    """Build the guidance of a configuration, and load its worse model, if any.

    Args:
        shape: (C, H, W) of the model's images.
        label_dropout: the label dropout that the model was trained with.
        own: the file of the model, to which `guidance.weights` and `guidance.step` refer unless `guidance.ckpt` is set;
            None during training, when the weights of `guidance.step` may not exist yet (`Drawing.waits`).

    Raises UserError if they do not fit together.
    """
    if not node:
        return None, None
    guidance: Guidance = make(dict(node), "guidance", Guidance)
    if guidance.ckpt is None:
        check_label_dropout(guidance, label_dropout)
    file = own if guidance.ckpt is None else trained(guidance.ckpt)
    if file is None and guidance.weights is not None:
        raise UserError(
            f"guidance.weights={guidance.weights}: in training it needs guidance.ckpt, the model with these weights"
        )
    if file is None or (guidance.ckpt is None and guidance.weights is None and guidance.step is None):
        return guidance, None
    if isinstance(guidance.step, float):
        raise UserError(
            f"guidance.step={guidance.step:g}: a fraction is only defined for the model's own run; set a step number"
        )
    if guidance.step is not None:
        file = early.find(file.parent, guidance.step)
    restored = restore(file, guidance.weights or "ema")
    check_worse(guidance, restored, shape)
    return guidance, restored


def check_label_dropout(guidance: Guidance, label_dropout: float) -> None:
    """Raise UserError if the guidance uses the model without labels, which it has not learned."""
    if guidance.drops_labels and label_dropout == 0:
        raise UserError(
            f"guidance: {UNLABELLED}; train it with label_dropout=0.1, or set guidance.ckpt to an unconditional model"
        )


def check_worse(guidance: Guidance | None, worse: Restored, shape: tuple[int, int, int]) -> None:
    """Raise UserError if a worse model has images of another shape, or cannot estimate as the guidance needs."""
    if worse.shape != shape:
        raise UserError(
            f"guidance.ckpt={worse.path}: its images are {describe_shape(worse.shape)}, but the model's are "
            f"{describe_shape(shape)}; choose a model with images of the same shape"
        )
    if guidance and has_classes(worse.denoiser):
        check_label_dropout(guidance, worse.label_dropout)


def check_classes(guidance: Guidance | None, worse: Restored, names: Sequence[str]) -> None:
    """Raise UserError if the guidance gives a worse model a class of the model, whose number is another class there.

    Args:
        names: the model's classes, ordered by number.
    """
    if guidance is None or guidance.drops_labels or not worse.labels or not names:
        return
    numbers = [*map(str, range(len(names)))]
    if len(worse.labels) == len(names) and numbers in ([*names], [*worse.labels]):
        return  # a diffusers folder does not name its classes
    for i, (own, other) in enumerate(zip_longest(names, worse.labels, fillvalue="missing")):
        if own != other:
            raise UserError(
                f"guidance.ckpt={worse.path}: its class {i} is {other}, but the model's is {own}; choose a model that "
                "was trained with the same classes in the same order"
            )


def has_classes(denoiser: Denoiser) -> bool:
    """Whether the network has class labels as an input."""
    return bool(getattr(denoiser.network, "classes", 0))


def most_of(n: int, batch_size: int, devices: int) -> int:
    """The number of samples, out of n, that the first of several devices draws; no other device draws more."""
    return sum(map(len, batches_of(n, batch_size, (0, devices))))


def describe_shape(shape: tuple[int, int, int]) -> str:
    """The shape as text: `3×64×64`."""
    return "×".join(map(str, shape))


def source_of(
    sampler: Mapping[str, Any], guidance: Mapping[str, Any] | None, precision: str | None = None
) -> dict[str, Any]:
    """The configuration of the sampler and the guidance, and the precision if it is mixed, for a score's source."""
    source: dict[str, Any] = {"sampler": describe_sampler(sampler)}
    if guidance:
        source["guidance"] = describe_sampler(guidance)
    return source | {"precision": precision} if precision else source
