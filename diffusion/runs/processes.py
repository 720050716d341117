"""Several processes for one command: torch's elastic agent runs `python -m MODULE FOLDER WORDS` once for each device.

The agent runs in the process that calls `run_ranks`, starts the processes ("ranks"), relays signals to them, and ends
them all if one fails. On several machines the user starts torchrun, which is the same agent. Below: jobs of SLURM.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NoReturn

from diffusion.errors import Interrupted, ProcessLost, UserError

STOPS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU,
    signal.SIGUSR1, signal.SIGUSR2,  # of SLURM, of submitit: before the time limit of a job
)  # fmt: skip
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # in malloc.h
GRACE = 120  # seconds that the ranks have to save their state after a signal
TRIAL = "DIFFUSION_TRIAL"  # the environment variable with the number of a job in a search
PARENT = "DIFFUSION_PARENT"  # the environment variable with the id of the process that started this one


def begin_process() -> None:
    """Set what the process of a command needs. Nothing of this happens on import, in somebody else's process.

    glibc returns large freed blocks to the system, which must fill each page with zeros when it hands it out again: up
    to a tenth of a training step on a CPU, and two fifths of an evaluation of many images. Here it reuses them, unless
    the environment has settings of its own.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about sizes and metadata
    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]  # Python 3.14 refuses a text of Hydra's
    if sys.platform == "linux" and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # None: musl
        if mallopt and (mallopt(MMAP_THRESHOLD, 2**30) or mallopt(MMAP_THRESHOLD, 2**25)):  # old ones: at most 32 MB
            mallopt(TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def stopped_by(act: Callable[[int], None]) -> Iterator[None]:
    """Context in which the first signal that ends a run calls `act`. What nohup ignores stays ignored."""
    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:  # the rest of a burst
            signal.signal(each, signal.SIG_IGN)
        act(number)

    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_ranks(processes: int, folder: Path, module: str, words: Sequence[str] = ()) -> None:
    """Run `python -m MODULE FOLDER WORDS` in several processes, and wait for them.

    The first one writes to this terminal, the others to FOLDER/ranks. Raises, after all have ended: UserError with the
    line and the exit status of the first one that failed; ProcessLost if one was killed, or has failed by a bug, whose
    traceback is printed; Interrupted after a signal to this process or to one of them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def stop(number: int) -> None:  # relayed by the agent
        raise SignalException("", signal.Signals(number))

    shutil.rmtree(folder / "ranks", ignore_errors=True)
    logs = DefaultLogsSpecs(str(folder / "ranks"), dict.fromkeys(range(1, processes), Std.ALL))
    config = LaunchConfig(
        1, 1, processes, logs, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, signals_to_handle="SIGQUIT", shutdown_timeout=GRACE,
    )  # fmt: skip
    os.environ[PARENT] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.disable(logging.CRITICAL)  # what the agent logs; the ranks have their own
    try:
        with stopped_by(stop):
            elastic_launch(config, sys.executable)("-u", "-m", module, str(folder), *words)
    except SignalException as stopped:
        raise Interrupted(stopped.sigval) from None
    except ChildFailedError as error:
        # The cause comes before what it has caused: ranks that have lost a peer, or that the agent has ended.
        caused = {1: 1, 128 + signal.SIGTERM: 2, -signal.SIGTERM: 3}
        rank, first = min(error.failures.items(), key=lambda failure: caused.get(failure[1].exitcode, 0))
        raise described(rank, first.exitcode, first.error_file_data["message"]) from None
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[PARENT]
    shutil.rmtree(folder / "ranks", ignore_errors=True)


def described(rank: int, status: int, said: object) -> BaseException:
    """The error of the first rank that failed. `said` is what it recorded, if it had the time."""
    if status - 128 in STOPS:  # one rank received a signal, and all have saved
        return Interrupted(status - 128)
    if not isinstance(said, dict):
        ended = f"ended with status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        cause = " (out of memory?)" if status == -signal.SIGKILL else ""
        return ProcessLost(f"process {rank} of the run: {ended}{cause}")
    if status in (2, 3, 4):  # of UserError
        return UserError(said["message"].removeprefix("UserError: "), status)
    print(said["extraInfo"]["py_callstack"], file=sys.stderr, end="")
    return ProcessLost(f"process {rank} of the run: {said['message']}")


def as_rank(command: str, task: Callable[[], None]) -> NoReturn:
    """Do the work of one rank and end this process; the agent reports its error, explained as one of `command`."""
    begin_process()
    end_with_parent()
    status = 0
    try:
        task()
    except Interrupted as stop:
        import torch.distributed as dist

        status = stop.status
        threading.Timer(GRACE, os._exit, [status]).start()
        if dist.is_initialized():
            dist.barrier()  # the agent ends the others as soon as one has left
    except BaseException as error:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        from diffusion.config import messages

        known = messages.explain(error, command)
        status = known.status if known else 1
        if os.environ.get(PARENT):
            get_error_handler().record_exception(UserError(str(known)) if known else error)
        else:  # torchrun would print it in a table, after its own traceback
            print(f"error: {known}" if known else traceback.format_exc(), file=sys.stderr)
        if known is None:
            time.sleep(1)  # a rank that has lost its peer must not be the first one to end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # destructors of a process group may wait for the others


def is_rank() -> bool:
    """Whether this process was started by an agent."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """End this process, as by the signal `number`, when the process that started it is gone."""
    parent = int(os.environ.get(PARENT) or os.getppid())  # which may have died since

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def shared_folder(folder: Path | None = None) -> Path | None:
    """The folder of the run, which torchrun's first process says to the others, whenever that is; None: no run.

    Processes that torchrun has started again form their group here, before Lightning would.
    """
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    address, attempt = os.environ["MASTER_ADDR"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = TCPStore(address, int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(days=7))
    board = PrefixStore(f"diffusion/{attempt}", store)
    if os.environ["RANK"] == "0":
        board.set("folder", str(folder or ""))
    found = board.get("folder").decode()
    if found and attempt != "0":  # torch keeps its store, so processes would look for those of the earlier attempt
        import torch.distributed as dist

        group, rank, size = PrefixStore("group", board), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(store=group, rank=rank, world_size=size)
    return Path(found) if found else None


def slurm_job() -> str | None:
    """The SLURM job of this process, `1234`, or `1200_7` for a task of an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def queued_again() -> bool:
    """Whether this SLURM job has run before: by `scontrol requeue`, preemption, or after a failure of its node."""
    return slurm_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Requeue this SLURM job, which runs its script again; outside of SLURM, do nothing."""
    if name := slurm_job():
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
        print(f"SLURM job {name}: {done.stderr.strip() if done.returncode else 'queued again'}", file=sys.stderr)
