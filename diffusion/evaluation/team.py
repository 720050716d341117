"""Draw samples in several processes: this process, plus one that it starts for each additional device.

The processes share only the file of the samples (`drawn.py`); a sample does not depend on the process that draws it.
Each worker receives the model and a drawing, and reports when its share is done. If one dies, all stop with a one-line
error; the workers end with this process, however it ends. (A training run already has its processes: they draw together
at its end.)
"""

import contextlib
import io
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console
from diffusion.errors import ProcessLost, UserError
from diffusion.evaluation.drawing import Drawing, Watch
from diffusion.evaluation.drawn import Drawn
from diffusion.metric.precision import set_precision
from diffusion.process.denoiser import Denoiser, Estimate
from diffusion.runs.jobs import describe_exit

Member = tuple[SpawnProcess, Connection]


class Team:
    """The processes that draw from one denoiser.

    Args:
        denoiser: the denoiser, on the first device.
        devices: the devices of this process and of each other process.
        members: the other processes.
    """

    def __init__(self, denoiser: Denoiser, devices: Sequence[torch.device], members: Sequence[Member]):
        self.denoiser, self.devices, self.members = denoiser, devices, members

    def draw(self, drawing: Drawing, drawn: Drawn, description: str, watch: Watch | None = None) -> Tensor:
        """Draw the missing samples; returns all samples, uint8 (n, C, H, W), memory-mapped.

        Raises ProcessLost if another process dies. Finished batches are kept, also when this process is interrupted.
        """
        world = len(self.devices)

        def after_step(first: int, k: int, x: Tensor, estimate: Estimate) -> None:
            if watch is not None:
                watch(first, k, x, estimate)
            for member in self.members:
                if not member[0].is_alive():
                    answer(member)

        try:
            for rank, (process, link) in enumerate(self.members, 1):
                send((process, link), (drawing, drawn, (rank, world)))
            shared = f", the first of {world} processes" if world > 1 else ""
            drawing.into(drawn, self.denoiser, self.devices[0], description + shared, after_step, (0, world))
            for member in self.members:
                answer(member)
        except ProcessLost as error:
            raise ProcessLost(f"{error}; {drawn.resume_hint()}") from error
        except KeyboardInterrupt:
            console.print(f"stopped: {drawn.resume_hint()}")
            raise
        return drawn.images()


@contextlib.contextmanager
def team(denoiser: Denoiser, devices: Sequence[torch.device]) -> Iterator[Team]:
    """A context with one process per device. On a CPU, the processes share this process's threads equally."""
    threads = torch.get_num_threads()
    each = max(1, threads // len(devices)) if devices[0].type == "cpu" else threads
    members = [start(device, each) for device in devices[1:]]
    try:
        for member in members:
            send(member, denoiser)
        denoiser.to(devices[0])
        for member in members:
            answer(member)
        torch.set_num_threads(each)
        yield Team(denoiser, devices, members)
    finally:
        torch.set_num_threads(threads)
        for process, _ in members:
            process.kill()
            process.join()


def start(device: torch.device, threads: int) -> Member:
    """Start a process that draws on a device. (Spawned: CUDA and library threads do not survive a fork.)"""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    precision = torch.get_float32_matmul_precision()
    process = context.Process(target=serve, args=(theirs, device, threads, precision), daemon=True)
    process.start()
    theirs.close()  # reading from `ours` then ends when the process does
    return process, ours


def send(member: Member, value: Any) -> None:
    """Send a value to a process. Raises ProcessLost if it has ended."""
    buffer = io.BytesIO()
    torch.save(value, buffer)  # multiprocessing itself would put tensors into shared memory, which may be small
    try:
        member[1].send_bytes(buffer.getbuffer())
    except OSError:
        answer(member)


def answer(member: Member) -> None:
    """Wait until a process has finished its work. Re-raises the process's exception; ProcessLost if it has died."""
    process, link = member
    try:
        error = link.recv()
    except (EOFError, OSError) as end:
        process.join()
        raise ProcessLost(f"process {process.pid}, a sampling process: {describe_exit(process.exitcode or 0)}") from end
    if error is not None:
        raise error


def serve(link: Connection, device: torch.device, threads: int, precision: str) -> None:
    """Draw what the first process requests, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process receives it, too, and stops this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    set_precision(precision)
    console.quiet = True
    try:
        denoiser: Denoiser = received(link).to(device)
        while True:
            link.send(None)
            drawing, drawn, share = received(link)
            drawing.into(drawn, denoiser, device, share=share)
    except EOFError:
        return
    except (UserError, OSError, torch.OutOfMemoryError) as error:
        link.send(error)
    except Exception as error:  # a bug; the first process may not know the exception's class
        link.send(RuntimeError("".join(traceback.format_exception(error))))


def received(link: Connection) -> Any:
    """The next value from the first process. Raises EOFError when there are no more."""
    return torch.load(io.BytesIO(link.recv_bytes()), map_location="cpu", weights_only=False)


def end_with_parent() -> None:
    """End this process as soon as the first one has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
