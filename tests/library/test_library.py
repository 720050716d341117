"""The library gives the same results as the commands; the core needs neither Hydra nor Lightning."""

import contextlib
import copy
import functools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch import Tensor, nn

import diffusion
from diffusion import console
from diffusion.checkpoint.restore import build_denoiser
from diffusion.console import Bar
from diffusion.errors import NotFinite, UserError
from diffusion.evaluation.drawing import Drawing
from diffusion.library import Model
from diffusion.metric.precision import settings_of_torch
from diffusion.model import UNet
from diffusion.process.denoiser import Denoiser, clip
from diffusion.process.editing import SDEdit
from diffusion.process.grid import karras
from diffusion.process.guidance import AutoGuidance, ClassifierFree
from diffusion.process.inpainting import RePaint
from diffusion.process.objective import Simple
from diffusion.process.prediction import X0
from diffusion.process.sampler import DDIM, Heun
from diffusion.process.schedule import cosine
from diffusion.randomness import Streams


@pytest.fixture(scope="module")
def model(two_steps) -> Model:
    return diffusion.load(two_steps, device="cpu")


def test_a_model_is_shown_in_one_line(two_steps, model):
    file, network = two_steps / "checkpoints/last.ckpt", model.denoiser.network
    size = sum(weight.numel() for weight in network.parameters())
    shown = f"Model({file}: UNet, {size:,} parameters, 3×8×8, step 2, {model.restored.weights}, cpu)"
    assert repr(model) == shown


def test_the_names_of_the_library_are_listed():
    assert {"Model", "load", "score", "__version__"} <= set(dir(diffusion))


@pytest.mark.parametrize(
    ("words", "sampler", "settings"),
    [
        ([], None, {}),
        (["sampler.steps=3"], None, {"steps": 3}),
        (["sampler=heun", "sampler.steps=2", "grid@sampler.grid=karras"], "heun", {"steps": 2, "grid": "karras"}),
    ],
)
def test_samples_are_the_same_as_those_of_the_command(command, two_steps, model, tmp_path, words, sampler, settings):
    checkpoint = two_steps / "checkpoints/last.ckpt"
    status, out, err = command(
        "sample", [f"ckpt='{checkpoint}'", "n=5", "seed=7", "hydra.run.dir=out", "device=cpu", *words]
    )
    assert status == 0, out + err
    with np.load(tmp_path / "out/images.npz") as saved:
        expected = torch.from_numpy(saved["images"]).permute(0, 3, 1, 2)
    images = model.sample(5, sampler, seed=7, batch_size=2, **settings)
    assert images.dtype == torch.uint8
    assert torch.equal(images, expected)


def test_a_run_its_checkpoint_and_an_exported_file_load_the_same_model(command, two_steps, model, tmp_path):
    checkpoint = two_steps / "checkpoints/last.ckpt"
    subprocess.run(
        [sys.executable, "-m", "diffusion.export", str(checkpoint), str(tmp_path / "x.safetensors")], check=True
    )
    for path in (checkpoint, str(tmp_path / "x.safetensors")):
        assert torch.equal(diffusion.load(path).sample(3, seed=1), model.sample(3, seed=1))


def test_a_sampler_can_be_an_object(model):
    assert torch.equal(model.sample(2, DDIM(steps=4, threshold=clip)), model.sample(2, "ddim", steps=4))


