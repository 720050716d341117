"""Text for reports: configuration nodes, tables, and scores with their protocols."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.metric.record import Reference, Score

HIDDEN_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def describe(node: Any) -> str:
    """A configuration node as one line of text: `AdamW(lr=0.0003, betas=[0.9, 0.999])`, `steps=50, eta=0`, `true`, `0.5`."""
    if isinstance(node, Mapping):
        inside = ", ".join(f"{key}={describe(value)}" for key, value in node.items() if key not in HIDDEN_KEYS)
        target = str(node["_target_"]).rsplit(".", 1)[-1] if node.get("_target_") else ""
        return f"{target}({inside})" if target and inside else target or inside or "none"
    if isinstance(node, list | tuple):
        return "[" + ", ".join(describe(value) for value in node) + "]"
    if isinstance(node, bool) or node is None:
        return {True: "true", False: "false", None: "none"}[node]
    return f"{node:g}" if isinstance(node, float) else str(node)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table; the columns whose indices are in `right` are aligned to the right."""
    right = set(right)
    lines = [head, ["--:" if i in right else "---" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """A CSV file's text."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def sampler_text(node: Mapping[str, Any]) -> str:
    """`DDIM(steps=50, eta=0, grid=karras(rho=7))`: a score's sampler, without the settings that are null.

    Its parts are configuration nodes whose class is under "name"; earlier versions wrote a part's name alone.
    """

    def as_node(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        inner = {key: as_node(v) for key, v in value.items() if key != "name" and v is not None}
        return {"_target_": value.get("name")} | inner

    return describe(as_node(node))


def protocol_text(score: Score) -> str:
    """`256 images of 64x64 pixels against the 250 images of the reference split `val` (key `…`); features `lite0`, …`."""

    def quoted(value: Any) -> str:
        return f"`{value}`" if value not in (None, "") else "not recorded"

    reference = score.reference or Reference("?", "?")  # type: ignore[arg-type]
    split = f"split `{reference.split}` (key {quoted(reference.key)})"
    if bound := score.details.get("bound"):
        return f"the {reference.n} images of the {split}; variational bound: {bound}"
    pixels = f" of {score.resolution} pixels" if score.resolution else ""
    settings = f", {describe(score.settings)}" if score.settings else ""
    return (
        f"{score.n} images{pixels} against the {reference.n} images of the reference {split}; "
        f"features {quoted(score.features)}, weights hash {quoted(score.weights_hash)}, resize {quoted(score.resize)}"
        f"{settings}"
    )


def value_text(score: Score | None) -> str:
    """The value to 4 significant digits, with its interval or else ± std, where there is one; `—` for no score."""
    if score is None or math.isnan(score.value):
        return "—"
    if interval := interval_text(score):
        return f"{score.value:.4g} {interval}"
    return f"{score.value:.4g}" + (f" ± {score.std:.2g}" if score.std is not None else "")


def interval_text(score: Score | None) -> str:
    """`[low, high]`; empty where there is none."""
    if score is None or score.low is None or score.high is None:
        return ""
    low, high = (0.0 if abs(end) < 1e-12 else end for end in (score.low, score.high))  # a share's rounding
    return f"[{short(low)}, {short(high)}]"


def short(value: float) -> str:
    """3 significant digits; whole numbers of up to 6 digits without an exponent: `0.0123`, `29600`."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if 1000 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def number_protocols(scores: Iterable[Score]) -> dict[str, int]:
    """Each protocol's key -> 1, 2, … in order of appearance."""
    seen: dict[str, int] = {}
    for score in scores:
        seen.setdefault(score.protocol_key, len(seen) + 1)
    return seen
