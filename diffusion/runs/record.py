"""run.json: what a run says about itself; while its process is alive, the folder belongs to it.

A run holds the lock of its folder's `.lock` until its process ends. Where the file system has no locks, or does not
share them between machines, run.json is a lease: the run touches it, and one that has not done so for a while counts as
dead. Should such a run come back after another one has taken the folder, it notices and writes nothing more.

States: `running`, `complete`, `interrupted` (by a signal) and `failed` are written by the run; `died` is a running one
whose process is gone; `not started` has only a configuration; `unreadable` has a damaged run.json.
"""

import contextlib
import json
import os
import platform
import shlex
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from diffusion.errors import FolderTaken, Interrupted, UserError, first_line
from diffusion.files import lock, replace
from diffusion.runs import early_signals, slurm

BEAT = 30.0  # seconds between the touches of run.json by which a run shows that it is alive
SILENCE = 10 * BEAT  # after which a run on another machine counts as dead
FILE = "run.json"
LOCK = ".lock"
PATIENCE = 2.0  # seconds in which a lock becomes free whose process is just ending, or that someone only looked at
LEASE = 120.0  # seconds in which a file server gives up the lock of a machine that has failed
HELD: weakref.WeakSet[BinaryIO] = weakref.WeakSet()  # the locks of this process
if hasattr(os, "register_at_fork"):  # workers of data loaders may outlive a run that was killed, with its lock
    os.register_at_fork(after_in_child=lambda: [held.close() for held in HELD])


class RunRecord:
    """The run.json of a folder; `content` is empty where there is none."""

    def __init__(self, folder: Path, content: dict[str, Any] | None = None):
        self.folder, self.path = folder, folder / FILE
        self.damage: str | None = None  # why the file cannot be read
        self.content = self._read() if content is None else content
        self.previous: dict[str, Any] = {}  # of the run that was in the folder before
        self.began = time.time()
        self.written = 0.0  # when, on the monotonic clock
        self.ended = threading.Event()
        self.lock: BinaryIO | None = None  # of the folder, while this process has it

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.damage = first_line(error)
            return {}
        if not isinstance(content, dict):
            self.damage = f"it holds a {type(content).__name__}"
            return {}
        return content

    def checked(self) -> dict[str, Any]:
        """The content; UserError where the file cannot be read."""
        if self.damage:
            raise UserError(f"{self.path}: not readable as a run's record ({self.damage}); restore or remove it")
        return self.content

    @classmethod
    def begin(cls, folder: Path) -> "RunRecord":
        """Write that this process runs in `folder`. From here on a signal is written down before the process ends."""
        record = cls(
            folder,
            {
                "id": uuid.uuid4().hex,
                "state": "running",
                "started": now(),
                "command": "python -m diffusion.train " + shlex.join(sys.argv[1:]),
                "host": platform.node(),
                "pid": os.getpid(),
                "process": start_of_process(os.getpid()),
                "slurm": slurm.job(),
            },
        )
        early_signals.State.before_exit = partial(record.fail, "interrupted")
        record._replace()
        return record

    def update(self, **more: Any) -> None:
        """Add to the content and write the file."""
        self.content |= more | {"seconds": round(time.time() - self.began, 1)}
        self.write()

    def write(self) -> None:
        """Replace the file. Raises FolderTaken as `check_owner` does."""
        self.check_owner()
        self._replace()

    def _replace(self) -> None:
        self.written = time.monotonic()
        replace(self.path, json.dumps(self.content, indent=1))

    def check_owner(self) -> None:
        """Raise FolderTaken where another run has taken the folder, because this one seemed to be dead."""
        other = RunRecord(self.folder)
        if other.content and other.content.get("id") != self.content.get("id"):
            raise FolderTaken(
                f"{self.folder}: this run was silent, and another one has taken its folder ({other.owner})"
            )

    def finish(self, state: str, **more: Any) -> None:
        """Write how the run ended: complete, interrupted or failed."""
        self.ended.set()
        self.update(state=state, finished=now(), **more)

    def fail(self, state: str, reason: str) -> None:
        """Write that the run has failed or was interrupted.

        Where it ends before its first step, and another one was in the folder before, that one's record is put back.
        """
        self.ended.set()
        with contextlib.suppress(FolderTaken):
            if "steps" in self.content or not self.previous:
                self.finish(state, reason=reason)
            else:
                self.check_owner()
                self.content = self.previous
                self._replace()

    @contextlib.contextmanager
    def running(self, describe: Callable[[BaseException], str]) -> Iterator[None]:
        """Within: the run. On failure, write the state and the reason; `describe` makes one line of an error."""
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, Interrupted)
            self.fail("interrupted" if interrupted else "failed", str(error) if interrupted else describe(error))
            raise
        finally:
            self.ended.set()
            early_signals.State.before_exit = None
            if self.lock is not None:
                self.lock.close()

    def _beat(self) -> None:
        """Touch the file now and then, whatever the run is doing."""
        while not self.ended.wait(BEAT):
            with contextlib.suppress(OSError, FolderTaken):
                self.check_owner()
                os.utime(self.path)

    @property
    def state(self) -> str:
        """What the run says, corrected where it can no longer speak."""
        if self.damage:
            return "unreadable"
        state = str(self.content.get("state", "not started"))
        if state != "running":
            return state
        return "running" if is_locked(self.folder) or self.seems_alive else "died"

    @property
    def seems_alive(self) -> bool:
        """Whether a process that says that it is running does exist, or has written lately where it cannot be seen."""
        if self.content.get("state") != "running":
            return False
        if self.content.get("host") == platform.node():
            started = start_of_process(self.content.get("pid"))
            return started is not None and self.content.get("process") == started
        return time.time() - self.path.stat().st_mtime < SILENCE

    @property
    def alive(self) -> bool:
        """Whether a process is running in the folder."""
        return self.state == "running" and not self.queued_again

    @property
    def queued_again(self) -> bool:
        """Whether SLURM has queued this run's job again: its earlier process is gone, however recently it wrote."""
        return slurm.queued_again() and self.content.get("slurm") == slurm.job()

    @property
    def owner(self) -> str:
        """The process, in words."""
        return f"process {self.content.get('pid')} on {self.content.get('host')}, since {self.content.get('started')}"


