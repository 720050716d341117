"""`diffusion edit` and the library's equivalent: variants of an image, inpainting, images between two noises."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import diffusion
from diffusion.base.files import PACKAGE
from diffusion.base.pixels import tiles
from diffusion.kinds.pixels import pasted
from diffusion.library import Model
from diffusion.process.sampler import DDIM
from diffusion.sampling.drawing import Drawing


@pytest.fixture(scope="module")
def model(two_steps) -> Model:
    return diffusion.load(two_steps, device="cpu")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """picture.png, 16×8 with a red middle; mask.png, white in the middle of that; and bad files."""
    picture = np.full((8, 16, 3), 40, np.uint8)
    picture[:, 4:12] = (200, 30, 90)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    mask = np.zeros((8, 16), np.uint8)
    mask[:, 6:10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask.T).save(tmp_path / "tall.png")
    Image.fromarray(0 * mask).save(tmp_path / "black.png")
    Image.fromarray(0 * mask + 255).save(tmp_path / "white.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "picture.png").read_bytes()[:60])
    return tmp_path


PICTURE = torch.tensor([200, 30, 90], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 8, 8)
FILL = (torch.arange(8) % 6 >= 2).expand(8, 8)


def drawn(ran, run: Path, *words: str, folder: str = "out") -> Tensor:
    ran("edit", [f"ckpt={run}", "device=cpu", f"hydra.run.dir={folder}", *words])
    with np.load(Path(folder) / "images.npz") as saved:
        return torch.from_numpy(saved["arr_0"]).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("words", "draw"),
    [
        (["image=picture.png"], lambda m: m.edit("picture.png", n=8)),
        (
            ["image=picture.png", "strength=0.3", "n=3", "seed=5", "sampler=heun", "sampler.steps=6"],
            lambda m: m.edit(PICTURE, 0.3, 3, seed=5, sampler="heun", steps=6, batch_size=2),
        ),
        (["image=picture.png", "mask=mask.png"], lambda m: m.inpaint("picture.png", "mask.png")),
        (
            ["image=picture.png", "mask=mask.png", "inpainting=split_gibbs", "sampler=dpm_2m_sde", "sampler.steps=5"],
            lambda m: m.inpaint(PICTURE, FILL, "split_gibbs", sampler="dpm_2m_sde", steps=5),
        ),
        (
            ["image=picture.png", "operator=downsampling", "operator.factor=2", "inpainting.iterations=1", "n=3"],
            lambda m: m.solve("picture.png", "downsampling operator.factor=2", "mmps inpainting.iterations=1", n=3),
        ),
        (
            ["image=picture.png", "operator=grey", "observed=true", "noise_level=0.1", "inpainting=split_gibbs"],
            lambda m: m.solve(PICTURE, "grey", "split_gibbs", 0.1, True),
        ),
        (["interpolate=[3,4]", "n=5"], lambda m: m.interpolate(3, 4, 5, batch_size=2)),
    ],
)
def test_the_library_draws_the_same_images_as_the_command(ran, two_steps, model, pictures, words, draw):
    expected = drawn(ran, two_steps, *words)
    assert torch.equal(draw(model), expected)
    assert len(expected.flatten(1).unique(dim=0)) == len(expected)


def test_inpainting_keeps_known_pixels_exactly_and_changes_the_others(ran, two_steps, pictures):
    images = drawn(ran, two_steps, "image=picture.png", "mask=mask.png")
    assert torch.equal(images[..., ~FILL], PICTURE[:, ~FILL].expand(8, 3, -1))
    assert not torch.equal(images[..., FILL], PICTURE[:, FILL].expand(8, 3, -1))
    tile = tiles(Image.open("out/grid.png"))
    shown = [each[:: len(each) // 8, :: len(each) // 8][:, 4:12] for each in tile]
    assert (shown[0] == (200, 30, 90)).all()  # the picture, then its known part
    assert (shown[1][~FILL.numpy()] == (200, 30, 90)).all()
    assert (shown[1][FILL.numpy()] == 127).all()
    assert (shown[8] == images[0].permute(1, 2, 0).numpy()).all()
    assert sorted(path.name for path in Path("out/images").iterdir()) == [f"{i}.png" for i in range(8)]


def test_a_picture_of_any_size_is_filled_wherever_the_mask_is_and_kept_elsewhere(ran, refused, two_steps, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    mask = np.zeros((480, 640), np.uint8)
    mask[100:300, 440:] = 255  # beyond the middle 480x480; of twice its size is the window of 400x400 in that corner
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = [f"ckpt={two_steps}", "image=picture.png", "mask=mask.png", "n=2", "device=cpu", "hydra.run.dir=out"]
    out = ran("edit", words)
    assert "400x400 pixels at (240, 0)" in out
    filled = np.asarray(Image.open("out/images/1.png"))
    assert (filled[mask == 0] == picture[mask == 0]).all()
    with np.load("out/images.npz") as saved:
        image = Image.fromarray(saved["arr_0"][1]).resize((400, 400), Image.Resampling.BICUBIC)
    assert (filled[200, 640 - 20 :] == np.asarray(image)[200, 400 - 20 :]).all()  # far from its edges, which are soft
    mask[:] = np.arange(640) < 500
    Image.fromarray(255 * mask).save(tmp_path / "mask.png")
    line = refused("edit", words)
    assert "its 500x480 pixels are more than the largest window of the network, 480x480 of 640x480" in line


def test_a_filling_continues_the_colours_around_it_and_none_of_what_it_replaces():
    mask = np.zeros((90, 90), np.uint8)
    mask[30:, 30:] = 255
    whole = Image.fromarray(np.where(mask, 0, 200).astype(np.uint8))
    images = torch.full((1, 1, 10, 10), 100, dtype=torch.uint8)
    (filled,) = pasted(images, whole, Image.fromarray(mask), (0, 0, 90, 90), blur=4)
    pixels = np.asarray(filled).astype(int)
    assert (pixels[mask == 0] == 200).all()
    assert pixels[30, 60] > 180  # beside the known pixels; and from there on down to the filling
    assert (np.diff(pixels[30:, 60]) <= 0).all()
    assert (pixels[60:, 60:] == 100).all()
    exact = np.asarray(pasted(images, whole, Image.fromarray(mask), (0, 0, 90, 90), blur=0)[0])
    assert (exact[mask > 0] == 100).all()


def test_interpolation_starts_and_ends_with_the_samples_of_the_two_seeds(ran, two_steps, model, pictures):
    images = drawn(ran, two_steps, "interpolate=[7,2]", "sampler=dpm_2m_sde", "sampler.steps=3")
    ends = [model.sample(1, "dpm_2m_sde", seed=seed, steps=3)[0] for seed in (7, 2)]
    assert torch.equal(images[0], ends[0])
    assert torch.equal(images[-1], ends[1])
    assert Image.open("out/grid.png").height == Image.open("out/images/0.png").height * (
        Image.open("out/grid.png").width // (8 * 8)
    )
    assert Image.open("out/interpolation.gif").n_frames == 8


def test_all_interpolated_images_have_the_class_of_the_first():
    labelled = SimpleNamespace(network=SimpleNamespace(classes=3))
    drawing = Drawing(DDIM(2), (3, 8, 8), 0, counts={"a": 1, "b": 2, "c": 1})
    assert drawing.conditions(labelled, 4)["classes"].unique().numel() > 1
    on_the_way = replace(drawing, between=(0, 1))
    assert on_the_way.conditions(labelled, 4)["classes"].tolist() == [1] * 4
    assert replace(on_the_way, labels="c").conditions(labelled, 3)["classes"].tolist() == [2] * 3


REFUSED = {
    "no picture": [],
    "a picture and seeds": ["image=picture.png", "interpolate=[0,1]"],
    "a mask between seeds": ["mask=mask.png", "interpolate=[0,1]"],
    "a mask and a strength": ["image=picture.png", "mask=mask.png", "strength=0.5"],
    "several classes between seeds": ["interpolate=[0,1]", "labels=[1,2]"],
    "a third seed": ["interpolate=[0,1]", "seed=7"],
    "no such picture": ["image=nowhere.png"],
    "a damaged picture": ["image=broken.png"],
    "a mask of other proportions": ["image=picture.png", "mask=tall.png"],
    "an operator with a strength": ["image=picture.png", "operator=blur", "strength=0.5"],
    "an operator with a mask": ["image=picture.png", "operator=blur", "mask=mask.png"],
    "a mask without its picture": ["image=picture.png", "operator=mask"],
    "an operator between seeds": ["interpolate=[0,1]", "operator=blur"],
    "noise of a mask": ["image=picture.png", "mask=mask.png", "noise_level=0.1"],
    "a factor that does not divide the size": ["image=picture.png", "operator=downsampling", "operator.factor=3"],
    "a method for masks": ["image=picture.png", "operator=blur", "inpainting=repaint"],
    "an observation that is no picture": [
        "image=picture.png", "observed=true", "+operator._target_=torch.flatten", "+operator._partial_=true",
        "+operator.start_dim=1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_with_one_line(refused, two_steps, pictures, name):
    refused("edit", [f"ckpt={two_steps}", "device=cpu", *REFUSED[name], "hydra.run.dir=out"])
    assert not Path("out/images").exists()


def test_the_picture_of_an_inverse_problem_shows_the_original_and_the_observation(ran, two_steps, pictures):
    words = ["image=picture.png", "operator=downsampling", "operator.factor=4", "n=2", "noise_level=0"]
    images = drawn(ran, two_steps, *words)
    shown = tiles(Image.open("out/grid.png"))
    original, seen, one, two = shown[:, :: shown.shape[1] // 8, :: shown.shape[1] // 8]
    assert (original == PICTURE.movedim(0, -1).numpy()).all()
    assert (seen[:4, 4:] == PICTURE.movedim(0, -1)[:4, 4:].numpy()).all()
    assert (one == images[0].movedim(0, -1).numpy()).all()
    assert (two == images[1].movedim(0, -1).numpy()).all()
    drawn(ran, two_steps, *words, "observed=true", folder="observed")
    assert len(tiles(Image.open("observed/grid.png"))) == 4  # the observation, a gap, two answers


def test_the_operator_of_the_page_works(ran, two_steps, pictures, monkeypatch):
    page = (PACKAGE.parent / "docs/editing.md").read_text("utf-8")
    code, yaml = (re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1] for language in ("python", "yaml"))
    (pictures / "rows.py").write_text(code)
    (pictures / "conf/operator").mkdir(parents=True)
    (pictures / "conf/operator/rows.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(str(pictures))
    drawn(ran, two_steps, "--config-dir", "conf", "image=picture.png", "operator=rows", "n=2")
