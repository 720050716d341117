"""The faults of samples (`metric.faults`) in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusion.findings.numbers import number

if TYPE_CHECKING:
    from torch import Tensor

Fault = dict[str, Any]
SHOWN = 4  # faults in sentences and figures
WORDS = {  # fault -> in a few words, and what was measured
    "saturated": ("almost entirely black, white or of one colour", "such pictures"),
    "repeated": ("repeated", "pictures that nearly equal another one"),
    "alike": ("too much alike", "the difference between two of them"),
    "noise": ("noisy", "the noise in their flattest places"),
    "colour noise": ("speckled with colours", "the noise of their colours"),
    "blur": ("blurred", "fine detail, relative to coarser detail,"),
    "rough": ("too rough", "fine detail, relative to coarser detail,"),
    "grid": ("marked by a grid", "the contrast at its lines, relative to others,"),
    "blotches": ("blotched with single colours", "how far one colour is from the picture's, relative to others,"),
    "blue": ("too blue", "red, relative to blue,"),
    "red": ("too red", "red, relative to blue,"),
    "purple": ("too purple", "green, relative to red and blue,"),
    "green": ("too green", "green, relative to red and blue,"),
    "dark": ("too dark", "their brightness"),
    "bright": ("too bright", "their brightness"),
    "flat": ("too low in contrast", "their contrast"),
    "harsh": ("too high in contrast", "their contrast"),
    "pale": ("too pale", "the strength of their colours"),
}


@dataclass(frozen=True)
class Judged:
    """Samples that the referee has judged, beside real ones, for figures of both."""

    samples: Tensor
    """(n, C, *size)."""
    real: Tensor
    """(m, C, *size), training and held-out ones."""
    faults: Sequence[Fault]
    quantities: Sequence[str]
    """The names of the channels, if each is a quantity with scores of its own."""
    standardised: Sequence[Tensor]
    """For such quantities: all samples and all held-out examples, as the network sees them."""


def words_of(fault: Fault) -> tuple[str, str]:
    """A fault in a few words, and what was measured."""
    name, _, side = fault["fault"].rpartition(" ")
    if not side.isdigit():
        return WORDS[fault["fault"]]
    words, measured = WORDS[name]
    return f"{words} of {side}×{side} pixels", measured


def sentence(fault: Fault) -> str:
    """A fault as a sentence, with its number and what sets of real images have."""
    (words, measured), value, real = words_of(fault), fault["value"], fault["real"]
    if fault["fault"] in ("saturated", "repeated"):
        return f"{words.capitalize()}: {value:.0%} are {measured}; of other real images, up to {fault['high']:.0%}."
    ratio, low, high = (number(float(f"{fault[key] / real:.2g}")) for key in ("value", "low", "high"))
    return f"{words.capitalize()}: {measured} is {ratio} times that of real images ({low} to {high} in others)."


def headline(faults: Sequence[Fault]) -> str:
    """`They are blurred and too dark.`"""
    return f"They are {joined([words_of(fault)[0] for fault in faults[:SHOWN]])}." if faults else ""


def joined(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
