"""What is asked of a trained model: how it draws, with nothing left to its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.schema import FromModel
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.process.sampler import Sampler
from diffusion.sampling.drawing import Drawing, Labels, make_guidance
from diffusion.sampling.given import Given, make_given

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """How samples are drawn; the parts are configurations, or objects that have been made.

    Args:
        given: the conditions, see `given.given_of`; None: those of the images of a `split` of `data`.
        labels: None: classes in the proportions of `counts`, which are by default those of the training.
    """

    sampler: Sampler | Node
    seed: int = 0
    guidance: Node | None = None
    condition: Node | None = None
    data: ImageData | Node | None = None
    split: str = "val"
    given: str | list[Any] | Given | None = None
    labels: Labels = None
    counts: Mapping[str, int] | None = None
    precision: str | None = None

    @classmethod
    def of(cls, settings: FromModel, **own: Any) -> "Request":
        """The request in the complete settings of a command, with some of its `own`."""
        asked = {each.name: getattr(settings, each.name) for each in fields(cls) if hasattr(settings, each.name)}
        asked["labels"] = one_of(getattr(settings, "labels", None), getattr(settings, "label", None))
        return cls(**asked | own)

    def drawing(self, restored: Restored) -> Drawing:
        """How the model draws. Raises UserError if it cannot do what is asked."""
        sampler, given = self.sampler, self.given
        guidance, weak = make_guidance(self.guidance, restored)
        if not isinstance(sampler, Sampler):
            sampler = make(sampler, "sampler", Sampler)
        if not isinstance(given, Given):
            given = make_given(restored, self.condition, self.data, given, self.split)
        drawing = Drawing(
            sampler, restored.shape, self.seed, guidance, None if weak is None else weak.denoiser,
            restored.labels if self.counts is None else self.counts, self.labels, precision=self.precision, finite=True,
            given=given, kind=restored.kind,
        )  # fmt: skip
        drawing.check(restored.denoiser, restored.label_dropout)
        return drawing


def one_of(labels: Labels, label: int | str | None) -> Labels:
    """The classes that are asked for, as several or as one. Raises UserError for both."""
    if labels is not None and label is not None:
        raise UserError("set label=CLASS for all images, or labels=[CLASS,CLASS] for several classes, not both")
    return label if labels is None else labels
