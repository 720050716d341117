"""The precision of float32 products on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_precision(precision: str) -> None:
    """Set the precision of float32 products: `highest`, `high` (TF32) or `medium` (bfloat16).

    torch has a setting of its own for convolutions on CUDA: TF32, its default, or float32.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextmanager
def exact_products() -> Iterator[None]:
    """Context in which products have the whole precision of float32, whatever the process uses otherwise."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