@pytest.mark.parametrize(
    ("sampler", "settings", "words"),
    [
        ("hein", {}, "sampler=hein: unknown choice (did you mean heun?)"),
        ("heun", {"stepz": 3}, "sampler.stepz: sampler=heun has no such setting (did you mean steps?)"),
        ("heun", {"steps": "many"}, "sampler.steps=many: expected a whole number"),
        (None, {"stepz": 3}, "sampler.stepz: the run's sampler has no such setting"),
        (None, {"fills": True}, "sampler.fills: the run's sampler has no such setting"),
        ("heun", {"grid": "karas"}, "grid=karas: unknown choice (did you mean karras"),
        ("heun", {"grid": 5}, "grid=5: expected a name, one of "),
        ("heun", {"grid": karras}, "grid=karras: expected a name, one of "),
        (3, {}, "sampler=3: expected a name such as heun, or a Sampler"),
        (DDIM, {}, "sampler=DDIM: expected a name such as heun, or a Sampler"),
        (
            None,
            {"guidance": 2},
            "guidance=2: expected a name such as cfg, or a Guidance such as ClassifierFree(scale=2)",
        ),
        (None, {"worse": 3}, "3: expected the path of a run's folder"),
    ],
)
def test_invalid_samplers_and_settings_give_one_line_errors(model, sampler, settings, words):
    with pytest.raises(UserError) as refused:
        model.sample(1, sampler, **settings)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m.edit(x, strenght=0.5), r"strenght: edit has no such option \(did you mean strength\?\)"),
        (lambda m, x: m.edit(x, sampler=DDIM(2), sead=1), r"sead: edit has no such option \(did you mean seed\?\)"),
        (
            lambda m, x: m.inpaint(x, x[0] > 9, metod="x"),
            r"metod: inpaint has no such option \(did you mean method\?\)",
        ),
        (lambda m, x: m.sample(1, bach_size=2), r"bach_size: sample has no such option \(did you mean batch_size\?\)"),
        (lambda m, x: m.interpolate(0, 1, label=2), r"label: interpolate has no such option \(did you mean labels\?\)"),
    ],
)
def test_a_misspelt_option_is_corrected(model, call, words):
    picture = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    with pytest.raises(UserError, match=f"^{words}$"):
        call(model, picture)


def test_settings_of_a_grid_change_the_grid_of_the_sampler(model):
    grid = functools.partial(karras, rho=5)
    assert torch.equal(model.sample(2, "heun", steps=3, grid={"rho": 5}), model.sample(2, Heun(3, grid)))


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)], ids=["numpy", "byte", "torch"])
def test_a_seed_of_numpy_or_torch_is_the_same_as_the_number(model, seed):
    assert torch.equal(model.sample(2, seed=seed), model.sample(2, seed=3))
    assert torch.equal(model.interpolate(seed, 4, 2), model.interpolate(3, 4, 2))


@pytest.mark.parametrize(
    ("seed", "words"),
    [(False, "False"), ("0", "'0'"), (1.5, "1.5"), (None, "None"), (torch.tensor(True), r"bool \(\)")],
)  # fmt: skip
def test_a_seed_that_is_no_whole_number_is_refused(model, seed, words):
    picture = torch.zeros(model.restored.shape, dtype=torch.uint8)
    mask = torch.eye(8, dtype=torch.bool)
    for name, call in {
        "seed": lambda: model.sample(1, seed=seed),
        "seed ": lambda: model.edit(picture, n=1, seed=seed),
        "seed  ": lambda: model.inpaint(picture, mask, n=1, seed=seed),
        "first": lambda: model.interpolate(seed, 1),
        "last": lambda: model.interpolate(1, seed),
    }.items():
        with pytest.raises(UserError, match=f"^{name.strip()}={words}: expected a whole number$"):
            call()


@pytest.mark.parametrize(
    "setting",
    [{"n": 0}, {"n": 2, "batch_size": -1}, {"n": "2"}, {"n": 2.5}, {"n": True}, {"n": 2, "batch_size": "auto"}],
)
def test_a_number_of_samples_below_one_is_refused(model, setting):
    (name, value), *_ = reversed(setting.items())
    with pytest.raises(UserError, match=f"^{name}={value!r}: expected a whole number of at least 1$"):
        model.sample(**setting)


def test_guidance_that_needs_labels_is_refused_before_drawing(command, two_steps, model, monkeypatch):
    words = "the model was trained without labels, which classifier-free guidance needs; use guidance=none"
    monkeypatch.setattr(Drawing, "_draw", None)
    with pytest.raises(UserError, match=words):
        model.sample(2, guidance="cfg")
    checkpoint = two_steps / "checkpoints/last.ckpt"
    status, _, err = command("sample", [f"ckpt='{checkpoint}'", "n=2", "guidance=cfg", "device=cpu"])
    assert (status, words in err) == (2, True)


def test_a_path_can_name_the_worse_model(two_steps, model):
    guided = model.sample(2, guidance=AutoGuidance(scale=2), worse=str(two_steps))
    assert torch.equal(guided, model.sample(2, guidance=AutoGuidance(scale=2), worse=model))


