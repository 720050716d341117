"""run.json: the record of a run, which owns its folder while its process is alive.

A run holds the lock `.lock` in its folder until its process ends. If the file system has no locks, or does not share
them between machines, run.json serves as a lease: the run touches it regularly, and is considered dead if it has not
done so for a while. If such a run wakes up after another one has taken the folder, it detects this and stops writing.

States: `running`, `complete`, `interrupted` (by a signal) and `failed` are written by the run; `died` means that the
process of a `running` one is gone; `not started`, that there is only a configuration; `unreadable`, that run.json is
damaged.
"""

import contextlib
import json
import os
import platform
import shlex
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from diffusion.errors import FolderTaken, Interrupted, UserError, first_line
from diffusion.files import lock, replace
from diffusion.runs import early_signals, slurm

BEAT = 30.0  # seconds between touches of run.json, the heartbeat of a run
SILENCE = 10 * BEAT  # seconds after which a run on another machine is considered dead
FILE = "run.json"
LOCK = ".lock"
CONTINUED = ("seconds", "seconds_of", "epoch_lengths")  # what a run that resumes adds to
PATIENCE = 2.0  # seconds to wait for a lock whose process is about to end, or is only probing
LEASE = 120.0  # seconds until a file server releases the lock of a failed machine
HELD: weakref.WeakSet[BinaryIO] = weakref.WeakSet()  # locks held by this process
# Data loader workers may outlive a killed run, and must not keep its lock.
os.register_at_fork(after_in_child=lambda: [held.close() for held in HELD])


class RunRecord:
    """The run.json of a folder; `content` is empty if there is none."""

    def __init__(self, folder: Path, content: dict[str, Any] | None = None):
        self.folder, self.path = folder, folder / FILE
        self.damage: str | None = None  # the reason why the file cannot be read
        self.content = self._read() if content is None else content
        self.previous: dict[str, Any] = {}  # content of the folder's previous run
        self.began = time.time()
        self.earlier = 0.0  # seconds of the run up to where this process resumed it
        self.written = 0.0  # time of the last write, on the monotonic clock
        self.ended = threading.Event()
        self.lock: BinaryIO | None = None  # the folder's lock, while held by this process

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.damage = first_line(error)
            return {}
        if not isinstance(content, dict):
            self.damage = f"it contains a {type(content).__name__}"
            return {}
        return content

    def checked(self) -> dict[str, Any]:
        """The content. Raises UserError if the file cannot be read."""
        if self.damage:
            raise UserError(f"{self.path}: not readable as a run's record ({self.damage}); restore or remove it")
        return self.content

    @classmethod
    def begin(cls, folder: Path, words: Sequence[str] = ()) -> "RunRecord":
        """Record that this process runs in `folder`. From now on, a signal is recorded before the process ends.

        It adds to the times of the folder's previous run, until `start_over` or `resume` says otherwise.

        Args:
            words: the overrides of the command line.
        """
        before = cls(folder).content
        record = cls(
            folder,
            {key: before[key] for key in CONTINUED if key in before}
            | {
                "id": uuid.uuid4().hex,
                "state": "running",
                "started": now(),
                "command": "python -m diffusion.train " + shlex.join(words),
                "host": platform.node(),
                "pid": os.getpid(),
                "process": start_of_process(os.getpid()),
                "slurm": slurm.job(),
            },
        )
        record.earlier = before.get("seconds", 0.0)
        early_signals.State.before_exit = partial(record.fail, "interrupted")
        record._replace()
        return record

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
        """Seconds since this process began."""
        return time.time() - self.began

    def update(self, **more: Any) -> None:
        """Add to the content and write the file."""
        self.content |= more | {"seconds": round(self.earlier + self.session, 1)}
        self.write()

    def write(self) -> None:
        """Replace the file. Raises FolderTaken like `check_owner`."""
        self.check_owner()
        self._replace()

    def _replace(self) -> None:
        self.written = time.monotonic()
        replace(self.path, json.dumps(self.content, indent=1))

    def check_owner(self) -> None:
        """Raise FolderTaken if another run has taken the folder because this one seemed dead."""
        other = RunRecord(self.folder)
        if other.content and other.content.get("id") != self.content.get("id"):
            raise FolderTaken(
                f"{self.folder}: another run took over this folder while this run was unresponsive ({other.owner})"
            )

    def finish(self, state: str, **more: Any) -> None:
        """Record how the run ended: complete, interrupted or failed."""
        self.ended.set()
        self.update(state=state, finished=now(), **more)

    def fail(self, state: str, reason: str) -> None:
        """Record that the run failed or was interrupted.

        If it ends before it has written its settings to config.yaml, the record of the folder's previous run, if any,
        is restored. A run that is recorded as complete stays so. A disk that is full, or other errors of writing, must
        not hide the reason.
        """
        self.ended.set()
        with contextlib.suppress(FolderTaken, OSError):
            if RunRecord(self.folder).content.get("state") == "complete":
                return
            if "facts" in self.content or not self.previous:
                self.finish(state, reason=reason)
            else:
                self.check_owner()
                self.content = self.previous
                self._replace()

    @contextlib.contextmanager
    def running(self, describe: Callable[[BaseException], str]) -> Iterator[None]:
        """Context of the run. On failure, record the state and the reason; `describe` formats an error as one line."""
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
        """Touch the file regularly, whatever the run is doing."""
        while not self.ended.wait(BEAT):
            with contextlib.suppress(OSError, FolderTaken):
                self.check_owner()
                os.utime(self.path)

    @property
    def state(self) -> str:
        """The recorded state, corrected if the run has died or its record is damaged."""
        if self.damage:
            return "unreadable"
        state = str(self.content.get("state", "not started"))
        if state != "running":
            return state
        return "running" if is_locked(self.folder) or self.seems_alive else "died"

    @property
    def seems_alive(self) -> bool:
        """Whether the process recorded as running exists or, on another machine, has touched the file recently."""
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
        """Whether SLURM has requeued this run's job: its earlier process is gone, however recently it wrote."""
        return slurm.queued_again() and self.content.get("slurm") == slurm.job()

    @property
    def owner(self) -> str:
        """The process, described in words."""
        return f"process {self.content.get('pid')} on {self.content.get('host')}, since {self.content.get('started')}"


def claim(folder: Path, check: Callable[[], None] = lambda: None, words: Sequence[str] = ()) -> RunRecord:
    """Begin a run of this process in `folder`, holding its lock. Only one of two simultaneous claims succeeds.

    Raises FolderTaken if a run is alive there: two would destroy each other's checkpoints. If `check` raises, nothing
    is written.
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
        record = RunRecord.begin(folder, words)
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
    """Whether any process, including this one, holds the lock of a run's folder; False if there are no locks."""
    try:
        with lock(folder / LOCK, shared=True) or contextlib.nullcontext():
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def start_of_process(pid: Any) -> str | None:
    """Distinguishes process `pid` on this machine from later ones with the same number; None if it does not exist."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        pass  # alive, but owned by another user
    except (OSError, OverflowError, ValueError, TypeError):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]  # start time in ticks since boot; Z: a zombie
    except (OSError, IndexError):
        return "alive"


def now() -> str:
    """The current time with its time zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
