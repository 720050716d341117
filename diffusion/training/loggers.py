"""Loggers: metrics.csv, and dashboards as functions (folder, recipe) -> Lightning logger. No prompts, no secrets."""

import csv as table
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from diffusion.checkpoint.provenance import code_version, versions
from diffusion.console import console
from diffusion.errors import UserError, first_line
from diffusion.files import replace
from diffusion.runs.folder import is_sweep, read_scores
from diffusion.runs.metrics import read_rows


class Wandb(WandbLogger):
    """Lightning's logger, but if W&B fails, the run continues without it.

    Its process is a child of this one: it may die from a SIGTERM that ends all processes of a job, in which the run is
    still saving, or because memory is short.
    """

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with surviving(self):
            super().log_metrics(metrics, step)


@contextmanager
def surviving(logger: WandbLogger) -> Iterator[None]:
    """Context in which W&B may fail. The logger's first failure prints a warning."""
    try:
        yield
    except Exception as error:
        if not getattr(logger, "lost", False):
            console.print(f"wandb: {first_line(error)}; the run continues without it", style="yellow")
        logger.lost = True  # type: ignore[attr-defined]


def wandb(
    folder: Path,
    recipe: Mapping[str, Any],
    project: str,
    group: str | None = None,
    job_type: str = "train",
    tags: Sequence[str] = (),
    **settings: Any,
) -> Logger:
    """Weights & Biases; offline if there is no API key, without a prompt or error. A resumed run is continued there.

    The command line, the machine and the source code are not sent, because they may contain secrets. The commit and the
    library versions are logged with the configuration, as `code` and `versions`.

    Args:
        project: The W&B project of the run.
        group: The W&B group of the run; null for the sweep that the run is a job of, if any.
        job_type: The kind of run within a group.
        tags: Tags by which runs can be filtered.
    """
    import wandb as library

    mode = library.setup().settings.mode  # as set by WANDB_MODE
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if mode == "online" and not (first and library.login(prompt=False)):
        mode = "offline"
    if mode == "offline":
        console.print(f"wandb: no key, or offline: the run is stored locally; wandb sync {folder}/wandb/offline-run-*")
    try:
        logger = Wandb(
            project=project,
            name=f"{folder.parent.name}/{folder.name}",
            save_dir=str(folder),
            id=_wandb_id(folder, resumes=recipe["ckpt"] is not None),
            group=group or ("/".join(folder.parts[-3:-1]) if is_sweep(folder.parent) else None),
            job_type=job_type,
            tags=list(tags),
            offline=mode == "offline",
            settings=library.Settings(
                x_disable_meta=True, x_disable_machine_info=True, disable_git=True, disable_code=True, save_code=False,
                silent=True, mode=mode, host="",
            ),
            **settings,
        )  # fmt: skip
        logger.log_hyperparams({**recipe, "code": code_version(), "versions": versions()})
        if mode == "online":
            console.print(f"wandb: {logger.experiment.url}")
    except (TypeError, ValueError, library.errors.Error) as error:
        raise UserError(
            f"logger.wandb: {first_line(error)}; --help logger lists its settings; WANDB_MODE=offline needs no account"
        ) from error
    return logger


@rank_zero_only
def _wandb_id(folder: Path, resumes: bool) -> str:
    """The W&B id of the folder's run, stored in wandb/id; a new one if the run starts from scratch."""
    file = folder / "wandb" / "id"
    if not (resumes and file.is_file()):
        file.parent.mkdir(exist_ok=True)
        replace(file, uuid.uuid4().hex)
    return file.read_text("utf-8").strip()


def tensorboard(folder: Path, recipe: Mapping[str, Any]) -> Logger:
    """TensorBoard, with its files in the run's folder. It hides what was logged there from the first step on."""
    if find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard: it is not installed; pip install 'diffusion-experiments[tensorboard]'")
    logger = TensorBoardLogger(save_dir=str(folder), name="", version="tensorboard", purge_step=recipe["first_step"])
    logger.log_hyperparams(dict(recipe))
    return logger


class MetricsFile(Logger):
    """metrics.csv in the run's folder: one line per logging call, written immediately.

    Lines are only appended, except that the whole file is rewritten when a new metric needs a new column.
    """

    name = version = None  # a run's folder has one such file

    def __init__(self, folder: Path):
        super().__init__()
        self.file = folder / "metrics.csv"
        self.columns: set[str] = set()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: hyperparameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a line. Steps count from 0."""
        row = {name: float(value) for name, value in metrics.items()} | {"step": step}
        if row.keys() <= self.columns:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                table.DictWriter(file, sorted(self.columns)).writerow(whole(row))
        else:
            self.write([*(read_rows(self.file) if self.columns else []), row])  # an earlier run's file is replaced

    def keep(self, folder: Path, steps: int) -> None:
        """Begin with the lines of the run in `folder`, maybe this one, up to a step, so that curves are complete."""
        if rows := [row for row in read_rows(folder / self.file.name) if row["step"] < steps]:
            self.write(rows)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace all lines."""
        self.columns = {name for row in rows for name in row}
        text = io.StringIO(newline="")
        writer = table.DictWriter(text, sorted(self.columns))
        writer.writeheader()
        writer.writerows(map(whole, rows))
        replace(self.file, text.getvalue())


def whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its counts as whole numbers."""
    return {name: int(value) if name in ("epoch", "step") else value for name, value in row.items()}


def summarize(loggers: list[Logger], folder: Path, best: float) -> None:
    """Write the lowest val/mse and the scores of the samples, with their intervals, to the W&B summary."""
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        values = {"best/val/mse": best}
        for score in read_scores(folder):
            if score.what == "samples":
                bounds = {"": score.value, "/low": score.low, "/high": score.high}
                values |= {f"final/{score.name}{which}": x for which, x in bounds.items() if x is not None}
        with surviving(logger):
            logger.experiment.summary.update(values)


def finish(loggers: list[Logger], status: int) -> None:
    """Close W&B runs, which would otherwise continue into the next run of this process. Status 0: it is complete."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with surviving(logger):
                logger.experiment.finish(status)
