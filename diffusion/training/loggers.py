"""Loggers: metrics.csv, and dashboards as small subclasses of Lightning's loggers, made from (folder, recipe).

A dashboard may have a method `log_image(name, images, step)`, as Lightning's WandbLogger has, and `end(status)`.
"""

import csv
import io
import logging
import os
import re
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from diffusion.base.console import console
from diffusion.base.files import code_version, replace, versions
from diffusion.base.pixels import WIDTH
from diffusion.config.build import make
from diffusion.config.schema import Train
from diffusion.errors import UserError, first_line, pip_install
from diffusion.metric.record import Score
from diffusion.runs.folder import is_sweep, read_rows
from diffusion.training.resume import Resumed

TRACKERS = {  # choice -> its package, and what to do where it cannot begin
    "mlflow": ("mlflow", "set MLFLOW_TRACKING_URI to a server that runs, or to sqlite:///FILE; unset, it is one here"),
    "tensorboard": ("tensorboard", ""),
    "trackio": ("trackio", "without TRACKIO_SERVER_URL and TRACKIO_SPACE_ID it needs no server, but TRACKIO_DIR"),
    "wandb": ("wandb", "WANDB_MODE=offline needs no account"),
}


class Dashboards(DummyLogger):
    """The run's dashboards as one logger. The run survives their errors: after the first one, it goes on without it.

    A server may be lost, and W&B's own process may end by a SIGTERM to the whole job.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loggers: dict[str, Logger] = {}  # by choice, without those that are lost

    def each(self, method: str, *args: Any) -> None:
        """Call this method of each dashboard that has it."""
        for name, logger in [*self.loggers.items()]:
            try:
                getattr(logger, method, lambda *_: None)(*args)
            except Exception as error:
                del self.loggers[name]
                words = f"{name}: {public(first_line(error))}; the run continues without it"
                console.print(words, style="yellow", markup=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.each("log_metrics", metrics, step)

    def save(self) -> None:
        self.each("save")

    def finalize(self, status: str) -> None:
        self.each("finalize", status)


def dashboards(settings: Train, folder: Path, resumed: Resumed | None) -> Dashboards:
    """Create the run's dashboards. Only a run that has passed all checks may begin or continue one.

    A dashboard gets the settings, with the step that the run goes on from as `first_step`, and the commit and the
    library versions as `code` and `versions`. The command line, the machine and the source code are not sent, because
    they may contain secrets. A choice may also be a Lightning logger itself.
    """
    recipe = settings.model_dump(mode="json") | {"first_step": resumed.step if resumed else 0}
    recipe |= {"code": code_version(), "versions": versions()}
    chosen, begun = settings.logger or {}, Dashboards()
    for name in chosen:  # before any of them begins a run on a server
        if name in TRACKERS and find_spec(TRACKERS[name][0]) is None:
            raise UserError(f"logger={name}: it is not installed; {pip_install(name)}")
    for name in sorted(chosen):
        made = make(chosen[name], f"logger.{name}")
        try:
            logger = made if isinstance(made, Logger) else made(folder, recipe)
            logger.log_hyperparams(recipe)
        except Exception as error:
            begun.each("end", 1)
            advice = TRACKERS.get(name, ("", ""))[1] or "see its documentation"
            raise UserError(f"logger.{name}: {public(first_line(error))}; {advice}") from error
        begun.loggers[name] = logger
    return begun


def public(text: str) -> str:
    """The text, with addresses without user and password."""
    return re.sub(r"//[^/\s]*@", "//", text)


def log_image(trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
    """Log a picture to the run's dashboards, which count from 0; small ones are enlarged by a whole factor."""
    scale = min(16, max(1, WIDTH // picture.width))
    picture = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)
    trainer.loggers[1].each("log_image", name, [picture], trainer.global_step - 1)  # type: ignore[attr-defined]


def log_scores(trainer: pl.Trainer, scores: Sequence[Score], split: str) -> None:
    """Log scores of samples against a split, next to the loss and the validation of the last step.

    Dashboards also get their intervals, from `val/fd_lite0_low` to `val/fd_lite0_high`.
    """
    values = {f"{split}/{s.metric}": s.value for s in scores}
    low = {f"{split}/{s.metric}_low": s.interval[0] for s in scores if s.interval}
    high = {f"{split}/{s.metric}_high": s.interval[1] for s in scores if s.interval}
    for logger, logged in zip(trainer.loggers, (values, values | low | high), strict=True):
        logger.log_metrics(logged, trainer.global_step - 1)
        logger.save()


def named(folder: Path, group: str | None) -> tuple[str, str | None]:
    """A run's name in dashboards, and its group: by default the sweep that it is a job of, if any."""
    sweep = "/".join(folder.parts[-3:-1]) if is_sweep(folder.parent) else None
    return f"{folder.parent.name}/{folder.name}", group or sweep


def identity(file: Path, first_step: int) -> str:
    """The dashboard's id of the folder's run, stored in a file; a new one if the run starts from scratch."""
    if first_step == 0 or not file.is_file():
        file.parent.mkdir(exist_ok=True)
        replace(file, uuid.uuid4().hex)
    return file.read_text("utf-8")


class Wandb(WandbLogger):
    """Weights & Biases. `group` is as in `named`; further settings are those of WandbLogger and `wandb.init`."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any], group: str | None = None, **settings: Any):
        import wandb

        name, group = named(folder, group)
        hidden = wandb.Settings(
            x_disable_meta=True, x_disable_machine_info=True, disable_git=True, disable_code=True, save_code=False,
            silent=True, host="",
        )  # fmt: skip
        super().__init__(
            name=name, save_dir=str(folder), group=group, settings=hidden,
            id=identity(folder / "wandb/id", recipe["first_step"]), **settings,
        )  # fmt: skip
        console.print(f"wandb: {self.experiment.url or f'offline: wandb sync {folder}/wandb/offline-run-*'}")

    def end(self, status: int) -> None:
        self.experiment.finish(status)


class TensorBoard(TensorBoardLogger):
    """TensorBoard, with its files in the run's folder. It hides what was logged there from the first step on."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]):
        super().__init__(str(folder), name="", version="tensorboard", purge_step=recipe["first_step"])

    def log_image(self, name: str, images: Sequence[Image.Image], step: int) -> None:
        self.experiment.add_image(name, pil_to_tensor(images[0].convert("RGB")), step)


class MLflow(MLFlowLogger):
    """MLflow, at MLFLOW_TRACKING_URI or in the file mlflow.db. `group`, as in `named`, is a tag of the run.

    The parameters are those with which the run began: MLflow cannot change them. The file config.yaml is current.
    """

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], experiment: str, group: str | None = None,
        tags: Mapping[str, str] | None = None,
    ):  # fmt: skip
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # with 7, it would wait minutes for a lost server
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        name, group = named(folder, group)
        key, uri = identity(folder / "mlflow/id", recipe["first_step"]), mlflow.get_tracking_uri()
        if uri.startswith("sqlite:///"):  # MLflow would try for two minutes
            TemporaryFile(dir=Path(uri.removeprefix("sqlite:///")).parent).close()
        place = mlflow.set_experiment(experiment).experiment_id  # unlike Lightning, it allows for another job
        self.found = mlflow.search_runs([place], f"tags.key = '{key}'", output_format="list")
        marks = {**(tags or {}), "key": key} | ({"group": group} if group else {})
        super().__init__(experiment, name, uri, marks, run_id=self.found[0].info.run_id if self.found else None)
        self.experiment.update_run(self.run_id, "RUNNING")
        self.experiment.log_dict(self.run_id, dict(recipe), "config.yaml")
        page = f"{uri}/#/experiments/{place}/runs/{self.run_id}"
        console.print(f"mlflow: {public(page) if uri.startswith('http') else f'mlflow ui --backend-store-uri {uri}'}")

    def log_hyperparams(self, params: Any) -> None:
        if not self.found:
            super().log_hyperparams(params)

    def log_image(self, name: str, images: Sequence[Image.Image], step: int) -> None:
        self.experiment.log_image(self.run_id, images[0], key=name, step=step)

    def finalize(self, status: str = "success") -> None:
        """Do nothing: the last scores come after the training."""

    def end(self, status: int) -> None:
        self.experiment.set_terminated(self.run_id, {0: "FINISHED", 1: "FAILED"}.get(status, "KILLED"))


