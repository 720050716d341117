"""The precision of float32 products: `highest`; TF32 on a GPU: `high`; and bfloat16 on a CPU with AMX: `medium`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

BACKENDS: Any = torch.backends  # some of its modules have no types
SETTINGS = [BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv]
VALUES = {
    "highest": ("ieee", "ieee", "ieee", "ieee"),
    "high": ("tf32", "tf32", "tf32", "none"),
    "medium": ("tf32", "tf32", "bf16", "none"),
}
"""The precision of matrix products and convolutions on CUDA, and the same on a CPU, as in SETTINGS."""


def set_precision(precision: str) -> None:
    """Set the precision of float32 products in this process; for convolutions on CUDA, torch has another setting."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Context in which float32 products have this precision, whatever the process uses otherwise."""
    # Torch refuses to tell its older settings while they differ from these, so only these are changed.
    before = [each.fp32_precision for each in SETTINGS]
    try:
        for each, value in zip(SETTINGS, VALUES[precision], strict=True):
            each.fp32_precision = value
        yield
    finally:
        for each, value in zip(SETTINGS, before, strict=True):
            each.fp32_precision = value
