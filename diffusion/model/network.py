"""The base class of the networks: class labels, image sizes and activation checkpointing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.errors import UserError
from diffusion.model.coordinates import coordinates
from diffusion.model.dropout import Examples, examples


class Network(nn.Module):
    """A network: forward(x (B, C, H, W), label (B,), classes (B,) or None) -> (B, out_channels, H, W).

    Networks with augmentation labels have another argument, `augment` (B, A) or None, which means zeros. Networks with
    coordinates have another, `window` (B, 4) or None, which means whole images; see `coordinates`.

    H and W must be multiples of `downsampling`. `label` is the noise label that the prediction computes from t.
    `classes` are int64 from 0 to K, where K is the attribute `classes`. The value K means "no class"; None means "no
    class" for all images. If K = 0, the network is unconditional and accepts only None.

    Args:
        downsampling: H and W must be multiples of it.
        classes: K, the number of classes; 0: an unconditional network.
        checkpointing: whether the blocks called by `run` keep only their inputs for the backward pass.
    """

    ends: tuple[str, ...] = ("stem", "out")
    """Names of the layers that read or write images, or read one-hot classes: `optimizer=muon` leaves them to AdamW."""

    coordinates = False
    """Whether the network accepts coordinates."""

    def __init__(self, downsampling: int, classes: int = 0, checkpointing: bool = False):
        super().__init__()
        self.downsampling = downsampling
        self.classes = classes
        self.checkpointing = checkpointing

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError unless the height and the width of the images are multiples of `downsampling`."""
        d = self.downsampling
        if height % d or width % d:
            near = "×".join(str(max(d, round(side / d) * d)) for side in (height, width))
            raise UserError(
                f"model: images of {height}×{width} pixels, but {type(self).__name__} needs a height and a width that "
                f"are multiples of {d}, such as {near}; resize the images or change the model"
            )

    def class_rows(self, classes: Tensor | None, label: Tensor) -> Tensor | None:
        """(B,) rows of a table with K + 1 rows, the last for "no class"; None if K = 0.

        Raises:
            UserError: if K = 0 and `classes` is not None.
        """
        if self.classes == 0:
            if classes is not None:
                raise UserError("model.classes=0: this network accepts no classes; pass none, or train with classes")
            return None
        return torch.full_like(label, self.classes, dtype=torch.int64) if classes is None else classes

    def located(self, x: Tensor, window: Tensor | None) -> Tensor:
        """x with its `coordinates` as two more channels if the network accepts them, else x.

        Raises UserError for a window if the network does not accept coordinates.
        """
        if self.coordinates:
            return torch.cat([x, coordinates(x, window)], dim=1)
        if window is not None:
            raise UserError(
                "model: this network does not accept crop positions; use one that does, with model.coordinates=true"
            )
        return x

    def run(self, block: Callable[..., Tensor], *inputs: object) -> Tensor:
        """block(*inputs). With `checkpointing`, the backward pass recomputes the block (Chen et al. 2016).

        Dropout uses the same masks both times.
        """
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(_with_examples, Examples.numbers, block, *inputs, use_reentrant=False)
        return block(*inputs)


def _with_examples(numbers: Tensor | None, block: Callable[..., Tensor], *inputs: object) -> Tensor:
    """block(*inputs) in the context `examples`, which has already ended when the backward pass recomputes a block."""
    with examples(numbers):
        return block(*inputs)


def to_channels_last(network: nn.Module) -> None:
    """Store all 4-d weights in the memory format channels_last, in place. (`Module.to` fails if there are 5-d ones.)"""
    for weight in (*network.parameters(), *network.buffers()):
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def check_levels(channels: Sequence[int], attention: Sequence[bool], head_dim: int | None) -> None:
    """Raise UserError unless each level of a U-Net has a width, an attention flag and whole attention heads."""
    if not channels:
        raise UserError("model.channels is empty: set the width of at least one level, such as [64,128]")
    if len(attention) != len(channels):
        raise UserError(
            f"model.attention has {len(attention)} entries and model.channels {len(channels)}: "
            "both need one entry per level"
        )
    attending = [c for c, attend in zip(channels, attention, strict=True) if attend] + [channels[-1]]
    if invalid := [c for c in attending if c % (head_dim or 1)]:
        raise UserError(
            f"model.channels has {invalid[0]} for a level with attention, not a multiple of "
            f"model.head_dim={head_dim}: change one of them"
        )
