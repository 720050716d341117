"""Compare the jobs of a sweep, and keep the comparison up to date while the sweep runs."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from diffusion.config import messages
from diffusion.console import console as standard


def compare_jobs(folder: Path, console: Console | None = standard) -> list[Path]:
    """Write the comparison of the sweep in `folder` and return its files. Raises UserError if there are no jobs."""
    from diffusion.report.compare import compare, gather  # scipy and matplotlib would slow the start of every command
    from diffusion.report.comparison import write

    return write(compare(gather([folder]), mixed=True), folder, f"Sweep {folder.resolve().name}", console)


class SweepTable(Callback):
    """Hydra callback: write the comparison in the sweep's folder after each job, and print it at the end.

    Hydra's basic sweeper ends a sweep with a failed job without calling `on_multirun_end`.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the comparison so far; if the job failed, print the reason."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        path, *_ = compare_jobs(Path(config.hydra.sweep.dir), console=None)
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value  # the public property would raise it
            reason = messages.summary(error, config.hydra.job.name)
            standard.print(f"job {config.hydra.job.num} failed: {reason}; the jobs so far: {path}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the comparison and the paths of its files."""
        for path in compare_jobs(Path(config.hydra.sweep.dir)):
            standard.print(str(path))
