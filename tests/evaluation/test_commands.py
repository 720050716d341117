"""`sample` and `evaluate`: they use the run's settings, reproduce its scores, and record what they have drawn."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import diffusion
from diffusion.base.pixels import grid
from diffusion.checkpoint.find import BUNDLED
from diffusion.checkpoint.restore import restore
from diffusion.cli import evaluate, export
from diffusion.config.build import make
from diffusion.config.inherit import changes_of
from diffusion.data import Archive, Folder
from diffusion.errors import UserError, given_as
from diffusion.library.files import save_images
from diffusion.library.opening import completed, settings_of
from diffusion.metric.features import Lite0
from diffusion.metric.record import Score
from diffusion.metric.score import extract
from diffusion.process.denoiser import MixedPrecision
from diffusion.process.sampler import DDIM
from diffusion.runs.folder import append_scores, read_scores
from diffusion.runs.launch import Launch
from diffusion.sampling import drawing
from diffusion.sampling.drawing import Drawing

QUICK = ["baselines=[]", "device=cpu"]


def ran(command, name: str, *words: str) -> str:
    status, out, err = command(name, list(words))
    assert status == 0, out + err
    return str(out)


def scores(folder: Path) -> dict[str, dict]:
    return {r["metric"]: r for r in json.loads((folder / "scores.json").read_text())}


def test_evaluate_reproduces_the_scores_of_the_run_from_exported_weights(command, scored, tmp_path):
    file = tmp_path / "last.safetensors"
    assert export.main([str(scored / "checkpoints/last.ckpt"), str(file)]) == 0
    ran(command, "evaluate", f"ckpt={file}", *QUICK, "hydra.run.dir=again")
    again = scores(tmp_path / "again")
    assert again.keys() == scores(scored).keys()
    for metric, record in scores(scored).items():
        assert again[metric] | {"checkpoint": None} == record | {"checkpoint": None}


def test_single_settings_of_the_run_can_be_overridden(command, scored, tmp_path, monkeypatch):
    used = []

    def mixed(denoise, dtype):
        used.append(dtype)
        return MixedPrecision(denoise, dtype)

    monkeypatch.setattr(drawing, "MixedPrecision", mixed)
    words = ["grid@sampler.grid=karras", "sampler.grid.rho=3", "metrics.kernel=null", "n=5"]
    words += ["precision=bf16-mixed", "weights=0.08"]
    ran(command, "evaluate", f"ckpt={scored}", *QUICK, *words, "hydra.run.dir=out")
    found = scores(tmp_path / "out")
    assert "kid_lite0" not in found
    made = found["fd_lite0"]["sampler"]
    assert (made["name"], made["steps"], made["grid"]["name"], made["grid"]["rho"]) == ("Heun", 3, "karras", 3)
    assert (found["fd_lite0"]["n"], found["fd_lite0"]["seed"]) == (5, 3)
    assert (found["fd_lite0"]["precision"], found["fd_lite0"]["weights"]) == ("bf16-mixed", "ema 0.08")
    assert found["fd_lite0"]["network_hash"] != scores(scored)["fd_lite0"]["network_hash"]
    assert {*used} == {torch.bfloat16}
    kept = OmegaConf.load(tmp_path / "out/config.yaml")
    assert kept.sampler.steps == 3  # the value used, not a reference to the run
    assert kept.data is None  # that of the run


def test_numbers_that_are_not_set_are_those_of_the_run(scored):
    values = settings_of("evaluate", ["ckpt=x", "data=landscapes"])
    run = restore(scored / "checkpoints/last.ckpt")
    silent = replace(run, config=run.config | {"score": {"n": 0}})
    for restored, given, n, seed in ((run, None, 9, 3), (silent, 5, 512, 5)):
        settings = completed(values.model_copy(update={"seed": given}), restored, changes_of(["data=landscapes"]))
        assert settings.n == n
        assert settings.data["seed"] == settings.seed == make(settings.data, "data").seed == seed


def test_sampled_images_have_the_same_score_as_the_checkpoint(command, scored, photos, tmp_path):
    ran(command, "sample", f"ckpt={scored}", "n=9", "trajectory=true", "device=cpu", "hydra.run.dir=drawn")
    assert {file.name for file in (tmp_path / "drawn").glob("*.*")} >= {"grid.png", "images.npz", "trajectory.gif"}
    assert len(list((tmp_path / "drawn/images").iterdir())) == 9
    data = ["data=folder", f"data.root={photos}", "data.resolution=8", "data.val=8", "data.test=8"]
    for images in ("drawn/images", "drawn/images.npz"):
        same = ["features=lite0", "metrics.kernel.subsets=7", *data, *QUICK, f"hydra.run.dir=to/{images}"]
        ran(command, "evaluate", f"images={images}", *same)
        found = scores(tmp_path / "to" / images)["fd_lite0"]["value"]
        assert found == pytest.approx(scores(scored)["fd_lite0"]["value"], rel=1e-6)


def test_classes_are_drawn_and_scored(command, labelled, tmp_path):
    words = ["n=12", "features=lite0", "by_class=true", "bits=4", "likelihood.steps=5", *QUICK, "hydra.run.dir=out"]
    out = ran(command, "evaluate", f"ckpt={labelled}", *words)
    found = read_scores(tmp_path / "out")
    assert {score.what for score in found} == {"samples", "class red", "network"}
    assert {score.n for score in found if score.of_class} == {9}  # 3 blue ones are too few
    assert out.index("note: class blue is not scored: 3 samples") < out.index("red")
    assert [*json.loads((labelled / "run.json").read_text())["classes"]] == ["blue", "red"]  # for its page
    (bits,) = [score for score in found if score.metric == "bits_per_dim"]
    assert (bits.settings or {})["labels"] == "of the images"
    ran(command, "sample", f"ckpt={labelled}", "n=3", "labels=[red,0]", "device=cpu", "hydra.run.dir=drawn")
    assert np.load(tmp_path / "drawn/images.npz")["arr_1"].tolist() == [1, 0, 1]
    data = Archive(path="drawn/images.npz", resolution=8, val=1, test=0, labels=True)  # samples are data
    data.setup()
    assert data.class_counts("train")[0] + data.class_counts("val")[0] == 1


def test_a_second_evaluation_on_the_test_split_needs_again(command, refused, labelled, tiny, tmp_path):
    shutil.copytree(labelled, tmp_path / "run")
    common = ["ckpt=run", "n=6", "features=lite0", "sampler.steps=2", "device=cpu", "baselines=[noise]"]
    common += ["by_class=true"]

    def number(folder: str, *words: str) -> set[int | None]:
        ran(command, "evaluate", *common, *words, f"hydra.run.dir={folder}")
        return {score.source.get("test_evaluation") for score in read_scores(tmp_path / folder)}

    assert number("first", "split=test") == {1}
    assert "again=true" in refused("evaluate", [*common, "split=test", "hydra.run.dir=second"])
    assert not (tmp_path / "second/scores.json").exists()
    assert number("third", "split=test", "again=true") == {2}
    entries = json.loads((tmp_path / "run/test.json").read_text())
    assert [entry["test_evaluation"] for entry in entries] == [1, 2]
    assert any(score.of_class for score in read_scores(tmp_path / "first"))
    (distance,) = [s for s in read_scores(tmp_path / "first") if (s.metric, s.what) == ("fd_lite0", "samples")]
    assert entries[0]["scores"]["fd_lite0"] == distance.value  # not that of the noise
    assert entries[0]["code"].startswith(diffusion.__version__)


def test_an_evaluation_of_the_bundled_model_is_recorded_beside_its_scores(command, tmp_path):
    words = ["ckpt=demo", "n=6", "features=lite0", "sampler.steps=2", "split=test", *QUICK]
    out = ran(command, "evaluate", *words, "hydra.run.dir=out")
    assert out.splitlines()[-1].startswith("  diffusion evaluate ckpt=demo ")
    assert (tmp_path / "out/test.json").is_file()
    assert not (BUNDLED / "demo/test.json").exists()


def test_scores_on_test_during_training_are_all_recorded(command, tiny, tmp_path):
    score = ["score.n=4", "score.every_n_epochs=1", "score.baselines=[]", "features=lite0", "sampler.steps=2"]
    ran(command, "train", *tiny, *score, "score.split=test", "hydra.run.dir=run")
    entries = json.loads((tmp_path / "run/test.json").read_text())
    assert [(entry["test_evaluation"], entry["step"]) for entry in entries] == [(1, 6), (2, 12), (3, 12)]


def test_a_job_of_a_sweep_is_complete_only_for_the_checkpoint_that_it_scored(
    two_steps, labelled, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    append_scores(tmp_path, [Score("fd_lite0", 1.0, 8, source=restore(run / "checkpoints/last.ckpt").source)])
    settings, scored = settings_of("evaluate", [f"ckpt={run}"]), []
    monkeypatch.setattr(evaluate, "evaluate_model", lambda settings, *_: scored.append(settings.ckpt))
    evaluate.evaluate(settings, Launch(tmp_path, job=True))
    assert not scored
    shutil.copytree(labelled, run, dirs_exist_ok=True)
    evaluate.evaluate(settings, Launch(tmp_path, job=True))
    assert scored == [str(run)]


def test_the_images_of_an_earlier_call_are_removed(two_steps, tmp_path: Path) -> None:
    """But not photographs where no images were drawn before."""

    def saved(n: int) -> list[str]:
        images = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
        save_images(tmp_path, images, grid(images), Drawing(DDIM(2), (3, 4, 4), 0), run)
        return sorted(file.name for file in (tmp_path / "images").iterdir())

    run = restore(two_steps / "checkpoints/last.ckpt")
    (tmp_path / "images").mkdir()
    for name in ("2026.png", "sky.png"):
        (tmp_path / "images" / name).touch()
    assert saved(12) == sorted([*(f"{i:02d}.png" for i in range(12)), "2026.png", "sky.png"])
    assert saved(4) == ["0.png", "1.png", "2.png", "3.png", "sky.png"]


REFUSED = {
    "neither a model nor images": ["evaluate"],
    "bits of images": ["evaluate", "images=IMAGES", "bits=5"],
    "images of two sizes": ["evaluate", "images=TWO"],
    "too few samples": ["evaluate", "ckpt=RUN", "n=3"],
    "an unknown class": ["sample", "ckpt=RUN", "label=green"],
    "a class and several": ["sample", "ckpt=RUN", "label=red", "labels=[red,0]"],
    "a device that is not there": ["sample", "ckpt=RUN", "device=cuda:99"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, labelled) -> dict[str, Path]:
    two = tmp_path_factory.mktemp("two")
    for side in (8, 9):
        Image.new("RGB", (side, side)).save(two / f"{side}.png")
    return {"RUN": labelled, "IMAGES": labelled.parent / "shelves/red", "TWO": two}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_settings_are_refused_with_one_line(command, places, tmp_path, name):
    words = [
        f"{key}={places.get(value, value)}" for key, _, value in (word.partition("=") for word in REFUSED[name][1:])
    ]
    more = ["features=lite0"] if REFUSED[name][0] == "evaluate" else []
    status, _, err = command(REFUSED[name][0], [*words, *more, "hydra.run.dir=out"])
    lines = [line for line in err.splitlines() if "━" not in line]
    assert (status, len(lines)) == (2, 1), err
    assert lines[0].startswith("error: ")
    assert not (tmp_path / "out/scores.json").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ckpt=PLAIN"], "the model has no classes"),
        (["images=IMAGES"], "the classes of images alone are not known"),
        (["ckpt=RUN", "reference=IMAGES"], "the classes of reference=red are not known"),
        (["ckpt=RUN", "data.labels=null"], "the model's classes are blue, red, those of data are none"),
    ],
)
def test_scores_by_class_need_the_same_classes_on_both_sides(refused, places, two_steps, tmp_path, words, reason):
    files = {"PLAIN": two_steps, **places}
    given = [f"{key}={files.get(value, value)}" for key, _, value in (word.partition("=") for word in words)]
    line = refused("evaluate", [*given, "n=6", "features=lite0", "by_class=true", *QUICK, "hydra.run.dir=out"])
    assert f"by_class=true: {reason}" in line
    assert not (tmp_path / "out/scores.json").exists()


def test_published_statistics_are_a_reference(command, labelled, photos, tmp_path):
    """The Fréchet distance to statistics, as EDM computes them, is that to the images they were made of."""
    data = Folder(root=photos, resolution=8, val=8, test=0)
    data.setup()
    features = extract(data.splits["train"].images, Lite0()).double().numpy()
    np.savez("photos.npz", mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False), arr_0=np.zeros(3))
    np.savez("drawn.npz", arr_0=torch.randint(0, 256, (9, 8, 8, 3), generator=torch.manual_seed(0)).byte().numpy())
    common, given = ["images=drawn.npz", "features=lite0", "device=cpu"], "reference=photos.npz"
    assert "against the statistics of photos.npz" in ran(
        command, "evaluate", *common, given, "hydra.run.dir=statistics"
    )
    place = [f"data.root={photos}", "data.val=8", "data.test=0", "data.resolution=8"]
    ran(command, "evaluate", *common, "data=folder", *place, "split=train", "baselines=[]", "hydra.run.dir=images")
    first, noise = read_scores(tmp_path / "statistics")
    assert first.value == pytest.approx(scores(tmp_path / "images")["fd_lite0"]["value"], rel=1e-5)
    assert (first.reference.split, first.reference.n, noise.what) == ("photos.npz", None, "noise")
    words = ["n=6", "features=lite0", "sampler.steps=2", "device=cpu", given, "hydra.run.dir=of_a_model"]
    ran(command, "evaluate", f"ckpt={labelled}", *words)
    assert [score.what for score in read_scores(tmp_path / "of_a_model")] == ["samples", "noise", "real"]


@pytest.mark.parametrize("place", ["nothing", "nothing.npz"])
def test_images_that_cannot_be_read_are_named_as_the_user_has_written_them(refused, tmp_path, place):
    (tmp_path / "nothing").mkdir()
    common = ["features=lite0", "device=cpu", f"hydra.run.dir={tmp_path / 'scores'}"]
    line = refused("evaluate", [f"images={tmp_path / place}", *common])
    assert line.startswith(f"error: images={tmp_path / place}: ")


def test_an_error_of_another_process_has_its_setting():
    with pytest.raises(UserError, match=r"^init=x: no such file") as found, given_as("init", "ckpt"):
        raise UserError("x: no such file", status=3, key="ckpt")
    again = pickle.loads(pickle.dumps(found.value))
    assert (str(again), again.status) == ("init=x: no such file", 3)


def test_images_of_the_users_own_are_a_reference(command, photos, tmp_path):
    """Against the same images as data, all scores are the same."""
    own = np.stack([np.asarray(Image.open(file).resize((8, 8))) for file in sorted(photos.glob("*.png"))])
    np.savez("own.npz", arr_0=own)
    np.savez("drawn.npz", arr_0=np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), np.uint8))
    common = ["images=drawn.npz", "features=lite0", "device=cpu", "baselines=[]"]
    place = ["data=archive", "data.path=own.npz", "data.val=0", "data.test=0", "data.resolution=8", "split=train"]
    ran(command, "evaluate", *common, *place, "hydra.run.dir=data")
    out = ran(command, "evaluate", *common, "reference=own.npz", "hydra.run.dir=given")
    assert "9 images against 40 of own.npz" in out
    data, given = ({name: each["value"] for name, each in scores(tmp_path / to).items()} for to in ("data", "given"))
    assert given == pytest.approx(data, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("none.npz", None, "No such file"),
        ("images.npz", {"arr_0": np.zeros((9, 8, 8, 3))}, "reference=images.npz: the images are float64"),
        ("objects.npz", {"mu": np.array([None]), "sigma": np.zeros((1, 1))}, "allow_pickle"),
        ("other.npz", {"mu": np.zeros(2048), "sigma": np.eye(2048)}, "features=inception"),
        ("nan.npz", {"mu": np.full(1280, np.nan), "sigma": np.eye(1280)}, "finite"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_before_any_work(command, two_steps, tmp_path, name, arrays, words):
    if arrays is not None:
        np.savez(tmp_path / name, **arrays)
    common = [f"ckpt={two_steps}", "n=6", "features=lite0", "sampler.steps=2", *QUICK, "hydra.run.dir=out"]
    status, out, err = command("evaluate", [*common, f"reference={name}"])
    assert (status, err.count("\n")) == (2, 1)
    assert words in err
    assert "sampling" not in out
    assert not (tmp_path / "out/scores.json").exists()
