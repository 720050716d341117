"""Dropout whose mask belongs to the example, wherever the example is: in which batch, and on which device.

For one element of the features, example k has u_k = a + k·b (mod 2³²), a and b drawn uniformly for all examples
together; it is dropped where u_k < p·2³². So each u_k is uniform, all elements of an example are independent, and those
of any two examples (but for the last bits, which decide nothing): the mean over a batch varies as with masks that are
independent altogether. A batch is drawn at the price of two examples, by torch's own generator, which the trainer seeds
alike on all devices and for all parts of a step. (Pairwise independent hashing: Carter, Wegman 1979.)
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

RANGE = 2**32


class Examples:
    """Which ones the networks see at present."""

    numbers: Tensor | None = None  # (B,) int32


@contextlib.contextmanager
def examples(index: Tensor | None) -> Iterator[None]:
    """Within: row i of what a network is given is the example of number `index[i]`, (B,) on any device.

    None: which examples they are is not known.
    """
    before, Examples.numbers = Examples.numbers, None if index is None else index.int()
    try:
        yield
    finally:
        Examples.numbers = before


class Dropout(nn.Dropout):
    """x (B, ...) -> x·m/(1 − p) in training, where m is 0 with probability p, else 1; x in evaluation.

    m is torch's own, of the place in the batch, unless it is said which `examples` these are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or Examples.numbers is None:
            return super().forward(x)
        a, b = (torch.randint_like(x[:1], -RANGE // 2, RANGE // 2, dtype=torch.int32) for _ in range(2))
        k = Examples.numbers.view(-1, *[1] * (x.ndim - 1))
        kept = torch.addcmul(a, k, b) >= round(self.p * RANGE) - RANGE // 2
        return x * kept * (1 / (1 - self.p))
