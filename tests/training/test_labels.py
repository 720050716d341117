"""A run with labels: they reach the network in training, validation, samples and scores, and in later commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image
from torch import Tensor

import diffusion
from diffusion.checkpoint import exported
from diffusion.checkpoint.restore import restore
from diffusion.data import Batch
from diffusion.errors import UserError
from diffusion.evaluation.classes import proportional
from diffusion.evaluation.guided import check_classes
from diffusion.model.unet import UNet
from diffusion.process.guidance import AutoGuidance, ClassifierFree
from diffusion.runs.folder import read_scores
from diffusion.training.module import Diffusion

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (220, 30, 20)}


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of 16 images, each folder with one colour and a stripe in random places."""
    root = tmp_path_factory.mktemp("shelves")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for i in range(16):
            picture = Image.new("RGB", (8, 8), colour)
            picture.paste((255, 250 - i, 240), (0, i % 8, 8, i % 8 + 1 + i // 8))
            picture.save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def words(tiny, shelves) -> list[str]:
    labelled = [f"data.root={shelves}", "data.labels=folders", "data.batch_size=4", "data.val=9", "data.test=9"]
    return [*tiny, *labelled, "ema=none", "samples.n=0"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs") / "run"
    train([*words, "optimizer.lr=2e-3", "trainer.max_epochs=20", "prediction=v", "schedule=cosine"], folder)
    return folder


def test_the_classes_of_the_data_are_stored_in_checkpoints_and_exports(run, command):
    restored = restore(run / "checkpoints/last.ckpt")
    assert restored.config["model"]["classes"] == 3
    assert sum(restored.labels.values()) == 30
    assert [*restored.labels] == ["blue", "green", "red"]
    from diffusion.export import main

    assert main([str(run), "exported.safetensors"]) == 0
    assert restore("exported.safetensors").labels == restored.labels


def test_a_labelled_run_resumes_bit_for_bit(words, tmp_path):
    long = [*words, "trainer.max_epochs=2", "model.dropout=0.1", "label_dropout=0.5"]
    train(long, tmp_path / "whole")
    train([*long, "trainer.max_steps=9"], tmp_path / "part")
    train([*long, f"ckpt={tmp_path}/part/checkpoints/last.ckpt"], tmp_path / "rest")
    states = [restore(tmp_path / name / "checkpoints/last.ckpt").denoiser.state_dict() for name in ("whole", "rest")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    train([*long[:-1], "label_dropout=0.0"], tmp_path / "other")
    other = restore(tmp_path / "other/checkpoints/last.ckpt").denoiser.state_dict()
    assert not all(torch.equal(states[0][name], other[name]) for name in other)


def test_label_dropout_depends_only_on_image_and_epoch(words, tmp_path, monkeypatch):
    """A share of them in training, none in validation."""
    seen: list[tuple[bool, Batch, Tensor]] = []
    plain = Diffusion.conditions

    def noted(self: Diffusion, batch: Batch, dropout: float = 0.0) -> dict[str, Tensor]:
        given = plain(self, batch, dropout)
        seen.append((self.training, batch, given["classes"]))
        return given

    monkeypatch.setattr(Diffusion, "conditions", noted)
    dropped: list[dict[tuple[int, int], bool]] = []
    for folder, batch_size in (("a", 4), ("b", 10)):
        seen.clear()
        long = ["trainer.max_epochs=4", "label_dropout=0.3", f"data.batch_size={batch_size}"]
        train([*words, *long], tmp_path / folder)
        for training, batch, classes in seen:
            assert batch.classes is not None
            kept = classes == batch.classes
            assert kept.all() or training
            assert (classes[~kept] == 3).all()
        trained = [(batch, classes) for training, batch, classes in seen if training]
        dropped.append(
            {
                (batch.epoch, int(index)): bool(classes[i] == 3)
                for batch, classes in trained
                for i, index in enumerate(batch.index)
            }
        )
    common = dropped[0].keys() & dropped[1].keys()
    assert len(common) > 100
    assert {key: dropped[0][key] for key in common} == {key: dropped[1][key] for key in common}
    share = np.mean([dropped[0][key] for key in common])
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(common)) ** 0.5
    first, second = ({i: gone for (e, i), gone in dropped[0].items() if e == epoch} for epoch in (0, 1))
    assert any(first[i] != second[i] for i in first.keys() & second.keys())


def colour(images: Tensor) -> list[str]:
    """The colour nearest to each image's median pixel."""
    middle = images.flatten(2).float().median(dim=2).values
    distances = torch.cdist(middle, torch.tensor([*COLOURS.values()]).float())
    return [[*COLOURS][i] for i in distances.argmin(dim=1).tolist()]


def sampled(command, tmp_path: Path, run: Path, *words: str) -> tuple[Tensor, dict[str, np.ndarray], str]:
    status, out, err = command("sample", [f"ckpt={run}", "n=12", "hydra.run.dir=out", "device=cpu", *words])
    assert status == 0, out + err
    with np.load(tmp_path / "out/images.npz") as saved:
        arrays = dict(saved)
    return torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2), arrays, out


def test_samples_have_the_requested_classes(run, command, tmp_path):
    """After training a few thousand weights for a minute, most images have the colour of their class."""
    images, arrays, out = sampled(command, tmp_path, run, "labels=[red,0]", "sampler.steps=8")
    assert arrays["classes"].tolist() == [2, 0] * 6
    assert "  rows of grid.png: red, 0" in out
    wanted = ["red", "blue"] * 6
    right = np.mean([a == b for a, b in zip(colour(images), wanted, strict=True)])
    assert right > 0.7
    width, height = Image.open(tmp_path / "out/grid.png").size
    assert width > 2 * height
    one, arrays, _ = sampled(command, tmp_path, run, "label=green", "sampler.steps=8")
    assert arrays["classes"].tolist() == [1] * 12
    library = diffusion.load(run, device="cpu").sample(12, labels="green", steps=8, progress=False)
    assert torch.equal(library, one)
    _, arrays, _ = sampled(command, tmp_path, run, "label=none", "sampler.steps=2")
    assert "classes" not in arrays
    _, arrays, _ = sampled(command, tmp_path, run, "sampler.steps=2")
    counts = restore(run / "checkpoints/last.ckpt").labels
    assert arrays["classes"].tolist() == proportional([*counts.values()], 12).tolist()


def test_guidance_makes_samples_more_typical_of_their_class(run, command, tmp_path):
    plain, _, _ = sampled(command, tmp_path, run, "label=red", "sampler.steps=8")
    guided, _, _ = sampled(command, tmp_path, run, "label=red", "sampler.steps=8", "guidance=cfg", "guidance.scale=3")
    away = torch.tensor(COLOURS["red"]).float() - torch.tensor([*COLOURS.values()]).float().mean(0)

    def towards(images: Tensor) -> float:
        return float((images.float().mean((2, 3)) @ away).mean())

    assert towards(guided) > towards(plain)
    model = diffusion.load(run, device="cpu")
    same = model.sample(12, labels="red", steps=8, guidance="cfg", progress=False)
    scaled, _, _ = sampled(command, tmp_path, run, "label=red", "sampler.steps=8", "guidance=cfg")
    assert torch.equal(same, scaled)
    one, _, _ = sampled(command, tmp_path, run, "label=red", "sampler.steps=8", "guidance=cfg", "guidance.scale=1")
    assert torch.equal(one, plain)


def test_an_earlier_checkpoint_can_be_the_worse_model_of_autoguidance(run, command, tmp_path):
    first = min((run / "checkpoints").glob("step-*.ckpt"))
    chosen = ("label=red", "sampler.steps=4")
    plain, _, _ = sampled(command, tmp_path, run, *chosen)
    itself, _, _ = sampled(command, tmp_path, run, *chosen, "guidance=auto", f"guidance.ckpt={run}")
    other, _, _ = sampled(command, tmp_path, run, *chosen, "guidance=auto", f"guidance.ckpt={first}")
    assert (itself.int() - plain.int()).abs().max() <= 1
    assert not torch.equal(other, plain)
    worse = diffusion.load(first, device="cpu")
    model = diffusion.load(run, device="cpu")
    drawn = model.sample(12, labels="red", steps=4, guidance="auto", worse=worse, progress=False)
    assert torch.equal(drawn, other)


def test_evaluation_uses_the_reference_class_proportions_and_scores_by_class(run, command, tmp_path):
    words = ["n=24", "features=lite0", "baselines=[]", "by_class=true", "guidance=cfg", "sampler.steps=2"]
    status, out, err = command("evaluate", [f"ckpt={run}", "split=train", *words, "hydra.run.dir=scored", "device=cpu"])
    assert status == 0, out + err
    scores = read_scores(tmp_path / "scored")
    counts = restore(run / "checkpoints/last.ckpt").labels
    found = {s.what: s for s in scores if s.metric == "fd_lite0"}
    assert found.keys() == {"samples", *(f"class {name}" for name in counts)}
    for name, n in counts.items():
        score = found[f"class {name}"]
        assert abs(score.n - 24 * n / 30) <= 2
        assert (score.reference.n, score.reference.split) == (n, f"train, class {name}")
    assert {score.source["guidance"]["name"] for score in scores} == {"ClassifierFree"}
    assert "guidance" in json.loads((tmp_path / "scored/scores.json").read_text())[0]
    assert all(name in out for name in counts)


def test_bits_per_dim_are_conditioned_on_the_label(run, command, tmp_path):
    words = [f"ckpt={run}", "split=train", "n=4", "features=lite0", "baselines=[]", "sampler.steps=2", "bits=12"]
    bits = {}
    for name, more in {"of the images": [], "none": ["data.labels=null"]}.items():
        folder = f"hydra.run.dir={name.replace(' ', '-')}"
        status, out, err = command("evaluate", [*words, *more, "likelihood.steps=20", "device=cpu", folder])
        assert status == 0, out + err
        (score,) = [s for s in read_scores(tmp_path / name.replace(" ", "-")) if s.metric == "bits_per_dim"]
        assert score.settings["labels"] == name
        bits[name] = score.value
    assert bits["of the images"] < bits["none"]


def test_a_study_counts_the_network_evaluations_of_guidance(run, command, tmp_path):
    words = ["sampler", f"ckpt={run}", "samplers=[ddim]", "nfe=[8]", "n=8", "features=lite0", "guidance=cfg"]
    status, out, err = command("study", [*words, "baselines=[]", "hydra.run.dir=studied", "device=cpu"])
    assert status == 0, out + err
    (score,) = [s for s in read_scores(tmp_path / "studied") if s.metric == "fd_lite0"]
    assert (score.source["nfe"], score.source["sampler"]["steps"]) == (8, 4)


def test_a_run_samples_and_scores_every_class_with_guidance(words, tmp_path, monkeypatch):
    seen: list[list[int]] = []
    plain = UNet.forward

    def noted(self: UNet, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        seen.append([] if classes is None else classes.tolist())
        return plain(self, x, label, classes)

    monkeypatch.setattr(UNet, "forward", noted)
    scored = ["samples.n=6", "samples.every_n_epochs=1", "score.n=8", "score.baselines=[untrained]", "features=lite0"]
    train([*words, *scored, "guidance=cfg", "trainer.max_epochs=1", "least_interval=1"], tmp_path)
    (picture,) = {tuple(classes) for classes in seen if len(classes) == 6}
    assert {*picture} == {0, 1, 2}
    assert seen.count([]) > 4  # the estimates without a class
    (fd, *_) = [s for s in read_scores(tmp_path) if s.metric == "fd_lite0" and s.what == "samples"]
    assert fd.source["guidance"]["scale"] == 1.5


REFUSED = {
    "no labels, but guidance": (["data.labels=null", "guidance=cfg"], "needs a class label"),
    "classes without labels": (["data.labels=null", "model.classes=3"], "model.classes=3: the data has no classes"),
    "another number of classes": (["model.classes=4"], "model.classes=4: the data has 3 classes"),
    "guidance without dropout": (["guidance=cfg", "label_dropout=0"], "trained with label_dropout=0"),
    "no worse model": (["guidance=auto"], "set guidance.step to an earlier step"),
    "worse weights without a model": (["guidance=auto", "guidance.weights=raw"], "in training it needs guidance.ckpt"),
    "an interval outside": (["guidance=interval", "guidance.low=1e9", "guidance.high=1e10"], "ranges from"),
    "low above high": (["guidance=interval", "guidance.low=3"], "low must be below high"),
    "a share above one": (["label_dropout=1.5"], "label_dropout=1.5: expected a number from 0 to 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_incompatible_label_settings_are_refused_before_training(command, words, name):
    more, said = REFUSED[name]
    status, out, err = command("train", [*words, *more, "hydra.run.dir=run"])
    assert status == 2, out
    (line,) = err.splitlines()
    assert said in line


ASKED = {
    "an unknown class": (["label=pink"], "label=pink: unknown class; expected one of blue, green, red"),
    "a number too large": (["labels=[0,3]"], "labels=3"),
    "both": (["label=0", "labels=[0,1]"], "set either label=CLASS"),
    "no class to guide to": (["label=none", "guidance=cfg"], "needs a class label"),
    "a worse model that is none": (["guidance=auto", "guidance.ckpt=nowhere.ckpt"], "nowhere.ckpt"),
    "a setting of no guidance": (["guidance.scale=2"], "the run's guidance has no such setting"),
}


@pytest.mark.parametrize("name", ASKED)
def test_invalid_label_and_guidance_settings_are_refused_when_sampling(run, command, name):
    more, said = ASKED[name]
    status, out, err = command("sample", [f"ckpt={run}", "hydra.run.dir=out", *more])
    assert status == 2, out
    (line,) = err.splitlines()
    assert said in line


def test_a_model_without_label_dropout_is_never_used_without_a_label(words, command, tmp_path):
    run = tmp_path / "certain"
    train([*words, "label_dropout=0", "trainer.max_steps=1"], run)
    asked = {
        "evaluate": ["bits=2", "n=4", "features=lite0", "baselines=[]", "sampler.steps=2", "data.labels=null"],
        "sample": ["label=red", "n=1", "sampler.steps=2", "guidance=cfg", f"guidance.ckpt={run}"],
    }
    for name, settings in asked.items():
        status, out, err = command(name, [f"ckpt={run}", f"hydra.run.dir={name}", "device=cpu", *settings])
        assert status == 2, out
        (line,) = err.splitlines()
        assert "trained with label_dropout=0" in line
    model = diffusion.load(run)
    for guidance in ("cfg", ClassifierFree(2.0)):
        with pytest.raises(UserError, match="trained with label_dropout=0"):
            model.sample(1, steps=2, labels="red", guidance=guidance, worse=run)


def test_a_worse_model_with_other_classes_is_refused(run, words, command, tmp_path):
    def save(labels):
        weights = known.denoiser.network.state_dict()
        exported.write(file, weights, known.about | {"labels": json.dumps(labels)})

    known, file = restore(run / "checkpoints/last.ckpt"), tmp_path / "a.safetensors"
    model = diffusion.load(run, device="cpu")
    asked = {"sample": [f"ckpt={run}", "n=1", "sampler.steps=2", "device=cpu"], "train": [*words, "model.classes=3"]}
    save(dict(reversed(known.labels.items())))
    for name, settings in asked.items():
        chosen = ["guidance=auto", f"guidance.ckpt={file}", f"hydra.run.dir={name}"]
        status, out, err = command(name, [*settings, *chosen])
        assert status == 2, out
        assert f"guidance.ckpt={file}: its class 0 is red, but the model's is blue; choose" in err
    for guidance in ("auto", AutoGuidance(2.0)):
        with pytest.raises(UserError, match="its class 0 is red, but the model's is blue"):
            model._drawing(guidance=guidance, worse=file)
    model._drawing(guidance="cfg", worse=file)  # its estimates have no label
    save({"blue": 1, "green": 1})
    with pytest.raises(UserError, match="its class 2 is missing, but the model's is red"):
        model._drawing(guidance="auto", worse=file)
    with pytest.raises(UserError, match="its class 0 is blue, but the model's is 0"):
        check_classes(AutoGuidance(2.0), restore(file), ["0", "1", "2"])
    for same in (known.labels, {}, {"0": 1, "1": 1, "2": 1}):  # the last as of a diffusers folder, without names
        save(same)
        model._drawing(guidance="auto", worse=file)


def test_another_weight_average_can_be_the_worse_model(words, command, tmp_path):
    long = ["ema=power", "ema.snapshots=4", "trainer.max_epochs=2"]
    train([*(word for word in words if word != "ema=none"), *long], tmp_path / "power")
    chosen = ("label=red", "sampler.steps=3", "guidance=auto", "guidance.scale=3")
    raw, _, _ = sampled(command, tmp_path, tmp_path / "power", *chosen, "guidance.weights=raw")
    other, _, _ = sampled(command, tmp_path, tmp_path / "power", *chosen, "guidance.weights=0.2")
    assert not torch.equal(raw, other)
