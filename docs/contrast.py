"""Images of little contrast, with and without `data.scale`: docs/results/contrast.

python -m docs.contrast [FOLDER]     # 21 short trainings, which resume where they ended: about an hour of one CPU core
"""

import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

import diffusion
from diffusion.data import Landscapes, Split, to_unit
from diffusion.metric.denoising import FrozenGrid
from diffusion.metric.score import draw

HERE = Path(__file__).parent / "results" / "contrast"
RECIPE = """experiment=demo data.resolution=16 model=unet_tiny optimizer=adamw optimizer.lr=1.0e-3 guidance=none
trainer.max_steps=300 trainer.max_epochs=-1 score=off samples.n=0 validation.floor=true checkpoint.finished=weights"""
N = 250  # samples of each model


def times(images: Tensor, contrast: float) -> Tensor:
    """Images uint8 with their contrast to grey multiplied, rounded to 8 bits."""
    return (127.5 + (images.float() - 127.5) * contrast).round().clamp(0, 255).byte()


@dataclass(eq=False, repr=False)
class Faint(Landscapes):
    """The bundled landscapes with their contrast multiplied by `contrast`."""

    contrast: float = 1.0

    def load(self) -> dict[str, Split]:
        return {name: replace(each, images=times(each.images, self.contrast)) for name, each in super().load().items()}


def run(folder: Path, contrast: float, scale: float, seed: int) -> dict[str, float]:
    """Train one model, and return its error by that of the linear filter, and the distance of its samples."""
    conf = folder / "conf"
    (conf / "data").mkdir(parents=True, exist_ok=True)
    (conf / "data/faint.yaml").write_text(
        "defaults: [landscapes, _self_]\n_target_: docs.contrast.Faint\ncontrast: 1.0\n"
    )
    place = folder / f"{contrast:g}-{scale:g}-{seed}"
    if not (place / "floor.csv").is_file():
        words = [*RECIPE.split(), "data=faint", f"data.contrast={contrast}", f"data.scale={scale}", f"seed={seed}"]
        words += [f"hydra.run.dir={place}"]
        command = [sys.executable, "-m", "diffusion.train", "--config-dir", str(conf), *words]
        subprocess.run(command, check=True)
    with (place / "floor.csv").open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    best = linear(Faint(16, contrast=contrast), [row["level"] for row in rows])
    behind = mean(row["held_out"] / each for row, each in zip(rows, best, strict=True))
    samples = times(diffusion.load(place, config_dir=conf).sample(N, seed=5), 1 / contrast)
    return {"behind": behind, "fd_lite0": distance(samples), "deviation": float(samples.float().std() / 127.5)}


def linear(data: Landscapes, levels: Sequence[float]) -> list[float]:
    """The error on held-out images, with the noises of floor.csv, of the best linear denoiser of the training images.

    For images of mean µ and covariance C it is x − s² (C + s² I)⁻¹ (x − µ), of x = x0 + s eps (the Wiener filter).
    """
    data.setup()
    train, val = (to_unit(data.splits[name].images) for name in ("train", "val"))
    known = torch.cat([train, train.flip(-1)]).flatten(1).double()
    mean, covariance = known.mean(dim=0), torch.cov(known.T, correction=0)
    z = val[draw(torch.arange(len(val)), 256)]
    eps, z = FrozenGrid().noise(torch.arange(len(z)), 0, z).flatten(1), z.flatten(1).double()
    found = []
    for s in levels:
        x = z + s * eps
        noise = torch.linalg.solve(covariance + s**2 * torch.eye(len(mean)), x - mean, left=False)
        found.append(float((x - s**2 * noise - z).square().mean()))
    return found


def distance(images: Tensor) -> float:
    """The Fréchet distance to the validation tiles, of images whose contrast has been restored."""
    real = Landscapes(16)
    real.setup()
    return float(diffusion.score(images, real.splits["val"], features="lite0")["fd_lite0"].value)


def main(folder: Path) -> None:
    """Write runs.csv, in which seed is empty for the training images themselves, rounded and restored."""
    data = Landscapes(16)
    data.setup()
    train, rows = data.splits["train"].images, list[dict[str, object]]()
    for contrast in (1, 0.5, 0.25, 0.125):
        real = times(times(train, contrast), 1 / contrast)
        rows.append({"contrast": contrast, "fd_lite0": distance(real), "deviation": float(real.float().std() / 127.5)})
        for scale in {1, 1 / contrast}:
            for seed in (0, 1, 2):
                found = run(folder, contrast, scale, seed)
                rows.append({"contrast": contrast, "scale": scale, "seed": seed, **found})
                print(rows[-1], flush=True)
    with (HERE / "runs.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["contrast", "scale", "seed", "behind", "fd_lite0", "deviation"])
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/contrast").absolute())
