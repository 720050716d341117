"""Numbers as text, with the digits that their intervals carry."""

import math

MISSING = "—"  # in a table


def number(value: float, half: float | None = None) -> str:
    """Format a number to the second significant digit of `half`, half the width of its interval.

    Without an interval, to 4 significant digits: `0.01234`, `29610`; with an exponent from 1e6 on and below 1e-4.
    """
    if value == 0 or not math.isfinite(value):
        return f"{abs(value):g}"
    size = math.floor(math.log10(abs(value)))
    if half is None or not 0 < half < math.inf:
        rounded = float(f"{value:.4g}")
        return f"{rounded:.0f}" if 3 <= size < 6 else f"{rounded:.4g}"
    digits = min(1 - math.floor(math.log10(float(f"{half:.1e}"))), 5 - size)  # 6 significant digits are enough
    return f"{round(value, digits) + 0.0:.{max(0, digits)}f}"


def plus_minus(value: float, half: float) -> str:
    """`105.7 ± 1.2`; only the number if `half` is NaN. A half of only rounding errors is 0."""
    half = 0.0 if half < 1e-12 * max(1.0, abs(value)) else half
    return number(value, half) + (f" ± {number(half, half)}" if half >= 0 else "")
