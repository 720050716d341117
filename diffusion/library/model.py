"""`Model`: a trained model that draws, edits, enlarges, scores, studies and exports; `load`; `score` of any images."""

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.base.console import count
from diffusion.base.pixels import resolution_of
from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import flat, make
from diffusion.config.choices import choice, choices, groups, searching
from diffusion.config.inherit import Change, changes_of
from diffusion.config.schema import SCORED, Mixed
from diffusion.data import ImageData, Split
from diffusion.doors.hub import is_address
from diffusion.errors import UserError
from diffusion.extras.formats import FORMATS
from diffusion.kinds.guess import kind_of_tensor
from diffusion.kinds.kind import Kind, Shape, Source
from diffusion.metric import score as metrics_of
from diffusion.metric.precision import products
from diffusion.metric.record import Score
from diffusion.process.denoiser import Denoiser
from diffusion.process.sampler import Sampler
from diffusion.runs.folder import REFEREE
from diffusion.sampling.drawing import MIXED, Drawing
from diffusion.sampling.edits import STRENGTH, Blend, EditRequest, Enlargement, Filling, Solutions, Variants, kept
from diffusion.sampling.given import Given
from diffusion.sampling.inheritance import inherited
from diffusion.sampling.parallel import choose_device
from diffusion.sampling.request import Node, Request, one_of
from diffusion.scoring.pipeline import Scorer, make_metrics
from diffusion.scoring.request import ScoreRequest
from diffusion.scoring.trials import within_budgets


class Scores(dict[str, Score]):
    """The scores of samples by name; beside them those of `baselines`, by what was scored, and the `referee`'s answers.

    The answers are those of `metric.referee.judge`; None if it was not asked.
    """

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.baselines: dict[str, dict[str, Score]] = {}
        self.referee: dict[str, Any] | None = None


