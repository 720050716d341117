"""The GPUs of a sweep's jobs: parallel jobs on one machine use different ones."""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import torch

from diffusion.config.schema import Trainer
from diffusion.console import console
from diffusion.files import lock

TAKEN: list[BinaryIO] = []  # the locks of this process's GPUs, which are released when it ends


def take(settings: Trainer) -> None:
    """Make only `trainer.devices` GPUs visible to this process, which no other job of this user has taken.

    It sets CUDA_VISIBLE_DEVICES, so it must be called before CUDA is initialised. Without it, Lightning would start
    every job on the first GPU. If too few GPUs are free, the job shares some, and prints which. Nothing changes for
    devices that are named, or not GPUs, or more than are visible.
    """
    extra = settings.model_extra or {}
    wanted, accelerator = extra.get("devices", 1), extra.get("accelerator", "auto")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    names = visible.split(",") if visible and not visible.startswith("-") else []  # without a GPU
    if type(wanted) is not int or accelerator not in ("auto", "gpu", "cuda") or not 0 < wanted <= len(names):
        return
    folder = Path(tempfile.gettempdir()) / f"diffusion-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    free: dict[str, BinaryIO] = {}
    for name in names:
        try:
            held = lock(folder / name.replace("/", "-"))  # as in the names of MIG devices
        except BlockingIOError:
            continue
        if held is None:  # no locks on this system
            return
        free[name] = held
    chosen = [*free][:wanted]
    if len(chosen) < wanted:
        first = os.getpid() % len(names)
        chosen = (names[first:] + names[:first])[:wanted]
        console.print(f"other jobs use the GPUs {visible}: this one shares {', '.join(chosen)} with them")
    for name, held in free.items():
        if name in chosen:
            TAKEN.append(held)
        else:
            held.close()
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
