"""The base class of the networks: class labels, image sizes and activation checkpointing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.errors import UserError
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
        checkpointing: keep only the inputs of blocks for the backward pass: less memory, up to half more time.
    """

    ends: tuple[str, ...] = ("stem", "out")
    """Names of the layers that read or write images, or read one-hot classes: `optimizer=muon` leaves them to AdamW."""

    coordinates = False
    """Whether the network accepts coordinates."""

    def __init__(self, downsampling: int, classes: int = 0, checkpointing: bool = False):
        super().__init__()
        self.downsampling, self.classes, self.checkpointing = downsampling, classes, checkpointing

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError unless the height and the width of the images are multiples of `downsampling`."""
        d = self.downsampling
        if height % d or width % d:
            near = "×".join(str(max(d, round(side / d) * d)) for side in (height, width))
            raise UserError(
                f"model: images of {height}×{width} pixels, but {type(self).__name__} needs multiples of {d}, such as "
                f"{near}"
            )

    def class_rows(self, classes: Tensor | None, label: Tensor) -> Tensor | None:
        """(B,) rows of a table with K + 1 rows, the last for "no class"; None if K = 0."""
        if self.classes == 0:
            if classes is not None:
                raise UserError("model: this network accepts no classes; pass none, or train one with classes")
            return None
        return torch.full_like(label, self.classes, dtype=torch.int64) if classes is None else classes

    def located(self, x: Tensor, window: Tensor | None) -> Tensor:
        """x with its `coordinates` as two more channels if the network accepts them, else x."""
        if self.coordinates:
            return torch.cat([x, coordinates(x, window)], dim=1)
        if window is not None:
            raise UserError("model: this network does not accept the positions of crops; use one with coordinates")
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


def coordinates(x: Tensor, window: Tensor | None = None) -> Tensor:
    """(B, 2, h, w) for x (B, C, h, w): to the right, then down; −1 and 1 are the centres of the image's outer pixels.

    Positions of a crop's pixels in the whole image are inputs of a network (Wang et al. 2023, "Patch Diffusion").

    Args:
        window: (B, 4), the row and column of the crop's first pixel in the whole image, then the height and width of
            that image; None: x is the whole image.
    """
    height, width = x.shape[2:]
    if window is None:
        top = left = torch.zeros(len(x), 1, device=x.device)
        rows, columns = (torch.full((len(x), 1), float(side), device=x.device) for side in (height, width))
    else:
        top, left, rows, columns = window.float().split(1, dim=1)
    across = _line(left, width, columns)[:, None, :].expand(-1, height, -1)
    down = _line(top, height, rows)[:, :, None].expand(-1, -1, width)
    return torch.stack([across, down], dim=1).to(x.dtype)


def _line(first: Tensor, n: int, whole: Tensor) -> Tensor:
    """(B, n): the coordinates of the n pixels from `first` (B, 1) on, in a whole image of `whole` (B, 1) pixels."""
    return (first + torch.arange(n, device=first.device)) / (whole - 1).clamp(min=1) * 2 - 1


def to_channels_last(network: nn.Module) -> None:
    """Store all 4-d weights in the memory format channels_last, in place. (`Module.to` fails if there are 5-d ones.)"""
    for weight in (*network.parameters(), *network.buffers()):
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


class UNetwork(Network):
    """A network with an encoder and a decoder of several levels, each for images of half the size of the one before.

    Subclasses define the blocks (x, emb) -> x of the encoder, the middle and the decoder.
    """

    encoder: nn.ModuleDict
    middle: nn.ModuleList
    decoder: nn.ModuleDict

    def through(self, h: Tensor, emb: Tensor, joined: Callable[..., Tensor]) -> Tensor:
        """All blocks in turn. Each output of the encoder is an input of one decoder block, last in, first out.

        Args:
            joined: (block, h, skip, emb) -> block(h and skip, emb).
        """
        skips = [h]
        for unit in self.encoder.values():
            h = self.run(unit, h, emb)
            skips.append(h)
        for block in self.middle:
            h = self.run(block, h, emb)
        for name, unit in self.decoder.items():
            h = self.run(unit, h, emb) if name.endswith("_up") else self.run(joined, unit, h, skips.pop(), emb)
        return h


def check_levels(channels: Sequence[int], attention: Sequence[bool], head_dim: int | None) -> None:
    """Raise UserError unless each level of a U-Net has a width, an attention flag and whole attention heads."""
    if not channels:
        raise UserError("model: channels is empty: set the width of at least one level, such as [64,128]")
    if len(attention) != len(channels):
        raise UserError(
            f"model: attention has {len(attention)} entries and channels {len(channels)}; both need one a level"
        )
    attending = [c for c, attend in zip(channels, attention, strict=True) if attend] + [channels[-1]]
    if invalid := [c for c in attending if c % (head_dim or 1)]:
        raise UserError(f"model: {invalid[0]} channels with attention are not a multiple of head_dim={head_dim}")
