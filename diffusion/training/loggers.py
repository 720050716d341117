"""Loggers: metrics.csv, and dashboards as functions (folder, recipe) -> Lightning logger. No prompts, no secrets."""

import csv as table
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from diffusion.console import console
from diffusion.errors import UserError


def wandb(folder: Path, recipe: Mapping[str, Any], project: str, **settings: Any) -> Logger:
    """Weights & Biases. Without a key it is offline: nothing is asked and nothing fails.

    The command line, the machine and the source code are not sent: they may hold secrets.

    Args:
        project: The project in which the run appears.
    """
    import wandb as library
    from lightning.pytorch.loggers import WandbLogger

    online = library.login(prompt=False)
    if not online:
        console.print(
            f"wandb: no key, so the run is kept offline; send it with: wandb sync {folder}/wandb/offline-run-*"
        )
    logger = WandbLogger(
        project=project,
        name=f"{folder.parent.name}/{folder.name}",
        save_dir=str(folder),
        offline=not online,
        settings=library.Settings(
            x_disable_meta=True, x_disable_machine_info=True, disable_git=True, disable_code=True, save_code=False,
            silent=True, mode="online" if online else "offline",
        ),
        **settings,
    )  # fmt: skip
    logger.log_hyperparams(dict(recipe))
    return logger


def tensorboard(folder: Path, recipe: Mapping[str, Any]) -> Logger:
    """TensorBoard, with its files in the run's folder."""
    if find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard: it is not installed; pip install 'diffusion-experiments[tensorboard]'")
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(save_dir=str(folder), name="", version="tensorboard")
    logger.log_hyperparams(dict(recipe))
    return logger


class MetricsFile(CSVLogger):
    """metrics.csv in the run's folder, written at every logged step."""

    def __init__(self, folder: Path):
        super().__init__(save_dir=str(folder), name="", version="", flush_logs_every_n_steps=1)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Epochs are whole numbers; Lightning passes them on as floats."""
        if "epoch" in metrics:
            metrics = {**metrics, "epoch": int(metrics["epoch"])}
        super().log_metrics(metrics, step)


def metrics_file(folder: Path, resumed: tuple[Path, int] | None) -> MetricsFile:
    """The logger that every run has.

    Args:
        resumed: The folder of the run that this one is resumed from, and its step: what that run logged up to this step
            is copied, so that curves are whole.
    """
    rows = [] if resumed is None else _rows(resumed[0] / "metrics.csv", resumed[1])
    logger = MetricsFile(folder)
    if rows and rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # the others log nothing
        logger.experiment.metrics.extend(rows)
        logger.save()
    return logger


def _rows(file: Path, steps: int) -> list[dict[str, float]]:
    """What `file` holds of the first `steps` steps, which count from 0, without the empty cells."""
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in table.DictReader(lines)]
    whole = ("epoch", "step")
    return [{k: int(v) if k in whole else v for k, v in row.items()} for row in rows if row["step"] < steps]


def finish(loggers: list[Logger]) -> None:
    """Close what would otherwise continue into the next run of this process."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
