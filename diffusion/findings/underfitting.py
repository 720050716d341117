"""Where the loss is: a network's errors by noise level beside those of the best denoiser of its training images.

On training images, that denoiser has the lowest possible error, the floor. With the photograph of each image left out,
it is one of many that have not seen this image. The best of these, on average, has an error between the two. So a
network is under-fitted if its error, even on images that it has seen, is higher than that of the denoiser that has not.
It memorizes if its error on training images is lower than that on held-out images, with the same noises. Each is only
claimed where the whole interval says so. Without any interval, it cannot be told.
"""

import math
from collections.abc import Sequence
from itertools import groupby

Row = dict[str, float]  # of floor.csv


def sentence(rows: Sequence[Row]) -> str:
    """Which noise levels are under-fitted, by how much, and which are being memorized; or that it cannot be told."""
    unknown = "with so few photographs, it cannot be told whether it "
    under, much = largest(rows, "behind", "best")
    if under is None:
        first = f"{unknown}is under-fitted"
    elif under:
        first = (
            f"at {under} it is under-fitted: its error on training images is {much} above that of their best denoiser "
        )
        first += "without the photograph of the image"
    else:
        first = "at no noise level is it shown to be under-fitted"
    memorized, much = largest(rows, "gap", "held_out")
    if memorized is None:
        second = f"{unknown}memorizes"
    elif memorized:
        second = f"at {memorized} it memorizes: its error on training images is {much} below that on held-out images"
    else:
        second = "at none is it shown to memorize"
    text = f"{first[0].upper()}{first[1:]}; {second}."
    noisy, compared = (int(rows[0][name]) for name in ("noisy", "compared"))
    if compared == noisy:
        return text
    only = f"Under-fitting is judged by {compared} of {noisy} images: no other photograph has the label of the others."
    return f"{text} {only}"


def largest(rows: Sequence[Row], name: str, of: str) -> tuple[str | None, str]:
    """The levels where a difference is above 0 with its whole interval (None: unknown), and its share of `of`."""
    if all(math.isnan(row[f"{name}_half"]) for row in rows):
        return None, ""
    shown = [row for row in rows if row[name] - row[f"{name}_half"] > 0]
    if not shown:
        return "", ""
    most = max(shown, key=lambda row: row[name] / row[of])
    much = f"{most[name] / most[of]:.1%} ± {most[f'{name}_half'] / most[of]:.1%}"
    if len(shown) == 1:
        return f"noise level {ranges(rows, shown)}", much
    return f"noise levels {ranges(rows, shown)}", f"up to {much} (at {most['level']:.2g})"


def ranges(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    """The levels of the rows that are `shown`, in words: `0.02 to 0.11 and 20`."""
    runs = [[f"{row['level']:.2g}" for row in run] for inside, run in groupby(rows, shown.__contains__) if inside]
    return " and ".join(" to ".join(dict.fromkeys((run[0], run[-1]))) for run in runs)
