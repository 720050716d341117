"""Typed access to an untrusted JSON object: each value is read by its key, and refused if it has the wrong type."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diffusion.errors import UserError, first_line

LARGEST = 1 << 16  # of widths and numbers of layers or classes; more is a mistake, or an attempt to exhaust memory
MOST_BYTES = 1 << 20  # maximum size of a file


class Fields:
    """The values of a JSON object, and its location `where`, for messages."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    @classmethod
    def read(cls, file: Path) -> "Fields":
        """Read a file. Raises UserError if it is not a JSON object."""
        try:
            with file.open("rb") as opened:
                content = opened.read(MOST_BYTES + 1)
            values = json.loads(content) if len(content) <= MOST_BYTES else None
        except (OSError, RecursionError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else first_line(error)
            raise UserError(f"{file}: it cannot be read as JSON ({reason}); get it again") from error
        if not isinstance(values, dict):
            raise UserError(f"{file}: expected a JSON object of at most {MOST_BYTES >> 20} MiB; get it again")
        return cls(values, str(file))

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise UserError, because the value of `key` is not the expected one."""
        text = repr(self.values.get(key))
        shown = text if len(text) <= 60 else text[:60] + "…"
        raise UserError(f"{self.where}: {key} is {shown}; expected {expected}")

    def whole(self, key: str, low: int = 1, high: int = LARGEST) -> int:
        """An integer from `low` to `high`."""
        value = self.values.get(key)
        if not (type(value) is int and low <= value <= high):
            self.refuse(key, f"a whole number from {low} to {high}")
        return value

    def wholes(self, key: str) -> list[int]:
        """A non-empty list of integers from 1 to `LARGEST`."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(type(n) is int and 1 <= n <= LARGEST for n in value):
            self.refuse(key, f"a list of whole numbers from 1 to {LARGEST}")
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from `low` to `high`."""
        value = self.values.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
            or not abs(value) <= sys.float_info.max
        ):
            self.refuse(key, "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.values.get(key)
        if type(value) is not bool:
            self.refuse(key, "true or false")
        return value

    def one_of(self, key: str, known: Sequence[Any]) -> Any:
        """One of the known values."""
        value = self.values.get(key)
        if not any(_same(value, each) for each in known):
            words = json.dumps(known[0]) if len(known) == 1 else f"one of {', '.join(map(json.dumps, known))}"
            self.refuse(key, f"{words}: nothing else has a counterpart here")
        return value

    def differing(self, expected: Mapping[str, Any]) -> list[str]:
        """The keys whose values are not the expected ones."""
        return [key for key, value in expected.items() if not _same(self.values.get(key), value)]


def _same(value: Any, other: Any) -> bool:
    """Whether the values are equal, and both or none of them are bool."""
    return bool(value == other) and (type(value) is bool) == (type(other) is bool)
