"""Reads the files of an offline W&B run."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 1 << 15  # bytes of the file's header; of a block, as in LevelDB's log


@dataclass
class Recorded:
    """The content of one offline run."""

    run: Any = None  # id, project, display_name, run_group, job_type, tags
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    status: int | None = None


def recorded(folder: Path) -> list[Recorded]:
    """The offline runs in the folder of a training run, oldest first. W&B's own process may still be writing."""
    deadline = time.monotonic() + 30
    while True:
        found = [_read(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
        if all(each.ended for each in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _read(file: Path) -> Recorded:
    from wandb.proto.wandb_internal_pb2 import Record

    found = Recorded()
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("exit"):
            found.ended, found.status = True, record.exit.exit_code
        if record.HasField("run"):
            found.run = record.run
        for part in (record.run.config, record.config):
            _set(found.config, part.update)
        for part in (record.run.summary, record.summary):
            _set(found.summary, part.update)
        if record.HasField("history"):
            found.history.append({})
            _set(found.history[-1], record.history.item)
    return found


def _set(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = values
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a file, each assembled from its parts (type 1: whole; 2, 3, 4: first, middle, last).

    The file may still be written: a partial record at its end is left out."""
    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + HEADER + length > len(data):
            return
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
