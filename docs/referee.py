"""The errors and the power of the referee on the bundled photographs: the tables of numbers.md, printed.

    python -m docs.referee [SAMPLES.npz]

SAMPLES.npz has at least 400 samples of one model (`diffusion sample ckpt=demo n=500`), whose parts are compared, too.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.data import Landscapes
from diffusion.metric.denoising import numbered
from diffusion.metric.features import Lite0
from diffusion.metric.referee import EYES, apart, compare, look
from diffusion.metric.score import features_of
from diffusion.randomness import generator_for

EACH, SPLITS = 20, 200  # tiles of a photograph; random splits


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Convolved with a Gaussian of this standard deviation, in pixels."""
    weight = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * sigma**2))
    kernel = (weight[:, None] * weight / weight.sum() ** 2).expand(3, 1, 9, 9)
    return F.conv2d(F.pad(x, (4, 4, 4, 4), mode="replicate"), kernel, groups=3)


def noisy(x: Tensor, sigma: float) -> Tensor:
    """With Gaussian noise of this standard deviation, in grey levels."""
    return x + sigma * torch.randn(x.shape, generator=generator_for("noise"))


FAULTS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...], str]] = {
    "noise": (noisy, (2, 4, 8, 16, 32), "grey levels"),
    "blur": (blurred, (0.3, 0.4, 0.5, 0.7, 1.0), "pixels"),
    "tint": (lambda x, s: x + s * torch.tensor([1.0, 0, -1])[:, None, None], (4, 8, 16, 32, 64), "grey levels"),
    "contrast": (lambda x, s: 128 + (x - 128) / s, (1.1, 1.25, 1.5, 2.0, 3.0), "times less"),
}


def seen(images: Tensor) -> dict[str, Tensor]:
    """What all eyes see, with filters of one seed."""
    network = {"lite0": torch.cat([features_of(x, Lite0())[0] for x in images.split(125)])}
    return network | {name: look(eye, images, "docs") for name, eye in EYES.items()}


def rate(called: list[str]) -> str:
    """The share of splits that are called apart."""
    return f"{sum(verdict == 'apart' for verdict in called) / len(called):.1%} of {len(called)}"


def main() -> None:
    data = Landscapes(resolution=32)
    data.setup()
    splits = [data.splits[name] for name in ("train", "val", "test")]
    images, sources = torch.cat([split.images for split in splits]), numbered([s for x in splits for s in x.sources])
    tiles = [torch.nonzero(sources == i)[:, 0] for i in range(int(sources.max()) + 1)]
    chosen = torch.cat([x[torch.linspace(0, len(x) - 1, EACH).long()] for x in tiles])
    images, photograph = images[chosen], sources[chosen]
    eyes, others, further, parts = seen(images), [], [], []
    for split in range(SPLITS):
        order = torch.randperm(37, generator=generator_for("split", split))
        at = [torch.nonzero(torch.isin(photograph, part))[:, 0] for part in (order[:6], order[6:31], order[31:])]
        index = torch.cat(at)
        train = torch.isin(index, at[1])
        number = torch.unique(photograph[index[len(at[0]) :]], return_inverse=True)[1]
        found = compare({name: apart(x[index]) for name, x in eyes.items()}, train, number)
        others.append(found["others"]["verdict"])
        index = at[1][torch.randperm(len(at[1]), generator=generator_for("half", split))]
        train = torch.arange(len(index)) >= 250
        own = {name: apart(x[index]) for name, x in eyes.items()}
        further.append(compare(own, train, torch.arange(len(index) - 250))["further"]["verdict"])
    print(f"real photographs called apart: against other photographs {rate(others)}, further tiles {rate(further)}")
    if len(sys.argv) > 1:
        samples = torch.from_numpy(np.load(sys.argv[1])["arr_0"]).permute(0, 3, 1, 2).contiguous()
        drawn = seen(samples)
        for split in range(SPLITS):
            index = torch.randperm(len(samples), generator=generator_for("part", split))
            train = torch.arange(len(index)) >= 200
            both = {name: apart(x[index]) for name, x in drawn.items()}
            parts.append(compare(both, train, torch.arange(len(index) - 200)))
        print(f"parts of one model's samples called apart: {rate([each['further']['verdict'] for each in parts])}")
    at = photograph < 31  # without the test photographs
    train = photograph < 25
    some = torch.nonzero(train)[::4, 0]
    print("| fault | of | further tiles | 6 | 20 | 100 photographs |\n| --- | --- | --: | --: | --: | --: |")
    for name, (fault, strengths, unit) in FAULTS.items():
        least: dict[str, float] = {}
        for strength in strengths:
            planted = fault(images[some].float(), strength).round().clamp(0, 255).to(torch.uint8)
            beside = {n: torch.cat([x, eyes[n][at]]) for n, x in seen(planted).items()}
            known = torch.cat([torch.zeros(len(planted), dtype=torch.bool), train[at]])
            found = compare({n: apart(x) for n, x in beside.items()}, known, photograph[at])
            told = {"further": found["further"]["by"], "6": found["others"]["by"]} | found["others"]["with"]
            for which, by in told.items():
                least.setdefault(which, strength) if by else least.pop(which, None)
        cells = [f"{least[which]:g}" if which in least else "—" for which in ("further", "6", "20", "100")]
        print(f"| {name} | {unit} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
