"""Start runs: claim a folder, and train in it, in this process or in several.

A job of a sweep always has its own process. A sweep survives its jobs: whatever ends a job (an error, running out of
memory, `kill -9`), the sweep reports it, records it in the job's run.json and continues. The same command with
`hydra.sweep.dir=FOLDER` resumes or starts the jobs that are not complete.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType

import yaml

from diffusion.config import messages
from diffusion.config.quoting import override, resume_command
from diffusion.config.schema import Train, Trainer
from diffusion.console import console
from diffusion.errors import FolderTaken, Interrupted, ProcessLost, UserError
from diffusion.files import replace
from diffusion.launch import PARENT, REQUEUE, STOPS, end_with_parent, is_rank, launch
from diffusion.runs import slurm
from diffusion.runs.folder import SCORES
from diffusion.runs.record import CONFIG, RunRecord, claim

WORKER = "diffusion.training.worker"  # `python -m WORKER FOLDER` trains with the settings in FOLDER
RESUMING = ("auto", "last")


class JobFailed(UserError):
    """A job of a sweep did not complete; the other jobs continue."""


def begin(settings: Train, folder: Path, words: Sequence[str]) -> tuple[Train, RunRecord] | None:
    """Claim `folder` for a run with these settings and write its config.yaml. Returns its settings and its record.

    Returns None if the run is already complete and is to be resumed (ckpt=auto) or was requeued by SLURM. A requeued
    run resumes from its last checkpoint, if it has one.
    """
    slurm.check_tasks()
    again = slurm.queued_again()
    if (again or settings.ckpt == "auto") and is_complete(settings, folder):
        console.print(f"{folder} is already complete")
        return None
    if again and any(folder.glob("checkpoints/*.ckpt")):
        settings = settings.model_copy(update={"ckpt": "auto"})
    record = claim(folder, words, check=partial(check_overwrites, settings, folder, words))
    write_config(settings, folder)
    return settings, record


def run_job(settings: Train, folder: Path, words: Sequence[str]) -> float | None:
    """Run a job of a sweep in its own process, unless it is already complete. Returns its result.

    One that has stopped resumes from its last checkpoint, if it has one; with `ckpt=null` it starts from scratch. A
    sweeper optimizes the result. Without a number, which Optuna counts as a failed trial, it is None, not NaN.
    """
    if is_rank():
        raise UserError("torchrun starts the processes of one run, not of a sweep: use -m trainer.devices=N instead")
    if is_complete(settings, folder):
        console.print(f"{folder} is already complete")
    else:
        with as_job(folder, devices_of(settings.trainer)):
            if holds_checkpoints(folder) and "ckpt=null" not in words:
                check_same(settings, folder)
                settings = settings.model_copy(update={"ckpt": "auto"})
            record = claim(folder, words)
            write_config(settings, folder)
            run_in_processes(settings, record)
    result: float | None = RunRecord(folder).content.get("result")
    return None if result is None or math.isnan(result) else result


def run_in_processes(settings: Train, record: RunRecord) -> None:
    """Train in the folder of `record` in one process for each device.

    If one of them is killed, or fails for another reason than a setting, all start again from the newest checkpoint,
    `restarts` times.
    """
    devices, restarts = devices_of(settings.trainer), settings.restarts
    with record.running(partial(messages.summary, command="train")):
        while True:
            try:
                return launch(devices, record.folder, WORKER)
            except ProcessLost as error:
                if restarts == 0:
                    raise ProcessLost(f"{error}; to resume: {resume_command(record.folder)}") from error
                console.print(f"{error}; starting again", style="yellow")
            restarts -= 1
            if any(record.folder.glob("checkpoints/*.ckpt")):
                write_config(settings.model_copy(update={"ckpt": "auto"}), record.folder)
            record.begin_again()


def devices_of(settings: Trainer) -> int:
    """The number of devices of this machine on which a run trains."""
    extra = settings.model_extra or {}
    devices = extra.get("devices", 1)
    if isinstance(devices, int) and devices > 0:
        return devices
    import lightning.pytorch as pl

    chosen = {"accelerator": extra.get("accelerator", "auto"), "devices": devices}
    return pl.Trainer(**chosen, logger=False, enable_checkpointing=False, enable_progress_bar=False).num_devices


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


def check_same(settings: Train, folder: Path) -> None:
    """Raise JobFailed if a job would overwrite the checkpoints of a run with other settings."""
    if not has_same_settings(settings, folder):
        raise JobFailed(
            f"{folder} contains checkpoints of a run with other settings (see its {CONFIG}), which training from "
            "scratch would overwrite: another hydra.sweep.dir keeps them; ckpt=null, or removing it, discards them"
        )


def is_complete(settings: Train, folder: Path) -> bool:
    """Whether the run with these settings is complete in `folder`."""
    return RunRecord(folder).content.get("state") == "complete" and has_same_settings(settings, folder)


def has_same_settings(settings: Train, folder: Path) -> bool:
    """Whether the run in `folder` was asked for with these settings, apart from its checkpoint."""
    try:
        before, now = yaml.safe_load((folder / CONFIG).read_text("utf-8")), yaml.safe_load(config_text(settings))
        return bool(before | {"ckpt": None} == now | {"ckpt": None})
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return False


def config_text(settings: Train) -> str:
    """The settings as yaml, in the order of their definition."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(settings: Train, folder: Path) -> None:
    """Write config.yaml, which is read by the processes of a run."""
    replace(folder / CONFIG, config_text(settings))


