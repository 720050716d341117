"""What all networks share: the classes they know, the sizes they take, and activation checkpointing."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.errors import UserError
from diffusion.model.dropout import Examples, examples


class Network(nn.Module):
    """The contract: `forward(x (B, C, H, W), label (B,), classes (B,) or None) -> (B, out_channels, H, W)`.

    H and W are multiples of `downsampling`. `label` is the noise label, which the prediction gives. `classes` are int64
    from 0 to K − 1, K the attribute `classes`; the value K is "no class", and None is K for all. A network with K = 0
    takes no classes.

    Args:
        downsampling: what H and W are multiples of.
        classes: K.
        checkpointing: whether the blocks that `run` calls keep only their inputs for the backward pass.
    """

    def __init__(self, downsampling: int, classes: int = 0, checkpointing: bool = False):
        super().__init__()
        self.downsampling = downsampling
        self.classes = classes
        self.checkpointing = checkpointing

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError where `downsampling` does not divide the height and the width of the images."""
        d = self.downsampling
        if height % d or width % d:
            near = "×".join(str(max(d, round(side / d) * d)) for side in (height, width))
            raise UserError(
                f"model: images of {height}×{width} pixels, but {type(self).__name__} needs a height and a width that "
                f"are multiples of {d}, such as {near}; resize the images or change the model"
            )

    def rows(self, classes: Tensor | None, label: Tensor) -> Tensor | None:
        """The rows (B,) of a table of K + 1 classes; None where K = 0.

        Raises:
            UserError: where K = 0 and classes are given.
        """
        if self.classes == 0:
            if classes is not None:
                raise UserError("model.classes=0: this network takes no classes; give none, or train with classes")
            return None
        return torch.full_like(label, self.classes, dtype=torch.int64) if classes is None else classes

    def run(self, block: Callable[..., Tensor], *inputs: object) -> Tensor:
        """block(*inputs); with `checkpointing`, what is within is computed again in the backward pass, not kept.

        (Chen et al. 2016.) Dropout draws the same masks the second time.
        """
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(_of_examples, Examples.numbers, block, *inputs, use_reentrant=False)
        return block(*inputs)


def _of_examples(numbers: Tensor | None, block: Callable[..., Tensor], *inputs: object) -> Tensor:
    """block(*inputs), where the rows are these examples: the backward pass is outside of the step's `examples`."""
    with examples(numbers):
        return block(*inputs)
