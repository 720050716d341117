"""Lightning's view of the processes of a run, which torch's elastic agent has started (`diffusion.launch`)."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from diffusion.errors import UserError
from diffusion.launch import is_rank


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


StrategyRegistry.register("ddp", Replicas, description="Lightning's ddp without moving batches", override=True)


def environment() -> list[ClusterEnvironment]:
    """The Trainer's plugin for a run of one process. (Lightning assumes that `srun` started every run under SLURM.)"""
    return [] if is_rank() else [LightningEnvironment()]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Context in which the processes of a run work together. The first one then goes on alone."""
    yield
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def check_processes(trainer: pl.Trainer) -> None:
    """Raise UserError if the Trainer's size differs from the number of processes: each would be its own run."""
    started = int(os.environ["WORLD_SIZE"]) if is_rank() else 1
    if trainer.world_size != started:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        raise UserError(
            f"there are {started} processes, but the trainer has {trainer.world_size}: for several machines, start "
            f"torchrun on each, with trainer.devices={local} and trainer.num_nodes={started // local}: see "
            "docs/clusters.md"
        )
