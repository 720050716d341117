"""MLflow and Trackio show what a run did, read back through their own API."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from diffusion.base.files import code_version
from diffusion.runs.folder import SWEEP, read_metrics, read_scores
from diffusion.training.loggers import named
from tests.support.composing import train

pytestmark = pytest.mark.doors


class Shown(NamedTuple):
    """What a tracker shows of a run."""

    name: str
    recipe: dict[str, Any]  # flat
    curves: dict[str, dict[int, float]]
    pictures: list[tuple[str, int]]
    group: str | None


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path_factory):
    """Local stores, without a network."""
    import mlflow

    home = tmp_path_factory.mktemp("stores")
    mlflow.set_tracking_uri(None)  # the one before is remembered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("TRACKIO_DIR", str(home / "trackio"))  # read once, when it is imported
    monkeypatch.chdir(home)


def of_mlflow(folder: Path) -> list[Shown]:
    from mlflow import MlflowClient

    client, found = MlflowClient(), []
    (place,) = [each for each in client.search_experiments() if each.name == "diffusion"]
    for run in client.search_runs([place.experiment_id]):
        key, tags = run.info.run_id, run.data.tags
        curves = {
            name: {each.step: each.value for each in client.get_metric_history(key, name)} for name in run.data.metrics
        }
        files = [re.split("[+%]", Path(each.path).stem) for each in client.list_artifacts(key, "images")]
        shown = [words for words in files if words[-1] != "compressed"]
        pictures = sorted((re.sub("[~#]", "/", words[0]), int(words[2])) for words in shown)
        saved = yaml.safe_load(Path(client.download_artifacts(key, "config.yaml")).read_text())
        assert run.data.params["optimizer/lr"] == str(saved["optimizer"]["lr"])
        assert run.info.status == "FINISHED"
        found.append(Shown(tags["mlflow.runName"], saved, curves, pictures, tags.get("group")))
    return found


def of_trackio(folder: Path) -> list[Shown]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for run in trackio.Api().runs("diffusion"):
        curves: dict[str, dict[int, float]] = {}
        pictures = []
        for row in SQLiteStorage.get_logs("diffusion", run.name, run_id=run.id):
            for name, value in row.items():
                if isinstance(value, dict):
                    assert (trackio.utils.MEDIA_DIR / value["file_path"]).is_file()
                    pictures.append((name, row["step"]))
                elif isinstance(value, float):
                    curves.setdefault(name, {})[row["step"]] = value
        found.append(Shown(run.name.rpartition("-")[0], run.config, curves, sorted(pictures), run.config["_Group"]))
        run.delete()  # the store is that of all tests
    return found


READERS = {"mlflow": of_mlflow, "trackio": of_trackio}


def test_trackers_show_the_run_and_continue_it_on_resume(tiny, tmp_path):
    folder = tmp_path / "one/run"
    words = [*tiny, "logger=[mlflow,trackio]", *(f"logger.{name}.group=lr" for name in READERS), "score.n=8"]
    words += ["samples.every_n_epochs=1", "samples.n=2", "features=lite0", "score.baselines=[]"]
    train([*words, "trainer.max_epochs=1"], folder)
    train([*words, "trainer.max_epochs=2", "ckpt=auto"], folder)
    curves = read_metrics(folder / "metrics.csv")
    (fd,) = (s for s in read_scores(folder) if s.metric == "fd_lite0" and s.source["step"] == 12)
    for tracker, read in READERS.items():
        (shown,) = read(folder)
        assert (shown.name, shown.group) == ("one/run", "lr"), tracker
        assert shown.recipe["optimizer"]["lr"] == 3e-4
        assert (shown.recipe["first_step"], shown.recipe["code"]) == (6, code_version())
        for name in ("train/loss", "val/mse", "gap/mse"):
            steps, values = zip(*sorted(shown.curves[name].items()), strict=True)
            assert steps == tuple(curves[name].step - 1), tracker
            assert values == pytest.approx(curves[name].value.tolist())
        last = [shown.curves[f"val/fd_lite0{end}"][11] for end in ("", "_low", "_high")]
        assert last == pytest.approx([fd.value, *fd.interval]), tracker
        assert shown.pictures == [("samples", 5), ("samples", 11), ("samples/final", 5), ("samples/final", 11)]


def test_jobs_of_a_sweep_are_grouped(tmp_path):
    (tmp_path / SWEEP).touch()
    assert named(tmp_path / "3", None) == (f"{tmp_path.name}/3", f"{tmp_path.parent.name}/{tmp_path.name}")
    assert named(tmp_path / "alone/3", None) == ("alone/3", None)


def test_mlflow_shows_a_failed_run_as_failed(command, tiny):
    from mlflow import MlflowClient

    words = [*tiny, "logger=mlflow", "samples.n=0", "hydra.run.dir=run", "optimizer.lr=1e30", "guard.spikes=null"]
    assert command("train", words)[0] == 3
    (run,) = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("diffusion").experiment_id])
    assert run.info.status == "FAILED"


LOST = "http://user:canary@127.0.0.1:9"  # nobody answers there


@pytest.mark.parametrize(
    ("tracker", "variables"),
    [
        ("mlflow", {"MLFLOW_TRACKING_URI": LOST}),
        ("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:////proc/mlflow.db"}),
        ("trackio", {"TRACKIO_DIR": "/dev/null/trackio"}),
        ("trackio", {"TRACKIO_SERVER_URL": f"{LOST}/?write_token=canary"}),
    ],
)
def test_a_lost_server_or_store_is_one_line_before_training(command, tiny, tmp_path, monkeypatch, tracker, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", Path(os.environ["TRACKIO_DIR"]))
    words = [*tiny, f"logger={tracker}", "hydra.run.dir=run", "samples.n=0", "trainer.max_steps=1"]
    status, out, err = command("train", words)
    assert status == 2, out + err
    assert err.splitlines()[-1].startswith(f"error: logger.{tracker}: ")
    assert next(iter(variables)) in err
    assert "canary" not in out + err
    assert "sqlite3" not in err  # whose error comes after two minutes of tries
    assert not (tmp_path / "run/metrics.csv").exists()
