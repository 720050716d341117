"""Several processes, one run: all use the first one's exact configuration, checkpoint and folder.

Whoever starts the processes, only the first of them goes through Hydra. Lightning (`trainer.devices=2`) starts the
others as `python -m diffusion.training.processes FOLDER [CKPT]`, which reads the configuration that the first wrote
there; so it does not matter whether that one is a plain run, a job of a sweep, or in a joblib or submitit worker, none
of which could be started a second time from the command line. Under torchrun the others wait for the same message in
its store. On several machines the run's folder must lie on a file system that all of them see.
"""

from diffusion.runs import early_signals as early

if __name__ == "__main__":
    early.watch()  # before the imports that take long

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.launchers import subprocess_script as fabric
from lightning.pytorch.strategies.launchers import subprocess_script
from omegaconf import OmegaConf

from diffusion.console import console
from diffusion.errors import Interrupted, UserError

SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TOLD = [128 + number for number in early.CAUGHT]  # of a process that was told to end, as this one is then too
GRACE = 15.0  # seconds in which a process notices by itself that another one has died, or ends after it


@contextmanager
def leading(folder: Path, ckpt: Path | None) -> Iterator[None]:
    """Within: processes that Lightning starts join the run of `folder`, whose config.yaml is there.

    Afterwards they have ended, the process group is gone, and so are Lightning's variables: the next job of a sweep in
    this process starts its own. `ckpt` is the very file to go on from: `last` may be another one by now.
    """
    command = [sys.executable, "-m", "diffusion.training.processes", str(folder), *([str(ckpt)] if ckpt else [])]
    followers = Followers()
    replaced = {
        (fabric, "_hydra_subprocess_cmd"): lambda local_rank: (command, os.getcwd()),
        (fabric, "_basic_subprocess_cmd"): lambda: command,
        (fabric, "_launch_process_observer"): followers.watch,
    }
    replaced |= {(subprocess_script, name): new for (_, name), new in replaced.items()}
    originals = {(module, name): getattr(module, name) for module, name in replaced}
    variables = {name: os.environ.get(name) for name in SET_BY_LIGHTNING}
    if _under_torchrun() and os.environ["RANK"] == "0":
        _store().set(_key(), json.dumps(command[3:]))
    for (module, name), new in replaced.items():
        setattr(module, name, new)
    try:
        yield
        if dist.is_initialized():
            dist.barrier()  # no one leaves while another still waits for its last answer
    except BaseException:
        followers.end(patience=0)
        raise
    finally:
        for (module, name), old in originals.items():
            setattr(module, name, old)
        if dist.is_initialized():
            dist.destroy_process_group()
        followers.end(patience=GRACE)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Followers:
    """The processes that Lightning started for this run."""

    def __init__(self) -> None:
        self.processes: list[Popen[Any]] = []
        self.ended = threading.Event()

    def watch(self, processes: list[Popen[Any]]) -> None:
        """Stop this process soon after one of `processes` has died: it may wait for it forever.

        (Lightning's own observer kills at once, so that no one learns why, and a later job of a sweep dies too.)
        """
        self.processes = processes
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.ended.wait(0.2):
            dead = [p for p in self.processes if p.poll()]
            if dead:
                if not self.ended.wait(GRACE):
                    status = dead[0].returncode
                    print(f"error: process {dead[0].pid} of the run ended with {status}", file=sys.stderr)
                    self.kill()
                    if status in TOLD:
                        early.leave(status - 128)
                    os._exit(1)
                return

    def kill(self) -> None:
        """End those that are still there."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()

    def end(self, patience: float) -> None:
        """Wait for the processes, `patience` seconds in all, and end those that are still there."""
        self.ended.set()
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except TimeoutExpired:
                self.kill()
                process.wait()


def environment() -> list[ClusterEnvironment]:
    """Who starts the processes, for the Trainer's plugins: Lightning, unless torchrun has.

    Left to itself, Lightning takes any program that runs under SLURM for one of several that `srun` has started.
    """
    return [] if _under_torchrun() else [LightningEnvironment()]


def check_processes(world_size: int) -> None:
    """Refuse a Trainer of another size than what torchrun started: each process would be a run of its own."""
    if _under_torchrun() and world_size != int(os.environ["WORLD_SIZE"]):
        started, local = os.environ["WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
        nodes = int(started) // int(local)
        raise UserError(
            f"torchrun started {started} processes, but the trainer has {world_size}: "
            f"set trainer.devices={local}" + (f" trainer.num_nodes={nodes}" if nodes > 1 else "")
        )


def follow() -> None:
    """Join the run that the first process of torchrun leads."""
    join(*json.loads(_store().get(_key())))


def join(folder: str, ckpt: str | None = None) -> None:
    """Take part in the run of `folder` as its configuration says, going on from `ckpt`."""
    from diffusion.training.run import train

    console.quiet = True
    cfg = OmegaConf.load(Path(folder) / "config.yaml")
    cfg.ckpt = ckpt
    train(cfg, Path(folder))  # type: ignore[arg-type]


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _store() -> Any:
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]


def _key() -> str:
    return f"diffusion/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


if __name__ == "__main__":
    try:
        join(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        sys.exit(stop.status)
