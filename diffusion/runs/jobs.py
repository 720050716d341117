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
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FrameType

import yaml

from diffusion.config.schema import Train, Trainer
from diffusion.console import console
from diffusion.errors import Interrupted, ProcessLost, UserError, override, resume_command
from diffusion.files import replace
from diffusion.launch import STOPS, SUBMITIT, check_tasks, end_with_parent, is_rank, launch, queued_again, requeue
from diffusion.runs.folder import SCORES, read_yaml
from diffusion.runs.record import CONFIG, RunRecord, claim

WORKER = "diffusion.training.worker"  # `python -m WORKER FOLDER` trains with the settings in FOLDER


def begin(settings: Train, folder: Path, words: Sequence[str]) -> tuple[Train, RunRecord] | None:
    """Claim `folder` for a run with these settings and write its config.yaml. Returns its settings and its record.

    Returns None if the run is already complete and is to be resumed (ckpt=auto) or was requeued by SLURM. A requeued
    run resumes from its last checkpoint, if it has one.
    """
    check_tasks()
    again = queued_again()
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
    own = ckpt in ("auto", "last") or (ckpt and Path(ckpt).resolve().is_relative_to(folder.resolve()))
    if holds_checkpoints(folder) and not own and "ckpt=null" not in words:
        raise UserError(
            f"{folder} contains checkpoints that this run would overwrite: ckpt=auto resumes from them, another "
            "hydra.run.dir keeps them, ckpt=null overwrites them"
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
    return read_yaml(folder / CONFIG) | {"ckpt": None} == settings.model_dump(mode="json") | {"ckpt": None}


def config_text(settings: Train) -> str:
    """The settings as yaml, in the order of their definition."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(settings: Train, folder: Path) -> None:
    """Write config.yaml, which is read by the processes of a run."""
    replace(folder / CONFIG, config_text(settings))


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Context of the command: before it trains, a signal just ends it. After SIGUSR1, a SLURM job is requeued.

    Jobs in workers of joblib save and end when this process is gone; after an exception, joblib would kill them first.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:  # further signals of a burst change nothing
            signal.signal(each, signal.SIG_IGN)
        if not multiprocessing.active_children():
            raise Interrupted(number)
        if number == signal.SIGUSR1:
            requeue()
        os._exit(128 + number)

    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except SystemExit as end:
        if end.code == 128 + signal.SIGUSR1:
            requeue()
        raise
    finally:
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
        if multiprocessing.current_process().name.startswith("LokyProcess"):
            prepare_worker(devices_of(settings.trainer))
        with as_job(folder):
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


@contextlib.contextmanager
def as_job(folder: Path) -> Iterator[None]:
    """Context of a job of a sweep, in the process of the sweep or in a worker of joblib or submitit."""
    try:
        yield
    except UserError as error:
        again = override("hydra.sweep.dir", folder.parent)
        raise UserError(f"{error}; rerun the same command with {again} to repeat what is not complete") from error
    except Interrupted as stop:
        if stop.number == SUBMITIT and callable(submitit := signal.getsignal(SUBMITIT)):
            submitit(SUBMITIT, None)  # requeues the job, and ends this process
        raise


@cache
def prepare_worker(devices: int) -> None:
    """End this process, a worker of joblib, with its sweep, and give it its own GPUs instead of the first ones.

    Its job saves and ends when this process is gone.
    """
    import torch

    end_with_parent(signal.SIGKILL)
    visible, number = os.environ.get("CUDA_VISIBLE_DEVICES"), int(multiprocessing.current_process().name.split("-")[1])
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    mine = [gpus[(number * devices + i) % len(gpus)] for i in range(min(devices, len(gpus)))]
    if mine:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