def test_a_worse_model_is_used_as_given_even_if_its_file_is_gone(two_steps, model, tmp_path):
    copied = Path(shutil.copy(two_steps / "checkpoints/last.ckpt", tmp_path))
    worse = diffusion.load(copied, weights="raw", device="cpu")
    expected = model.sample(2, guidance="auto", worse=worse)
    copied.unlink()
    assert torch.equal(model.sample(2, guidance="auto", worse=worse), expected)
    assert not torch.equal(model.sample(2, guidance="none"), expected)


def test_own_choices_of_a_model_can_be_named_when_it_draws(two_steps, model, tmp_path):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler/mine.yaml").write_text("defaults: [heun, _self_]\nsteps: 2\n")
    ours = diffusion.load(two_steps, device="cpu", config_dir=tmp_path)
    assert torch.equal(ours.sample(1, "mine"), model.sample(1, "heun", steps=2))
    with pytest.raises(UserError, match="unknown choice"):
        model.sample(1, "mine")


def labelled(model: Model, label_dropout: float = 0.1) -> Model:
    """An untrained model with the classes "sky" and "1"."""
    recipe = model.restored.config
    config = {**recipe, "model": {**recipe["model"], "classes": 2}, "label_dropout": label_dropout}
    denoiser = build_denoiser(config, {}).eval()
    return replace(model, restored=replace(model.restored, denoiser=denoiser, config=config, labels={"sky": 1, "1": 1}))


@pytest.mark.parametrize(
    ("labels", "same"),
    [
        (np.array([0, 1]), [0, 1]),
        (torch.tensor([0, 1]), [0, 1]),
        ([np.int64(0), torch.tensor(1)], [0, 1]),
        (np.int64(0), 0),
        (torch.tensor(0), 0),
        (1, "1"),
        (0, "sky"),
    ],
)
def test_classes_can_be_numbers_of_numpy_and_torch(model, labels, same):
    known = labelled(model)
    given, expected = (known._drawing(labels=each).conditions(known.denoiser, 4) for each in (labels, same))
    assert torch.equal(given["classes"], expected["classes"])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], r"^labels=builtins.list: expected a class or several, by name or number$"),
        (1.0, "^labels=1.0: expected a whole number$"),
        ([True], "^labels=True: expected a whole number$"),
        (2, "^label=2: unknown class; expected one of sky, 1, or a number from 0 to 1$"),
    ],
)
def test_classes_that_are_neither_names_nor_numbers_are_refused(model, labels, words):
    with pytest.raises(UserError, match=words):
        labelled(model).sample(1, labels=labels)


def test_a_model_without_label_dropout_is_not_used_without_labels(model):
    words = "the model was trained with label_dropout=0, so it cannot estimate without a label"
    for given in ({"labels": "none"}, {"guidance": "cfg"}, {"guidance": ClassifierFree(scale=2)}):
        labelled(model)._drawing(**given)
        with pytest.raises(UserError, match=words):
            labelled(model, label_dropout=0)._drawing(**given)
    labelled(model, label_dropout=0)._drawing(guidance=ClassifierFree(scale=2), worse=model)


@pytest.mark.parametrize("guidance", ["auto", AutoGuidance(scale=2)])
def test_a_worse_model_with_other_images_is_refused(model, guidance):
    recipe = model.restored.config
    large = {**recipe, "data": {**recipe["data"], "resolution": 16}}
    other = replace(model, restored=replace(model.restored, config=large))
    with pytest.raises(UserError, match="its images are 3×16×16, but the model's are 3×8×8"):
        model.sample(1, guidance=guidance, worse=other)


def test_a_device_can_be_torchs(two_steps):
    assert diffusion.load(two_steps, device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": None}, "^None: expected the path of a run's folder, a checkpoint or an exported file$"),
        ({"weights": None}, "^weights=None: expected ema, raw, or a length such as 0.08$"),
        ({"device": None}, "^device=None: not on this machine"),
    ],
)
def test_invalid_arguments_of_load_are_refused(two_steps, arguments, words):
    with pytest.raises(UserError, match=words):
        diffusion.load(**{"path": two_steps, "device": "cpu", **arguments})


