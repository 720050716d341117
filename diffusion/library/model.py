"""`diffusion.load`: trained models for notebooks and programs."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from diffusion.checkpoint.find import precision_of, trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.choices import searching
from diffusion.config.composition import RUN, choice
from diffusion.config.schema import Mixed, Sample
from diffusion.console import count
from diffusion.data import to_unit
from diffusion.edit.edits import filling
from diffusion.edit.inputs import Source, read_mask, read_picture
from diffusion.errors import UserError
from diffusion.evaluation.commands import make_sampler
from diffusion.evaluation.devices import choose_device
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.guided import check_classes, check_worse, describe_shape, guidance_of, parts_of
from diffusion.evaluation.inherited import completed_by, with_step
from diffusion.metric.precision import products
from diffusion.process.denoiser import Denoiser
from diffusion.process.editing import SDEdit
from diffusion.process.guidance import Guidance
from diffusion.process.inpainting import Inpainting
from diffusion.process.sampler import Sampler

Labels = int | str | Sequence[int | str] | np.ndarray | Tensor | None


@dataclass(frozen=True)
class Model:
    """A trained model on a device.

    `restored` contains its recipe (`config`), its training `step`, the `shape` (C, H, W) of its images, and the kind of
    `weights` that were loaded.
    """

    restored: Restored
    device: torch.device
    config_dir: str | Path | None = None  # the folder of choices that it was loaded with

    def __repr__(self) -> str:
        """One line, because a notebook shows a model whose cell ends with it."""
        restored, network = self.restored, self.denoiser.network
        size = count(sum(weight.numel() for weight in network.parameters()), "parameter")
        return (
            f"Model({restored.path}: {type(network).__name__}, {size}, {describe_shape(restored.shape)}, "
            f"step {restored.step}, {restored.weights}, {self.device})"
        )

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser: (x_t, t) -> estimates of x0 and eps; x_t (B, C, H, W), t (B,) from 0 (images) to 1 (noise)."""
        return self.restored.denoiser

    def sample(
        self,
        n: int,
        sampler: str | Sampler | None = None,
        *,
        batch_size: int = 64,
        progress: bool = True,
        **options: Any,
    ) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W) on the CPU.

        Image i depends only on the weights, sampler, guidance, labels, seed and i. Raises UserError for an unknown
        sampler or setting, and for a sampler that does not fit the model.

        Args:
            sampler, options: those of `drawing`.
        """
        return self._draw(self.drawing(sampler, **options), n, batch_size, progress)

    def edit(
        self,
        picture: Source | Tensor,
        strength: float = 0.6,
        n: int = 8,
        *,
        batch_size: int = 64,
        progress: bool = True,
        **options: Any,
    ) -> Tensor:
        """Draw `n` variants of a picture by SDEdit (noise the picture, then denoise it), uint8 (n, C, H, W) on the CPU.

        Raises UserError for a picture that cannot be used, and in the same cases as `sample`.

        Args:
            picture: a tensor uint8 (C, H, W) in the size of the model's images; or a file, an image of Pillow or a
                numpy array uint8 (H, W, C), which is cropped around its centre to the largest window with the
                proportions of the model's images and downscaled.
            strength: the fraction of the sampler's steps to run, above 0 and at most 1; higher values change more.
            options: those of `drawing`.
        """
        drawing = self.drawing(**options)
        edited = SDEdit(float(strength))(drawing.sampler, to_unit(read_picture(picture, self.restored.shape)))
        return self._draw(replace(drawing, sampler=edited), n, batch_size, progress)

    def inpaint(
        self,
        picture: Source | Tensor,
        mask: Source | Tensor,
        method: str | Inpainting = "repaint",
        n: int = 8,
        *,
        batch_size: int = 64,
        progress: bool = True,
        **options: Any,
    ) -> Tensor:
        """Fill the white part of a picture's mask `n` times, uint8 (n, C, H, W) on the CPU; the rest is unchanged.

        Raises UserError for a picture, mask or method that cannot be used, and in the same cases as `sample`.

        Args:
            picture: as for `edit`.
            mask: a file, image or array with the picture's proportions, white where the picture is to be filled; or a
                tensor bool (H, W), true there.
            method: a choice from conf/inpainting, or a method object, RePaint(passes=20).
            options: those of `drawing`. If the recipe guides by an earlier step of its own run, as the demo does, this
                guidance is left out because it exaggerates fillings; guidance="early" turns it on.
        """
        shape = self.restored.shape
        fill = read_mask(mask, shape, None if isinstance(picture, Tensor) else picture)
        with searching([self.config_dir]):
            how = make(choice("inpainting", method), "inpainting") if isinstance(method, str) else method
        drawing = filling(self.drawing(**options, fills=True), read_picture(picture, shape), fill, how)
        return self._draw(drawing, n, batch_size, progress)

    def interpolate(
        self, first: int, last: int, n: int = 8, *, batch_size: int = 64, progress: bool = True, **options: Any
    ) -> Tensor:
        """Draw `n` images from image 0 of seed `first` to image 0 of seed `last`, uint8 (n, C, H, W) on the CPU.

        The noise is interpolated along a circle (`process.editing.Between`), including the noise that a sampler adds.
        All images have the class of the first. Raises UserError for equal seeds, and in the same cases as `sample`.

        Args:
            options: those of `drawing`, except for `seed`.
        """
        ends = operator.index(first), operator.index(last)
        drawing = replace(self.drawing(seed=ends[0], **options), between=ends)
        return self._draw(drawing, n, batch_size, progress)

    def drawing(
        self,
        sampler: str | Sampler | None = None,
        seed: int = 0,
        labels: Labels = None,
        guidance: str | Guidance | None = None,
        worse: "Model | str | Path | None" = None,
        precision: str | None = None,
        fills: bool = False,
        **settings: Any,
    ) -> Drawing:
        """How images are drawn.

        Args:
            sampler: a choice from conf/sampler, such as "heun", or a sampler object; None: the sampler of the model's
                recipe.
            labels: one class or several, by name or number (1 is the class named "1", if there is one); the images
                cycle through several. None: classes in their training proportions; "none": no class.
            guidance: a choice from conf/guidance, such as "cfg", with its scale; or an object with another scale,
                `diffusion.process.guidance.ClassifierFree(scale=2)`, or AutoGuidance(scale=2) together with `worse`;
                None: the guidance of the model's recipe.
            worse: the worse model, or its path as for `load`, for a guidance that uses one.
            precision: "bf16-mixed" or "16-mixed", which are faster and change the images slightly; None: float32.
            fills: whether part of a picture is to be filled.
            settings: sampler settings, such as steps=18 or grid="karras".
        """
        if precision is not None and precision not in (allowed := get_args(Mixed)):
            raise UserError(f"precision={precision}: expected one of {', '.join(allowed)}")
        if isinstance(sampler, Sampler) and settings:
            raise UserError(f"{', '.join(settings)}: pass them to the sampler itself, or choose one by name")
        with searching([self.config_dir]):
            if not isinstance(sampler, Sampler):
                sampler = make_sampler(self._node("sampler", sampler, settings), self.restored)
            guided, weak = self._guidance(guidance, worse, fills)
        classes = labels.tolist() if isinstance(labels, Tensor | np.ndarray | np.generic) else labels
        shape, counts, number = self.restored.shape, self.restored.labels, operator.index(seed)
        drawing = Drawing(sampler, shape, number, guided, weak, counts, classes, precision=precision, finite=True)
        drawing.check(self.denoiser, self.restored.label_dropout, self.device)
        return drawing

    def _draw(self, drawing: Drawing, n: int, batch_size: int, progress: bool) -> Tensor:
        if n < 1 or batch_size < 1:
            raise UserError(f"n={n}, batch_size={batch_size}: both must be at least 1")
        label = f"sampling {count(n, 'image')}" if progress else None
        trains = self.denoiser.training
        self.denoiser.eval()
        try:
            with products(precision_of(self.restored)):
                return drawing(self.denoiser, n, self.device, batch_size, label)
        finally:
            self.denoiser.train(trains)

    def _guidance(
        self, guidance: str | Guidance | None, worse: "Model | str | Path | None", fills: bool
    ) -> tuple[Guidance | None, Denoiser | None]:
        if isinstance(worse, str | Path):
            worse = load(worse, device=self.device, config_dir=self.config_dir)
        if not isinstance(guidance, Guidance):
            node = self._node("guidance", guidance, {"ckpt": str(worse.restored.path)} if worse else {}, fills)
            if worse is None:
                return guidance_of(with_step(node, self.restored), self.restored)
            guidance, _ = parts_of(node)
        if worse is None:
            return guidance, None
        check_worse(guidance, worse.restored, self.restored.shape)
        check_classes(guidance, worse.restored, [*self.restored.labels])
        return guidance, worse.denoiser if worse.device == self.device else copy.deepcopy(worse.denoiser)

    def _node(self, group: str, name: str | None, settings: dict[str, Any], fills: bool = False) -> dict[str, Any]:
        """The configuration of a choice of a group, or of the recipe's own choice, with `settings`."""
        if name is not None:
            return choice(group, name, **settings)
        nodes: dict[str, Any] = {"sampler": {"from": RUN}, group: {"from": RUN, **settings}}
        own = Sample(ckpt=str(self.restored.path), **nodes)
        node: dict[str, Any] = getattr(completed_by(own, self.restored, fills=fills), group)
        return node


def load(
    path: str | Path,
    weights: str | float = "ema",
    device: str | int | torch.device = "auto",
    config_dir: str | Path | None = None,
) -> Model:
    """Load the trained model of a run, a checkpoint, or a file written by diffusion.export.

    Raises UserError if there is no model, or if the file is damaged.

    Args:
        path: a run's folder (its last.ckpt, else its newest checkpoint, else its weights), a checkpoint, an exported
            file, a diffusers folder, or "last", the last checkpoint of the run that saved most recently.
        weights: `ema` for the averaged weights, `raw` for the trained ones; a number, such as 0.08, for an average of
            this length (σ_rel) of a run with ema=power.
        device: auto, cpu, cuda, cuda:1, mps; or torch's device, or the number of a GPU.
        config_dir: your own folder of choices, structured like conf/. Classes named there may be built when the file
            asks for them, and its choices can be named when the model draws.
    """
    with searching([config_dir]):
        found = path if str(path) == "last" else Path(path).expanduser()
        restored = restore(trained(found).absolute(), weights if isinstance(weights, str) else float(weights))
    chosen = choose_device(device)
    restored.denoiser.to(chosen)
    return Model(restored, chosen, None if config_dir is None else Path(config_dir).expanduser().absolute())
