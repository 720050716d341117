from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.report.images import GAP, gif, grid, save_png, tiles


def random_images(n: int, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def test_a_grid_is_pixel_exact_and_can_be_split_into_its_images(tmp_path: Path) -> None:
    images = random_images(5, 30, 100)  # 640 pixels are wide enough for 2 columns in which each pixel is 3 wide
    picture = grid(images, columns=2, large=True)
    pixels = np.asarray(picture)
    assert pixels.shape == (3 * (90 + GAP) - GAP, 2 * (300 + GAP) - GAP, 3)
    # image 3 is in row 1, column 1, and each of its pixels is a square of 3 × 3
    block = pixels[90 + GAP : 180 + GAP, 300 + GAP :]
    assert (block[::3, ::3] == images[3].permute(1, 2, 0).numpy()).all()
    assert (block == block[::3, ::3].repeat(3, 0).repeat(3, 1)).all()
    assert (pixels[90 : 90 + GAP] == 255).all()
    assert (pixels[2 * (90 + GAP) :, 300:] == 255).all()  # the empty place in the last row
    with Image.open(save_png(picture, tmp_path / "new" / "grid.png")) as read:
        back = tiles(read)
    assert len(back) == 5
    for tile, image in zip(back, images, strict=True):
        assert (tile[::3, ::3] == image.permute(1, 2, 0).numpy()).all()


def test_grid_is_square_unless_columns_are_given() -> None:
    assert grid(random_images(9)).size == (3 * (6 + GAP) - GAP, 3 * (4 + GAP) - GAP)
    assert grid(random_images(1)).size == (6, 4)


def test_a_picture_of_unknown_layout_is_one_tile() -> None:
    picture = Image.new("RGB", (10, 7), "red")
    assert [tile.shape for tile in tiles(picture)] == [(7, 10, 3)]


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.uint8)])
def test_grid_refuses_invalid_image_tensors(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(N, C, H, W\)"):
        grid(images)


@pytest.mark.parametrize(
    ("n", "side", "width"), [(64, 8, 654), (16, 8, 518), (16, 32, 646), (64, 64, 526), (400, 64, 1318)]
)
def test_a_grid_is_scaled_by_a_whole_number_toward_the_target_width(n: int, side: int, width: int) -> None:
    images = random_images(n, side, side)
    assert grid(images, large=True).size == (width, width)


def test_gif_keeps_every_frame_loops_and_holds_the_last(tmp_path: Path) -> None:
    frames = [grid(random_images(n)) for n in (4, 3, 2 + 2, 4)]
    frames = [frame.resize(frames[0].size) for frame in frames]
    frames[2] = Image.new("RGB", frames[0].size, (10, 200, 30))
    path = gif(frames, tmp_path / "steps.gif", seconds=0.6, hold=1.5)
    with Image.open(path) as read:
        assert read.info["loop"] == 0
        assert read.n_frames == 4
        durations, shown = [], []
        for i in range(4):
            read.seek(i)
            durations.append(read.info["duration"])
            shown.append(np.asarray(read.convert("RGB")))
    assert durations == [200, 200, 200, 1500]
    # a frame with at most 256 colours is kept exactly: no dithering, and no colours from another frame's palette
    assert (shown[2] == (10, 200, 30)).all()
    assert (shown[3] == np.asarray(frames[3])).all()


def test_the_last_frame_of_a_gif_has_better_colours(tmp_path: Path) -> None:
    frame = grid(random_images(9, 16, 16))
    with Image.open(gif([frame.copy(), Image.new("RGB", frame.size), frame], tmp_path / "steps.gif")) as read:
        errors = []
        for i in (0, 2):
            read.seek(i)
            errors.append(np.square(np.asarray(read.convert("RGB")) - np.asarray(frame, dtype=float)).mean())
    assert errors[1] < 0.8 * errors[0]
