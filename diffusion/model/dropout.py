"""Dropout with a mask that depends on the example, not on its position in the batch or on the device.

For each element of the features, a and b are drawn uniformly, once for all examples, from torch's default generator,
which the trainer seeds identically on all devices and for all micro-batches of a step. Example k gets u_k = a + k·b
(mod 2³²), and drops the element if u_k < p·2³². Each u_k is uniform, the elements of one example are independent, and
so are the masks of any two examples (except for the lowest bits of u_k, which do not matter). So a mean over the batch
has the same variance as with fully independent masks. (Pairwise independent hashing: Carter, Wegman 1979.)
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

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

    Outside the context `examples`, this is torch's dropout, whose mask depends on the position in the batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or Examples.numbers is None:
            return super().forward(x)
        a, b = (torch.randint_like(x[:1], -RANGE // 2, RANGE // 2, dtype=torch.int32) for _ in range(2))
        k = Examples.numbers.view(-1, *[1] * (x.ndim - 1))
        kept = torch.addcmul(a, k, b) >= round(self.p * RANGE) - RANGE // 2
        return x * kept * (1 / (1 - self.p))
