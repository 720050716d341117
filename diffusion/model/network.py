"""What the networks share: dropout, class labels, image sizes, checkpointing, label embedding, a U-Net's levels."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.errors import UserError

Resize = Literal["down", "up"] | None
RANGE = 2**32


class Examples:
    """The examples that the networks currently process."""

    numbers: Tensor | None = None  # (B,) int32; None: unknown


@contextlib.contextmanager
def examples(index: Tensor | None) -> Iterator[None]:
    """Within this context, row i of a network's input is example number `index[i]` (B,); None: unknown."""
    before, Examples.numbers = Examples.numbers, None if index is None else index.int()
    try:
        yield
    finally:
        Examples.numbers = before


class Dropout(nn.Dropout):
    """x (B, ...) -> x·m/(1 − p) in training, where the mask m is 0 with probability p and 1 otherwise; x in evaluation.

    Within the context `examples`, m depends on the example, not on its position in the batch or on the device; outside,
    this is torch's dropout. For each element of the features, a and b are drawn uniformly, once for all examples, from
    torch's default generator, which the trainer seeds identically on all devices and for all micro-batches of a step.
    Example k gets u_k = a + k·b (mod 2³²), and drops the element if u_k < p·2³². The masks of any two examples are
    independent (pairwise independent hashing: Carter, Wegman 1979), which suffices for the variance of a mean.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or Examples.numbers is None:
            return super().forward(x)
        a, b = (torch.randint_like(x[:1], -RANGE // 2, RANGE // 2, dtype=torch.int32) for _ in range(2))
        k = Examples.numbers.view(-1, *[1] * (x.ndim - 1))
        kept = torch.addcmul(a, k, b) >= round(self.p * RANGE) - RANGE // 2
        return x * kept * (1 / (1 - self.p))


class Network(nn.Module):
    """A network: forward(x (B, C, *size), label (B,), classes (B,) or None) -> (B, out_channels, *size).

    `label` is the noise label that the prediction computes from t. `classes` are int64 from 0 to K, where K is the
    attribute `classes`; the value K, and None for all images, mean "no class". Some have the arguments `augment`
    (B, A), the vector of a condition and labels of the augmentation, None for zeros, and `window` (B, 4) (see
    `coordinates`). Every side is a multiple of `downsampling`.
    """

    axes: int = 2
    """The number of axes of `size` that it works on: 1 of series, 2 of images, 3 of volumes."""

    ends: tuple[str, ...] = ("stem", "out")
    """Names of the layers that read or write images, or read one-hot classes: `optimizer=muon` leaves them to AdamW."""

    def __init__(self, downsampling: int, classes: int = 0, checkpointing: bool = False):
        super().__init__()
        self.downsampling, self.classes, self.checkpointing = downsampling, classes, checkpointing

    def check_size(self, *size: int) -> None:
        """Raise UserError unless there are as many sides as `axes`, and all are multiples of `downsampling`."""
        found = "×".join(map(str, size))
        if (n := len(size)) != self.axes:
            other = "unet_small" if n == 2 else f"unet1d with axes {n}"
            words = f"model: {type(self).__name__} works on {self.axes} axes, and the data have {n}, {found}"
            raise UserError(f"{words}; use another network, such as {other}")
        if any(side % self.downsampling for side in size):
            raise UserError(f"model: examples of {found}; expected multiples of {self.downsampling}")

    def class_rows(self, classes: Tensor | None, label: Tensor) -> Tensor | None:
        """(B,) rows of a table with K + 1 rows, the last for "no class"; None if K = 0."""
        if self.classes == 0:
            if classes is not None:
                raise UserError("model: this network accepts no classes; pass none, or train one with classes")
            return None
        return torch.full_like(label, self.classes, dtype=torch.int64) if classes is None else classes

    def run(self, block: Callable[..., Tensor], *inputs: object) -> Tensor:
        """block(*inputs). With `checkpointing`, the backward pass recomputes it, with the same masks of dropout."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(_with_examples, Examples.numbers, block, *inputs, use_reentrant=False)
        return block(*inputs)


def _with_examples(numbers: Tensor | None, block: Callable[..., Tensor], *inputs: object) -> Tensor:
    """block(*inputs) in the context `examples`, which has already ended when the backward pass recomputes a block."""
    with examples(numbers):
        return block(*inputs)