class Trackio(DummyLogger):
    """Trackio, without an account. `group` is as in `named`; further settings are those of `trackio.init`."""

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], project: str, group: str | None = None, **settings: Any
    ):
        import trackio

        super().__init__()
        self.trackio, (name, group) = trackio, named(folder, group)
        name += f"-{identity(folder / 'trackio/id', recipe['first_step']):.6}"  # Trackio finds a run by its name
        remote = {"space_id", "server_url"} & {*settings, *(key.removeprefix("TRACKIO_").lower() for key in os.environ)}
        if not remote:  # it would go on without its store
            trackio.utils.TRACKIO_DIR.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=trackio.utils.TRACKIO_DIR).close()
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as said:
            self.run = trackio.init(project, name, group, config=dict(recipe), resume="allow", **settings)
        if said:  # it would go on without its server
            self.end(1)
            raise ValueError(said[0].message)
        console.print(f"trackio: trackio show --project {project}")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log(dict(metrics), step)

    def log_image(self, name: str, images: Sequence[Image.Image], step: int) -> None:
        self.run.log({name: self.trackio.Image(images[0])}, step)

    def end(self, status: int) -> None:
        with redirect_stdout(io.StringIO()):
            self.trackio.finish()


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
        self.columns = sorted({name for row in rows for name in row})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(map(whole, rows))
        replace(self.file, text.getvalue())


def whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its counts as whole numbers."""
    return {name: int(value) if name in ("epoch", "step") else value for name, value in row.items()}
