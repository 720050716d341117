"""Sweeps that survive: a job of a multirun is a process of its own, and what is complete is not run again.

Whatever ends a job (an error, no memory left, `kill -9`), the sweep says so, records it in the job's run.json and goes
on. The same command with `hydra.sweep.dir=FOLDER` runs what is missing or failed there. `python -m diffusion.runs.jobs
FOLDER` is such a process: it runs the configuration that FOLDER/config.yaml holds.
"""

from diffusion.runs import early_signals as early

if __name__ == "__main__":
    early.watch()  # before the imports that take long

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.config import command
from diffusion.console import console
from diffusion.errors import Interrupted, Taken, UserError
from diffusion.files import replace
from diffusion.runs import slurm
from diffusion.runs.naming import OVERRIDES
from diffusion.runs.record import beginning, claim, read_record, write_record


class JobFailed(UserError):
    """A job of a sweep did not complete; the others go on."""


def run(train: Callable[[DictConfig, Path], Any], cfg: DictConfig, folder: Path) -> Any:
    """`train(cfg, folder)`; as a job of a multirun in a process of its own, unless it is complete already.

    What SLURM has queued again, or ckpt=auto goes on with, is not run again either if it is complete; otherwise SLURM's
    goes on from its last checkpoint, if it has one.
    """
    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun and "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("torchrun starts the processes of one run, not of a sweep: give -m trainer.devices=N instead")
    record = read_record(folder)
    again = multirun or slurm.queued_again() or cfg.ckpt == "auto"
    if again and record.get("state") == "complete" and same_job(cfg, folder):
        console.print(f"{folder} is complete already")
        return record.get("result")
    if slurm.queued_again() and any(folder.glob("checkpoints/*.ckpt")):
        cfg.ckpt = "auto"
    if multirun:
        claim(folder)
        replace(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        return isolated(folder)
    claim(folder, before=partial(check_kept, cfg, folder))
    with recording(folder, record):
        return train(cfg, folder)


def check_kept(cfg: DictConfig, folder: Path) -> None:
    """Refuse to train from the start where checkpoints lie, which that would overwrite, unless `ckpt=null` asks for it.

    (A job of a sweep that runs again does start from the start: it has failed, and the folder is its own.)
    """
    silent = cfg.ckpt is None and "ckpt=null" not in HydraConfig.get().overrides.task
    if silent and any(folder.glob("checkpoints/*.ckpt")):
        raise Taken(
            f"{folder} holds checkpoints, which training from the start would overwrite: ckpt=auto goes on from them, "
            "another hydra.run.dir keeps them, ckpt=null gives them up"
        )


def same_job(cfg: DictConfig, folder: Path) -> bool:
    """Whether folder/config.yaml is this configuration; whether it goes on from what it has saved does not matter."""

    def job_of(text: str) -> Any:
        config = yaml.safe_load(text)
        return config | {"ckpt": None} if config["ckpt"] in ("auto", "last") else config

    try:
        before = job_of((folder / "config.yaml").read_text())
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        return False
    return bool(before == job_of(OmegaConf.to_yaml(cfg, resolve=True)))


def isolated(folder: Path) -> Any:
    """Run `folder`/config.yaml in a process of its own; its result. JobFailed says how it ended otherwise."""
    with waiting() as (received, processes):
        process = subprocess.Popen([sys.executable, "-m", "diffusion.runs.jobs", str(folder)])
        processes.append(process)
        for number in received:
            process.send_signal(number)
        status = process.wait()
    record = read_record(folder)
    if received:
        if status != 128 + received[0]:  # else the job, which heard it too, has done this
            early.queue_again(received[0])
        if record.get("state") == "running":  # it was told before it could say so
            write_record(folder, record | {"state": "interrupted", "reason": signal.Signals(received[0]).name})
        raise Interrupted(received[0])
    if status == 0 and record.get("state") == "complete":
        return record.get("result")
    if record.get("state") in (None, "running", "complete"):
        told = status - 128 in early.CAUGHT
        record |= {"state": "interrupted" if told else "failed", "reason": ending(status)}
        write_record(folder, record)
    raise JobFailed(
        f"{record.get('reason') or record['state']}; the same command with hydra.sweep.dir={folder.parent} runs again "
        "what did not complete"
    )


@contextlib.contextmanager
def waiting() -> Iterator[tuple[list[int], list[Any]]]:
    """Within: signals are noted in the first list, and sent on to the processes in the second one."""
    received: list[int] = []
    processes: list[Any] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            if number != signal.SIGINT:  # Ctrl-C reaches it by itself
                process.send_signal(number)

    numbers = early.CAUGHT if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        yield received, processes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status - 128 in early.CAUGHT:
        return signal.Signals(status - 128).name
    if status >= 0:
        return f"ended with status {status}, before the run was complete"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (for memory?)" if name == "SIGKILL" else "")


def job(folder: Path) -> None:
    """What the process of a job does."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    write_record(folder, beginning())
    try:
        with recording(folder):
            setup_globals()
            hydra = OmegaConf.load(folder / ".hydra/hydra.yaml").hydra
            configure_log(hydra.job_logging, hydra.verbose)
            from diffusion.training.run import train

            sys.argv = ["diffusion.train", *OmegaConf.load(folder / OVERRIDES)]  # which runs this job by itself
            cfg = OmegaConf.load(folder / "config.yaml")
            assert isinstance(cfg, DictConfig)
            result = train(cfg, folder)
            write_record(folder, read_record(folder) | {"result": result})
    except Interrupted as stop:
        sys.exit(stop.status)
    except Exception as error:
        line = command.explain(error, "train")
        if line is None:
            traceback.print_exc()
        sys.exit(command.status(error) if line else 1)


@contextlib.contextmanager
def recording(folder: Path, before: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Within: a run. Should it end otherwise than well, its record says why, also where it came to no other words.

    Where it ends before its first step, and a run was there `before`, that one's record is put back.
    """

    def end(state: str, reason: str) -> None:
        record = read_record(folder)
        own = record | {"state": state, "reason": record.get("reason") or reason}
        write_record(folder, own if "steps" in record or not before else dict(before))

    early.State.last_words = partial(end, "interrupted")
    try:
        yield
    except (Exception, Interrupted) as error:
        told = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        reason = isinstance(error, Exception) and command.explain(error, "train")
        end("interrupted" if isinstance(error, Interrupted) else "failed", reason or told)
        raise
    finally:
        early.State.last_words = None


def _end_with(parent: int) -> None:
    """Stop, as by SIGTERM, when the sweep's own process is gone: no job goes on that nobody waits for."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    job(Path(sys.argv[1]))
