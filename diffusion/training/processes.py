"""Several processes in one run: the first checks everything and starts the others, which read the run's folder.

The first process of a machine is a plain run, a job of a sweep, or a job started by SLURM or another launcher. It
starts the others as `python -m diffusion.training.worker FOLDER CKPT`, one per device, and Lightning uses them. Under
torchrun, all processes exist already; all but the first wait for the same two arguments in torchrun's store. With
several machines, the run's folder must be on a shared file system.
"""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from diffusion.config.quoting import resume_command
from diffusion.console import duration
from diffusion.errors import Interrupted, ProcessLost, UserError
from diffusion.runs import early_signals
from diffusion.runs.jobs import GRACE, LAUNCHER, RENDEZVOUS, WORKER, describe_exit
from diffusion.runs.record import RunRecord
from diffusion.training import signals

STOPPED = [128 + number for number in early_signals.CAUGHT]  # exit statuses of processes that a signal has ended
PAUSE = 300.0  # seconds that the others wait for a suspended process, as after `kill -STOP`
CLOSING = 5.0  # seconds within which a process ends after its connections close
PREPARING = timedelta(days=7)  # how long torchrun's other processes wait while the first one prepares the data


class StartedHere(LightningEnvironment):
    """Processes that this module starts. (By default, Lightning assumes that `srun` started every run under SLURM.)"""

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning must not start processes."""
        return True


class Replicas(DDPStrategy):
    """Lightning's `ddp`, registered under this name, which `trainer.strategy=auto` chooses for several devices.

    Gradients are views of the buckets that are sent, which saves a copy of them. And a batch stays where it is:
    Lightning lets DistributedDataParallel move it to the GPU, together with the image indices, which seed the noise.
    Reading them back would wait for the previous step.
    """

    def __init__(self, gradient_as_bucket_view: bool = True, **kwargs: Any):
        super().__init__(gradient_as_bucket_view=gradient_as_bucket_view, **kwargs)

    def determine_ddp_device_ids(self) -> None:
        """No devices: inputs are not moved. The module is on its device already."""
        return

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the other processes, with this program's handlers of signals.

        Before the barrier "run-stage", Lightning installs a handler of SIGTERM that broadcasts it. If all processes
        receive it while some wait here and others do not, they would wait for each other until the timeout.
        """
        signals.install_again()
        super().barrier(*args, **kwargs)


StrategyRegistry.register("ddp", Replicas, description="Lightning's ddp without moving batches", override=True)


def environment() -> list[ClusterEnvironment]:
    """The Trainer's plugin for processes that this module starts; none under torchrun, which starts them."""
    return [] if under_torchrun() else [StartedHere()]


