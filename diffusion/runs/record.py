"""run.json: what a run says of itself, and by that whose its folder is while its process lives."""

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.errors import Taken
from diffusion.files import replace
from diffusion.runs import slurm
from diffusion.status import process, state


def read_record(folder: Path) -> dict[str, Any]:
    """run.json; empty where there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace run.json."""
    replace(folder / "run.json", json.dumps(record, indent=1))


def beginning() -> dict[str, Any]:
    """What a run of this process says first."""
    return {
        "state": "running",
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": "python -m diffusion.train " + shlex.join(sys.argv[1:]),
        "host": platform.node(),
        "pid": os.getpid(),
        "process": process(os.getpid()),
        "slurm": slurm.job(),
    }


def living(folder: Path) -> str | None:
    """Whose run lives in `folder`, and since when; None where none does.

    Where SLURM has queued a job again, its earlier process is gone, however lately it was heard.
    """
    record = read_record(folder)
    if state(folder, record) != "running" or (slurm.queued_again() and record.get("slurm") == slurm.job()):
        return None
    return f"process {record.get('pid')} on {record.get('host')}, since {record.get('started')}"


def claim(folder: Path, before: Callable[[], None] = lambda: None) -> None:
    """Begin a run of this process in `folder`, unless one lives there, or `before` raises; of two at once one does."""
    with locked(folder):
        check_free(folder)
        before()
        write_record(folder, beginning())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within: no other process is within, for this folder, where the system has such locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def check_free(folder: Path) -> None:
    """Refuse the folder of a run that lives: two would destroy each other's checkpoints."""
    if who := living(folder):
        raise Taken(
            f"{folder}: a run lives in this folder ({who}); wait for its end or end it, or choose another folder "
            "(hydra.run.dir=…, of a sweep hydra.sweep.dir=…)"
        )
