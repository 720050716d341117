"""The precision of float32 products: `highest`, or `high` and `medium`, which are TF32 on a GPU.

On a CPU with AMX, `medium` multiplies matrices in bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# The settings of torch 2.9 and later for matrix products and convolutions on CUDA, and the same on a CPU.
PLACES = (("cuda", "matmul"), ("cudnn", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
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
    settings = settings_of_torch()
    if not settings:  # an older torch
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        set_precision(precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]
        return
    # Torch refuses to tell its older settings while they differ from these, so only these are changed.
    values = [each.fp32_precision for each in settings]
    try:
        for each, value in zip(settings, VALUES[precision], strict=True):
            each.fp32_precision = value
        yield
    finally:
        for each, value in zip(settings, values, strict=True):
            each.fp32_precision = value


def settings_of_torch() -> list[Any]:
    """The objects at `PLACES`; none in an older torch."""
    found = [getattr(getattr(torch.backends, backend), kind, None) for backend, kind in PLACES]
    return found if all(hasattr(each, "fp32_precision") for each in found) else []