@dataclass(frozen=True)
class Model:
    """A trained model on a device.

    `sample`, `edit`, `inpaint`, `solve`, `enlarge` and `interpolate` draw n images, uint8 (n, C, H, W) on the CPU.
    Their options are those of `drawing`, and `batch_size=64`, `progress=True`. Image i depends only on the weights, the
    options of `drawing` and i. They raise UserError for what `diffusion sample` and `diffusion edit` refuse.

    `restored` has its recipe (`config`), the `step` and the kind of its `weights`, and the `shape` of its images.
    """

    restored: Restored
    device: torch.device
    config_dir: Path | None = None  # the folder of choices that it was loaded with

    def __repr__(self) -> str:
        """One line, because a notebook shows a model whose cell ends with it."""
        made, network = self.restored, type(self.denoiser.network).__name__
        return f"Model({made.path}: {network}, {made.shape}, step {made.step}, {made.weights}, {self.device})"

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser: (x_t, t) -> estimates of x0 and eps; x_t (B, C, H, W), t (B,) from 0 (images) to 1 (noise)."""
        return self.restored.denoiser

    @property
    def shape(self) -> Shape:
        """(C, *size) of its images."""
        return self.restored.shape

    @property
    def kind(self) -> Kind:
        """What its images are made of."""
        return self.restored.kind

    def sample(self, n: int, sampler: str | Sampler | Node | None = None, **options: Any) -> Tensor:
        """Draw samples."""
        return self._draw(n, EditRequest(), sampler=sampler, **options)

    def edit(self, picture: Source, strength: float = STRENGTH, n: int = 8, **options: Any) -> Tensor:
        """Draw variants of a picture by SDEdit: noise the picture, then denoise it.

        Args:
            picture: a file, an image of Pillow, an array uint8 (H, W, C) or a tensor uint8 (C, H, W), cropped around
                its centre to the proportions of the model's images and downscaled.
            strength: the fraction of the sampler's steps to run, above 0 and at most 1; higher values change more.
        """
        return self._draw(n, Variants(picture, strength), **options)

    def inpaint(self, picture: Source, mask: Source, method: str = "repaint", n: int = 8, **options: Any) -> Tensor:
        """Fill the white part of a picture's mask; the rest is unchanged.

        If the recipe guides by an earlier step of its own run, as the demo does, this guidance is left out because it
        exaggerates fillings; guidance="early" turns it on.

        Args:
            picture: as for `edit`, but cropped around the part to fill.
            mask: as the picture, with its proportions; an array or a tensor may also be bool (H, W).
            method: a choice from conf/inpainting, perhaps with settings: "repaint inpainting.passes=20".
        """
        with searching([self.config_dir]):
            how = choice("inpainting", method)
        return self._draw(n, Filling(picture, mask, how), **options)

    def solve(
        self, picture: Source, operator: str, method: str = "mmps", noise_level: float | None = None,
        observed: bool = False, n: int = 8, **options: Any,
    ) -> Tensor:  # fmt: skip
        """Draw pictures that an operator, such as a blur, turns into what it makes of this one. Guidance: as `inpaint`.

        Args:
            picture: as for `edit`.
            operator: a choice from conf/operator, perhaps with settings: "downsampling operator.factor=2".
            method: a choice from conf/inpainting, such as "pigdm".
            noise_level: the standard deviation of the observation's noise, where pixels lie in [−1, 1]; None: 0.02.
            observed: the picture is what the operator made; otherwise it is applied to the picture.
        """
        with searching([self.config_dir]):
            how = choice("operator", operator), choice("inpainting", method)
        return self._draw(n, Solutions(picture, *how, noise_level, observed), **options)

    def enlarge(self, picture: Source, n: int = 1, **options: Any) -> Tensor:
        """Enlarge a picture of any size, by the factor f of a model trained with condition=lowres: (n, C, f·H, f·W)."""
        return self._draw(n, Enlargement(picture), **options)

    def interpolate(self, first: int, last: int, n: int = 8, **options: Any) -> Tensor:
        """Draw images from image 0 of seed `first` to image 0 of seed `last`, all with the class of the first.

        All noise is interpolated along a circle (`process.editing.Between`).
        """
        return self._draw(n, Blend(operator.index(first), operator.index(last)), seed=first, **options)

    def score(
        self, n: int = SCORED, split: str = "val", features: str | None = None, metrics: str | None = None,
        baselines: Sequence[str] = (), referee: bool = False, **options: Any,
    ) -> "Scores":  # fmt: skip
        """The scores of n samples, drawn with the options of `sample`, against real images of the recipe, by name.

        Those of a model with channels that are given to it include the CRPS of each channel, if there are several
        samples of each condition.

        Args:
            features, metrics: choices from conf/features and conf/metrics; None: those that suit the kind of the data.
            baselines: what is scored beside them: "noise", "real", "split_half".
            referee: whether the samples are judged, too.
        """
        with searching([self.config_dir]), TemporaryDirectory() as folder:
            scorer = self._scorer(Path(folder), n, split, features, metrics, baselines)
            return self._scored(scorer, n, baselines, referee, **options)

    def _scorer(
        self, folder: Path, n: int, split: str, features: str | None, metrics: str | None, baselines: Sequence[str] = ()
    ) -> Scorer:
        """What scores n samples, and writes files about them into the folder."""
        own = inherited(self.restored, ["data", "condition"], [], {"seed": 0})
        request = ScoreRequest(
            own["data"], choice("features", features or self.kind.features),
            choice("metrics", metrics or self.kind.metrics), own["condition"], split, baselines,
        )  # fmt: skip
        return request.scorer(n, folder, folder, self.device, self.restored)

    def _scored(
        self, scorer: Scorer, n: int, baselines: Sequence[str] = (), referee: bool = False,
        batch_size: int = 64, progress: bool = True, **options: Any,
    ) -> "Scores":  # fmt: skip
        drawing = self.drawing(**{"data": scorer.data, "split": scorer.split, **options})
        images = self._drawn(n, drawing, batch_size, progress)
        found = Scores()
        scores = scorer.score(images) + scorer.baselines(baselines, n) + scorer.ensembles(images, drawing.given, {})
        for each in scores:
            of = found if each.what == "samples" else found.baselines.setdefault(each.what, {})
            of[each.metric] = each
        if referee:
            scorer.judge(images)
            file = scorer.folder / REFEREE
            found.referee = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        return found

    def study(
        self, samplers: Sequence[str] = ("ddim", "heun"), nfe: Sequence[int] = (10, 20, 50), n: int = 250,
        split: str = "val", features: str | None = None, metrics: str | None = None, **options: Any,
    ) -> dict[tuple[str, int], "Scores"]:  # fmt: skip
        """The scores of samplers within budgets of network evaluations: (sampler, evaluations) -> `score`."""
        with searching([self.config_dir]), TemporaryDirectory() as folder:
            trials = within_budgets(samplers, nfe, self.denoiser.schedule)
            scorer = self._scorer(Path(folder), n, split, features, metrics)
            return {(each.words, each.nfe): self._scored(scorer, n, sampler=each.sampler, **options) for each in trials}

    def export(self, file: str | Path, format: str = "safetensors") -> str:
        """Write the model as `safetensors`, a folder for `diffusers`, or a page for the `web`; what to do with it."""
        if format not in FORMATS:
            raise UserError(f"format={format}: it is one of {', '.join(FORMATS)}")
        _, write = FORMATS[format]
        return write(Path(file), self.restored)

    def drawing(self, sampler: str | Sampler | Node | None = None, **options: Any) -> Drawing:
        """How images are drawn, by the options of `request`."""
        with searching([self.config_dir]):
            return self.request(sampler, **options).drawing(self.restored)

    def request(
        self, sampler: str | Sampler | Node | None = None, seed: int = 0,
        labels: int | str | Sequence[int | str] | np.ndarray | Tensor | None = None, label: int | str | None = None,
        guidance: str | Node | None = None, precision: Mixed | None = None,
        given: str | list[Any] | Given | None = None, condition: Node | None = None,
        data: ImageData | Node | None = None, split: str = "val", counts: Mapping[str, int] | None = None,
        fills: bool = False, **settings: Any,
    ) -> Request:  # fmt: skip
        """What is asked by these options. Without an option, it is as in the recipe of the model.

        Args:
            sampler: a choice from conf/sampler, such as "heun", a configuration, or an object.
            labels, label: one class or several, by name or number (1 is the class named "1", if there is one); the
                images cycle through several. None: classes in their training proportions; "none": no class.
            guidance: a choice from conf/guidance, which may be followed by settings: "cfg guidance.scale=2", or
                "auto guidance.ckpt=WEAK"; or a configuration.
            precision: "bf16-mixed" or "16-mixed", which are faster and change the images slightly; None: float32.
            given: the condition, for a model with one: a picture or a folder of pictures; or numbers, as [0.4, 0.2] for
                all images or [[0.4, 0.2], …] in turn; None: those of the images of a `split` of `data`.
            condition, data: configurations; `data` may also be images that have been read with the condition.
            counts: the number of images of each class, instead of those of the training.
            fills: whether part of a picture is filled, for which guidance by an early step of the run is too strong.
            settings: sampler settings, such as steps=18 or grid="karras".
        """
        if isinstance(sampler, Sampler) and settings:
            raise UserError(f"{', '.join(settings)}: pass them to the sampler itself, or choose one by name")
        if precision not in (None, *MIXED):
            raise UserError(f"precision={precision}: it is one of {', '.join(MIXED)}")
        if (seed := operator.index(seed)) < 0:
            raise UserError(f"seed={seed}: expected 0 or more; each seed gives the same images again")
        classes = labels.tolist() if isinstance(labels, Tensor | np.ndarray | np.generic) else labels
        asked: dict[str, Any] = {"sampler": sampler, "guidance": guidance, "condition": condition, "data": data}
        made = {group: part for group, part in asked.items() if isinstance(part, Sampler | ImageData)}
        with searching([self.config_dir]):
            changes = [each for group, part in asked.items() if group not in made for each in chosen(group, part)]
            for place, value in flat({"sampler": settings}).items():
                part = place.rpartition(".")[2]
                changes.append(Change(place, value, part if part in groups() and isinstance(value, str) else ""))
            parts = inherited(self.restored, [*asked], changes, {"seed": seed}, fills) | made
        return Request(
            **{group: parts[group] for group in asked},
            seed=seed, split=split, given=given, labels=one_of(classes, label), counts=counts, precision=precision,
        )  # fmt: skip

    def _draw(
        self, n: int, edit: EditRequest, batch_size: int = 64, progress: bool = True, **options: Any
    ) -> Tensor:  # fmt: skip
        """Draw n images of an edit, by the options of `request`."""
        with searching([self.config_dir]):
            edited = edit.of(self.restored, self.request(fills=edit.fills, **options))
        return kept(self._drawn(n, edited.drawing, batch_size, progress), edited.size)

    def _drawn(self, n: int, drawing: Drawing, batch_size: int, progress: bool) -> Tensor:
        label = f"sampling {count(n, 'image')}" if progress else None
        with products(self.restored.config.get("matmul_precision", "high")):
            images = drawing(self.denoiser, n, self.device, batch_size, label)
        drawing.warn_of_saturated(images)
        return images


def chosen(group: str, part: str | Node | None) -> list[Change]:
    """The changes for a choice of a group, which its settings may follow ("heun sampler.steps=18"), or for a node."""
    if isinstance(part, str):
        name, *words = part.split()
        return [Change(group, name, group), *changes_of(words)]
    return [] if part is None else [Change(group, dict(part))]


def load(
    path: str | Path,
    weights: str | float = "ema",
    device: str | int | torch.device = "auto",
    config_dir: str | Path | None = None,
) -> Model:
    """Load the trained model of a run, a checkpoint, or a file written by `diffusion export`.

    Raises UserError if there is no model, or if the file is damaged.

    Args:
        path: a run's folder (its last.ckpt, else its newest checkpoint, else its weights), a checkpoint, an exported
            file, a diffusers folder, "hf://USER/NAME" on the Hub, or "last", the last checkpoint of the run that saved
            most recently.
        weights: `ema` for the averaged weights, `raw` for the trained ones; a number, such as 0.08, for an average of
            this length (σ_rel) of a run with ema=power.
        device: auto, cpu, cuda, cuda:1, mps; or torch's device, or the number of a GPU.
        config_dir: your own folder of choices, structured like conf/. Classes named there may be built when the file
            asks for them, and its choices can be named when the model draws.
    """
    own = None if config_dir is None else Path(config_dir).expanduser().absolute()
    with searching([own]):
        file = trained(path if str(path) == "last" or is_address(path) else Path(path).expanduser())
        restored = restore(file.absolute(), weights)
    chosen = choose_device(device)
    restored.denoiser.to(chosen)
    return Model(restored, chosen, own)


def score(
    images: Tensor,
    reference: str | Path | Tensor | Split = "landscapes",
    split: str = "val",
    features: str | None = None,
    metrics: str | None = None,
    device: str | int | torch.device = "auto",
) -> dict[str, Score]:
    """Score images against real ones; the scores by name: `score(images)["fd_lite0"].value`.

    Each score includes its interval (`low`, `high`) and its protocol. Raises UserError for images that are not such a
    tensor, for fewer than 4, and for a reference that does not exist.

    Args:
        images: uint8 (n, C, H, W), grey, RGB or RGBA; points, float32 (n, 2, 1, 1); or measurements, float32
            (n, C, H, W).
        reference: real images like `images`; or a choice from conf/data or a folder of images, which is read in the
            size and with the channels of the images, and of which a split is used: train, val or test; or a split.
        features, metrics: choices from conf/features and conf/metrics; None: those that suit the images.
        device: the device of the feature extractor, as for `load`.
    """
    own = reference.images if isinstance(reference, Split) else reference if isinstance(reference, Tensor) else None
    kind = kind_of_tensor(images, own)
    extractor = make(choice("features", features or kind.features), "features").to(choose_device(device))
    chosen, shape = make_metrics(choice("metrics", metrics or kind.metrics)), tuple(images.shape[1:])
    kind.check_features(extractor, shape)
    if isinstance(reference, Tensor):
        if (size := tuple(reference.shape[1:])) != shape:
            raise UserError(f"reference: its images are {size}, but those to score are {shape}")
        against = metrics_of.reference_of(reference, extractor, "images", (), kind.protocol(shape))
    else:
        real = reference if isinstance(reference, Split) else split_of(str(reference), split, images)
        against = metrics_of.reference_of(real.images, extractor, split, real.sources, kind.protocol(shape))
    return metrics_of.score(metrics_of.extract(images, extractor), extractor, against, chosen)


def split_of(reference: str, split: str, like: Tensor) -> Split:
    """A split of a choice from conf/data, or of a folder, with images in the size of others."""
    channels, height, width = like.shape[1:]
    settings: dict[str, Any] = {"resolution": resolution_of(height, width)}
    settings |= {"channels": channels} if channels != 3 else {}
    name, root = (reference, {}) if reference in choices("data") else ("folder", {"root": reference})
    data: ImageData = make(choice("data", f"{name} +seed=0", **settings | root), "data")
    data.setup()
    return data.splits[split]
