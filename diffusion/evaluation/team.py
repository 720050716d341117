"""Several processes that draw samples: this one, and one that it starts for each further device.

They share nothing but the file that the samples are in (`drawn.py`), and who draws a sample does not change it. Each
is given the model and what to draw, and says when its share is done. One that dies ends all, with one line; those that
this one has started end with it, however it ends. (The processes of a training run are there already: they draw
together at its end.)
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
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.drawn import Drawn
from diffusion.evaluation.generate import Watch
from diffusion.process.denoiser import Denoiser, Estimate
from diffusion.runs.jobs import describe_exit

Member = tuple[SpawnProcess, Connection]


class Team:
    """The processes that draw from one denoiser.

    Args:
        denoiser: on the first device.
        devices: of this process, and of each other one.
        members: the other processes.
    """

    def __init__(self, denoiser: Denoiser, devices: Sequence[torch.device], members: Sequence[Member]):
        self.denoiser, self.devices, self.members = denoiser, devices, members

    def draw(self, drawing: Drawing, drawn: Drawn, description: str, watch: Watch | None = None) -> Tensor:
        """Draw what is not there yet; all samples, uint8 (n, C, H, W), read from the disk as they are used.

        Raises ProcessLost where another process dies. What it has drawn is kept, as it is when this one is stopped.
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
            raise ProcessLost(f"{error}; {drawn.how_to_go_on()}") from error
        except KeyboardInterrupt:
            console.print(f"stopped: {drawn.how_to_go_on()}")
            raise
        return drawn.images()


@contextlib.contextmanager
def team(denoiser: Denoiser, devices: Sequence[torch.device]) -> Iterator[Team]:
    """Within: a process for each of the devices. On a CPU they have equal shares of the threads of this one."""
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
    """A process that draws on a device. (Not forked: CUDA and the threads of libraries do not survive that.)"""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, device, threads), daemon=True)
    process.start()
    theirs.close()  # so that reading from ours ends when the process does
    return process, ours


def send(member: Member, value: Any) -> None:
    """Give a process something. Raises ProcessLost where it has ended."""
    buffer = io.BytesIO()
    torch.save(value, buffer)  # by itself, multiprocessing puts tensors into shared memory, which may be small
    try:
        member[1].send_bytes(buffer.getbuffer())
    except OSError:
        answer(member)


def answer(member: Member) -> None:
    """Wait until a process has done what it was given. Raises what it has raised, or ProcessLost where it has died."""
    process, link = member
    try:
        error = link.recv()
    except (EOFError, OSError) as end:
        process.join()
        raise ProcessLost(f"process {process.pid}, a sampling process: {describe_exit(process.exitcode or 0)}") from end
    if error is not None:
        raise error


def serve(link: Connection, device: torch.device, threads: int) -> None:
    """Draw what the first process asks for, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is stopped by it, too
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
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
    except Exception as error:  # a fault of the program, whose class may not be known to the first process
        link.send(RuntimeError("".join(traceback.format_exception(error))))


def received(link: Connection) -> Any:
    """The next thing that the first process gives; EOFError where it gives no more."""
    return torch.load(io.BytesIO(link.recv_bytes()), map_location="cpu", weights_only=False)


def end_with_parent() -> None:
    """End this process at once when the first one has ended, however it did."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
