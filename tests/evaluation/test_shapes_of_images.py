"""Grey and RGBA images and non-square images, from the folder to the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion
from diffusion.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SCORED = (
    "score.n=8",
    "features=lite0",
    "score.audit=[pixels]",
    "samples.n=5",
    "trainer.max_steps=2",
)
SHAPES = {"grey, wide": (1, 8, 12), "RGBA, tall": (4, 12, 8)}


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


@pytest.mark.parametrize("kind", ["grey, wide", pytest.param("RGBA, tall", marks=pytest.mark.whole_report)])
def test_any_image_shape_works_from_the_folder_to_the_report(ran, tiny, folder, tmp_path, kind) -> None:
    shape = channels, height, width = SHAPES[kind]
    assert f"images of {height}×{width} pixels" in ran(
        "train", [*tiny, *data(folder, shape), *SCORED, f"hydra.run.dir={tmp_path}/run"]
    )
    scored = json.loads((tmp_path / "run/scores.json").read_text())
    assert {record["what"] for record in scored} == {"samples", "noise", "real", "split_half"}
    said = {1: " grey as RGB", 3: "", 4: " RGBA over white"}[channels]
    assert {record["resolution"] for record in scored if record["metric"] == "fd_lite0"} == {f"{height}x{width}{said}"}
    if channels == 4:
        assert {file.name for file in (tmp_path / "run/figures").iterdir()} >= {"copies.png"}

    drawn = ["device=cpu", "n=6", "trajectory=true", "hydra.run.dir=samples"]
    ran("sample", [f"ckpt={tmp_path}/run", *drawn])
    pixels = np.load(tmp_path / "samples/images.npz")["arr_0"]
    assert pixels.shape == (6, height, width, channels)
    with Image.open(tmp_path / "samples/images/3.png") as image:
        assert (image.mode, image.size) == (MODES[channels], (width, height))
        assert np.array_equal(np.asarray(image).reshape(pixels[3].shape), pixels[3])

    own = ["data=folder", *data(folder, shape), "data.val=8", "features=lite0", "baselines=[]", "device=cpu"]
    ran("evaluate", ["images=samples/images", *own, "hydra.run.dir=of_images"])
    if channels == 4:  # elsewhere, they are not looked for, see `SHORT`
        assert all((tmp_path / place / "referee.json").is_file() for place in ("run", "of_images"))


def test_images_with_other_channels_than_the_reference_are_refused() -> None:
    grey, real = (torch.zeros(8, channels, 8, 12, dtype=torch.uint8) for channels in (1, 3))
    with pytest.raises(UserError, match="reference"):
        diffusion.score(grey, real, features="lite0", device="cpu")


BAD = {
    "an indivisible width": ["data.resolution=[8,13]"],
    "a size that fits into no memory": ["data.resolution=100000"],
    "a network for other images": ["model.in_channels=5"],
}


@pytest.mark.parametrize("case", BAD)
def test_incompatible_image_settings_give_one_line_errors(refused, tiny, case) -> None:
    refused("train", [*tiny, *BAD[case], "name=bad"])
