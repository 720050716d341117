"""Trained models and scores for notebooks and programs, without a command line: `diffusion.load`, `diffusion.score`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.choices import choices, searching
from diffusion.config.composition import choice
from diffusion.config.inherit import RUN, completed
from diffusion.config.schema import Sample
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.commands import make_sampler
from diffusion.evaluation.devices import choose_device
from diffusion.evaluation.drawing import Drawing, make_guidance
from diffusion.evaluation.pipeline import make_metrics
from diffusion.metric import score as metrics_of
from diffusion.metric.record import Score
from diffusion.metric.reference import reference_statistics
from diffusion.pixels import resolution_of
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler


@dataclass(frozen=True)
class Model:
    """A trained model on a device.

    `restored` holds its recipe (`config`), its `step`, the `shape` (C, H, W) of its images, and which `weights` it has.
    """

    restored: Restored
    device: torch.device

    @property
    def denoiser(self) -> Denoiser:
        """(x_t, t) -> estimates of x0 and eps; x_t (B, C, H, W), t (B,) from 0 (images) to 1 (noise)."""
        return self.restored.denoiser

    def sample(
        self,
        n: int,
        sampler: str | Sampler | None = None,
        seed: int = 0,
        batch_size: int = 64,
        progress: bool = True,
        labels: int | str | Sequence[int | str] | None = None,
        guidance: str | Guidance | None = None,
        worse: "Model | None" = None,
        **settings: Any,
    ) -> Tensor:
        """`n` images, uint8 (n, C, H, W) on the CPU. Image i depends on the weights, the sampler, the seed and i alone.

        Raises UserError for a sampler or a setting that there is not, and for a sampler that does not fit the model.

        Args:
            sampler: a choice of conf/sampler, such as "heun", or a sampler; None: the sampler of the model's recipe.
            labels: a class, or several, which the images are drawn of in turn, by name or number; None: as often
                as in the training images; "none": no class.
            guidance: a choice of conf/guidance, such as "cfg", or a guidance, ClassifierFree(scale=2); None: that of
                the model's recipe.
            worse: the worse model of a guidance that has one.
            settings: of the sampler, such as steps=18 or grid="karras".
        """
        if isinstance(sampler, Sampler):
            if settings:
                raise UserError(f"{', '.join(settings)}: give them to the sampler itself, or name one, sampler='heun'")
        else:
            sampler = make_sampler(self._node("sampler", sampler, settings), self.restored)
        guided, weak = self._guidance(guidance, worse)
        drawing = Drawing(sampler, self.restored.shape, seed, guided, weak, self.restored.labels, labels)
        label = f"sampling {count(n, 'image')}" if progress else None
        return drawing(self.denoiser, n, self.device, batch_size, label)

    def _guidance(
        self, guidance: str | Guidance | None, worse: "Model | None"
    ) -> tuple[Guidance | None, Denoiser | None]:
        weak = None if worse is None else worse.denoiser
        if isinstance(guidance, Guidance):
            return guidance, weak
        node = self._node("guidance", guidance, {"ckpt": str(worse.restored.path)} if worse else {})
        return make_guidance(node, self.restored.shape, self.restored.label_dropout, self.restored.path)

    def _node(self, group: str, name: str | None, settings: dict[str, Any]) -> dict[str, Any]:
        """A choice of a group with settings, or the recipe's own."""
        if name is not None:
            return choice(group, name, **settings)
        path = self.restored.path
        nodes: dict[str, Any] = {"sampler": {"from": RUN}, group: {"from": RUN, **settings}}
        own = Sample(ckpt=str(path), **nodes)
        node: dict[str, Any] = getattr(completed(own, self.restored.config, path), group)
        return node


def load(
    path: str | Path, weights: str | float = "ema", device: str = "auto", config_dir: str | Path | None = None
) -> Model:
    """The trained model of a run, of a checkpoint, or of a file that diffusion.export wrote.

    Raises UserError where there is none, or where the file is damaged.

    Args:
        path: a run's folder, which stands for its checkpoints/last.ckpt; a file; or "last", of the run that saved last.
        weights: `ema` for the averaged weights, `raw` for the trained ones; a number, such as 0.08, for an average of
            this length (σ_rel) of a run with ema=power.
        device: auto, cpu, cuda, cuda:1, mps.
        config_dir: your own folder of choices, like conf/. The classes that it names may be built from the file.
    """
    with searching([config_dir]):
        restored = restore(trained(path), weights)
    chosen = choose_device(device)
    restored.denoiser.to(chosen)
    return Model(restored, chosen)


def score(
    images: Tensor,
    reference: str | Path | ImageData = "landscapes",
    split: str = "val",
    features: str = "auto",
    metrics: str = "standard",
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Score]:
    """Scores of images against real ones, by name: `score(images)["fd_lite0"].value`.

    Each holds its interval (`low`, `high`) and its protocol. Raises UserError for fewer than 4 images, and for a
    reference that is not there.

    Args:
        images: uint8 (n, C, H, W), grey, RGB or RGBA.
        reference: a choice of conf/data, a folder of images, or an `ImageData`. It is read in the size
            and with the channels of the images.
        split: of the reference: train, val or test.
        features: a choice of conf/features.
        metrics: a choice of conf/metrics.
        device: auto, cpu, cuda, cuda:1, mps; of the feature extractor.
    """
    extractor = make(choice("features", features), "features").to(choose_device(device))
    data = reference if isinstance(reference, ImageData) else _data(reference, images)
    data.prepare_data()
    if split not in data.splits:
        raise UserError(f"split={split}: expected one of {', '.join(data.splits)}")
    factories = make_metrics(choice("metrics", metrics))
    spatial = metrics_of.wants_spatial(factories, extractor)
    real = reference_statistics(data.splits[split].images, extractor, name=split, spatial=spatial)
    return metrics_of.score(images, extractor, real, progress=progress, metrics=factories)


def _data(reference: str | Path, images: Tensor) -> ImageData:
    channels, height, width = images.shape[1:]
    shape = {"resolution": resolution_of(height, width)} | ({"channels": channels} if channels != 3 else {})
    name, root = (reference, {}) if reference in choices("data") else ("folder", {"root": str(reference)})
    data: ImageData = make(choice("data", str(name), ["+seed=0"], **shape, **root), "data")
    return data
