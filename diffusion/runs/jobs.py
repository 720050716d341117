"""Start runs: claim a folder, and run each job of a sweep in its own process.

A sweep survives its jobs: whatever ends a job (an error, running out of memory, `kill -9`), the sweep reports it,
records it in the job's run.json and continues. The same command with `hydra.sweep.dir=FOLDER` resumes or starts the
jobs that are not complete.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import yaml

from diffusion.config.quoting import override
from diffusion.config.schema import Train
from diffusion.console import console
from diffusion.errors import FolderTaken, Interrupted, UserError
from diffusion.files import replace
from diffusion.runs import early_signals, slurm
from diffusion.runs.folder import SCORES
from diffusion.runs.naming import OVERRIDES
from diffusion.runs.record import RunRecord, claim

CONFIG = "config.yaml"
PATIENCE = 2.0  # seconds that a process has to handle Ctrl-C
WORKER = "diffusion.training.worker"  # `python -m WORKER FOLDER` runs the configuration in FOLDER
LAUNCHER = "DIFFUSION_LAUNCHER"  # the environment variable with the id of the process that started this one
GRACE = 15.0  # seconds within which a process notices the death of another one, or ends after it
RESUMING = ("auto", "last")
# Environment variables of a run's processes:
RENDEZVOUS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class JobFailed(UserError):
    """A job of a sweep did not complete; the other jobs continue."""


def begin(settings: Train, folder: Path, words: Sequence[str]) -> tuple[Train, RunRecord] | None:
    """Claim `folder` for a run of this process. Returns its settings and its record.

    Returns None if the run is already complete and is to be resumed (ckpt=auto) or was requeued by SLURM.
    """
    slurm.check_tasks()
    if (slurm.queued_again() or settings.ckpt == "auto") and is_complete(RunRecord(folder), settings):
        console.print(f"{folder} is already complete")
        return None
    settings = after_requeue(settings, folder)
    return settings, claim(folder, partial(check_overwrites, settings, folder, words), words)


def run_job(settings: Train, folder: Path, words: Sequence[str]) -> Any:
    """Run a job of a sweep in a separate process, unless it is already complete. Returns its result."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("torchrun starts the processes of one run, not of a sweep: use -m trainer.devices=N instead")
    record = RunRecord(folder)
    if is_complete(record, settings):
        console.print(f"{folder} is already complete")
        return result_of(record)
    settings = after_requeue(continued(settings, record), folder)
    record = claim(folder, words=words)
    if settings.ckpt is None:
        discard(folder)
    write_config(settings, folder)
    return wait_for_process(folder, record.lock)


def result_of(record: RunRecord) -> float | None:
    """The result of a complete run. Without a number, which Optuna counts as a failed trial, it is None, not NaN."""
    result: float | None = record.content.get("result")
    return None if result is None or math.isnan(result) else result


def after_requeue(settings: Train, folder: Path) -> Train:
    """The settings; a job that SLURM has requeued resumes from its last checkpoint, if it has one."""
    resumes = slurm.queued_again() and any(folder.glob("checkpoints/*.ckpt"))
    return settings.model_copy(update={"ckpt": "auto"}) if resumes else settings


def continued(settings: Train, record: RunRecord) -> Train:
    """The settings; a job of a sweep that is not complete resumes from its last checkpoint, if it has one.

    With `ckpt=null` it starts from scratch. Raises JobFailed if its settings are no longer those of its folder.
    """
    folder = record.folder
    if not holds_checkpoints(folder) or "ckpt=null" in yaml.safe_load((folder / OVERRIDES).read_text("utf-8")):
        return settings
    if not has_same_settings(record, settings):
        raise JobFailed(
            f"{folder} contains checkpoints of a run with other settings (see its {CONFIG}), which training from "
            "scratch would overwrite: another hydra.sweep.dir keeps them; ckpt=null, or removing it, discards them"
        )
    return settings.model_copy(update={"ckpt": "auto"})


def holds_checkpoints(folder: Path) -> bool:
    """Whether a run has saved checkpoints or weights in its folder."""
    return any(file.suffix in (".ckpt", ".safetensors") for file in folder.glob("checkpoints/*"))


def discard(folder: Path) -> None:
    """Remove the checkpoints, samples, scores and curves of an earlier run before another one starts from scratch.

    Without checkpoints there, the files are not those of an earlier run, and are kept.
    """
    if not holds_checkpoints(folder):
        return
    for name in ("checkpoints", "samples"):
        for file in list((folder / name).rglob("*")):
            if not file.is_dir():
                file.unlink()
    for name in (SCORES, "metrics.csv"):
        (folder / name).unlink(missing_ok=True)


