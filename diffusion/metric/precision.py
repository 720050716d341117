"""The precision of float32 products: `highest`, or `high` and `medium`, which are TF32 on a GPU.

On a CPU with AMX, `medium` multiplies matrices in bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

VALUES = {
    "highest": ("ieee", "ieee", "ieee", "ieee"),
    "high": ("tf32", "tf32", "tf32", "none"),
    "medium": ("tf32", "tf32", "bf16", "none"),
}


def set_precision(precision: str) -> None:
    """Set the precision of float32 products in this process.

    torch has a setting of its own for convolutions on CUDA: TF32, its default, or float32.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Context in which float32 products have this precision, whatever the process uses otherwise."""
    # Torch refuses to tell its older settings while they differ from these, so only these are changed.
    settings = settings_of_torch()
    before = [each.fp32_precision for each in settings]
    try:
        for each, value in zip(settings, VALUES[precision], strict=True):
            each.fp32_precision = value
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


def settings_of_torch() -> list[Any]:
    """The settings of matrix products and convolutions on CUDA, and the same on a CPU, in the order of `VALUES`."""
    backends: Any = torch.backends
    return [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
