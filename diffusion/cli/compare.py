"""Compare runs or whole sweeps: a row per recipe, mean ± interval over its training seeds.

  diffusion compare outputs/demo/sweep-…            a sweep
  diffusion compare RUN RUN SWEEP …                 runs and sweeps together

Only settings that differ are shown. Runs that differ only in their seed share a row; if a seed was run several times,
only the newest run counts. Scores of different protocols are in different columns. Nothing is trained or sampled.
Writes compare.md, report.html and runs.csv.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion.errors import Arguments


def write(folders: list[Path], out: Path | None) -> None:
    from diffusion.report import comparison  # imports scipy and matplotlib, so only when needed
    from diffusion.runs.folder import is_sweep

    alone = folders[0] if len(folders) == 1 and is_sweep(folders[0]) else None
    comparison.write(folders, out or alone or Path(f"outputs/comparisons/{datetime.now():%Y-%m-%d_%H-%M-%S}"))


class SweepTable(Callback):
    """Hydra callback: write the comparison of a sweep's jobs in its folder after each of them, and print it at the end.

    Hydra's basic sweeper ends a sweep with a failed job without calling `on_multirun_end`.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the comparison so far, and print it if the job failed."""
        if config.hydra.mode == RunMode.MULTIRUN:
            self.on_multirun_end(config, printed=job_return.status == JobStatus.FAILED)

    def on_multirun_end(self, config: DictConfig, printed: bool = True, **kwargs: Any) -> None:
        from diffusion.report.comparison import write  # scipy and matplotlib would slow the start of every command

        write([folder := Path(config.hydra.sweep.dir)], folder, printed)


main = Arguments("compare", __doc__, write)
main.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's or a sweep's folder")
main.add_argument("--out", type=Path, help="default: the folder of a single sweep, else outputs/comparisons/TIME")
