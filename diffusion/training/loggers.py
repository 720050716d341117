"""Loggers: metrics.csv, and dashboards as functions (folder, recipe) -> Lightning logger."""

import csv
import io
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from diffusion.config.build import make
from diffusion.config.schema import Train
from diffusion.console import console
from diffusion.errors import UserError, first_line, pip_install
from diffusion.files import code_version, replace, versions
from diffusion.metric.record import Score
from diffusion.pixels import WIDTH
from diffusion.runs.folder import is_sweep, read_rows
from diffusion.training.resume import Resumed


def dashboards(settings: Train, folder: Path, resumed: Resumed | None) -> list[Logger]:
    """Create the run's dashboards. Only a run that has passed all checks may begin or continue one.

    A dashboard gets the settings, with the step that the run goes on from as `first_step`.
    """
    recipe = settings.model_dump(mode="json") | {"first_step": resumed.step if resumed else 0}
    chosen = settings.logger or {}
    # W&B comes after TensorBoard, which may be missing: it begins a run on a server.
    return [make(chosen[name], f"logger.{name}")(folder, recipe) for name in sorted(chosen)]


def log_image(trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
    """Log a picture to the run's dashboards, which count from 0; small ones are enlarged by a whole factor."""
    scale, step = min(16, max(1, WIDTH // picture.width)), trainer.global_step - 1
    picture = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pil_to_tensor(picture.convert("RGB")), step)


def log_scores(trainer: pl.Trainer, scores: Sequence[Score], split: str) -> None:
    """Log scores of samples against a split, next to the loss and the validation of the last step."""
    for logger in trainer.loggers:
        logger.log_metrics({f"{split}/{s.metric}": s.value for s in scores}, trainer.global_step - 1)
        logger.save()


class Wandb(WandbLogger):
    """Lightning's logger. W&B's own process may end by a SIGTERM to the whole job, which the run survives."""

    lost = False

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log, until W&B fails: then the run continues without it."""
        if self.lost:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:
            self.lost = True
            console.print(f"wandb: {first_line(error)}; the run continues without it", style="yellow")


def wandb(folder: Path, recipe: Mapping[str, Any], group: str | None = None, **settings: Any) -> Logger:
    """Weights & Biases, with the commit and the library versions as `code` and `versions` in the configuration.

    A resumed run is continued there. The command line, the machine and the source code are not sent, because they may
    contain secrets.

    Args:
        group: The W&B group of the run; null for the sweep that the run is a job of, if any.
        settings: Further arguments of Lightning's WandbLogger and of `wandb.init`.
    """
    import wandb as library

    sweep = "/".join(folder.parts[-3:-1]) if is_sweep(folder.parent) else None
    hidden = library.Settings(
        x_disable_meta=True, x_disable_machine_info=True, disable_git=True, disable_code=True, save_code=False,
        silent=True, host="",
    )  # fmt: skip
    try:
        logger = Wandb(
            name=f"{folder.parent.name}/{folder.name}", save_dir=str(folder), group=group or sweep, settings=hidden,
            id=_wandb_id(folder / "wandb/id", recipe["first_step"]), **settings,
        )  # fmt: skip
        logger.log_hyperparams({**recipe, "code": code_version(), "versions": versions()})
        console.print(f"wandb: {logger.experiment.url or f'offline: wandb sync {folder}/wandb/offline-run-*'}")
    except (TypeError, ValueError, library.errors.Error) as error:
        raise UserError(f"logger.wandb: {first_line(error)}; WANDB_MODE=offline needs no account") from error
    return logger


@rank_zero_only
def _wandb_id(file: Path, first_step: int) -> str:
    """The W&B id of the folder's run, stored in a file; a new one if the run starts from scratch."""
    if first_step == 0 or not file.is_file():
        file.parent.mkdir(exist_ok=True)
        replace(file, uuid.uuid4().hex)
    return file.read_text("utf-8")


def tensorboard(folder: Path, recipe: Mapping[str, Any]) -> Logger:
    """TensorBoard, with its files in the run's folder. It hides what was logged there from the first step on."""
    if find_spec("tensorboard") is None:
        raise UserError(f"logger=tensorboard: it is not installed; {pip_install('tensorboard')}")
    logger = TensorBoardLogger(save_dir=str(folder), name="", version="tensorboard", purge_step=recipe["first_step"])
    logger.log_hyperparams(dict(recipe))
    return logger


def close(loggers: Sequence[Logger], status: int) -> None:
    """End the W&B run, which would otherwise continue into the next run of this process. Status 0: it is complete."""
    for logger in loggers:
        if isinstance(logger, Wandb) and not logger.lost:
            with suppress(Exception):  # it must not hide how the run ended
                logger.experiment.finish(status)


class MetricsFile(Logger):
    """metrics.csv in the run's folder: one line per logging call, written immediately.

    Lines are only appended, except that the whole file is rewritten when a new metric needs a new column.
    """

    name = version = None

    def __init__(self, folder: Path):
        super().__init__()
        self.file = folder / "metrics.csv"
        self.columns: list[str] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: hyperparameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a line. Steps count from 0."""
        row = {name: float(value) for name, value in metrics.items()} | {"step": step}
        if row.keys() <= {*self.columns}:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(whole(row))
        else:
            self.write([*(read_rows(self.file) if self.columns else []), row])  # an earlier run's file is replaced

    def keep(self, folder: Path, steps: int) -> None:
        """Begin with the lines of the run in `folder`, maybe this one, up to a step, so that curves are complete."""
        if rows := [row for row in read_rows(folder / self.file.name) if row["step"] < steps]:
            self.write(rows)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace all lines."""
        self.columns = sorted({name for row in rows for name in row})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(map(whole, rows))
        replace(self.file, text.getvalue())


def whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its counts as whole numbers."""
    return {name: int(value) if name in ("epoch", "step") else value for name, value in row.items()}
