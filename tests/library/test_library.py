"""The library gives the same results as the commands."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import diffusion
from diffusion.base import console
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.library import Model
from diffusion.metric.precision import SETTINGS
from diffusion.model import UNet
from diffusion.process.denoiser import clip
from diffusion.process.grid import karras
from diffusion.process.sampler import DDIM, Heun

PICTURE = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)


@pytest.fixture(scope="module")
def model(two_steps) -> Model:
    return diffusion.load(two_steps, device="cpu")


@pytest.mark.parametrize(
    ("words", "sampler", "settings"),
    [
        (["sampler.steps=3"], None, {"steps": 3}),
        (["sampler=heun", "sampler.steps=2", "grid@sampler.grid=karras"], "heun", {"steps": 2, "grid": "karras"}),
    ],
)
def test_samples_are_the_same_as_those_of_the_command(ran, two_steps, model, tmp_path, words, sampler, settings):
    words = [f"ckpt='{two_steps}'", "n=5", "seed=7", "hydra.run.dir=out", "device=cpu", *words]
    ran("sample", words)
    expected = torch.from_numpy(np.load(tmp_path / "out/images.npz")["arr_0"]).permute(0, 3, 1, 2)
    assert torch.equal(model.sample(5, sampler, seed=np.int64(7), batch_size=2, **settings), expected)


def test_samplers_and_grids_can_be_objects(model):
    assert torch.equal(model.sample(2, DDIM(steps=4, threshold=clip)), model.sample(2, "ddim", steps=4))
    of_grid = Heun(3, lambda schedule, steps: karras(schedule, steps, rho=5))
    assert torch.equal(model.sample(2, "heun", steps=3, grid={"rho": 5}), model.sample(2, of_grid))


def test_choices_are_followed_by_their_settings(two_steps, model):
    assert torch.equal(model.sample(2, "heun sampler.steps=3"), model.sample(2, "heun", steps=3))
    weak = f"auto guidance.ckpt={two_steps} guidance.weights=raw"
    assert torch.equal(model.sample(2, guidance=f"{weak} guidance.scale=1"), model.sample(2, guidance="none"))
    assert not torch.equal(model.sample(2, guidance=weak), model.sample(2, guidance="none"))


def test_own_choices_of_a_model_can_be_named_when_it_draws(two_steps, model, tmp_path, monkeypatch):
    """Wherever the current folder is later."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/sampler").mkdir(parents=True)
    (tmp_path / "own/sampler/mine.yaml").write_text("defaults: [heun, _self_]\nsteps: 2\n")
    ours = diffusion.load(two_steps, device=torch.device("cpu"), config_dir="own")
    monkeypatch.chdir("/")
    assert torch.equal(ours.sample(1, "mine"), model.sample(1, "heun", steps=2))
    with pytest.raises(UserError):
        model.sample(1, "mine")


def test_a_model_without_label_dropout_is_not_used_without_labels(labelled, model):
    known = diffusion.load(labelled, device="cpu")
    strict = replace(known, restored=replace(known.restored, config={**known.restored.config, "label_dropout": 0}))
    for given in ({"labels": "none"}, {"guidance": "cfg"}):
        known.drawing(**given)
        with pytest.raises(UserError):
            strict.drawing(**given)
    strict.drawing(guidance=f"cfg guidance.ckpt={model.restored.path}")  # an unconditional one


def test_pictures_and_masks_can_be_images_and_arrays(model, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(20, 16, 3), dtype=np.uint8)
    white = np.zeros((20, 16), dtype=bool)
    white[:10] = True
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    Image.fromarray(white).save(tmp_path / "mask.png")
    filled = model.inpaint(tmp_path / "picture.png", tmp_path / "mask.png", n=2, steps=2)
    images = Image.fromarray(pixels), Image.fromarray(white)
    for picture, mask in ((pixels, white), images, (pixels, white.astype(np.uint8) * 255)):
        assert torch.equal(model.inpaint(picture, mask, n=2, steps=2), filled)


