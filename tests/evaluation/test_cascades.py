"""Cascades of models (`then`), and pictures enlarged by one (`upscale`)."""

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image

import diffusion
from diffusion.base.pixels import tiles


@pytest.fixture(scope="module")
def larger(tmp_path_factory, tiny):
    """The folder of a run of four steps that enlarges pictures, 8×8 to 16×16."""
    folder = tmp_path_factory.mktemp("larger") / "run"
    more = ["data.resolution=16", "trainer.max_steps=4", "samples.n=0", "optimizer.lr=1e-2"]
    train(["experiment=superres", *tiny, *more], folder)
    return folder


def drawn(folder):
    return torch.from_numpy(np.load(folder / "images.npz")["arr_0"])


def test_a_cascade_enlarges_each_sample_by_itself(two_steps, larger, ran, tmp_path):
    """Image i of the cascade is a function of image i of the first model, and of nothing else that is drawn."""
    cascade = [f"ckpt={two_steps}", f"then={larger}"]
    for name, words in {
        "many": [*cascade, "n=5", "batch_size=2"],
        "few": [*cascade, "n=3"],
        "first": [f"ckpt={two_steps}", "n=3"],
        "noisy": [*cascade, "n=3", "condition.level=0.1"],
    }.items():
        ran("sample", [*words, f"hydra.run.dir={name}"])
    many, few = drawn(tmp_path / "many"), drawn(tmp_path / "few")
    assert many.shape == (5, 16, 16, 3)
    assert torch.equal(many[:3], few)
    first = tiles(Image.open(tmp_path / "first/grid.png"))
    assert (tiles(Image.open(tmp_path / "few/grid-1.png")) == first).all()
    shown = tiles(Image.open(tmp_path / "few/conditions.png"))
    assert (shown[:, :: shown.shape[1] // 8, :: shown.shape[2] // 8] == drawn(tmp_path / "first").numpy()).all()
    assert not torch.equal(drawn(tmp_path / "noisy"), few)
    assert not (tmp_path / "few/.drawn").exists()


def test_the_models_of_a_cascade_share_no_noise(two_steps, larger, ran, tmp_path):
    """Else the noise of one model would begin with that of the model before it."""
    ran("sample", [f"ckpt={two_steps}", f"then={larger}", "n=1", "hydra.run.dir=a"])
    ran("sample", [f"ckpt={two_steps}", "n=1", "hydra.run.dir=b"])
    alone = diffusion.load(larger, device="cpu").sample(1, given=str(tmp_path / "b/images/0.png"), progress=False)
    assert not torch.equal(alone.movedim(1, -1), drawn(tmp_path / "a"))


def test_classes_are_for_the_models_that_have_them(labelled, larger, ran, tmp_path):
    ran("sample", [f"ckpt={labelled}", f"then={larger}", "label=red", "n=2"])


def test_a_picture_of_the_models_size_is_enlarged_as_samples_are(larger, ran, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save("p.png")
    ran("edit", [f"ckpt={larger}", "upscale=p.png", "hydra.run.dir=out"])
    sampled = diffusion.load(larger, device="cpu").sample(1, given="p.png", progress=False)
    assert torch.equal(drawn(tmp_path / "out").movedim(3, 1), sampled)


def test_a_larger_picture_keeps_its_proportions(larger, ran, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 21, 3), np.uint8)).save("p.png")
    for n in (1, 2):
        words = [f"ckpt={larger}", "upscale=p.png", f"n={n}", f"hydra.run.dir={n}"]
        out = ran("edit", words)
    assert "21x9 to 42x18 pixels" in out
    assert drawn(tmp_path / "1").shape == (1, 18, 42, 3)
    assert torch.equal(drawn(tmp_path / "1"), drawn(tmp_path / "2")[:1])
    assert Image.open(tmp_path / "2/images/1.png").size == (42, 18)
    assert len(tiles(Image.open(tmp_path / "1/grid.png"))) == 2  # beside the picture, enlarged without the model


def test_a_small_picture_is_enlarged_as_if_it_went_on_by_its_reflection(larger, ran, tmp_path):
    """Nothing but the picture is kept: 3×12 pixels become 6×24, whose shorter side is below that of the network."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 12, 3), np.uint8)
    Image.fromarray(pixels).save("small.png")
    Image.fromarray(pixels[[0, 1, 2, 1, 0, 1, 2, 1]]).save("whole.png")
    for name in ("small", "whole"):
        ran("edit", [f"ckpt={larger}", f"upscale={name}.png", f"hydra.run.dir={name}"])
    small, whole = drawn(tmp_path / "small"), drawn(tmp_path / "whole")
    assert whole.shape == (1, 16, 24, 3)
    assert torch.equal(small, whole[:, :6])


REFUSED = {
    "sizes": ("sample", "{two_steps} then=[{larger},{larger}]", "given [3, 8, 8]; the one before it draws [3, 16, 16]"),
    "no condition": ("sample", "{larger} then={two_steps}", "it is given nothing, as it was trained without"),
    "classes": ("sample", "{two_steps} then={labelled}", "its classes are others than those of the first model"),
    "no file": ("sample", "{two_steps} then=nowhere", "nowhere"),
    "a model without pictures": ("edit", "{two_steps} upscale=p.png", "does not enlarge pictures"),
    "a mask": ("edit", "{larger} upscale=p.png mask=p.png", "upscale has no mask, operator or strength"),
    "two pictures": ("edit", "{larger} upscale=p.png image=p.png", "one of them"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(two_steps, larger, labelled, refused, tmp_path, name):
    kind, words, said = REFUSED[name]
    Image.new("RGB", (8, 8)).save("p.png")
    places = {"two_steps": two_steps, "larger": larger, "labelled": labelled}
    assert said.format(**places) in refused(kind, f"ckpt={words.format(**places)}".split())
