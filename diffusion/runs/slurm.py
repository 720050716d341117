"""SLURM jobs: their number, whether they were requeued, and requeueing them.

A requeued job (by `scontrol requeue`, preemption, or after a node failure) runs its script again. Its launches find the
folders that they created the first time and resume from the checkpoints there. The script needs no change, and its
command lines need neither hydra.run.dir nor ckpt.

    #!/bin/bash
    #SBATCH --signal=USR1@120 --requeue
    srun python -m diffusion.train experiment=memoire
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion.errors import UserError
from diffusion.files import replace

MARK = ".slurm"  # file in a folder that identifies the launch that created it


def job() -> str | None:
    """`1234`, or `1200_7` for a task of an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def queued_again() -> bool:
    """Whether this job has run before."""
    return job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Requeue this job; outside of SLURM, do nothing."""
    if name := job():
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
        print(f"SLURM job {name}: {done.stderr.strip() if done.returncode else 'queued again'}", file=sys.stderr)


def mark(folder: Path, words: Sequence[str]) -> None:
    """Mark `folder` as created by the launch with these words of the command line."""
    if job() is not None:
        replace(folder / MARK, f"{job()} {shlex.join(words)}\n")


def marked(parent: Path, words: Sequence[str]) -> Path | None:
    """The folder in `parent` that this launch created when the job ran before."""
    marks, launch = sorted(parent.glob(f"*/{MARK}")) if queued_again() else [], f"{job()} {shlex.join(words)}\n"
    return next((file.parent for file in marks if file.read_text("utf-8") == launch), None)


def check_tasks() -> None:
    """Raise UserError in one of several tasks of an `srun`, because each would be a separate run."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UserError(
            f"srun started {tasks} tasks, and each would be a separate run: start one (-n 1) and set "
            "trainer.devices; for several machines start torchrun on each (srun --ntasks-per-node=1 torchrun …)"
        )
