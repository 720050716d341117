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
from functools import cache
from pathlib import Path
from types import FrameType

import yaml

from diffusion.config.quoting import override, resume_command
from diffusion.config.schema import Train, Trainer
from diffusion.console import console
from diffusion.errors import Interrupted, ProcessLost, UserError
from diffusion.files import replace
from diffusion.launch import PARENT, REQUEUE, STOPS, end_with_parent, is_rank, launch
from diffusion.runs import slurm
from diffusion.runs.folder import SCORES, read_yaml
from diffusion.runs.record import CONFIG, RunRecord, claim

WORKER = "diffusion.training.worker"  # `python -m WORKER FOLDER` trains with the settings in FOLDER


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
    check_overwrites(settings, folder, words)
    record = claim(folder, words)
    write_config(settings, folder)
    return settings, record


def run_in_processes(settings: Train, record: RunRecord) -> None:
    """Train in the folder of `record` in one process for each device.

    If one of them is killed, or fails for another reason than a setting, all start again from the newest checkpoint,
    `restarts` times.
    """
    devices, restarts = devices_of(settings.trainer), settings.restarts
    with record.running():
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


def check_overwrites(settings: Train, folder: Path, words: Sequence[str]) -> None:
    """Raise UserError if a run, not a job of a sweep, would overwrite the checkpoints of another one in `folder`.

    Training there from scratch requires an explicit `ckpt=null`.
    """
    ckpt = settings.ckpt
    if not holds_checkpoints(folder) or ckpt in ("auto", "last") or "ckpt=null" in words:
        return
    if ckpt is None:
        raise UserError(
            f"{folder} contains checkpoints that training from scratch would overwrite: ckpt=auto resumes from them, "
            "another hydra.run.dir keeps them, ckpt=null overwrites them"
        )
    if not Path(ckpt).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{folder} contains checkpoints of another run, which resuming from {ckpt} would overwrite: set a new "
            "hydra.run.dir, or resume the existing run with ckpt=auto"
        )


def holds_checkpoints(folder: Path) -> bool:
    """Whether a run has saved checkpoints or weights in its folder."""
    return any(file.suffix in (".ckpt", ".safetensors") for file in folder.glob("checkpoints/*"))


def discard(folder: Path) -> None:
    """Remove the checkpoints, samples, scores and curves of an earlier run before another one starts from scratch.

    Without checkpoints there, the files are not those of an earlier run, and are kept.
    """
    if holds_checkpoints(folder):
        inside = [file for name in ("checkpoints", "samples") for file in (folder / name).rglob("*")]
        for file in [*inside, folder / SCORES, folder / "metrics.csv"]:
            if not file.is_dir():
                file.unlink(missing_ok=True)


def is_complete(settings: Train, folder: Path) -> bool:
    """Whether the run with these settings is complete in `folder`."""
    return RunRecord(folder).content.get("state") == "complete" and has_same_settings(settings, folder)


def has_same_settings(settings: Train, folder: Path) -> bool:
    """Whether the run in `folder` was asked for with these settings, apart from its checkpoint."""
    return read_yaml(folder / CONFIG) | {"ckpt": None} == yaml.safe_load(config_text(settings)) | {"ckpt": None}


def config_text(settings: Train) -> str:
    """The settings as yaml, in the order of their definition."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(settings: Train, folder: Path) -> None:
    """Write config.yaml, which is read by the processes of a run."""
    replace(folder / CONFIG, config_text(settings))


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


def run_job(settings: Train, folder: Path, words: Sequence[str]) -> float | None:
    """Run a job of a sweep in its own process, unless it is already complete. Returns its result.

    A sweeper optimizes the result. Without a number, which Optuna counts as a failed trial, it is None, not NaN.
    """
    if is_rank():
        raise UserError("torchrun starts the processes of one run, not of a sweep: use -m trainer.devices=N instead")
    if is_complete(settings, folder):
        console.print(f"{folder} is already complete")
    else:
        with as_job(folder, devices_of(settings.trainer)):
            train_job(settings, folder, words)
    result: float | None = RunRecord(folder).content.get("result")
    return None if result is None or math.isnan(result) else result


def train_job(settings: Train, folder: Path, words: Sequence[str]) -> None:
    """Train in the folder of a job: from its last checkpoint, if it has one; with `ckpt=null` from scratch."""
    if holds_checkpoints(folder) and "ckpt=null" not in words:
        if not has_same_settings(settings, folder):
            raise UserError(
                f"{folder} contains checkpoints of a run with other settings (see its {CONFIG}), which training from "
                "scratch would overwrite: another hydra.sweep.dir keeps them; ckpt=null, or removing it, discards them"
            )
        settings = settings.model_copy(update={"ckpt": "auto"})
    record = claim(folder, words)
    write_config(settings, folder)
    run_in_processes(settings, record)


class Worker:
    """This process, if it is a worker of joblib."""

    stopped: Interrupted | None = None  # the signal that has stopped its jobs


@contextlib.contextmanager
def as_job(folder: Path, devices: int) -> Iterator[None]:
    """Context of a job of a sweep, in the process of the sweep or in a worker of joblib or submitit.

    After a signal, a worker of joblib raises UserError for every job: an Interrupted would make joblib kill the other
    workers while they save.
    """
    again = f"rerun the same command with {override('hydra.sweep.dir', folder.parent)} to repeat what is not complete"
    parallel = multiprocessing.current_process().name.startswith("LokyProcess")
    if parallel:
        prepare_worker(devices)
    try:
        if Worker.stopped is not None:
            raise Worker.stopped
        yield
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    except Interrupted as stop:
        if parallel:
            Worker.stopped = stop
            raise UserError(f"stopped by {stop}; {again}") from None
        if stop.number == REQUEUE and callable(submitit := signal.getsignal(REQUEUE)):
            submitit(REQUEUE, None)  # requeues the job, and ends this process
        raise


@cache
def prepare_worker(devices: int) -> None:
    """Make this process, a worker of joblib, end with its sweep, and remember signals that arrive between two jobs."""
    take_gpus(devices)
    end_with_parent(signal.SIGKILL)  # its job saves, and ends with it

    def remember(number: int, frame: FrameType | None) -> None:
        Worker.stopped = Worker.stopped or Interrupted(number)

    for number in STOPS:
        signal.signal(number, remember)


def take_gpus(devices: int) -> None:
    """Give this process, a worker of joblib, its own GPUs. Otherwise all jobs would train on the first ones."""
    import torch

    visible, number = os.environ.get("CUDA_VISIBLE_DEVICES"), int(multiprocessing.current_process().name.split("-")[1])
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    mine = [gpus[(number * devices + i) % len(gpus)] for i in range(min(devices, len(gpus)))]
    if mine:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