def sinusoidal(label: Tensor, width: int, shift: int = 1) -> Tensor:
    """[sin(label·ω), cos(label·ω)] (B, width) of label (B,), ω_k = 10000^(−k/(width/2 − shift)), k = 0 … width/2 − 1.

    Vaswani et al. 2017, §3.5, in DDPM's order (sines first); `shift` is 1 in DDPM and 0 in ADM. Always in float32.
    """
    half = width // 2
    k = torch.arange(half, dtype=torch.float32, device=label.device)
    omega = torch.exp(-math.log(10000) * k / (half - shift))
    phase = label.float()[:, None] * omega
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """label (B,), rows (B,), augment (B, A) -> (B, features): silu(W₂ silu(W₁ sinusoidal(label)) + class vector).

    The class vector, one of K + 1 (none if K = `classes` = 0), is added as in ADM (Dhariwal, Nichol 2021, section 3);
    the zero-initialised W_a augment is added to the sinusoids, as in EDM's code; its last values may be missing, for
    zeros. `cosines_first`: as in ADM and DiT.
    """

    def __init__(
        self, width: int, features: int, classes: int = 0, shift: int = 1, cosines_first: bool = False, augment: int = 0
    ):
        super().__init__()
        self.width, self.shift, self.cosines_first = width, shift, cosines_first
        self.linear1 = nn.Linear(width, features)
        self.linear2 = nn.Linear(features, features)
        if classes:
            self.classes = nn.Embedding(classes + 1, features)
        if augment:
            self.augment = nn.Parameter(torch.zeros(width, augment))

    def forward(self, label: Tensor, rows: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        waves = sinusoidal(label, self.width, self.shift)
        if self.cosines_first:
            waves = waves.roll(self.width // 2, dims=1)
        waves = waves.to(self.linear1.weight.dtype)
        if augment is not None:
            waves = waves + F.linear(augment.to(waves.dtype), self.augment[:, : augment.shape[1]])
        emb = self.linear2(F.silu(self.linear1(waves)))
        return F.silu(emb if rows is None else emb + self.classes(rows))


def pooled(x: Tensor, n: int, **options: Any) -> Tensor:
    """x (B, C, *size): the mean of each window of n positions along every axis, by default of those side by side."""
    return (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3](x, n, **options)


def by_channel(values: Tensor, x: Tensor) -> Tensor:
    """values (B, C) -> (B, C, 1, …), with the axes of x (B, C, *size)."""
    return values[(..., *[None] * (x.ndim - 2))]


def resized(x: Tensor, resize: Resize) -> Tensor:
    """x (B, C, *size) -> (B, C, *size'): "down" averages 2 positions along every axis, "up" repeats each twice."""
    if resize == "down":
        return pooled(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest") if resize == "up" else x


def coordinates(x: Tensor, window: Tensor | None = None) -> Tensor:
    """(B, 2, h, w) for x (B, C, h, w): to the right, then down; −1 and 1 are the centres of the image's outer pixels.

    `window` (B, 4) is the row and column of a crop's first pixel in the whole image, then the height and width of that
    image (Wang et al. 2023, "Patch Diffusion"); None: x is the whole image.
    """
    height, width = x.shape[2:]
    if window is None:
        window = torch.stack([x.new_full((len(x),), n, dtype=torch.float32) for n in (0, 0, height, width)], dim=1)
    top, left, rows, columns = window.float().split(1, dim=1)

    def line(first: Tensor, n: int, whole: Tensor) -> Tensor:
        """(B, n)."""
        return (first + torch.arange(n, device=x.device)) / (whole - 1).clamp(min=1) * 2 - 1

    across = line(left, width, columns)[:, None, :].expand(-1, height, -1)
    down = line(top, height, rows)[:, :, None].expand(-1, -1, width)
    return torch.stack([across, down], dim=1).to(x.dtype)


def to_channels_last(network: nn.Module) -> None:
    """Store all 4-d weights in the memory format channels_last, in place. (`Module.to` fails if there are 5-d ones.)"""
    for weight in (*network.parameters(), *network.buffers()):
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


class UNetwork(Network):
    """A network with an encoder and a decoder of several levels, each for images of half the sides of the one before.

    Level i has `channels[i]` channels and, if `attention[i]`, attention with heads of `head_dim` channels after each of
    its blocks (x, emb) -> x; the middle, on the last level, always has attention. Subclasses define `unit`.
    """

    def __init__(
        self, channels: Sequence[int], attention: Sequence[bool], head_dim: int | None, patch: int, *more: Any
    ):
        super().__init__(patch * 2 ** max(0, len(channels) - 1), *more)
        if not channels or len(attention) != len(channels):
            raise UserError(f"model: {len(channels)} channels but {len(attention)} flags of attention: one a level")
        attending = [c for c, attend in zip(channels, attention, strict=True) if attend] + [channels[-1]]
        if invalid := [c for c in attending if c % (head_dim or 1)]:
            raise UserError(f"model: {invalid[0]} channels with attention are not a multiple of head_dim = {head_dim}")

    def unit(self, c_in: int, c_out: int, attend: bool = False, resize: Resize = None, encoder: bool = False) -> Any:
        """A block, or the layer that downsamples or upsamples between two levels."""
        raise NotImplementedError

    def build(self, channels: Sequence[int], attention: Sequence[bool], blocks: int) -> None:
        """Add the blocks: `blocks` per level of the encoder, and one more per level of the decoder."""
        width, skips, last = channels[0], [channels[0]], len(channels) - 1
        self.encoder = nn.ModuleDict()
        for i, c in enumerate(channels):
            for j in range(blocks):
                self.encoder[f"stage{i}_block{j}"] = self.unit(width, c, attention[i], encoder=True)
                width = c
                skips.append(c)
            if i < last:
                self.encoder[f"stage{i}_down"] = self.unit(c, c, resize="down", encoder=True)
                skips.append(c)
        self.middle = nn.ModuleList([self.unit(width, width, True), self.unit(width, width)])
        self.decoder = nn.ModuleDict()
        for i, c in enumerate(reversed(channels)):
            for j in range(blocks + 1):
                self.decoder[f"stage{i}_block{j}"] = self.unit(width + skips.pop(), c, attention[-1 - i])
                width = c
            if i < last:
                self.decoder[f"stage{i}_up"] = self.unit(c, c, resize="up")

    def joined(self, block: nn.Module, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        """A decoder block, applied to the concatenation of h and an output of the encoder."""
        return block(torch.cat([h, skip], dim=1), emb)

    def through(self, h: Tensor, emb: Tensor) -> Tensor:
        """All blocks in turn. Each output of the encoder is an input of one decoder block, last in, first out."""
        skips = [h]
        for block in self.encoder.values():
            skips.append(self.run(block, skips[-1], emb))
        h = skips[-1]
        for block in self.middle:
            h = self.run(block, h, emb)
        for name, block in self.decoder.items():
            h = self.run(block, h, emb) if name.endswith("_up") else self.run(self.joined, block, h, skips.pop(), emb)
        return h
