"""`Drawing`: all that samples depend on apart from the weights: the sampler, guidance, classes and noise.

`make_guidance` builds the guidance of a configuration, and loads the weak model that it may need.

A command keeps each batch as a file: several processes share the batches (`sampling.parallel`), and a killed command
goes on from them. `Frames` are the denoising steps of the first samples.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from diffusion.base.console import console, count, progress_bar
from diffusion.base.files import digest, replacing, tensor_digest
from diffusion.base.pixels import gif, grid, save_png, spread
from diffusion.checkpoint.find import at_step, trained
from diffusion.checkpoint.restore import Restored, network_hash, restore
from diffusion.config.build import check_arguments, make
from diffusion.errors import UserError, nearest
from diffusion.kinds.kind import Kind, Shape
from diffusion.kinds.pixels import Pixels
from diffusion.process.denoiser import Denoise, Denoiser, Estimate, MixedPrecision
from diffusion.process.editing import Between
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.process.tiles import Tiled
from diffusion.randomness import Streams, proportional, seeds_for
from diffusion.sampling.given import Given

Watch = Callable[[int, int, Tensor, Estimate], None]
"""Called after every step: index of the batch's first image, step k (from 1), x (B, C, H, W), the estimate."""
Share = tuple[int, int]
"""(rank, processes)"""
Labels = int | str | Sequence[int | str] | None
"""One class or several, by name or number, which the samples cycle through; NONE: no class; None: as in the data."""

NONE = "none"  # no class, unless a class has this name
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
KEPT = ".drawn"  # in the folder of a command: the batches; removed when the images are written or scored
FRAMES = 25  # steps in a film or a GIF, at most
SATURATED = 0.1  # images of which this share and one more are black or white need a warning


