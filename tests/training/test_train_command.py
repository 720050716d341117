"""The commands from a user's view: a run from start to end, later commands, sweeps, dashboards."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from composing import settings, train
from omegaconf import OmegaConf
from PIL import Image
from wandb_files import recorded

from diffusion.checkpoint.provenance import code_version
from diffusion.checkpoint.restore import restore
from diffusion.evaluation.drawing import Drawing
from diffusion.report.compare import compare, gather
from diffusion.report.images import GAP, tiles
from diffusion.runs.folder import read_scores
from diffusion.runs.metrics import read_metrics
from diffusion.training import ending
from diffusion.training import run as training
from diffusion.training.clock import Clock

STANDARD = [f"{metric}_lite0" for metric in ("fd", "kid", "precision", "recall", "density", "coverage")]


def run_of(folder: Path) -> Path:
    """The only run below `folder`."""
    (record,) = folder.rglob("run.json")
    return record.parent


@pytest.fixture
def trained(command, tiny, tmp_path) -> Path:
    """The folder of a finished run."""
    status, out, err = command("train", [*tiny, "name=trained"])
    assert status == 0, out + err
    return run_of(tmp_path / "outputs/trained")


@pytest.mark.whole_report
def test_a_run_writes_all_expected_files(command, tiny, tmp_path):
    overrides = ["samples.every_n_epochs=1", "samples.n=4", "score.n=8", "score.every_n_epochs=2", "features=lite0"]
    baselines = "score.baselines=[noise,real,floor,untrained]"
    status, out, err = command("train", [*tiny, *overrides, baselines, "name=whole"])
    assert status == 0, out + err
    run = run_of(tmp_path / "outputs/whole")
    info = json.loads((run / "run.json").read_text())
    assert info["state"] == "complete"
    assert (info["steps"], info["epochs"]) == (12, 2)
    assert info["images"] == {"train": 24, "val": 8, "test": 8}

    metrics = read_metrics(run / "metrics.csv")
    assert {"train/loss", "val/mse", "val/mse_raw", "fit/mse", "fit/mse_raw", "gap/mse"} <= metrics.keys()
    assert len(metrics["train/loss"].step) == 12
    assert len(metrics["val/mse"].step) == 2
    gap = metrics["val/mse"].value - metrics["fit/mse"].value
    np.testing.assert_allclose(metrics["gap/mse"].value, gap, atol=1e-6)

    records = json.loads((run / "scores.json").read_text())
    assert {(r["metric"], r["what"]) for r in records} == {
        (metric, what) for metric in STANDARD for what in ("samples", "noise", "real", "floor", "untrained")
    }
    bare = [r for r in records if "low" not in r]
    assert all((r["metric"], r["value"]) == ("density_lite0", 0.0) and "high" not in r for r in bare)
    assert all(r["low"] <= r["value"] <= r["high"] for r in records if r not in bare)
    assert all(r["n"] == 8 and r["reference"]["split"] == "val" and r["weights_hash"] for r in records)
    assert [p.name for p in sorted((run / "samples").iterdir())] == [
        "all.png", "film.png", "final.png", "step-00000006.png", "step-00000012.png",
    ]  # fmt: skip
    with Image.open(run / "samples/all.png") as everything:
        assert (everything.text["drawn"], len(tiles(everything))) == ("8", 8)
    assert Image.open(run / "samples/final.png").width == 2 * (2 + 16 * 8) - 2  # readable, like a grid of `sample`
    for name in ("noising", "beta", "samples", "mse", "signal"):
        Image.open(run / "figures" / f"{name}.png").verify()
    assert "fd_lite0" in (run / "README.md").read_text()
    numbered = {"step-00000006.ckpt", "step-00000012.ckpt"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"} | numbered
    for what in ("final.png", "mse.png", "scores.json", "last.ckpt"):
        assert what in out


def test_the_sheet_of_all_samples_has_a_limited_size(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ending, "SHEET", 5 * 64)
    train([*tiny, "samples.n=7", "trainer.max_steps=1"], tmp_path / "run")
    with Image.open(tmp_path / "run/samples/all.png") as some:
        assert (some.text["drawn"], len(tiles(some))) == ("7", 5)


def test_scores_during_training_use_the_settings_of_the_final_scores(command, tiny, tmp_path):
    """So they share a column of a comparison, in which the last score counts."""
    score = ["score.n=8", "score.every_n_epochs=1", "score.baselines=[]", "features=lite0", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *score, "metrics.kernel.subset_size=3"])
    assert status == 0, out + err
    scores = [score for score in read_scores(tmp_path / "run") if score.metric == "kid_lite0"]
    assert [score.settings for score in scores] == [{"subsets": 100, "subset_size": 3}] * 3
    assert len({score.protocol_key for score in scores}) == 1
    (row,) = compare(gather([tmp_path / "run"])).rows
    assert row.numbers("kid_lite0") == [scores[-1].value]


def test_a_run_is_complete_only_with_its_report(tiny, tmp_path, monkeypatch):
    def end(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr(training, "write_report", end)
    with pytest.raises(RuntimeError, match="killed"):
        train([*tiny, "samples.n=0", "trainer.max_steps=1"], tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "running"


def test_derived_settings_do_not_make_a_complete_job_run_again(command, tiny, tmp_path):
    words = ["-m", *tiny, "samples.n=0", "trainer.max_steps=1", "augmentation=edm", "data.channels=1", "seed=0"]
    for more, times in ([], 0), ([], 1), (["model.dropout=0.1"], 0):
        status, out, err = command("train", [*words, *more, "hydra.sweep.dir=sweep"])
        assert status == 0, out + err
        assert out.count("is already complete") == times
    config = OmegaConf.load(tmp_path / "sweep/0/config.yaml")
    assert (config.model.in_channels, config.model.augment) == (1, 9)


def test_by_default_scores_cost_no_more_than_the_training(command, tiny, tmp_path):
    words = [*tiny, "score.n=null", "samples.n=0", "trainer.max_steps=2", "hydra.run.dir=run"]
    status, out, err = command("train", words)
    assert status == 0, out + err
    assert "512 samples need 2,048 network evaluations, more than the training (24); score=quick or" in out
    assert not (tmp_path / "run/scores.json").exists()
    recipe, clock = (
        training.Recipe.build(chosen := settings(words[:-1])),
        Clock(epoch=6, total=171),
    )  # of 3 · 4 evaluations each
    drawing = Drawing(recipe.sampler, recipe.data.shape, 0)
    assert training.with_affordable_samples(chosen, recipe, drawing, clock, 1).score.n == 512
    assert training.with_affordable_samples(chosen, recipe, drawing, replace(clock, total=170), 1).score.n == 0
    asked = settings([*words[:-1], "score.n=7"])
    assert training.with_affordable_samples(asked, recipe, drawing, clock, 1).score.n == 7


@pytest.mark.parametrize(
    ("every", "steps", "shown"),
    [("null", 6, 16), ("null", 5, 15), ("1", 12, 12), ("1", 1, 3), ("null", 0, 0)],  # a step is 3 · 4 evaluations
)
def test_by_default_pictures_cost_no_more_than_the_training(tiny, every, steps, shown):
    """DDIM in 4 steps; images at the end and after each epoch of 6 steps."""
    chosen = settings([*tiny, f"samples.every_n_epochs={every}"])
    recipe, clock = training.Recipe.build(chosen), Clock(epoch=6, total=steps)
    drawing = Drawing(recipe.sampler, recipe.data.shape, 0)
    assert training.with_affordable_samples(chosen, recipe, drawing, clock, 1).samples.n == shown
    asked = settings([*tiny, "samples.n=20"])
    assert training.with_affordable_samples(asked, recipe, drawing, clock, 1).samples.n == 20


@pytest.mark.parametrize("ema", ["warm", "none"])
def test_scores_record_the_hash_of_the_scored_weights(command, tiny, tmp_path, ema):
    """The final score and a later score of the checkpoint are of the same weights; the first score is not."""
    score = ["score.n=4", "score.every_n_epochs=1", "score.baselines=[untrained]", "features=lite0", "samples.n=0"]
    status, out, err = command(
        "train", [*tiny, *score, f"ema={ema}", "trainer.precision=bf16-true", "hydra.run.dir=run"]
    )
    assert status == 0, out + err
    overrides = ["ckpt=run/checkpoints/last.ckpt", "n=4", "features=lite0", "baselines=[]", "device=cpu"]
    status, out, err = command("evaluate", [*overrides, "hydra.run.dir=again"])
    assert status == 0, out + err
    hashes = {
        folder: [
            record["network_hash"]
            for record in json.loads((tmp_path / folder / "scores.json").read_text())
            if record["metric"] == "fd_lite0"
        ]
        for folder in ("run", "again")
    }
    first, last, end, untrained = hashes["run"]
    assert len({first, last, untrained}) == 3
    assert [last] == [end] == hashes["again"]
    assert len(last) == 16


def test_a_checkpoint_loads_with_weights_only_and_contains_its_config(trained):
    contents = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    assert "_target_: diffusion.model.UNet" in contents["config"]
    assert not any("_orig_mod" in key or "lambdas" in key for key in contents["state_dict"])


def test_samples_do_not_depend_on_the_batch_size(command, trained, tmp_path):
    ckpt = f"ckpt={trained}/checkpoints/last.ckpt"
    common = [ckpt, "sampler.steps=3", "device=cpu"]
    for name, more in {"a": ["n=6", "batch_size=6", "trajectory=true"], "b": ["n=5", "batch_size=2"]}.items():
        status, out, err = command("sample", [*common, *more, f"hydra.run.dir={name}"])
        assert status == 0, out + err
    a, b = (np.load(tmp_path / name / "images.npz")["images"] for name in "ab")
    assert a.shape == (6, 8, 8, 3)
    # Other batch sizes may round differently within the network, by far less than a grey level.
    assert np.abs(a[:5].astype(int) - b.astype(int)).max() <= 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a/images/3.png")), a[3])
    assert Image.open(tmp_path / "a/trajectory.gif").n_frames == 3
    assert (tmp_path / "a/trajectory.png").is_file()
    assert Image.open(tmp_path / "a/grid.png").width == 3 * (2 + 16 * 8) - 2


@pytest.mark.parametrize(("weights", "key"), [("ema", "state_dict"), ("raw", "current_model_state")])
def test_a_checkpoint_gives_averaged_or_raw_weights(trained, weights, key):
    path = trained / "checkpoints/last.ckpt"
    expected = torch.load(path, weights_only=True)[key]
    restored = restore(path, weights)
    assert restored.weights == weights
    assert restored.step == 12
    for name, value in restored.denoiser.state_dict().items():
        assert torch.equal(value, expected[f"denoiser.{name}"])


def test_evaluate_scores_a_checkpoint_and_a_folder(command, trained, photos, tmp_path):
    common = ["features=lite0", "device=cpu", "yardsticks=[noise]"]
    ckpt = [f"ckpt={trained}/checkpoints/last.ckpt", "split=test", "n=8", "sampler.steps=2"]
    status, out, err = command("evaluate", [*common, *ckpt, "hydra.run.dir=a"])
    assert status == 0, out + err
    records = json.loads((tmp_path / "a/scores.json").read_text())
    assert [(r["metric"], r["what"]) for r in records] == [(m, what) for what in ("samples", "noise") for m in STANDARD]
    assert records[0]["reference"]["split"] == "test"
    assert len(records[0]["checkpoint"]["sha256"]) == 16

    data = ["data=folder", f"data.root={photos}", "data.resolution=8", "data.val=8", "data.test=8"]
    status, out, err = command("evaluate", [*common, *data, f"images={photos}", "n=null", "hydra.run.dir=b"])
    assert status == 0, out + err
    images, noise = (
        r["value"] for r in json.loads((tmp_path / "b/scores.json").read_text()) if r["metric"] == "fd_lite0"
    )
    assert images < noise / 2


def test_a_sweep_creates_a_folder_per_job_and_one_comparison(command, tiny, tmp_path):
    grid = ["schedule=linear,cosine", "optimizer=adamw,adam"]
    status, out, err = command("train", ["-m", *tiny, *grid, "trainer.max_steps=2", "name=sweep"])
    assert status == 0, out + err
    (sweep,) = (tmp_path / "outputs/sweep").glob("sweep-*")
    assert sorted(p.parent.name for p in sweep.glob("*/run.json")) == ["0", "1", "2", "3"]
    rows = list(csv.DictReader((sweep / "runs.csv").open()))
    assert {(row["schedule"], row["optimizer"]) for row in rows} == {
        (schedule, optimizer) for schedule in ("linear", "cosine") for optimizer in ("adamw", "adam")
    }
    assert all(float(row["val/mse"]) > 0 and row["state"] == "complete" for row in rows)


def test_a_failing_job_does_not_affect_other_jobs(command, tiny, tmp_path):
    status, _, _ = command("train", ["-m", *tiny, "data.batch_size=4,400", "trainer.max_steps=1", "name=bad"])
    assert status != 0
    (sweep,) = (tmp_path / "outputs/bad").glob("sweep-*")
    table = (sweep / "runs.csv").read_text()
    assert "/0,complete" in table
    assert "/1,failed" in table


@pytest.mark.parametrize(
    "optimizer", ["adamw", "adam", "sgd", "lion", "muon", "soap", "schedule_free", "adamw ema=power"]
)
def test_half_precision_trains_and_saves_with_every_optimizer(command, tiny, tmp_path, optimizer):
    overrides = [*f"optimizer={optimizer}".split(), "trainer.precision=bf16-true", "trainer.max_steps=2", "name=half"]
    status, out, err = command("train", [*tiny, *overrides, "trainer.gradient_clip_val=1.0"])
    assert status == 0, out + err
    contents = torch.load(run_of(tmp_path / "outputs/half") / "checkpoints/last.ckpt", weights_only=True)
    assert contents["state_dict"]["denoiser.network.out.weight"].dtype == torch.bfloat16


def test_the_last_step_is_always_validated(command, tiny, tmp_path):
    status, out, err = command("train", [*tiny, "trainer.max_steps=8", "trainer.check_val_every_n_epoch=5", "name=end"])
    assert status == 0, out + err
    run = run_of(tmp_path / "outputs/end")
    assert len(read_metrics(run / "metrics.csv")["val/mse"].step) == 1
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 8


def test_without_an_average_the_raw_weights_are_validated(command, tiny, tmp_path):
    status, out, err = command("train", [*tiny, "ema=none", "trainer.max_steps=3", "name=raw"])
    assert status == 0, out + err
    metrics = read_metrics(run_of(tmp_path / "outputs/raw") / "metrics.csv")
    assert "val/mse" in metrics
    assert "val/mse_raw" not in metrics


def test_raw_and_averaged_weights_are_both_validated_without_dropout(command, tiny, tmp_path):
    """With a decay of 0, the average is the raw weights."""
    status, out, err = command("train", [*tiny, "ema.decay=0", "model.dropout=0.5", "trainer.max_steps=3", "name=same"])
    assert status == 0, out + err
    metrics = read_metrics(run_of(tmp_path / "outputs/same") / "metrics.csv")
    assert list(metrics["val/mse"].value) == list(metrics["val/mse_raw"].value)


SECRET = "canary-3f9a71"


@pytest.mark.parametrize("logger", ["wandb", "tensorboard"])
def test_dashboards_need_no_account_and_receive_no_secrets(command, tiny, tmp_path, monkeypatch, logger):
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    overrides = [f"logger={logger}", "samples.every_n_epochs=1", "samples.n=2", f"name={logger}"]
    for _ in range(2):
        status, out, err = command("train", [*tiny, *overrides, "trainer.max_steps=6", f"hydra.run.dir=run{_}"])
        assert status == 0, out + err
    for i in range(2):  # each run has a separate one
        files = [p for p in (tmp_path / f"run{i}").rglob("*") if p.is_file()]
        assert any(("offline-run" in str(p) and p.suffix == ".wandb") or "tfevents" in p.name for p in files)
        assert not any(SECRET.encode() in p.read_bytes() for p in files)


@pytest.mark.parametrize(("mode", "reason"), [("online", "no key"), ("offline", "WANDB_MODE is offline")])
def test_wandb_records_the_run_and_continues_it_on_resume(command, tiny, tmp_path, monkeypatch, mode, reason):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", mode)
    wandb.teardown()  # forgets the variables that it has read
    words = [*tiny, "logger=wandb", "logger.wandb.tags=[a,b]", "samples.every_n_epochs=1", "samples.n=2", "score.n=8"]
    words += ["features=lite0", "hydra.run.dir=run", "data.global_batch_size=4"]
    for more in ("trainer.max_epochs=1", "trainer.max_epochs=2"):
        status, out, err = command("train", [*words, more, "ckpt=auto"])
        assert status == 0, out + err
        assert "wandb: WARNING" not in out + err
        assert f"wandb: {reason}" in out
    first, second = recorded(tmp_path / "run")
    assert first.run.run_id == second.run.run_id
    assert (second.run.project, second.run.job_type, [*second.run.tags]) == ("diffusion", "train", ["a", "b"])
    assert second.config["code"] == code_version()
    assert second.config["versions"]["torch"] == torch.__version__
    assert second.config["batch"] == {"images": 4, "size": 4, "accumulate": 1, "devices": 1}
    steps = [row["trainer/global_step"] for row in second.history if "train/loss" in row]
    assert steps == [*range(6, 12)]
    pictures = [row["samples"] for row in second.history if "samples" in row]
    assert [picture["width"] for picture in pictures] == [16 * (2 * 8 + GAP)]
    (fd,) = (
        s
        for s in read_scores(tmp_path / "run")[-99:]
        if s.what == "samples" and s.metric == "fd_lite0" and s.source["step"] == 12
    )
    assert second.summary["final/fd_lite0"] == fd.value
    assert second.summary["final/fd_lite0/low"] == fd.low
    assert second.summary["best/val/mse"] == pytest.approx(second.summary["val/mse"])

    status, out, err = command("train", [*words, "trainer.max_epochs=1", "ckpt=null"])  # from the start: another run
    assert status == 0, out + err
    assert len({each.run.run_id for each in recorded(tmp_path / "run")}) == 2
    shutil.rmtree(tmp_path / "run/checkpoints")
    status, out, err = command("train", [*words, "trainer.max_epochs=2", "ckpt=auto"])  # finds none
    assert status == 0, out + err
    assert len({each.run.run_id for each in recorded(tmp_path / "run")}) == 3


def test_wandb_groups_the_jobs_of_a_sweep(command, tiny, tmp_path):
    words = [*tiny, "logger=wandb", "samples.n=0", "trainer.max_steps=1", "hydra.sweep.dir=swept/one"]
    status, out, err = command("train", ["-m", *words, "seed=0,1"])
    assert status == 0, out + err
    jobs = [recorded(tmp_path / f"swept/one/{job}")[0].run for job in range(2)]
    assert [(job.run_group, job.display_name) for job in jobs] == [("swept/one", "one/0"), ("swept/one", "one/1")]
    assert jobs[0].run_id != jobs[1].run_id
    status, out, err = command("train", [*words[:-1], "logger.wandb.group=mine", "hydra.run.dir=alone"])
    assert status == 0, out + err
    assert recorded(tmp_path / "alone")[0].run.run_group == "mine"


def test_help_lists_every_group_and_setting_without_importing_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['train', '--help']\n"
        "from diffusion.train import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'lightning', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    from diffusion.config.choices import choices, conf_dir
    from diffusion.config.schema import Train

    words = " ".join(out.split())
    assert "hydra=" not in words
    assert "job_logging" not in words
    others = ("hydra", "likelihood", "inpainting", "results")  # these belong to evaluate, edit and reproduce
    for group in (path.name for path in conf_dir().iterdir() if path.is_dir() and path.name not in others):
        assert f" {group}= " in words or f" {group}@" in words
        for choice in choices(group):
            assert choice in words
    for key, field in Train.model_fields.items():
        if field.description:
            assert f" {key}=" in words
            assert " ".join(field.description.split())[:30] in words
    assert "optimizer.lr=0.0003" in words
    assert out.endswith("[]\n")
