"""How a report says things: config nodes, tables, and numbers with the protocol that they carry."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
"""One score of scores.json: metric, value, std, n, what, features, weights_hash, resize, reference, sampler, …"""

HIDDEN = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def describe(node: Any) -> str:
    """A config node as one line of text: `AdamW(lr=0.0003, betas=[0.9, 0.999])`, `steps=50, eta=0`, `true`, `0.5`."""
    if isinstance(node, Mapping):
        inside = ", ".join(f"{key}={describe(value)}" for key, value in node.items() if key not in HIDDEN)
        target = str(node["_target_"]).rsplit(".", 1)[-1] if node.get("_target_") else ""
        return f"{target}({inside})" if target and inside else target or inside or "none"
    if isinstance(node, list | tuple):
        return "[" + ", ".join(describe(value) for value in node) + "]"
    if isinstance(node, bool) or node is None:
        return {True: "true", False: "false", None: "none"}[node]
    return f"{node:g}" if isinstance(node, float) else str(node)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table; the columns whose indices are in `right` are aligned to the right."""
    right = set(right)
    lines = [head, ["--:" if i in right else "---" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def csv_of(rows: Iterable[Iterable[Any]]) -> str:
    """A CSV file's text."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def sampler_name(node: Mapping[str, Any]) -> str:
    """`DDIM(steps=50, eta=0, grid=karras(rho=7))` of a record's sampler, without what is not set.

    It and its parts are config nodes, or have their class under "name"; earlier records have a part's name alone.
    """

    def node_of(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        told = {key: node_of(inner) for key, inner in value.items() if key != "name" and inner is not None}
        return {"_target_": value.get("name")} | told

    return describe(node_of(node))


def protocol_of(record: Record) -> dict[str, Any]:
    """What two scores must share to be compared: metric and its settings, n, features, resize, reference, …"""
    keys = ("metric", "n", "features", "weights_hash", "resize", "resolution", "rate", "bound")
    reference = record.get("reference")
    told = reference if isinstance(reference, Mapping) else {"reference": reference}
    own = {key: record.get(key) for key in keys} | settings_of(record)
    return own | {f"reference {key}": value for key, value in told.items()}


def settings_of(record: Record) -> dict[str, Any]:
    """What the metric was set to, `{"k": 5}`; earlier records tell of a subset's size alone."""
    size = record.get("subset_size")
    return ({} if size is None else {"subset_size": size}) | dict(record.get("settings") or {})


def comparable(record: Record) -> str:
    """`protocol_of(record)` as a key."""
    return json.dumps(protocol_of(record), sort_keys=True, default=str)


# Not density, which above 1 says that samples crowd, nor Vendi, by which noise is diverse: neither end is better.
HIGHER = ("precision", "recall", "coverage", "inception_score")
LOWER = ("fid", "fd_", "kid", "cmmd", "sfid", "sfd_", "copies", "bits")


def higher_is_better(record: Record) -> bool | None:
    """Which end of a metric is the good one, by its name; None where neither is, or it isn't known."""
    name = str(record.get("metric"))
    return True if name.startswith(HIGHER) else False if name.startswith(LOWER) else None


def protocol_line(record: Record) -> str:
    """`256 images of 64x64 against the 250 images of the reference split `val` (key `…`); features `lite0`, …`."""

    def told(key: str) -> str:
        return f"`{record[key]}`" if record.get(key) not in (None, "") else "not recorded"

    reference = record.get("reference")
    against = (
        f"the {reference.get('n', '?')} images of the reference split `{reference.get('split', '?')}` "
        f"(key `{reference.get('key', 'not recorded')}`)"
        if isinstance(reference, Mapping)
        else "a reference that was not recorded"
    )
    if record.get("bound"):
        return f"{against.replace('the reference split', 'the split', 1)}; variational bound: {record['bound']}"
    pixels = f" of {record['resolution']} pixels" if record.get("resolution") else ""
    settings = f", {describe(settings_of(record))}" if settings_of(record) else ""
    return (
        f"{record.get('n', 'an unrecorded number of')} images{pixels} against {against}; features {told('features')}, "
        f"weights hash {told('weights_hash')}, resize {told('resize')}{settings}"
    )


def number(record: Record | None) -> str:
    """The value to 4 significant digits, with its interval, else ± std, where there is one; `—` for no record."""
    if record is None or record.get("value") is None:
        return "—"
    if interval(record):
        return f"{record['value']:.4g} {interval(record)}"
    spread = f" ± {record['std']:.2g}" if record.get("std") is not None else ""
    return f"{record['value']:.4g}{spread}"


def interval(record: Record | None) -> str:
    """`[low, high]`, each as `short` has it; empty where there is none."""
    if record is None or record.get("low") is None or record.get("high") is None:
        return ""
    low, high = (0.0 if abs(end) < 1e-12 else end for end in (record["low"], record["high"]))  # a share's rounding
    return f"[{short(low)}, {short(high)}]"


def short(value: float) -> str:
    """To 3 significant digits; whole numbers of up to 6 digits without an exponent: `0.0123`, `29600`."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if 1000 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def number_protocols(records: Iterable[Record]) -> dict[str, int]:
    """`comparable(record)` -> 1, 2, … in order of appearance."""
    seen: dict[str, int] = {}
    for record in records:
        seen.setdefault(comparable(record), len(seen) + 1)
    return seen