def test_pictures_and_masks_can_be_images_and_arrays(model, photos, tmp_path):
    """They give the same images as their files."""
    pixels = np.random.default_rng(0).integers(256, size=(20, 16, 3), dtype=np.uint8)
    white = np.zeros((20, 16), dtype=bool)
    white[:10] = True
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    Image.fromarray(white).save(tmp_path / "mask.png")
    edited = model.edit(tmp_path / "picture.png", n=2)
    filled = model.inpaint(tmp_path / "picture.png", tmp_path / "mask.png", n=2)
    images = Image.fromarray(pixels), Image.fromarray(white)
    for picture, mask in ((pixels, white), images, (pixels, white.astype(np.uint8) * 255)):
        assert torch.equal(model.edit(picture, n=2), edited)
        assert torch.equal(model.inpaint(picture, mask, n=2), filled)
    with pytest.raises(UserError, match="image=Image: 4x4 pixels, smaller than 8x8"):
        model.edit(Image.new("RGB", (4, 4)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.edit(None), "image: got NoneType; expected a file, an image of Pillow, an array or a tensor"),
        (lambda m: m.edit(np.zeros((3, 8, 8), np.uint8)), r"image: got an array uint8 \(3, 8, 8\); expected uint8"),
        (lambda m: m.edit(np.zeros((8, 8, 3))), r"image: got an array float64 \(8, 8, 3\); expected uint8 \(H, W, C\)"),
        (lambda m: m.edit(torch.zeros(3, 8, 8, dtype=torch.uint8), "x"), "strength='x': expected a number above 0"),
        (lambda m: m.inpaint(np.zeros((8, 8, 3), np.uint8), np.eye(8) > 0, 3), "method=3: expected a name such as rep"),
        (lambda m: m.interpolate(0, 1, seed=3), "seed: an interpolation has two seeds"),
        (lambda m: m.interpolate(0, 1, labels=[0, 1]), r"labels=builtins.list: an interpolation has one class"),
    ],
)
def test_invalid_arguments_of_edits_are_refused(model, call, words):
    with pytest.raises(UserError, match=f"^{words}"):
        call(model)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            torch.zeros(8, 3, 8, 8),
            r"images: got float32 \(8, 3, 8, 8\); expected a uint8 tensor of shape \(n, C, H, W\)",
        ),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"images: got uint8 \(3, 8, 8\)"),
        (np.zeros((8, 3, 8, 8), dtype=np.uint8), "images: got numpy.ndarray"),
        (
            torch.zeros(8, 9, 9, 3, dtype=torch.uint8),
            r"images: got uint8 \(8, 9, 9, 3\); channels come first: images.permute\(0, 3, 1, 2\)",
        ),
        (torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "^3 images to score; .* at least 4"),
    ],
)
def test_images_of_the_wrong_type_or_shape_are_not_scored(images, words):
    with pytest.raises(UserError, match=words):
        diffusion.score(images, features="lite0")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("landscape", r"^reference=landscape: no such folder, and no such choice \(did you mean landscapes\?\)"),
        (None, "^reference=None: expected a choice from conf/data, a folder, an ImageData, or a uint8 tensor"),
        (torch.zeros(8, 3, 9, 9), r"^reference: got float32 \(8, 3, 9, 9\); expected real images like the images"),
    ],
)
def test_an_invalid_reference_is_refused(reference, words):
    with pytest.raises(UserError, match=words):
        diffusion.score(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), reference, features="lite0", device="cpu")