@contextlib.contextmanager
def as_job(folder: Path, devices: int) -> Iterator[None]:
    """Context of a job of a sweep, in the process of the sweep or in a worker of joblib or submitit.

    Raises JobFailed if the job fails. After a signal, a worker of joblib raises JobFailed for every job: an Interrupted
    would make joblib kill the other workers while they save.
    """
    again = f"rerun the same command with {override('hydra.sweep.dir', folder.parent)} to repeat what is not complete"
    parallel = multiprocessing.current_process().name.startswith("LokyProcess")
    if parallel:
        prepare_worker()
        take_gpus(devices)
        if Stopped.by is not None:
            raise JobFailed(f"stopped by {Stopped.by}; {again}")
    try:
        yield
    except (JobFailed, FolderTaken):
        raise
    except UserError as error:
        raise JobFailed(f"{error}; {again}") from error
    except Interrupted as stop:
        if parallel:
            Stopped.by = stop
            raise JobFailed(f"stopped by {stop}; {again}") from None
        if stop.number == REQUEUE and callable(submitit := signal.getsignal(REQUEUE)):
            submitit(REQUEUE, None)  # requeues the job, and ends this process
        raise


class Stopped:
    """What has stopped the jobs of this process, a worker of joblib."""

    by: Interrupted | None = None


@cache
def prepare_worker() -> None:
    """Make this process, a worker of joblib, end with its sweep, and remember signals that arrive between two jobs."""
    end_with_parent(signal.SIGKILL)  # its job saves, and ends with it

    def remember(number: int, frame: FrameType | None) -> None:
        Stopped.by = Stopped.by or Interrupted(number)

    for number in STOPS:
        signal.signal(number, remember)


def take_gpus(devices: int) -> None:
    """Give this process, a worker of joblib, its own GPUs. Otherwise all jobs would train on the first ones."""
    gpus, number = visible_gpus(), int(multiprocessing.current_process().name.partition("-")[2])
    if gpus:
        mine = [gpus[(number * devices + i) % len(gpus)] for i in range(min(devices, len(gpus)))]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)


@cache
def visible_gpus() -> list[str]:
    """The GPUs that this process may use, before it took its own."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(torch.cuda.device_count())] if visible is None else visible.split(",")


@contextlib.contextmanager
def relaying_signals() -> Iterator[None]:
    """Context of the command: a signal ends it before it trains, and stops the jobs of a sweep in joblib's workers.

    Joblib would kill them, before they have saved, if an exception was raised here. On SIGUSR1, a SLURM job is requeued
    when all have ended.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.terminate()
        if not workers:
            raise Interrupted(number)

    if not is_rank():
        os.environ[PARENT] = str(os.getpid())
    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except SystemExit as end:
        status = 128 + received[0] if received else end.code
        if status == 128 + signal.SIGUSR1:
            slurm.requeue()
        sys.exit(status)
    finally:
        os.environ.pop(PARENT, None)
        for number, handler in before.items():
            signal.signal(number, handler)
