"""What scores are asked for, and the scorer that gives them: of a model's samples, or of a folder of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from diffusion.base.console import console
from diffusion.checkpoint.restore import Restored, what_changed
from diffusion.config.build import make
from diffusion.config.schema import Scored
from diffusion.data import ImageData
from diffusion.data.folder import Collection
from diffusion.errors import given_as, refusing
from diffusion.metric.estimate import PairwiseMetric, RealSet
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.score import reference_of, statistics_of
from diffusion.sampling.given import condition_of
from diffusion.scoring.pipeline import Scorer, check_test, make_metrics

Node = Mapping[str, Any]


@dataclass(frozen=True)
class ScoreRequest:
    """What scores are asked for; the parts are configurations.

    Args:
        condition: that of the model whose samples are scored.
        baselines, audit: what is scored besides the images, see `pipeline.Scorer`.
        reference: published statistics, or images, to compare with instead of those of a `split` of `data`.
        again: whether a run may be evaluated on the test split once more.
    """

    data: Node
    features: Node
    metrics: Node
    condition: Node | None = None
    split: str = "val"
    baselines: Sequence[str] = ()
    audit: Sequence[str] = ()
    reference: str | None = None
    again: bool = True

    @classmethod
    def of(cls, settings: Scored) -> "ScoreRequest":
        """The request in the complete settings of a command.

        With a `reference`, there is no split_half, and real images are a baseline only of a model's data.
        """
        asked = {each.name: getattr(settings, each.name) for each in fields(cls) if hasattr(settings, each.name)}
        if asked.get("reference"):
            possible = ["noise"] + ["real"] * (settings.ckpt is not None)
            asked["baselines"] = [name for name in settings.baselines if name in possible]
        return cls(**asked)

    def scorer(self, n: int, folder: Path, run: Path, device: torch.device, restored: Restored | None = None) -> Scorer:
        """What scores n samples of a model, or images, and writes files about them into the folder.

        Warns of other images in the splits of the model's data. Raises UserError if `n` images cannot be scored, and
        for a second evaluation on the test split of the `run`, see `pipeline.check_test`.
        """
        if restored and self.split == "test" and not self.reference:
            check_test(run, self.again)
        extractor, metrics = make(self.features, "features").to(device), make_metrics(self.metrics)
        reference = reference_given(self.reference, self.data, extractor) if self.reference else None
        if reference and not len(reference.features):
            metrics = [metric for metric in metrics if not isinstance(metric, PairwiseMetric)]
        data: ImageData = make(self.data, "data")
        if restored:
            data.condition = condition_of(self.condition, restored.facts, restored.shape)
            if restored.config.get("encoder"):
                data.kind = restored.kind
        if restored or not reference or self.audit:
            data.setup()
        scorer = Scorer(data, self.split, extractor, metrics, folder, run, reference)
        scorer.check(n, self.baselines, self.audit)
        if restored:
            self._warn_of_changes(data, restored)
        return scorer

    def _warn_of_changes(self, data: ImageData, restored: Restored) -> None:
        trained = restored.config["data"]
        same = all(str(trained.get(key)) == str(self.data.get(key)) for key in ("_target_", "root", "path", "split"))
        if same and (changed := what_changed(restored.images, data.keys)):
            console.print(f"warning: {changed} are not those of the training, which may have used held-out images")


def reader_of(path: str, data: Node) -> Collection:
    """What reads all images of a folder or an archive, in the size and with the channels of `data`."""
    root = Path(path).expanduser()
    root = root / "images" if (root / "images.npz").is_file() else root  # of diffusion sample, beside its grid
    kind, key = ("Folder", "root") if root.is_dir() else ("Archive", "path")
    shape = {key: value for key, value in data.items() if key in ("resolution", "channels")}
    whole = {"_target_": f"diffusion.data.{kind}", key: str(root), "val": 0, "test": 0, "repeats": True}
    return cast(Collection, make(whole | shape, "images"))


def reference_given(path: str, data: Node, extractor: FeatureExtractor) -> RealSet:
    """The reference of published statistics or, as those of `data`, of the images of a folder or an archive."""
    file = Path(path).expanduser()
    if file.suffix.lower() == ".npz":
        with refusing(f"reference={path}"), np.load(file) as arrays:
            published = "mu" in arrays
        if published:
            return statistics_of(file, extractor)
    with given_as("reference", "data.root", "data.path"):
        (reader := reader_of(path, data)).setup()
    size = reader.kind.protocol(reader.shape)
    return reference_of(reader.splits["train"].images, extractor, file.name, (), size)