REFUSED = {
    "an unknown setting": lambda m: m.sample(1, "heun", stepz=3),
    "a setting that the run's sampler lacks": lambda m: m.sample(1, stepz=3),
    "a value of another type": lambda m: m.sample(1, "heun", steps="many"),
    "settings of an object": lambda m: m.sample(1, DDIM(2), steps=3),
    "a seed that stands for chance elsewhere": lambda m: m.sample(1, seed=-1),
    "another precision": lambda m: m.sample(1, precision="bf16"),
    "a misspelt option": lambda m: m.edit(PICTURE, strenght=0.5),
    "another number of pixels": lambda m: m.edit(PICTURE[:, :4]),
    "a picture of floats": lambda m: m.edit(PICTURE.float()),
    "a picture that is too small": lambda m: m.edit(Image.new("RGB", (4, 4))),
    "an array with the channels first": lambda m: m.edit(np.zeros((3, 8, 8), np.uint8)),
    "a mask of floats": lambda m: m.inpaint(PICTURE, torch.eye(8)),
    "images of floats": lambda m: diffusion.score(torch.zeros(8, 3, 8, 8)),
    "channels that come last": lambda m: diffusion.score(torch.zeros(8, 9, 9, 3, dtype=torch.uint8)),
    "an unknown reference": lambda m: diffusion.score(PICTURE[None].repeat(8, 1, 1, 1), "landscape", features="lite0"),
    "a reference of another size": lambda m: diffusion.score(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), PICTURE[None]),
    "a device that is not there": lambda m: diffusion.load(m.restored.path, device="cuda:99"),
    "no model": lambda m: diffusion.load("nowhere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_with_one_line(model, name):
    with pytest.raises(UserError):
        REFUSED[name](model)


def test_samples_that_are_not_finite_are_refused(model):
    broken = replace(model, restored=copy.deepcopy(model.restored))
    next(broken.denoiser.parameters()).data.fill_(torch.nan)
    with pytest.raises(UserError):
        broken.sample(2)
    drawing = replace(broken.drawing(), finite=False)  # as during training
    with console.console.capture() as said:
        drawing(broken.denoiser, 2, torch.device("cpu"))
    assert "warning" in said.get()


def test_samples_are_drawn_in_the_precision_of_the_run(model, monkeypatch):
    forward, seen = UNet.forward, set()

    def noted(self, *args, **kwargs):
        seen.add(tuple(each.fp32_precision for each in SETTINGS))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", noted)
    before = [each.fp32_precision for each in SETTINGS]
    exact = replace(model.restored, config=model.restored.config | {"matmul_precision": "highest"})
    replace(model, restored=exact).sample(2)
    assert seen == {("ieee", "ieee", "ieee", "ieee")}
    assert [each.fp32_precision for each in SETTINGS] == before


def test_scores_are_the_same_as_those_of_the_command(ran, photos, tmp_path):
    data = ["data=folder", f"data.root='{photos}'", "data.resolution=24"]
    words = [f"images='{photos}'", *data, "features=lite0", "baselines=[]", "hydra.run.dir=out", "device=cpu"]
    ran("evaluate", words)
    expected = {s["metric"]: s for s in json.loads((tmp_path / "out/scores.json").read_text()) if s["what"] == "images"}
    folder = diffusion.data.Folder(root=str(photos), resolution=24, val=0, test=0, batch_size=1)
    folder.setup()
    before = GlobalHydra.instance().hydra
    scores = diffusion.score(folder.splits["train"].images, photos, features="lite0", device="cpu")
    assert GlobalHydra.instance().hydra is before
    assert {name: (s.value, s.low) for name, s in scores.items()} == {
        name: (s["value"], s.get("low")) for name, s in expected.items()
    }


def test_images_are_scored_against_a_tensor_of_real_images():
    real, images = torch.randint(256, (2, 8, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    score = diffusion.score(images, reference=real, features="lite0", device="cpu")["fd_lite0"]
    assert (score.reference.n, score.n, score.resolution) == (8, 8, "24x24")
    assert diffusion.score(real, reference=real, features="lite0", device="cpu")["fd_lite0"].value < score.value


def test_tiles_of_a_reference_count_as_photographs(monkeypatch):
    real = diffusion.data.Split(PICTURE + torch.arange(8, dtype=torch.uint8).view(-1, 1, 1, 1), [*"aaabbbcc"])
    monkeypatch.setattr("diffusion.library.model.split_of", lambda *_: real)
    score = diffusion.score(PICTURE.flip(1) + real.images[:4], features="lite0", device="cpu")["fd_lite0"]
    assert 0 < score.samples_error < score.error


def test_a_model_scores_studies_and_exports_itself(two_steps, model, tmp_path):
    of_images = {"features": "lite0", "steps": 2, "seed": 3}
    score = model.score(6, **of_images)["fd_lite0"]
    assert (score.n, score.reference.split, score.reference.n) == (6, "val", 8)
    real = make(model.restored.config["data"], "data")
    real.setup()
    images = model.sample(6, steps=2, seed=3)
    assert diffusion.score(images, real.splits["val"], features="lite0", device="cpu")["fd_lite0"].value == score.value
    studied = model.study(["ddim"], [2, 3], n=6, features="lite0", seed=3)
    assert [*studied] == [("ddim", 2), ("ddim", 3)]
    assert studied["ddim", 2]["fd_lite0"].value == score.value
    model.export(tmp_path / "model.safetensors")
    assert torch.equal(diffusion.load(tmp_path / "model.safetensors", device="cpu").sample(1), model.sample(1))
    with pytest.raises(UserError):
        model.export(tmp_path / "model", "pickle")
