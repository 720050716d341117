"""Start runs: claim a folder, and train in it, in this process or in several (`diffusion.runs.processes`).

`python -m diffusion.training.jobs FOLDER CONF …` is one of several: it trains with the settings in FOLDER, and trusts
the user's own choices in the folders CONF (--config-dir). A job of a sweep always has its own process. A sweep survives
its jobs: whatever ends a job (an error, too little memory, `kill -9`), the sweep reports it, records it in the job's
run.json and continues. The same command with `hydra.sweep.dir=FOLDER` resumes or starts the jobs that are not complete.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before training, a Ctrl-C just ends this process

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from diffusion.base.console import console
from diffusion.base.files import replace
from diffusion.config.build import validated
from diffusion.config.choices import searched, searching
from diffusion.config.schema import Train, Trainer
from diffusion.errors import Interrupted, ProcessLost, UserError, command_line, override
from diffusion.runs import processes
from diffusion.runs.again import resumed
from diffusion.runs.folder import Run, holds_checkpoints, read_yaml
from diffusion.runs.launch import Launch
from diffusion.runs.processes import as_rank, end_with_parent, is_rank, queued_again, requeue, run_ranks, shared_folder
from diffusion.runs.record import CONFIG, RunRecord, config_text

WORKER = "diffusion.training.jobs"


def claimed(settings: Train, launch: Launch) -> tuple[Train, RunRecord] | None:
    """Claim the folder for a run with these settings and write its config.yaml. Returns its settings and its record.

    A job of a sweep, and a run that SLURM has requeued, go on from their own last checkpoint. If they are complete, or
    with ckpt=auto any run, nothing is begun: None. Raises UserError if checkpoints of another run would be overwritten,
    unless the words contain `ckpt=null`.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and not is_rank():
        raise UserError(f"srun started {tasks} tasks, each a separate run: start one (-n 1), with trainer.devices=GPUS")
    folder, requeued, kept = launch.folder, queued_again(), "ckpt=null" not in launch.words
    same = read_yaml(folder / CONFIG) | {"ckpt": None} == settings.model_dump(mode="json") | {"ckpt": None}
    state, ended = RunRecord(folder).content.get("state"), ("complete", "pruned") if launch.job else ("complete",)
    if same and (launch.job or requeued or settings.ckpt == "auto") and state in ended:
        console.print(f"{folder} is already {state}")
        return None
    if holds_checkpoints(folder):
        within = settings.ckpt and Path(settings.ckpt).resolve().is_relative_to(folder.resolve())
        if requeued or (launch.job and same and kept):
            settings = settings.model_copy(update={"ckpt": "auto"})
        elif kept and not within and settings.ckpt not in ("auto", "last"):
            raise UserError(
                f"{folder} contains checkpoints of another run (see its {CONFIG}): ckpt=auto resumes from them, "
                "another hydra.run.dir or hydra.sweep.dir keeps them, ckpt=null overwrites them"
            )
    record = launch.claim()
    replace(folder / CONFIG, config_text(settings))
    return settings, record


def start(settings: Train, launch: Launch) -> Any:
    """Train in this process, or in one process for each of several devices; a job of a sweep, in its own ones.

    Returns the result of a job.
    """
    if launch.job:
        return run_job(settings, launch)
    if begun := claimed(settings, launch):
        settings, record = begun
        if is_rank():
            shared_folder(launch.folder)
            as_rank("train", partial(work, launch.folder))
        elif devices_of(settings.trainer) > 1:
            run_in_processes(settings, record)
        else:
            from diffusion.training import run

            run.train(settings, launch.folder, record)
    return None


def work(folder: Path) -> None:
    """Train in one of the processes of the run that has begun in `folder`. The first process keeps its record."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not visible on this machine; the machines of a run need a shared file system")
    first = os.environ["RANK"] == "0"
    console.quiet = not first
    try:
        from diffusion.training import run

        settings = validated(Train, read_yaml(folder / CONFIG))
        run.train(settings, folder, RunRecord.join(folder) if first else None)
    except Interrupted as stop:
        if first and stop.number == signal.SIGUSR1 and not os.environ.get(processes.PARENT):
            requeue()  # torchrun does not
        raise


def run_in_processes(settings: Train, record: RunRecord) -> None:
    """Train in the folder of `record` in one process for each device."""
    with record.running():
        try:
            run_ranks(devices_of(settings.trainer), record.folder, WORKER, [*map(str, searched()[1:])])
        except ProcessLost as error:
            raise ProcessLost(f"{error}; to resume: {command_line(resumed(Run(record.folder)))}") from error


def devices_of(settings: Trainer) -> int:
    extra = settings.model_extra or {}
    devices = extra.get("devices", 1)
    if isinstance(devices, int) and devices > 0:
        return devices
    import lightning.pytorch as pl

    chosen = {"accelerator": extra.get("accelerator", "auto"), "devices": devices}
    return pl.Trainer(**chosen, logger=False, enable_checkpointing=False, enable_progress_bar=False).num_devices


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Context of the command: before it trains, a signal just ends it. After SIGUSR1, a SLURM job is requeued.

    Jobs in workers of joblib save and end when this process is gone; after an exception, joblib would kill them first.
    """

    def stop(number: int) -> None:
        if not multiprocessing.active_children():
            raise Interrupted(number)
        if number == signal.SIGUSR1:
            requeue()
        os._exit(128 + number)

    try:
        with processes.stopped_by(stop):
            yield
    except SystemExit as end:
        if end.code == 128 + signal.SIGUSR1:
            requeue()
        raise


def run_job(settings: Train, launch: Launch) -> Any:
    """Run a job of a sweep in its own process, unless it is already complete. Returns its result.

    A sweeper optimizes the result, a list if `sweep.score` is one. If a number is missing, it is None.
    """
    from diffusion.findings.paired import needless  # scipy would slow the start of every command

    if is_rank():
        raise UserError("torchrun starts the processes of one run, not of a sweep: use -m trainer.devices=N instead")
    folder, sweep = launch.folder, override("hydra.sweep.dir", launch.folder.parent)
    again = f"rerun the same command with {sweep} to repeat what is not complete"
    try:
        if settings.study.stop and (why := needless(settings, folder)):
            console.print(f"{folder} is not run: {why}")
        elif begun := claimed(settings, launch):
            if multiprocessing.current_process().name.startswith("LokyProcess"):
                prepare_worker(devices_of(settings.trainer))
            run_in_processes(*begun)
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    except Interrupted as stop:
        console.print(f"the whole sweep: {again}")
        if stop.number == signal.SIGUSR2 and callable(submitit := signal.getsignal(signal.SIGUSR2)):
            submitit(signal.SIGUSR2, None)  # requeues the job, and ends this process
        raise
    result = RunRecord(folder).content.get("result")
    return None if isinstance(result, list) and None in result else result


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


if __name__ == "__main__":
    with searching(sys.argv[2:]):
        as_rank("train", partial(work, Path(sys.argv[1])))
