"""Commands in forks of this process, which saves seconds of imports."""

import gc
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diffusion.runs.processes import PARENT, as_rank, described
from diffusion.training import jobs

FORK = multiprocessing.get_context("fork")


def counted(owner: Any, name: str, call: int, act: Callable[[], None]) -> None:
    """Patch `owner.name` so that its n-th call from now on calls `act` first."""
    function, left = getattr(owner, name), call

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            act()
        return function(*args, **kwargs)

    setattr(owner, name, wrapper)


class Train:
    """`diffusion train OVERRIDES` in a new process group; its output is appended to `log`.

    The new process calls `prepare` first.
    """

    def __init__(self, overrides: list[str], log: Path, prepare: Callable[[], None] = lambda: None):
        self.overrides, self.log, self.prepare = overrides, log, prepare
        self.process = FORK.Process(target=self.main)
        gc.collect()  # here, because the threads of an object, such as a store of torch, do not exist in the fork
        self.process.start()

    def main(self) -> None:
        from hydra.core.global_hydra import GlobalHydra

        import diffusion.train

        gc.freeze()
        os.setsid()
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests run under nohup
        GlobalHydra.instance().clear()
        sys.argv = ["diffusion.train", *self.overrides]
        self.prepare()
        diffusion.train.main()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def ended(self) -> int:
        """Wait for the process and return its exit status as a shell reports it."""
        try:
            self.process.join()
        except BaseException:
            os.killpg(self.pid, signal.SIGKILL)  # it hangs: end it and its children
            raise
        status = self.process.exitcode
        assert status is not None
        return status if status >= 0 else 128 - status


def launch_forked(processes: int, folder: Path, module: str, words: Sequence[str]) -> None:
    """One process of a run as a fork of this one; replaces `run_ranks`."""
    file = folder / "error.json"
    file.unlink(missing_ok=True)

    def rank() -> None:
        os.environ |= {"RANK": "0", "TORCHELASTIC_ERROR_FILE": str(file), PARENT: str(os.getppid())}
        as_rank("train", partial(jobs.work, folder))

    process = FORK.Process(target=rank)
    process.start()
    process.join()
    if status := process.exitcode:
        said = json.loads(file.read_text())["message"] if file.is_file() else None
        raise described(0, status, said)


def train(overrides: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Run `diffusion train OVERRIDES` and return its exit status."""
    return Train(overrides, log, prepare).ended()
