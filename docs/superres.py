"""Score the cascades of the study `superres` beside one network and bicubic interpolation.

    python -m docs.superres outputs/results/superres [SEED …]

Without seeds, those whose networks are all trained. Enlargements of the 250 validation tiles from 32 to 128 pixels:
PSNR in dB, the mean over tiles; a distance like LPIPS (Zhang et al. 2018) on the bundled features: the squared
difference of unit-length activations, averaged over positions and summed over four depths, without learned weights;
and the Fréchet distance to the tiles. 250 images drawn from noise: the Fréchet distance to the tiles. The scores are
written to docs/results/superres/scores/*.csv; seed 0 also draws enlarged.png, drawn.png and latents.png.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import diffusion
from diffusion.base.pixels import grid, save_png
from diffusion.config.build import make
from diffusion.config.choices import choice, composed
from diffusion.data import Landscapes, to_uint8, to_unit
from diffusion.library import Model
from diffusion.randomness import seed_for
from diffusion.runs.folder import jobs_of
from diffusion.sampling.given import Given

OUT = Path(__file__).parent / "results/superres"
DEPTHS = (2, 4, 10, 15)  # blocks of EfficientNet-Lite0, at strides of 4, 8, 16 and 32
SHOWN = 6
N = 250  # the tiles of the split val
Networks = dict[str, Model]


def networks(root: Path) -> dict[int, Networks]:
    """Seed -> the networks `base`, `64`, `128`, `whole` and `alone`, for the seeds that have all of them."""
    found: dict[int, Networks] = {}
    for sweep in ("base", "super", "whole", "alone"):
        for run in jobs_of(root / sweep):
            if run.state == "complete":
                name = str(run.config["data"]["resolution"]) if sweep == "super" else sweep
                found.setdefault(run.config["seed"], {})[name] = diffusion.load(run.folder, device="cpu")
    return {seed: networks for seed, networks in sorted(found.items()) if len(networks) == 5}


def enlarged(model: Model, pictures: Tensor, stage: int, level: float = 0.0) -> Tensor:
    """Pictures, uint8 (n, C, h, w), enlarged as by a model of a cascade."""
    drawing = model.drawing(make(composed("train", ["experiment=superres"])["sampler"], "sampler"))
    assert drawing.given is not None
    condition = drawing.given.condition
    condition.level = level  # type: ignore[attr-defined]
    given = Given(condition, drawing.shape, drawing.kind, "", named=condition.own(to_unit(pictures)))
    seed = seed_for(0, "then", stage)
    drawing = replace(drawing, given=given, seed=seed)
    return drawing(model.denoiser, len(pictures), torch.device("cpu"), 32, f"to {drawing.shape[1]} pixels")


def bicubic(pictures: Tensor, side: int) -> Tensor:
    """Pictures, uint8 (n, C, h, w), enlarged by Pillow."""
    arrays = [np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in pixels(pictures)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def pixels(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def psnr(x: Tensor, y: Tensor) -> float:
    """10 log10(255²/MSE), the mean over images."""
    return float((10 * torch.log10(255**2 / (x.float() - y.float()).square().flatten(1).mean(dim=1))).mean())


def perceptual(x: Tensor, y: Tensor, extractor: Any) -> float:
    """The distance of activations, see above, the mean over images."""
    seen: list[Tensor] = []
    blocks = [extractor.net._blocks[k] for k in DEPTHS]
    handles = [block.register_forward_hook(lambda _, __, out: seen.append(F.normalize(out, dim=1))) for block in blocks]
    total = 0.0
    for a, b in zip(x.split(16), y.split(16), strict=True):
        seen.clear()
        extractor(a)
        extractor(b)
        one, other = seen[: len(DEPTHS)], seen[len(DEPTHS) :]
        total += sum(float((u - v).square().sum(dim=1).mean(dim=(1, 2)).sum()) for u, v in zip(one, other, strict=True))
    for handle in handles:
        handle.remove()
    return total / len(x)


def scored(models: Networks, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Table -> row -> column -> value, for the networks of one seed."""
    extractor = make(choice("features", "lite0"), "features")
    real = models["whole"].drawing().given.split.images[:N].clone()  # type: ignore[union-attr]
    small = to_uint8(F.avg_pool2d(to_unit(real), 4))
    made = {"bicubic": bicubic(small, 128), "one network": enlarged(models["whole"], small, 1)}
    made["cascade"] = enlarged(models["128"], enlarged(models["64"], small, 1), 2)
    base = models["base"].sample(N)
    new = {"one network": models["alone"].sample(N, batch_size=16), "base and bicubic": bicubic(base, 128)}
    for level in (0.0, 0.1):
        middle = enlarged(models["64"], base, 1, level)
        new[f"cascade; condition.level={level:g}"] = enlarged(models["128"], middle, 2, level)
    if seed == 0:
        chosen = torch.arange(SHOWN) * 31
        save_png(grid(torch.cat([images[chosen] for images in [*made.kind(), real]]), SHOWN), OUT / "enlarged.png")
        save_png(grid(torch.cat([images[:SHOWN] for images in new.values()]), SHOWN), OUT / "drawn.png")

    def distance(images: Tensor) -> float:
        return diffusion.score(images, real)["fd_lite0"].value

    pairs = {
        name: {
            "PSNR": psnr(images, real),
            "perceptual": perceptual(images, real, extractor),
            "fd_lite0": distance(images),
        }
        for name, images in made.items()
    }
    return {"enlarged": pairs, "drawn": {name: {"fd_lite0": distance(images)} for name, images in new.items()}}


def drawn_in_latents(model: Model, seed: int) -> dict[str, dict[str, float]]:
    """Row -> column -> value of 250 images of 128×128, drawn in latents, with the guidance of training and without."""
    data, rows = Landscapes(resolution=128), {}
    data.setup()
    real = data.splits["val"].images[:N]
    for name, guidance in (("latents", None), ("latents; guidance=none", "none")):
        images = model.sample(N) if guidance is None else model.sample(N, guidance=guidance)
        rows[name] = {"fd_lite0": diffusion.score(images, real)["fd_lite0"].value}
        if seed == 0 and guidance is None:
            save_png(grid(images[:SHOWN], SHOWN), OUT / "latents.png")
    return rows


def keep(table: str, seed: int, rows: dict[str, dict[str, float]]) -> None:
    """Write rows of a seed into scores/TABLE.csv, in place of those of the same method and seed."""
    path, head = OUT / "scores" / f"{table}.csv", ["method", "seed", *next(iter(rows.values()))]
    before = [line.split(",") for line in path.read_text().splitlines()[1:]] if path.exists() else []
    lines = [line for line in before if line[1] != str(seed) or line[0] not in rows]
    lines += [[row, str(seed), *map(str, of.values())] for row, of in rows.items()]
    path.write_text("".join(f"{','.join(line)}\n" for line in [head, *lines]))


def main(root: Path, *seeds: str) -> None:
    torch.set_num_threads(1)
    (OUT / "scores").mkdir(parents=True, exist_ok=True)
    for seed, models in networks(root).items():
        if not seeds or str(seed) in seeds:
            for name, rows in scored(models, seed).items():
                keep(name, seed, rows)
    for run in jobs_of(root / "latents"):
        if run.state == "complete" and (not seeds or str(run.config["seed"]) in seeds):
            model = diffusion.load(run.folder, device="cpu")
            keep("drawn", run.config["seed"], drawn_in_latents(model, run.config["seed"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
