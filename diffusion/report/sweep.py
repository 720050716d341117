"""The comparison of the jobs of a sweep."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig


class SweepTable(Callback):
    """Hydra callback: write the comparison in the sweep's folder after each job, and print it at the end.

    Hydra's basic sweeper ends a sweep with a failed job without calling `on_multirun_end`.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the comparison so far, and print it if the job failed."""
        if config.hydra.mode == RunMode.MULTIRUN:
            self.on_multirun_end(config, printed=job_return.status == JobStatus.FAILED)

    def on_multirun_end(self, config: DictConfig, printed: bool = True, **kwargs: Any) -> None:
        """Write the comparison and print it."""
        from diffusion.report.comparison import write  # scipy and matplotlib would slow the start of every command

        folder = Path(config.hydra.sweep.dir)
        write([folder], folder, printed)