def claim(folder: Path, check: Callable[[], None] = lambda: None) -> RunRecord:
    """Begin a run of this process in `folder`, and hold its lock; of two processes that claim it at once, one succeeds.

    Raises FolderTaken where a run is alive: two would destroy each other's checkpoints. `check` may raise too, and then
    nothing is written.
    """
    patience = LEASE if RunRecord(folder).queued_again else PATIENCE
    try:
        held = lock(folder / LOCK, patience)
    except BlockingIOError:
        raise _taken(RunRecord(folder)) from None
    with contextlib.ExitStack() as undo:
        if held is not None:
            undo.callback(held.close)
            HELD.add(held)
        before = RunRecord(folder)
        if before.seems_alive and not before.queued_again:
            raise _taken(before)
        check()
        record = RunRecord.begin(folder)
        record.previous, record.lock = before.content, held
        undo.pop_all()
    return record


def _taken(record: RunRecord) -> FolderTaken:
    owner = record.owner if record.content.get("state") == "running" else f"a process that holds {record.folder / LOCK}"
    return FolderTaken(
        f"{record.folder}: a run is alive in this folder ({owner}); wait until it ends or end it, or choose another "
        "folder (hydra.run.dir=…, for a sweep hydra.sweep.dir=…)"
    )


def is_locked(folder: Path) -> bool:
    """Whether another process, or this one, has the lock of a run's folder; False where there are no locks."""
    try:
        probe = lock(folder / LOCK, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if probe is not None:
        probe.close()
    return False


def start_of_process(pid: Any) -> str | None:
    """What tells process `pid` of this machine from a later one with the same number; None where there is none."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        pass  # it is alive, and another user's
    except (OSError, OverflowError, ValueError, TypeError):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]  # its start in ticks since boot; Z: it has ended unnoticed
    except (OSError, IndexError):
        return "alive"


def now() -> str:
    """The time, with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
