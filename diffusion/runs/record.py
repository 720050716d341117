"""run.json: the record of a run, whose processes hold the lock `.lock` of its folder while they are alive.

States: `running`, `complete`, `interrupted` (by a signal) and `failed` are written by the run; `died` means that the
processes of a `running` one are gone; `not started`, that there is only a configuration; `unreadable`, that run.json is
damaged. On a file system without locks, `died` cannot be told from `running`, and a second start is not refused.
"""

import contextlib
import fcntl
import json
import os
import platform
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from diffusion.config.quoting import command_line
from diffusion.errors import FolderTaken, Interrupted, UserError, first_line
from diffusion.files import lock, replace
from diffusion.runs import slurm

FILE, CONFIG, LOCK = "run.json", "config.yaml", ".lock"
CONTINUED = ("seconds", "seconds_of", "epoch_lengths")  # what a run that resumes adds to
PATIENCE = 2.0  # seconds to wait for a lock whose process is about to end, or is only probing
LEASE = 120.0  # seconds until a file server releases the lock of a failed machine
HELD: weakref.WeakSet[BinaryIO] = weakref.WeakSet()  # locks held by this process
# Data loader workers may outlive a killed run, and must not keep its lock.
os.register_at_fork(after_in_child=lambda: [held.close() for held in HELD])


class RunRecord:
    """The run.json of a folder; `content` is empty if there is none."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / FILE
        self.damage: str | None = None  # the reason why the file cannot be read
        self.content = self._read()
        self.earlier = 0.0  # seconds of the run up to where this process resumed it
        self.lock: BinaryIO | None = None  # the folder's lock, while held by this process
        self.previous: dict[str, bytes] = {}  # the record and the configuration before the folder was claimed

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.path.read_text("utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            self.damage = first_line(error)
            return {}

    def checked(self) -> dict[str, Any]:
        """The content. Raises UserError if the file cannot be read."""
        if self.damage:
            raise UserError(f"{self.path}: not readable as a run's record ({self.damage}); restore or remove it")
        return self.content

    def begin(self, command: str) -> None:
        """Record that a run begins in the folder, with this command.

        It adds to the times of the folder's previous run, until `start_over` or `resume` says otherwise.
        """
        before = self._read()
        self.earlier = before.get("seconds", 0.0)
        self.content = {key: before[key] for key in CONTINUED if key in before} | {
            "state": "running", "started": now(), "command": command,
            "host": platform.node(), "pid": os.getpid(), "slurm": slurm.job(),
        }  # fmt: skip
        self.write()

    def begin_again(self) -> None:
        """Record that the run starts again, after it has lost a process."""
        self.previous = {}
        self.begin(self.content["command"])

    @classmethod
    def join(cls, folder: Path) -> "RunRecord":
        """The record of a run that another process has begun, and whose folder this one holds from now on, too."""
        record = cls(folder)
        record.earlier = record.content.get("seconds", 0.0)
        record.hold(lock(folder / LOCK, PATIENCE, shared=True))
        return record

    def hold(self, held: BinaryIO | None) -> None:
        """Hold the lock of the folder until the run ends."""
        self.lock = held
        if held is not None:
            HELD.add(held)

    def start_over(self) -> None:
        """Do not add to the times and epochs of the folder's previous run."""
        self.earlier = 0.0
        for key in CONTINUED:
            self.content.pop(key, None)

    def resume(self, folder: Path, step: int) -> None:
        """Add to the times and epochs of the run in `folder`, which is resumed at `step`.

        If a run in another folder went on after this step, its times count in proportion to the steps: it does not
        record when it made a step.
        """
        if folder.resolve() == self.folder.resolve():
            return
        before = RunRecord(folder).content
        share = min(1.0, step / before["steps"]) if before.get("steps") else 1.0
        self.earlier = share * before.get("seconds", 0.0)
        self.content |= {
            "seconds_of": {part: share * seconds for part, seconds in before.get("seconds_of", {}).items()},
            "epoch_lengths": before.get("epoch_lengths", []),
        }

    @property
    def session(self) -> float:
        """Seconds since the run was started."""
        return time.time() - datetime.fromisoformat(self.content["started"]).timestamp()

    def update(self, **more: Any) -> None:
        """Add to the content and write the file."""
        self.content |= more | {"seconds": round(self.earlier + self.session, 1)}
        self.write()

    def write(self) -> None:
        """Replace the file."""
        replace(self.path, json.dumps(self.content, indent=1))

    def finish(self, state: str, **more: Any) -> None:
        """Record how the run ended: complete, interrupted or failed."""
        self.update(state=state, finished=now(), **more)

    def fail(self, state: str, reason: str) -> None:
        """Record that the run failed or was interrupted.

        If it ends before it has begun to train, the record and the settings of the folder's previous run, if any, are
        restored. A complete run stays so. A full disk, or other errors of writing, must not hide the reason.
        """
        with contextlib.suppress(OSError):
            self.content = self._read()  # as its processes have written it
            if self.content.get("state") == "complete":
                return
            if self.previous and "facts" not in self.content:
                for name, content in self.previous.items():
                    replace(self.folder / name, content)
            else:
                self.finish(state, reason=reason)

    @contextlib.contextmanager
    def running(self, describe: Callable[[BaseException], str]) -> Iterator[None]:
        """Context of the run. On failure, record the state and the reason; `describe` formats an error as one line."""
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, Interrupted)
            self.fail("interrupted" if interrupted else "failed", str(error) if interrupted else describe(error))
            raise
        finally:
            if self.lock is not None:
                self.lock.close()

    @property
    def state(self) -> str:
        """The recorded state, corrected if the run has died or its record is damaged."""
        if self.damage:
            return "unreadable"
        state = str(self.content.get("state", "not started"))
        return "died" if state == "running" and is_locked(self.folder) is False else state

    @property
    def alive(self) -> bool:
        """Whether a process is running in the folder. The earlier process of a requeued SLURM job is gone."""
        return self.state == "running" and not (slurm.queued_again() and self.content.get("slurm") == slurm.job())

    @property
    def owner(self) -> str:
        """The process, described in words."""
        return f"process {self.content.get('pid')} on {self.content.get('host')}, since {self.content.get('started')}"


def claim(folder: Path, words: Sequence[str], check: Callable[[], None] = lambda: None) -> RunRecord:
    """Begin a run in `folder`, holding its lock. Only one of two simultaneous claims succeeds.

    Raises FolderTaken if a run is alive there: two would destroy each other's checkpoints. If `check` raises, nothing
    is written.
    """
    try:
        held = lock(folder / LOCK, LEASE if slurm.queued_again() else PATIENCE)
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the processes of the run join in it
    except BlockingIOError:
        raise _taken(RunRecord(folder)) from None
    record = RunRecord(folder)
    record.hold(held)
    try:
        check()
        record.previous = {file.name: file.read_bytes() for file in (record.path, folder / CONFIG) if file.is_file()}
        record.begin(command_line("train", words))
    except BaseException:
        if held is not None:
            held.close()
        raise
    return record


def _taken(record: RunRecord) -> FolderTaken:
    owner = record.owner if record.content.get("state") == "running" else f"a process that holds {record.folder / LOCK}"
    return FolderTaken(
        f"{record.folder}: a run is alive in this folder ({owner}); wait until it ends or end it, or choose another "
        "folder (hydra.run.dir=…, for a sweep hydra.sweep.dir=…)"
    )


def is_locked(folder: Path) -> bool | None:
    """Whether any process, including this one, holds the lock of a run's folder; None if this cannot be told."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def now() -> str:
    """The current time with its time zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
