"""A network that draws one picture of a pair from the other: from the folders to the samples."""

import numpy as np
import torch
from composing import train
from PIL import Image, ImageOps

import diffusion
from diffusion.base.pixels import tiles


def test_samples_are_drawn_from_the_pairs_of_held_out_images(photos, tiny, ran, tmp_path):
    """Each pair is the negative of its photograph in grey, NAME.webp for NAME.png."""
    (pairs := tmp_path / "pairs").mkdir()
    for file in photos.glob("*.png"):
        ImageOps.invert(Image.open(file).convert("L")).save(pairs / f"{file.stem}.webp", lossless=True)
    words = ["condition=pairs", f"condition.root={pairs}", "condition.channels=1", "samples.n=0"]
    train([*tiny, *words, "trainer.max_steps=4", "optimizer.lr=1e-2"], tmp_path / "run")
    ran("sample", [f"ckpt={tmp_path}/run", "n=3", "hydra.run.dir=out"])
    held_out = diffusion.load(tmp_path / "run", device="cpu").drawing().given.split
    shown = torch.from_numpy(tiles(Image.open(tmp_path / "out/conditions.png")).copy())
    side = shown.shape[1] // 8
    luma = held_out.images[:3].float().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)
    assert (shown[:, side // 2 :: side, side // 2 :: side, 0] + luma - 255).abs().max() < 3  # cut as the images are
    drawn = np.load(tmp_path / "out/images.npz")["arr_0"]
    one = pairs / f"{held_out.names[1].rpartition('.')[0]}.webp"
    ran("sample", [f"ckpt={tmp_path}/run", "n=2", f"given={one}", "hydra.run.dir=one"])
    assert (np.load(tmp_path / "one/images.npz")["arr_0"][1] == drawn[1]).all()
