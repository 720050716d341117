"""run.json: what a run says about itself; while its process is alive, the folder belongs to it.

States: `running`, `complete`, `interrupted` (by a signal) and `failed` are written by the run; `died` is a running one
whose process is gone, or that is on another machine and has not written for a while; `not started` has only a
configuration; `unreadable` has a damaged run.json.
"""

import contextlib
import json
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from diffusion.errors import FolderTaken, Interrupted, UserError, first_line
from diffusion.files import replace
from diffusion.runs import early_signals, slurm

BEAT = 30.0  # seconds between the touches of run.json by which a run shows that it is alive
SILENCE = 10 * BEAT  # after which a run on another machine counts as dead
FILE = "run.json"


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
        record.update()
        return record

    def update(self, **more: Any) -> None:
        """Add to the content and write the file."""
        self.content |= more | {"seconds": round(time.time() - self.began, 1)}
        self.write()

    def write(self) -> None:
        """Replace the file."""
        self.written = time.monotonic()
        replace(self.path, json.dumps(self.content, indent=1))

    def finish(self, state: str, **more: Any) -> None:
        """Write how the run ended: complete, interrupted or failed."""
        self.ended.set()
        self.update(state=state, finished=now(), **more)

    def fail(self, state: str, reason: str) -> None:
        """Write that the run has failed or was interrupted.

        Where it ends before its first step, and another one was in the folder before, that one's record is put back.
        """
        if "steps" in self.content or not self.previous:
            self.finish(state, reason=reason)
        else:
            self.ended.set()
            self.content = self.previous
            self.write()

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

    def _beat(self) -> None:
        """Touch the file now and then, whatever the run is doing."""
        while not self.ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    @property
    def state(self) -> str:
        """What the run says, corrected where it can no longer speak."""
        if self.damage:
            return "unreadable"
        state = str(self.content.get("state", "not started"))
        if state != "running":
            return state
        if self.content.get("host") == platform.node():
            started = start_of_process(self.content.get("pid"))
            return "running" if started is not None and self.content.get("process") == started else "died"
        return "running" if time.time() - self.path.stat().st_mtime < SILENCE else "died"

    @property
    def alive(self) -> bool:
        """Whether a process is running in the folder.

        (When SLURM has queued a job again, the job's earlier process is gone, however recently it wrote.)
        """
        mine = slurm.queued_again() and self.content.get("slurm") == slurm.job()
        return self.state == "running" and not mine

    @property
    def owner(self) -> str:
        """The process, in words."""
        return f"process {self.content.get('pid')} on {self.content.get('host')}, since {self.content.get('started')}"


def claim(folder: Path, check: Callable[[], None] = lambda: None) -> RunRecord:
    """Begin a run of this process in `folder`; of two processes that claim it at once, one succeeds.

    Raises FolderTaken where a run is alive: two would destroy each other's checkpoints. `check` may raise too, and then
    nothing is written.
    """
    with _locked(folder):
        record = RunRecord(folder)
        if record.alive:
            raise FolderTaken(
                f"{folder}: a run is alive in this folder ({record.owner}); wait until it ends or end it, or choose "
                "another folder (hydra.run.dir=…, for a sweep hydra.sweep.dir=…)"
            )
        check()
        new = RunRecord.begin(folder)
        new.previous = record.content
        return new


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within: no other process holds this folder's lock, on systems that have such locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


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
