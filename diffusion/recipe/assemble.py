"""`assembled`: the denoiser of a recipe and its facts, for training, loading and reporting alike."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from diffusion.config.build import check_arguments, check_targets, make
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.kinds.encoder import Encoder
from diffusion.kinds.kind import Kind
from diffusion.kinds.latents import Latents
from diffusion.kinds.measured import Measured
from diffusion.kinds.pixels import Pixels
from diffusion.kinds.points import PlanePoints
from diffusion.process.denoiser import Denoiser, denoiser_of
from diffusion.process.prediction import Prediction, scaled
from diffusion.process.schedule import Schedule
from diffusion.recipe.facts import Facts

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Pixels, PlanePoints, Measured)}
"""Those that a data set does not name in its settings, as `data.kind`."""


def process_of(recipe: Mapping[str, Any]) -> tuple[Schedule, Prediction]:
    """The schedule and the prediction of a recipe."""
    made = make(recipe["schedule"], "schedule", Schedule), make(recipe["prediction"], "prediction", Prediction)
    return scaled(*made, recipe["data"].get("scale", 1.0))


def assembled(recipe: Mapping[str, Any], facts: Facts) -> Denoiser:
    """The denoiser, whose network has new weights. Raises UserError for a part that cannot be built."""
    network: nn.Module = make(facts.model(recipe), "model", nn.Module)
    return denoiser_of(network, *process_of(recipe), **facts.inputs)


def kind_of(recipe: Mapping[str, Any], facts: Facts, shape: tuple[int, ...], encoder: Any = None) -> Kind:
    """The kind of the data of a trained model with examples of `shape`.

    Args:
        encoder: the node of its encoder, if it works in latents.
    """
    if encoder:
        return Latents(make(encoder, "encoder", Encoder), shape, facts.figures)
    if (node := recipe["data"].get("kind")) is not None:
        node = {**node, **facts.figures}
        check_targets(node, "data", "its figures")  # they may be a stranger's
        return make(node, "data.kind", Kind)
    if facts.kind not in KINDS:
        raise UserError(f"its data are {facts.kind}, which its settings do not describe; expected {', '.join(KINDS)}")
    check_arguments(KINDS[facts.kind], facts.figures, facts.kind)
    return KINDS[facts.kind](**facts.figures)


def data_size(recipe: Mapping[str, Any]) -> tuple[int, ...]:
    """The size of the examples of a recipe's data, without channels."""
    node = recipe["data"]
    check_arguments(ImageData, {"resolution": node["resolution"], "scale": node.get("scale", 1.0)}, "data")
    kind: Kind = make(node["kind"], "data.kind", Kind) if node.get("kind") else Pixels()
    return kind.size(node["resolution"])
