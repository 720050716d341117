"""Several processes for one command: torch's elastic agent runs `python -m MODULE FOLDER WORDS` once for each device.

The agent runs in the process that calls `launch`, starts the processes ("ranks"), relays signals to them, and ends them
all if one fails. On several machines the user starts torchrun, which is the same agent. A rank does its work in
`as_rank`: only the first error is reported, by the agent, and no rank outlives its agent.
"""

import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from diffusion.errors import Interrupted, ProcessLost, UserError

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGXCPU)
GRACE = 120  # seconds that the ranks have to save their state after a signal
USER_ERRORS = (2, 3, 4)  # exit statuses of UserError and its subclasses
PARENT = "DIFFUSION_PARENT"  # the environment variable with the id of the process that started this one


def launch(processes: int, folder: Path, module: str, words: Sequence[str] = ()) -> None:
    """Run `python -m MODULE FOLDER WORDS` in several processes, and wait for them.

    The first one writes to this terminal, the others to FOLDER/ranks. Raises, after all have ended: UserError with the
    line and the exit status of the first one that failed; ProcessLost if one was killed, or has failed by a bug, whose
    traceback is printed; Interrupted after a signal to this process or to one of them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    caught = {n: handler for n in STOPS if (handler := signal.getsignal(n)) != signal.SIG_IGN}  # nohup ignores SIGHUP

    def stop(number: int, frame: FrameType | None) -> None:
        for each in caught:  # a further signal would make the agent leave the ranks behind
            signal.signal(each, signal.SIG_IGN)
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
        for number in caught:
            signal.signal(number, stop)
        elastic_launch(config, sys.executable)("-u", "-m", module, str(folder), *words)
    except SignalException as stopped:
        raise Interrupted(stopped.sigval) from None
    except ChildFailedError as error:
        # The cause comes before what it has caused: ranks that have lost a peer, or that the agent has ended.
        ended = (-signal.SIGTERM, 128 + signal.SIGTERM)
        rank, first = min(error.failures.items(), key=lambda f: (f[1].exitcode in ended, f[1].exitcode == 1))
        raise _described(rank, first.exitcode, first.error_file_data["message"]) from None
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in caught.items():
            signal.signal(number, handler)
    shutil.rmtree(folder / "ranks", ignore_errors=True)


def _described(rank: int, status: int, said: object) -> BaseException:
    """The error of the first rank that failed. `said` is what it recorded, if it had the time."""
    recorded = said["message"] if isinstance(said, dict) else None
    if status - 128 in STOPS:  # one rank received a signal, and all have saved
        return Interrupted(status - 128)
    if status in USER_ERRORS and recorded:
        error = UserError(recorded.removeprefix("UserError: "))
        error.status = status
        return error
    if isinstance(said, dict):
        print(said["extraInfo"]["py_callstack"], file=sys.stderr, end="")
    return ProcessLost(f"process {rank} of the run: {recorded or describe_exit(status)}")


def as_rank(command: str, task: Callable[[], None]) -> NoReturn:
    """Do the work of one rank and end this process; the agent reports its error.

    Args:
        command: NAME of the command `diffusion.NAME`, for the explanation of errors.
    """
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from diffusion.config import messages

    end_with_parent()
    status = 0
    try:
        task()
    except Interrupted as stop:
        status = stop.status
        threading.Timer(GRACE, os._exit, [status]).start()
        if dist.is_initialized():
            dist.barrier()  # the agent ends the others as soon as one has left
    except BaseException as error:
        line = messages.explain(error, command) if isinstance(error, Exception) else None
        status = messages.exit_status(error) if line else 1
        get_error_handler().record_exception(UserError(line) if line else error)
        if not os.environ.get(PARENT):  # torchrun would print a table
            print(f"error: {line}" if line else traceback.format_exc(), file=sys.stderr)
        if line is None:
            time.sleep(1)  # a rank that has lost its peer must not be the first one to end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # destructors of a process group may wait for the others


def is_rank() -> bool:
    """Whether this process was started by an agent."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_parent() -> None:
    """End this process, as by SIGTERM, when the process that started it is gone."""
    parent = int(os.environ.get(PARENT, os.getppid()))  # which may have died since

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status - 128 in STOPS:
        return signal.Signals(status - 128).name
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