def test_images_are_scored_against_a_tensor_of_real_images():
    real, images = torch.randint(256, (2, 8, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    score = diffusion.score(images, reference=real, features="lite0", device="cpu")["fd_lite0"]
    assert (score.reference.n, score.n, score.resolution) == (8, 8, "24x24")
    assert diffusion.score(real, reference=real, features="lite0", device="cpu")["fd_lite0"].value < score.value


def test_no_bar_is_shown_without_progress(monkeypatch, photos, tmp_path):
    """Neither of the images, nor of the reference, which is read for the first time."""
    made = []
    monkeypatch.setattr(console, "Bar", lambda *columns, **options: made.append(options) or Bar(*columns, **options))
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    images = torch.zeros(8, 3, 12, 12, dtype=torch.uint8)
    for progress in (False, True):
        diffusion.score(images, photos, "train", features="lite0", device="cpu", progress=progress)
        assert made, "no bar was made"
        assert {options["disable"] for options in made} == {not progress}
        made.clear()


def test_scores_are_the_same_as_those_of_the_command(command, photos, tmp_path):
    status, out, err = command(
        "evaluate",
        [f"images='{photos}'", "data=folder", f"data.root='{photos}'", "data.resolution=24", "features=lite0",
         "baselines=[]", "hydra.run.dir=out", "device=cpu"],
    )  # fmt: skip
    assert status == 0, out + err
    expected = {s["metric"]: s for s in json.loads((tmp_path / "out/scores.json").read_text()) if s["what"] == "images"}
    data = diffusion.data.Folder(root=str(photos), resolution=24, val=0, test=0, batch_size=1)
    data.prepare_data()
    images = data.splits["train"].images
    scores = diffusion.score(images, reference=photos, features="lite0", device="cpu")
    assert {name: score.value for name, score in scores.items()} == {n: s["value"] for n, s in expected.items()}
    assert {name: score.low for name, score in scores.items()} == {n: s.get("low") for n, s in expected.items()}
    assert scores["fd_lite0"].reference.split == "val"


def test_scoring_against_bundled_photographs_leaves_hydra_unchanged():
    before = GlobalHydra.instance().hydra
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    score = diffusion.score(images, reference="landscapes", split="test", features="lite0", device="cpu")["fd_lite0"]
    assert (score.reference.n, score.resolution) == (250, "32x32")
    assert GlobalHydra.instance().hydra is before
    with pytest.raises(UserError, match="split=tset: expected one of train, val, test"):
        diffusion.score(images, split="tset", features="lite0")


class Constant(nn.Module):
    """A network that always predicts the same image."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.zeros(1, 3, 8, 8))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.picture.expand(len(x), -1, -1, -1)


def test_samples_are_drawn_in_evaluation_mode_and_in_the_precision_of_the_run(model, monkeypatch):
    forward, seen = UNet.forward, set()

    def noted(self, *args, **kwargs):
        seen.add((self.training, *(each.fp32_precision for each in settings_of_torch())))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", noted)
    before = [each.fp32_precision for each in settings_of_torch()]
    exact = replace(model.restored, config=model.restored.config | {"matmul_precision": "highest"})
    model.denoiser.train()
    replace(model, restored=exact).sample(2)
    assert seen == {(False, "ieee", "ieee", "ieee", "ieee")}
    assert model.denoiser.training
    assert [each.fp32_precision for each in settings_of_torch()] == before
    model.denoiser.eval()


def test_a_model_loaded_by_a_relative_path_does_not_depend_on_the_current_folder(two_steps, tmp_path, monkeypatch):
    monkeypatch.chdir(two_steps.parent)
    monkeypatch.setenv("HOME", str(two_steps.parent))
    for path in (two_steps.name, f"~/{two_steps.name}"):
        assert diffusion.load(path, device="cpu").restored.path == two_steps / "checkpoints/last.ckpt"


def test_a_worse_model_stays_on_its_device(model):
    worse = replace(model, restored=copy.deepcopy(model.restored))
    away = replace(model, device=torch.device("meta"))
    with contextlib.suppress(NotImplementedError):  # such as copying from the meta device
        away._drawing(guidance="auto", worse=worse)
    assert {weight.device.type for weight in worse.denoiser.parameters()} == {"cpu"}


@pytest.mark.parametrize(("precision", "advice"), [(None, ""), ("16-mixed", "; float16 may overflow: use")])
def test_samples_that_are_not_finite_are_refused(model, precision, advice):
    broken = replace(model, restored=copy.deepcopy(model.restored))
    next(broken.denoiser.parameters()).data.fill_(torch.nan)
    with pytest.raises(NotFinite, match=rf"^2 of 2 samples are not finite{advice}"):
        broken.sample(2, precision=precision)
    drawing = replace(broken._drawing(), finite=False)
    with console.console.capture() as said:
        drawing(broken.denoiser, 2, torch.device("cpu"))
    assert "warning: 2 of 2 samples are not finite" in said.get()


def test_numbers_of_numpy_are_accepted(model, two_steps):
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert torch.equal(model.edit(picture, np.float32(0.5), n=1), model.edit(picture, 0.5, n=1))


@pytest.mark.parametrize("argument", ["features", "metrics"])
def test_choices_of_a_score_are_names(argument):
    images = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=f"^{argument}=builtins.list: expected a name such as"):
        diffusion.score(images, images, **{"device": "cpu", argument: ["fd"]})


def test_a_picture_that_is_not_floating_point_is_refused():
    picture, known = torch.zeros(3, 8, 8), torch.eye(8) > 0
    for call in (
        lambda: SDEdit(0.5)(DDIM(steps=2), picture.to(torch.uint8)),
        lambda: RePaint()(DDIM(steps=2), picture.to(torch.uint8), known),
        lambda: SDEdit(0.5)(DDIM(steps=2), picture[None]),
    ):
        with pytest.raises(UserError, match=r"^picture: got .* expected floating point \(C, H, W\) in \[−1, 1\]"):
            call()
    with pytest.raises(UserError, match=r"^mask: got float32; expected bool"):
        RePaint()(DDIM(steps=2), picture, known.float())


def test_streams_on_another_device_than_the_images_are_refused():
    denoiser = Denoiser(Constant(), cosine(), X0())
    with pytest.raises(UserError, match=r"the streams are on cpu and the images on meta; pass device=x.device"):
        Simple()(denoiser, torch.zeros(2, 3, 8, 8, device="meta"), Streams.of(2, "train", 0))


def test_any_network_trains_in_a_plain_loop():
    """As in the README."""
    denoiser, objective = Denoiser(Constant(), cosine(), X0()), Simple()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=0.1)
    x0 = torch.full((16, 3, 8, 8), 0.7)
    for step in range(150):
        loss = objective(denoiser, x0, Streams.of(len(x0), "train", step))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    streams = Streams.of(4, "sample", 0)
    images = DDIM(steps=5)(denoiser, streams.normal(3, 8, 8), streams)
    assert images.shape == (4, 3, 8, 8)
    assert (images - 0.7).abs().max() < 0.05


def test_images_that_are_not_floating_point_are_refused():
    """Their estimate would be rounded to 0."""
    denoiser, images = Denoiser(Constant(), cosine(), X0()), torch.full((2, 3, 8, 8), 200, dtype=torch.uint8)
    for call in (
        lambda: denoiser(images, torch.full((2,), 0.5)),
        lambda: Simple()(denoiser, images, Streams.of(2, "train", 0)),
    ):
        with pytest.raises(
            UserError, match=r"^denoiser: the images are uint8; .* divide uint8 by 127.5 and subtract 1$"
        ):
            call()


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_an_output_of_another_size_is_refused(channels):
    """It would broadcast, or its last channels would be ignored."""

    class Other(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x.new_zeros(len(x), channels, 8, 8)

    found = rf"turns \(2, 3, 8, 8\) into \(2, {channels}, 8, 8\); expected the same size, and 3 channels, or 6"
    with pytest.raises(UserError, match=f"^denoiser: the network {found}"):
        Simple()(Denoiser(Other(), cosine(), X0()), torch.zeros(2, 3, 8, 8), Streams.of(2, "train", 0))


@pytest.mark.parametrize(
    ("schedule", "prediction", "words"),
    [
        (cosine, X0(), r"the schedule is cosine itself; pass its result, cosine\(\)"),
        (cosine(), X0, r"the prediction is X0 itself; pass its result, X0\(\)"),
        ("cosine", "v", r"the schedule is 'cosine'; expected one like cosine\(\)"),
        (cosine(), "v", r"the prediction is 'v'; expected one like V\(\)"),
    ],
)
def test_a_denoiser_of_something_else_is_refused(schedule, prediction, words):
    with pytest.raises(UserError, match=f"^denoiser: {words}$"):
        Denoiser(Constant(), schedule, prediction)


@pytest.mark.parametrize("steps", [2.5, "2"])
def test_a_number_of_steps_must_be_whole(steps):
    with pytest.raises(UserError, match=f"^sampler: DDIM has steps = {steps}; it must be a whole number$"):
        DDIM(steps=steps)


def test_the_core_imports_neither_hydra_nor_lightning():
    program = (
        "import sys; import diffusion, diffusion.process.sampler, diffusion.process.objective, diffusion.model.unet\n"
        "assert not {'hydra', 'lightning', 'omegaconf', 'pydantic'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
