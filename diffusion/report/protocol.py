"""A number carries its protocol: which scores may stand side by side, and how a protocol is told in words."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]
"""One score of scores.json: metric, value, n, what, features, weights_hash, resize, reference, sampler, …"""

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


def comparable(record: Record) -> str:
    """What two scores must share to be compared: metric, n, features and their weights, resize, reference."""
    keys = ("metric", "n", "features", "weights_hash", "resize", "reference")
    return json.dumps([record.get(key) for key in keys], sort_keys=True, default=str)


def protocol_line(record: Record) -> str:
    """`256 images against the 250 of split val (key `…`); features lite0 (weights `…`), resize `…`."""

    def told(key: str) -> str:
        return f"`{record[key]}`" if record.get(key) not in (None, "") else "not recorded"

    reference = record.get("reference") or {}
    against = (
        f"the {reference.get('n', '?')} images of the reference split `{reference.get('split', '?')}` "
        f"(key `{reference.get('key', 'not recorded')}`)"
        if isinstance(reference, Mapping) and reference
        else "a reference that was not recorded"
    )
    return (
        f"{record.get('n', 'an unrecorded number of')} images against {against}; features {told('features')}, "
        f"weights hash {told('weights_hash')}, resize {told('resize')}"
    )


def number(record: Record | None) -> str:
    """The value to 4 significant digits, with ± std where there is one; `—` for no record."""
    if record is None or record.get("value") is None:
        return "—"
    spread = f" ± {record['std']:.2g}" if record.get("std") is not None else ""
    return f"{record['value']:.4g}{spread}"


def number_protocols(records: Iterable[Record]) -> dict[str, int]:
    """`comparable(record)` -> 1, 2, … in order of appearance."""
    seen: dict[str, int] = {}
    for record in records:
        seen.setdefault(comparable(record), len(seen) + 1)
    return seen
