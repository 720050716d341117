"""run.json: the record of a run, whose processes hold the lock `.lock` of its folder while they are alive.

States: `running`, `complete`, `interrupted` (by a signal), `pruned` (by its search) and `failed` are written by
the run. `died` means that the processes of a `running` one are gone; `not started`, that there is no record. On a
file system without locks, `died` cannot be told from `running`, and a second start is not refused.
"""

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from diffusion.base.files import lock, replace
from diffusion.config.schema import Settings
from diffusion.errors import Interrupted, UserError, first_line
from diffusion.runs.processes import TRIAL, queued_again

FILE, CONFIG, LOCK = "run.json", "config.yaml", ".lock"


def parsed(path: Path, parse: Callable[[bytes], Any], missing: Any) -> Any:
    """A parsed file, or `missing`. Raises UserError if it cannot be parsed."""
    if not path.is_file():
        return missing
    try:
        return parse(path.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}); restore it") from error


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; {} without one."""
    return parsed(path, lambda content: {**json.loads(content)}, {})


class RunRecord:
    """The run.json of a folder; `content` is empty if there is none."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / FILE
        self.content = read_json(self.path)
        self.lock: BinaryIO | None = None  # the folder's lock, while held by this process
        # The record and the configuration before the folder was claimed, None for a file that did not exist.
        self.previous: dict[Path, bytes | None] = {}

    @property
    def state(self) -> str:
        """The recorded state, but `died` if no process holds the lock of a run that seems to be running."""
        state = str(self.content.get("state", "not started"))
        if state != "running":
            return state
        try:
            with (self.folder / LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return "died" if isinstance(error, FileNotFoundError) else state
        return "died"

    def start(self, command: Sequence[str]) -> None:
        """Record that a run begins by this command, or begins again after it has lost a process."""
        before, self.previous = self.content, {}
        goes_on = before and {"ckpt=auto", "ckpt=last"} & {*command} and "experiment=" not in " ".join(command)
        earlier = [*before.get("earlier_commands", []), before.get("command", [])] if goes_on else []
        self.content = {
            "state": "running", "started": now(), "command": ["diffusion", *command], "earlier_commands": earlier,
            "host": platform.node(), "pid": os.getpid(),
        }  # fmt: skip
        self.continue_from(self.folder)
        replace(self.path, json.dumps(self.content, indent=1))

    @classmethod
    def join(cls, folder: Path) -> "RunRecord":
        """The record of a run that another process has begun, and whose folder this one holds from now on, too."""
        record = cls(folder)
        record.lock = lock(folder / LOCK, patience=2, shared=True)
        return record

    def continue_from(self, folder: Path | None) -> None:
        """Add to the time of the run in `folder`, which is resumed; None: to that of no run."""
        before = {} if folder is None else RunRecord(folder).content
        seconds = before.get("seconds", 0.0)
        self.content |= {"earlier": seconds, "seconds": seconds, "seconds_of": before.get("seconds_of", {})}

    @property
    def session(self) -> float:
        """Seconds since the run was started."""
        return time.time() - datetime.fromisoformat(self.content["started"]).timestamp()

    def spent(self, part: str) -> None:
        """Count the time that no part of the run has yet as that of this part, in `seconds_of`."""
        parts = self.content["seconds_of"]
        left = self.content["earlier"] + self.session - sum(parts.values())
        parts[part] = round(parts.get(part, 0.0) + left, 1)

    def update(self, **more: Any) -> None:
        """Add to the content and write the file."""
        self.content |= more | {"seconds": round(self.content["earlier"] + self.session, 1)}
        replace(self.path, json.dumps(self.content, indent=1))

    def finish(self, state: str, **more: Any) -> None:
        """Record how the run ended: complete, interrupted or failed."""
        self.update(state=state, finished=now(), **more)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Context of the run, which is then recorded as failed or interrupted if it has not completed.

        If it ends before it has begun to train, the folder has the record and the settings of its previous run again,
        or none. A job of a sweep is recorded as failed then.
        """
        try:
            yield
        except BaseException as error:
            from diffusion.config import messages

            if not self.path.is_file():
                gone = "it was moved or removed while its run was alive, which has ended; resume it where it is now"
                raise UserError(f"{self.folder}: {gone}") from error
            with contextlib.suppress(OSError, UserError):  # such as of a full disk, which must not hide the reason
                self.content = read_json(self.path)  # as its processes have written it
                if self.previous and "facts" not in self.content:
                    for file, content in self.previous.items():
                        if content is None:
                            file.unlink()
                        else:
                            replace(file, content)
                elif self.content.get("state") != "complete":
                    stopped = isinstance(error, Interrupted | KeyboardInterrupt)
                    known = error if stopped else messages.explain(error, "train")
                    reason = str(known or f"{type(error).__name__}: {first_line(error)}")  # a bug in the program
                    self.finish("interrupted" if stopped else "failed", reason=reason)
            raise
        finally:
            if self.lock is not None:
                self.lock.close()


def held(folder: Path) -> BinaryIO | None:
    """The lock of a folder; None on a file system without locks. Raises UserError if a run is alive there."""
    try:
        # A file server may take two minutes to release the lock of a machine that has failed, after which SLURM and
        # searches run a job again.
        file = lock(folder / LOCK, patience=120 if queued_again() or TRIAL in os.environ else 2)
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the processes of the run join in it
    except BlockingIOError:
        owner = RunRecord(folder).content
        raise UserError(
            f"{folder}: a run is alive in this folder (process {owner.get('pid')} on {owner.get('host')}, since "
            f"{owner.get('started')}); wait until it ends, or choose another (hydra.run.dir=…, hydra.sweep.dir=…)"
        ) from None
    return file


def config_text(settings: Settings) -> str:
    """The settings as yaml, in the order of their definition."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def now() -> str:
    """The current time with its time zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
