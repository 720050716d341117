"""Grey and RGBA images and non-square images, from the folder to the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion
from diffusion import export
from diffusion.data.folder import Folder
from diffusion.errors import UserError
from diffusion.report.__main__ import main as report

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SCORED = (
    "score.n=8",
    "features=lite0",
    "score.audit=[pixels]",
    "samples.n=5",
    "trainer.max_steps=2",
)
SHAPES = {"grey, wide": (1, 8, 12), "RGBA": (4, 8, 8), "RGB, tall": (3, 12, 8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 RGBA images of 30x24 pixels with various opacities."""
    root = tmp_path_factory.mktemp("images")
    for i in range(40):
        random = np.random.default_rng(i)
        small = Image.fromarray(random.integers(0, 256, (3, 4, 4), dtype=np.uint8))
        picture = small.resize((30, 24), Image.Resampling.NEAREST)
        picture.save(root / f"{i:02d}.png")
    return root


def data(folder: Path, shape: tuple[int, int, int]) -> list[str]:
    channels, height, width = shape
    return [f"data.root={folder}", f"data.channels={channels}", f"data.resolution=[{height},{width}]"]


@pytest.mark.whole_report
@pytest.mark.parametrize("kind", SHAPES)
def test_any_image_shape_works_from_the_folder_to_the_report(command, tiny, folder, tmp_path, kind) -> None:
    shape = channels, height, width = SHAPES[kind]
    status, out, err = command("train", [*tiny, *data(folder, shape), *SCORED, f"hydra.run.dir={tmp_path}/run"])
    assert status == 0, out + err
    assert f"images {height}×{width}" in out
    scored = json.loads((tmp_path / "run/scores.json").read_text())
    assert {record["what"] for record in scored} == {"samples", "noise", "real", "floor"}
    said = {1: " grey as RGB", 3: "", 4: " RGBA over white"}[channels]
    assert {record["resolution"] for record in scored if record["metric"] == "fd_lite0"} == {f"{height}x{width}{said}"}
    assert {file.name for file in (tmp_path / "run/figures").iterdir()} >= {"noising.png", "copies.png"}

    drawn = ["device=cpu", "n=6", "trajectory=true", "hydra.run.dir=samples"]
    status, out, err = command("sample", [f"ckpt={tmp_path}/run", *drawn])
    assert status == 0, out + err
    pixels = np.load(tmp_path / "samples/images.npz")["images"]
    assert pixels.shape == (6, height, width, channels)
    with Image.open(tmp_path / "samples/images/3.png") as image:
        assert (image.mode, image.size) == (MODES[channels], (width, height))
        assert np.array_equal(np.asarray(image).reshape(pixels[3].shape), pixels[3])

    again = ["device=cpu", "n=8", "baselines=[]", "hydra.run.dir=again"]
    status, out, err = command("evaluate", [f"ckpt={tmp_path}/run", *again])
    assert status == 0, out + err
    before = {r["metric"]: r["value"] for r in scored if r["what"] == "samples"}
    after = {r["metric"]: r["value"] for r in json.loads((tmp_path / "again/scores.json").read_text())}
    assert after == {metric: before[metric] for metric in after}

    own = ["data=folder", *data(folder, shape), "data.val=8", "features=lite0", "baselines=[]", "device=cpu"]
    status, out, err = command("evaluate", ["images=samples/images", *own, "hydra.run.dir=of_images"])
    assert status == 0, out + err
    assert report([f"{tmp_path}/run"]) == 0


@pytest.mark.parametrize("kind", ["grey, wide", "RGBA"])
def test_saved_grey_and_rgba_images_are_read_back_unchanged(tmp_path, kind) -> None:
    channels, height, width = SHAPES[kind]
    pixels = np.random.default_rng(0).integers(1, 256, (8, height, width, channels), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image[..., 0] if channels == 1 else image).save(tmp_path / f"{i}.png")
    made = Folder(tmp_path, [height, width], channels=channels, val=0, test=0)
    made.prepare_data()
    split = made.splits["train"]
    read = dict(zip(split.names, split.images.permute(0, 2, 3, 1).numpy(), strict=True))
    assert all(np.array_equal(read[f"{i}.png"], pixels[i]) for i in range(8))


def test_a_model_of_grey_images_is_exported_for_diffusers(command, tiny, folder, tmp_path) -> None:
    words = [*tiny, *data(folder, SHAPES["grey, wide"]), "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/run"]
    assert command("train", words)[0] == 0
    assert export.main([f"{tmp_path}/run", f"{tmp_path}/theirs", "--format", "diffusers"]) == 0
    net = json.loads((tmp_path / "theirs/unet/config.json").read_text())
    assert (net["in_channels"], net["out_channels"], net["sample_size"]) == (1, 1, [8, 12])
    own, theirs = (diffusion.load(tmp_path / name, device="cpu") for name in ("run", "theirs"))
    assert own.restored.shape == theirs.restored.shape == (1, 8, 12)
    assert np.array_equal(own.sample(3, progress=False), theirs.sample(3, progress=False))


def test_images_with_other_channels_than_the_reference_are_refused(folder) -> None:
    made = Folder(folder, [8, 12], channels=3, val=8, test=0)
    grey = torch.zeros(8, 1, 8, 12, dtype=torch.uint8)
    with pytest.raises(UserError, match="8x12 grey as RGB pixels but the reference has 8x12"):
        diffusion.score(grey, made, features="lite0", device="cpu")


BAD = {
    "two channels": (["data.channels=2"], ["data.channels=2", "1, 3, 4"]),
    "three sides": (["data.resolution=[8,8,8]"], ["data.resolution=[8,8,8]", "a list of 2"]),
    "no side": (["data.resolution=[8,0]"], ["data.resolution=[8,0]", "at least 1"]),
    "an indivisible width": (["data.resolution=[8,13]"], ["data.resolution=[8,13]", "multiples of 2", "[8,12]"]),
    "a network for other images": (["model.in_channels=5"], ["model.in_channels=5", "3 channels", "data.channels"]),
    "photographs without transparency": (
        ["data=landscapes", "data.channels=4"],
        ["data.channels=4", "1, 3"],
    ),
    "images that are too small": (["data.resolution=[32,16]"], ["none of", "16x32"]),
}


@pytest.mark.parametrize("case", BAD)
def test_incompatible_image_settings_give_one_line_errors(command, tiny, case) -> None:
    overrides, words = BAD[case]
    if "data=landscapes" in overrides:
        tiny = [word for word in tiny if not word.startswith(("data=", "data.root", "data.val", "data.test"))]
    status, out, err = command("train", [*tiny, *overrides, "name=bad"])
    assert status == 2, out + err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line