def check_overwrites(settings: Train, folder: Path, words: Sequence[str]) -> None:
    """Raise FolderTaken if the run would overwrite the checkpoints of another run in `folder`.

    Training there from scratch requires an explicit `ckpt=null`. (Jobs of a sweep are not checked: their folders belong
    to them, and they resume.)
    """
    ckpt = settings.ckpt
    if not holds_checkpoints(folder) or ckpt in RESUMING or "ckpt=null" in words:
        return
    if ckpt is None:
        raise FolderTaken(
            f"{folder} contains checkpoints that training from scratch would overwrite: ckpt=auto resumes from them, "
            "another hydra.run.dir keeps them, ckpt=null overwrites them"
        )
    if not Path(ckpt).resolve().is_relative_to(folder.resolve()):
        raise FolderTaken(
            f"{folder} contains checkpoints of another run, which resuming from {ckpt} would overwrite: set a new "
            "hydra.run.dir, or resume the existing run with ckpt=auto"
        )


def is_complete(record: RunRecord, settings: Train) -> bool:
    """Whether the run with these settings is complete in the record's folder."""
    return record.content.get("state") == "complete" and has_same_settings(record, settings)


def has_same_settings(record: RunRecord, settings: Train) -> bool:
    """Whether the run in the record's folder was asked for with these settings, apart from its checkpoint."""
    try:
        config = yaml.safe_load((record.folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and config | {"ckpt": None} == yaml.safe_load(config_text(settings)) | {
        "ckpt": None
    }


def config_text(settings: Train) -> str:
    """The settings as yaml, in the order of their definition."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(settings: Train, folder: Path) -> None:
    """Write config.yaml, which is read by the processes of a run."""
    replace(folder / CONFIG, config_text(settings))


def wait_for_process(folder: Path, lock: BinaryIO | None) -> Any:
    """Run the configuration of `folder` in a separate process and return its result. Raises JobFailed if it fails.

    Args:
        lock: Lock of the folder. The new process inherits it, so the lock is held until that process ends, even if this
            one ends first.
    """
    environment = {name: value for name, value in os.environ.items() if name not in RENDEZVOUS}  # of no other job
    environment[LAUNCHER] = str(os.getpid())
    with relaying_signals() as (received, processes):
        with lock or contextlib.nullcontext():
            passed = () if lock is None else (lock.fileno(),)
            process = subprocess.Popen([sys.executable, "-m", WORKER, str(folder)], env=environment, pass_fds=passed)
        processes.append(process)
        if multiprocessing.current_process().name.startswith("LokyProcess"):  # joblib's workers outlive the sweep
            threading.Thread(target=end_with_sweep, args=[process], daemon=True).start()
        for number in received:
            process.send_signal(number)
        status = process.wait()
    record = RunRecord(folder)
    if received:
        if status != 128 + received[0]:  # otherwise the job has done this, as it received the signal too
            early_signals.queue_again(received[0])
        if record.content.get("state") == "running":  # it ended before it could write this
            record.content |= {"state": "interrupted", "reason": signal.Signals(received[0]).name}
            record.write()
        raise Interrupted(received[0])
    if status == 0 and record.content.get("state") == "complete":
        return result_of(record)
    if record.content.get("state") in (None, "running", "complete"):
        stopped = status - 128 in early_signals.CAUGHT or -status in early_signals.CAUGHT  # it had no handler yet
        record.content |= {"state": "interrupted" if stopped else "failed", "reason": describe_exit(status)}
        record.write()
    raise JobFailed(
        f"{record.content.get('reason') or record.content['state']}; rerun the same command with "
        f"{override('hydra.sweep.dir', folder.parent)} to repeat the jobs that did not complete"
    )


def end_with_sweep(process: "subprocess.Popen[bytes]") -> None:
    """Stop a job, which saves its state, and then this process, when the process of the sweep has ended."""
    sweep = os.getppid()
    while process.poll() is None:
        time.sleep(1)
        if os.getppid() != sweep:
            process.send_signal(signal.SIGTERM)
            process.wait()
            os._exit(1)


@contextlib.contextmanager
def relaying_signals() -> Iterator[tuple[list[int], list[Any]]]:
    """Context in which signals are appended to the first list and forwarded to the processes in the second list."""
    received: list[int] = []
    processes: list[Any] = []

    def relay(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            if number != signal.SIGINT:
                process.send_signal(number)
            else:  # Ctrl-C already reaches the whole process group; `kill -INT` reaches this process only
                stop = threading.Timer(PATIENCE, process.send_signal, [signal.SIGTERM])
                stop.daemon = True
                stop.start()

    numbers = early_signals.CAUGHT if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, relay)
    requeue = signal.getsignal(signal.SIGUSR2)
    if numbers and callable(requeue):  # submitit's handler ends this process, after which SLURM kills the job

        def save_first(number: int, frame: FrameType | None) -> None:
            for process in processes:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(ChildProcessError):  # it has ended
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            requeue(number, frame)

        before[signal.SIGUSR2] = requeue
        signal.signal(signal.SIGUSR2, save_first)
    try:
        yield received, processes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status - 128 in early_signals.CAUGHT:
        return signal.Signals(status - 128).name
    if status >= 0:
        return f"ended with status {status} before the run was complete"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