@dataclass(frozen=True)
class Drawing:
    """Draws samples from a denoiser; sample i does not depend on n, the batches or the processes.

    Without `labels`, the samples have the class proportions of `counts`, the number of images in each class, which is
    empty for a model without labels. `weak` is the weak model of the guidance, if it has one. `given` are the
    conditions of the samples, for a model that has been trained with some.

    With `between`, a pair of seeds, the images interpolate from image 0 of the first seed to image 0 of the second.
    `precision` is that of the network's products, None for that of the weights. Samples that are not finite are an
    error if `finite`; otherwise, as in training, a warning is printed. Samples larger than the network's images are
    drawn in windows of its size that begin at multiples of a unit: `windows` is ((height, width), unit). `kind`
    makes the examples, of this `shape`, of the samples in the process; if these do not lie in [−1, 1], thresholds of x0
    are not applied.
    """

    sampler: Sampler
    shape: Shape  # (C, *size)
    seed: int
    guidance: Guidance | None = None
    weak: Denoiser | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    labels: Labels = None
    between: tuple[int, int] | None = None
    precision: str | None = None
    finite: bool = False
    given: Given | None = None
    windows: tuple[tuple[int, int], int] | None = None
    kind: Kind = field(default_factory=Pixels)

    def __call__(
        self,
        denoiser: Denoiser,
        n: int,
        device: torch.device,
        batch_size: int = 64,
        description: str | None = None,
        watch: Watch | None = None,
        share: Share = (0, 1),
        files: Path | None = None,
    ) -> Tensor:
        """Draw n samples (n, C, *size) on the CPU, as the kind has them.

        Args:
            description: label of the progress bar; None: no bar.
            share: draw only the batches of this process, see `batches_of`.
            files: the folder for the batches, see `files`. Those in it are not drawn again.
        """
        if self.weak is not None:
            self.weak.to(device)
        conditions, denoise = self.conditions(denoiser, n), self.guided(denoiser)
        images = list[Tensor]()
        batches = {b: files and files / f"{b.start}-{b.stop}.pt" for b in batches_of(n, batch_size, share)}
        left = sum(len(batch) for batch, file in batches.items() if not (file and file.is_file()))
        with progress_bar(enabled=description is not None) as progress:
            bar = progress.add_task(description or "", total=left * self.sampler.steps, unit="im·step", note="")
            for batch, file in batches.items():
                if file and file.is_file():
                    images.append(torch.load(file, weights_only=True)["images"])
                    continue

                def after_step(k: int, x: Tensor, estimate: Estimate, first: int = batch.start) -> None:
                    progress.update(bar, advance=len(x))
                    if watch is not None:
                        watch(first, k, x, estimate)

                began, streams = time.perf_counter(), self.streams(batch, n, device)
                given: dict[str, Any] = {name: rows[list(batch)].to(device) for name, rows in conditions.items()}
                given |= self.inputs(batch, device)
                x0 = self.sampler(denoise, streams.normal(*self.space), streams, after_step, **given)
                if wrong := int((~x0.isfinite()).flatten(1).any(dim=1).sum()):
                    problem = f"{count(wrong, 'sample')} not finite; use another checkpoint or precision=null"
                    if self.finite:
                        raise UserError(problem, 3)
                    console.print(f"warning: {problem}", style="yellow")
                images.append(self.kind.outside(x0).cpu())
                if file:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(file, durable=True) as part:
                        torch.save({"images": images[-1], "seconds": time.perf_counter() - began}, part)
        return torch.cat(images) if images else self.kind.outside(torch.empty(0, *self.space))

    def __post_init__(self) -> None:
        if not self.kind.bounded:
            sampler = copy(self.sampler)  # which may be the user's own
            sampler.threshold = None  # the limits are those of x in [−1, 1]
            object.__setattr__(self, "sampler", sampler)  # once, in a frozen object

    @property
    def space(self) -> Shape:
        """(c, *size') of the samples in the process."""
        return self.kind.space(self.shape)

    def saturation(self, images: Tensor, real: Tensor | None = None) -> str:
        """A sentence about the images that are saturated, with what to change; empty if they are few.

        Args:
            real: images of which about as many may be saturated, such as those of the training.
        """
        usual = 0.0 if real is None else float(self.kind.saturated(real[:: 1 + len(real) // 1000]).float().mean())
        wrong, n = int(self.kind.saturated(images).sum()), len(images)
        if wrong <= 1 + (SATURATED + usual) * n:
            return ""
        change = "train longer, or set threshold@sampler.threshold=dynamic"
        if self.guidance is not None:
            change = f"lower guidance.scale={self.guidance.scale:g}, set guidance=none, or train longer"
        return f"{wrong} of {count(n, 'image')} are almost entirely black, white or of one colour; {change}"

    def warn_of_saturated(self, images: Tensor, real: Tensor | None = None) -> None:
        if words := self.saturation(images, real):
            console.print(f"warning: {words}", style="yellow")

    def source(self, sampler: Mapping[str, Any] | None, guidance: Mapping[str, Any] | None) -> dict[str, Any]:
        """How samples are drawn, for the source of their scores, from the configurations of sampler and guidance."""
        found: dict[str, Any] = {"sampler": described(sampler or {}), "seed": self.seed}
        if not self.kind.bounded:
            found["sampler"]["threshold"] = None
        if self.guidance is not None and guidance is not None:
            found["guidance"] = described(guidance)
        if self.weak is not None:
            found["guidance_hash"] = network_hash(self.weak.network)
        if self.given is not None:
            found["given"] = self.given.words
        return found | ({"precision": self.precision} if self.precision else {})

    def files(self, folder: Path, denoiser: Denoiser, n: int, batch_size: int, source: Mapping[str, Any]) -> Path:
        """The folder, in a command's folder, for the batches of n samples; another one for each `source`."""
        inputs = [tensor_digest(self.conditions(denoiser, n)), network_hash(denoiser.network)]
        inputs += [self.given.key] if self.given else []
        return folder / KEPT / digest(json.dumps([n, batch_size, inputs, source], sort_keys=True))

    def conditions(self, denoiser: Denoiser, n: int) -> dict[str, Tensor]:
        """The network's inputs besides x_t and t, for n samples: `classes` (n,), or nothing for no class.

        With `between`, all samples get the class of the first. Raises UserError for an unknown class.
        """
        names, known = [*self.counts], int(getattr(denoiser.network, "classes", 0))
        if (self.labels == NONE and NONE not in names) or (self.labels is None and not names):
            return {}
        if self.labels is None:
            classes = proportional([*self.counts.values()], n)
        else:
            several = [self.labels] if isinstance(self.labels, int | str) else self.labels
            numbers = [number(label, names, known) for label in several]
            classes = torch.tensor([numbers[i % len(numbers)] for i in range(n)])
        return {"classes": classes[:1].expand(n) if self.between else classes}

    def inputs(self, index: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The denoiser's inputs for the conditions of the samples at `index`; with `between`, all have that of 0."""
        if self.given is None:
            return {}
        return self.given([0] * len(index) if self.between else index, self.seed, device)

    def pictures(self, n: int) -> Tensor | None:
        """The pictures that n samples are drawn from, uint8 (n, c, H, W); None if there are none."""
        return self.given.pictures([0] * n if self.between else range(n)) if self.given else None

    def guided(self, denoiser: Denoiser) -> Denoise:
        denoise: Denoise = self.guidance(denoiser, self.weak) if self.guidance else denoiser
        if self.windows:
            denoise = Tiled(denoise, *self.windows)
        return denoise if self.precision is None else MixedPrecision(denoise, MIXED[self.precision])

    def check(self, denoiser: Denoiser, label_dropout: float) -> None:
        """Raise UserError if the labels, the guidance and the model, trained with `label_dropout`, do not fit."""
        given, guidance = self.conditions(denoiser, 1) | self.inputs([0], torch.device("cpu")), self.guidance
        drops = self.labels == NONE or (guidance is not None and self.weak is None and guidance.drops_labels)
        if drops and label_dropout == 0 and (int(getattr(denoiser.network, "classes", 0)) or self.given):
            raise UserError(
                "the model was trained with label_dropout=0, so it cannot estimate without a label or condition; "
                "choose a class, guidance=none, or an unconditional model as guidance.ckpt"
            )
        self.guided(denoiser)
        if guidance is not None:
            guidance.weak_conditions(given)

    def streams(self, indices: Sequence[int], n: int, device: torch.device) -> Streams:
        """The random streams of the samples at `indices`, out of n."""
        if self.between is None:
            return Streams(seeds_for(self.seed, "sample", last=indices), device)
        seeds, others = (seeds_for(end, "sample", last=[0] * len(indices)) for end in self.between)
        return Between(seeds, others, [i / max(1, n - 1) for i in indices], device)


def batches_of(n: int, batch_size: int, share: Share = (0, 1)) -> list[range]:
    """Split the indices of n images into batches, and take those of a process: rank, rank + processes, …

    The batches are the same for any number of processes, so rounding does not depend on it.
    """
    rank, processes = share
    starts = range(rank * batch_size, n, processes * batch_size)
    return [range(first, min(first + batch_size, n)) for first in starts]


def seconds_of(files: Path) -> float:
    """The time that all processes took together to draw the batches in a folder."""
    return sum(torch.load(file, weights_only=True)["seconds"] for file in files.glob("*.pt"))


def number(label: int | str, names: Sequence[str], known: int) -> int:
    """The number of one of the `known` classes, given by number or name. Raises UserError for an unknown class."""
    if str(label) in names:
        return names.index(str(label))  # a folder may be called 7
    if type(label) is not int or not 0 <= label < known:
        listed = ", ".join(names) or "none: it was trained without labels"
        raise UserError(f"label={label}: unknown class{nearest(str(label), names)}; the model has {listed}")
    return label


@dataclass(frozen=True)
class WeakModel:
    """The weak model of a guidance, as it is configured in conf/guidance."""

    ckpt: str | None = None  # None: the model itself
    weights: Literal["ema", "raw"] | float | None = None
    step: Annotated[int, Ge(1)] | Annotated[float, Gt(0), Lt(1)] | None = None  # or a fraction of the run's own steps


def parts_of(node: Mapping[str, Any]) -> tuple[Guidance, WeakModel]:
    """Build the guidance and the description of the weak model in a configuration."""
    given = {key: node[key] for key in WeakModel.__annotations__ if key in node}
    check_arguments(WeakModel, given, "guidance")
    guidance: Guidance = make({key: node[key] for key in node if key not in given}, "guidance", Guidance)
    return guidance, WeakModel(**given)


def make_guidance(node: Mapping[str, Any] | None, model: Restored | None) -> tuple[Guidance | None, Restored | None]:
    """Build the guidance of a configuration, and load its weak model, if any.

    Args:
        model: what it guides; None during training, when the weights of `guidance.step` may not exist yet.

    Raises UserError if there is no such weak model, or if it does not fit the model.
    """
    if not node:
        return None, None
    guidance, asked = parts_of(node)
    if asked == WeakModel() and guidance.needs_model:
        raise UserError("guidance: it needs a weak model; set guidance.step, guidance.ckpt or guidance.weights")
    if asked.ckpt is not None:
        file = trained(asked.ckpt)
    elif model is None or asked == WeakModel():
        return guidance, None
    else:
        file = model.path
    if isinstance(asked.step, float):
        raise UserError(f"guidance.step={asked.step:g}: a fraction is one of the model's own run; set a step number")
    weak = restore(at_step(file.parent, asked.step) if asked.step else file, asked.weights or "ema")
    if model is not None:
        check_weak(guidance, weak, model.shape, [*model.labels])
    return guidance, weak


def check_weak(guidance: Guidance, weak: Restored, shape: tuple[int, ...], classes: Sequence[str]) -> None:
    """Raise UserError if a weak model has other images (C, H, W) or classes than the model that it guides."""
    if weak.shape != shape or (weak.labels and not guidance.drops_labels and [*weak.labels] != [*classes]):
        raise UserError(
            f"guidance.ckpt={weak.path}: its images {weak.shape} or its classes are others than the model's, "
            f"{shape}; choose a model of the same images"
        )


class Frames:
    """The denoising steps of the first samples: step -> the pictures of x_t, then of the estimates of x0, uint8."""

    def __init__(self, sampler: Sampler, schedule: Schedule, kind: Kind):
        self.kind = kind
        self.times = sampler.grid(schedule.on_cpu(), sampler.steps).tolist()
        self.kept = [1 + i for i in spread(sampler.steps, FRAMES)]
        self.steps: dict[int, Tensor] = {}

    def watch(self, first: int, k: int, x: Tensor, estimate: Estimate) -> None:
        """Keep step k of the first batch."""
        if first == 0 and k in self.kept:
            few = (each[: self.kind.filmed] for each in (x, estimate.x0))
            self.steps[k] = torch.cat([self.kind.pictures(self.kind.outside(each)).cpu() for each in few])

    def save_gif(self, path: Path) -> None:
        """Write a GIF: x_t above the estimates of x0."""
        gif([grid(images, len(images) // 2, large=True) for images in self.steps.values()], path)

    def save_film(self, path: Path) -> None:
        """Write a grid with a row for each step: x_t, then the estimates. Its metadata has the times t of the rows."""
        rows = torch.stack([*self.steps.values()])
        save_png(grid(rows.flatten(0, 1), rows.shape[1], times=[self.times[k] for k in self.steps]), path)


class Blank:
    """A denoiser without a network that estimates grey images, and counts its `calls`."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.calls = schedule.on_cpu(), 0

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        self.calls += 1
        zero = torch.zeros_like(x_t)
        return Estimate(zero, x_t / self.schedule(t)[1].to(x_t).clamp(min=1e-6).view(-1, 1, 1, 1), zero)


def evaluations(sampler: Sampler, schedule: Schedule, guidance: Guidance | None = None) -> int:
    """Network evaluations per image (NFE), counted without a network; with guidance, the weak network counts too."""
    blank = Blank(schedule)
    denoise: Any = guidance(blank, blank) if guidance else blank
    if guidance:
        denoise.scale = guidance.scale  # without the few evaluations for its limit
    sampler(denoise, torch.ones(1, 1, 2, 2), Streams([0]), classes=torch.zeros(1, dtype=torch.int64))
    return blank.calls


def described(node: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's configuration as names and values, including those of its parts; JSON has no infinite numbers."""
    found: dict[str, Any] = {"name": str(node["_target_"]).rpartition(".")[2]}
    for key, value in node.items():
        if isinstance(value, Mapping):
            found[key] = described(value)
        elif not key.startswith("_"):
            found[key] = str(value) if isinstance(value, float) and math.isinf(value) else value
    return found