def check_processes(trainer: pl.Trainer) -> None:
    """Raise UserError if the Trainer's size differs from what torchrun started: each process would be its own run.

    Also raise it for several machines without torchrun: the run would wait for their processes forever.
    """
    if trainer.num_nodes > 1 and not under_torchrun():
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}: to use several machines, start torchrun on each: torchrun "
            f"--nnodes={trainer.num_nodes} --nproc-per-node={trainer.num_devices} -m diffusion.train …"
        )
    if under_torchrun() and trainer.world_size != int(os.environ["WORLD_SIZE"]):
        started, local = os.environ["WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
        nodes = int(started) // int(local)
        raise UserError(
            f"torchrun started {started} processes, but the trainer has {trainer.world_size}: "
            f"set trainer.devices={local}" + (f" trainer.num_nodes={nodes}" if nodes > 1 else "")
        )


@contextmanager
def together(trainer: pl.Trainer, folder: Path, ckpt: Path | None) -> Iterator[None]:
    """Context in which the other processes take part in the run of `folder`, which must contain its config.yaml.

    Afterwards they have ended, and the process group and Lightning's variables are gone. `ckpt` is the exact file to
    resume from, because `last` may have changed.
    """
    words = [str(folder), *([str(ckpt)] if ckpt else [])]
    variables = {name: os.environ.get(name) for name in RENDEZVOUS}
    followers = Followers()
    if under_torchrun():
        if os.environ["RANK"] == "0":
            _store().set(_key(), json.dumps(words))
    elif trainer.num_devices > 1 and trainer.is_global_zero:
        followers.start(words, trainer)
    try:
        yield
        if dist.is_initialized():
            dist.barrier()  # no process leaves while another one still waits for its reply
    except BaseException as error:
        lost = lost_process(error, followers)
        if isinstance(error, Interrupted):
            leave_group(CLOSING, error.status)  # the other processes stop at the same step, and leave it too
            followers.end(patience=CLOSING)
        else:
            followers.end(patience=0)
            leave_group(CLOSING, getattr(error, "status", 1))
        if lost is not None:
            raise ProcessLost(f"{lost}; to resume: {resume_command(folder)}") from error
        raise
    else:
        leave_group(GRACE, 0)
        followers.end(patience=GRACE)
    finally:
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def leave_group(patience: float, status: int) -> None:
    """Destroy the process group, if there is one, but wait at most `patience` seconds for the other processes.

    With NCCL, destroying it waits for them, so that a process that has died would make this one wait forever. This
    process then continues without the group, and ends with `status` as soon as Python's own work is done: before
    Lightning's exit handler, which would destroy the group again, and the destructors of NCCL.
    """
    if not dist.is_initialized():
        return
    leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
    leaving.start()
    leaving.join(patience)
    if leaving.is_alive():
        atexit.register(end_now, status)


def end_now(status: int) -> None:
    """End this process without further exit handlers and destructors."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def lost_process(error: BaseException, followers: "Followers") -> str | None:
    """Describe what happened to another process if `error` is what torch raises in that case; otherwise None."""
    if not isinstance(error, RuntimeError):
        return None
    closed = "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error)
    if (killed := followers.killed(CLOSING if closed else 0.0)) is not None:
        return f"process {killed.pid} of the run was killed by {signal.Signals(-killed.returncode).name}"
    if closed and (failed := [p for p in followers.processes if p.poll()]):
        return f"process {failed[0].pid} of the run ended with status {failed[0].returncode}: its error is above"
    if silent := re.search(r"[Tt]imed out waiting (?:for )?(\d+) ?ms", str(error)):
        return f"another process of the run has not answered for {duration(int(silent[1]) / 1000)}: it may be stopped"
    # Gloo ends the other operations under way with this message; the store's error says that a process has not joined.
    if "Application timeout caused pair closure" in str(error) or isinstance(error, dist.DistStoreError):
        return "another process of the run has not answered: it may be stopped"
    return "another process of the run, or its machine, has died" if closed else None


class Followers:
    """The processes that this one started for its run."""

    def __init__(self) -> None:
        self.processes: list[Popen[Any]] = []
        self.stopped: dict[int, float] = {}  # pid -> time at which it was seen suspended
        self.folder = Path()
        self.ended = threading.Event()

    def start(self, words: Sequence[str], trainer: pl.Trainer) -> None:
        """Start one process for each additional device of this machine, and watch them."""
        self.folder = Path(words[0])
        cluster = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
        variables = {
            "MASTER_ADDR": cluster.main_address, "MASTER_PORT": str(cluster.main_port),
            "NODE_RANK": str(cluster.node_rank()), "WORLD_SIZE": str(trainer.world_size), LAUNCHER: str(os.getpid()),
        }  # fmt: skip
        for rank in range(1, trainer.num_devices):
            command = [sys.executable, "-m", WORKER, *words]
            self.processes.append(subprocess.Popen(command, env={**os.environ, **variables, "LOCAL_RANK": str(rank)}))
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End this process soon after another one has died, because it may wait for it forever."""
        while not self.ended.wait(0.2):
            self._end_stopped()
            dead = [p for p in self.processes if p.poll()]
            if dead:
                if not self.ended.wait(GRACE):
                    self._end_run(dead[0])
                return

    def _end_run(self, dead: "Popen[Any]") -> None:
        """End this process because the run's process `dead` has ended. An exception would not end a wait for a GPU."""
        reason = f"process {dead.pid} of the run: {describe_exit(dead.returncode)}"
        print(f"error: {reason}; to resume: {resume_command(self.folder)}", file=sys.stderr)
        self.kill()
        if dead.returncode in STOPPED:
            early_signals.leave(dead.returncode - 128)
        record = RunRecord(self.folder)
        if record.content.get("state") == "running":
            record.content |= {"state": "failed", "reason": reason}
            record.write()
        os._exit(1)

    def _end_stopped(self) -> None:
        """Report a suspended process, and kill it after `PAUSE` seconds."""
        for process in self.processes:
            if not is_stopped(process.pid):
                self.stopped.pop(process.pid, None)
            elif process.pid not in self.stopped:
                self.stopped[process.pid] = time.monotonic()
                what = f"process {process.pid} of the run is stopped: kill -CONT {process.pid} continues it"
                print(f"{what}; it will be killed in {PAUSE:.0f} s", file=sys.stderr)
            elif time.monotonic() - self.stopped[process.pid] > PAUSE:
                process.kill()

    def killed(self, patience: float = 0.0) -> "Popen[Any] | None":
        """A process that was ended by a signal, if one is found within `patience` seconds; otherwise None."""
        deadline = time.monotonic() + (patience if self.processes else 0.0)
        while (found := next((p for p in self.processes if (p.poll() or 0) < 0), None)) is None:
            if time.monotonic() >= deadline or all(p.poll() is not None for p in self.processes):
                return None
            time.sleep(0.01)
        return found

    def kill(self) -> None:
        """Kill the processes that are still running."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()

    def end(self, patience: float) -> None:
        """Wait for the processes, `patience` seconds in total, and kill those that are still running."""
        self.ended.set()
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except TimeoutExpired:
                self.kill()
                process.wait()


def is_stopped(pid: int) -> bool:
    """Whether a child of this process is suspended; False on systems that cannot tell."""
    if not hasattr(os, "waitid"):
        return False
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def words_from_torchrun() -> list[str]:
    """The arguments from torchrun's first process: the folder, and the checkpoint if there is one."""
    store, key = _store(), _key()
    while not store.check([key]):  # `get` would not let a signal end this process
        if early_signals.State.received is not None:
            os._exit(128 + early_signals.State.received)
        time.sleep(0.2)
    words: list[str] = json.loads(store.get(key))
    return words


def release() -> None:
    """End torchrun's other processes if they still wait for a run: there is none, e.g. because it is complete."""
    store, key = _store(), _key()
    if not store.check([key]):
        store.set(key, "[]")


def under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _store() -> Any:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=PREPARING)  # type: ignore[attr-defined]


def _key() -> str:
    return f"diffusion/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
