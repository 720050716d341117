"""Dashboards beside metrics.csv: functions (folder, recipe) -> Lightning logger. No prompts, no secrets."""

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
    """Weights & Biases. Offline where there is no key: nothing is asked and nothing fails.

    The command line, the machine and the program's text are not sent: they may hold secrets.
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


def csv(folder: Path, resumed: tuple[Path, int] | None) -> CSVLogger:
    """metrics.csv in the run's folder.

    Args:
        resumed: the folder of the run that this one goes on from, and its step: what that run logged up to there is
            carried over, so that curves are whole.
    """
    rows = [] if resumed is None else _rows(resumed[0] / "metrics.csv", resumed[1])
    logger = CSVLogger(save_dir=str(folder), name="", version="", flush_logs_every_n_steps=1)
    if rows and rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # nothing is logged on the others
        logger.experiment.metrics.extend(rows)
        logger.save()
    return logger


def _rows(file: Path, steps: int) -> list[dict[str, float]]:
    """What `file` holds of the first `steps` steps, which count from 0, without the empty cells."""
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in table.DictReader(lines)]
    return [row for row in rows if row["step"] < steps]


def finish(loggers: list[Logger]) -> None:
    """End what would otherwise go on into the next run of a sweep."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
