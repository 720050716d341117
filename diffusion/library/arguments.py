"""Checks of the arguments of the library's functions."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import UserError

Labels = int | str | Sequence[int | str] | np.ndarray | Tensor | None


def described(values: Any) -> str:
    """The dtype and shape of a tensor as text, `float32 (3, 32, 32)`; of another object, its class."""
    if not isinstance(values, Tensor):
        return f"{type(values).__module__}.{type(values).__qualname__}"
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"


def shown(value: Any) -> str:
    """A value in one line: plain values as in Python, functions and classes by name, other objects by their class."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return getattr(value, "__name__", None) or described(value)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """The argument `name` as an int; numpy's and torch's whole numbers are accepted.

    Raises UserError for any other type, and for a number below `least`.
    """
    wanted = "a whole number" if least is None else f"a whole number of at least {least}"
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name}={shown(value)}: expected {wanted}") from None
    if least is not None and number < least:
        raise UserError(f"{name}={number}: expected {wanted}")
    return number


def classes(value: Labels) -> int | str | list[int | str] | None:
    """The argument `labels`: None, one class or several, each a name or a whole number (numpy's and torch's, too).

    Raises UserError for anything else, and for an empty list.
    """
    if value is None or isinstance(value, str):
        return value
    values = value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
    if not isinstance(values, Sequence):
        return whole("labels", values)
    if isinstance(values, str) or not values:
        raise UserError(f"labels={shown(value)}: expected a class or several, by name or number")
    return [each if isinstance(each, str) else whole("labels", each) for each in values]


def choice_name(name: str, value: Any, wanted: str) -> str:
    """The argument `name`, which is the name of a choice. Raises UserError, which says what is wanted, if it is not."""
    if not isinstance(value, str):
        raise UserError(f"{name}={shown(value)}: expected a name such as {wanted}")
    return value
