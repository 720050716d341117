"""Sets of images that try to deceive a judgement of samples, and honest ones that it must accept, at 32×32 pixels.

    python -m docs.cheats FOLDER [--names NAME …] [--demo IMAGES.npz] [--photos PHOTOS]

Writes FOLDER/NAME.npz, uint8 (n, H, W, 3) as arr_0, unless it is there, and what the referee, the audit and the
diagnosis say of it, into FOLDER/cheats.csv. Some sets need IMAGES.npz of `diffusion sample ckpt=demo n=500`, or
photographs of other places in the folder PHOTOS.
"""

import argparse
import csv
import io
from collections.abc import Callable
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as V
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms import InterpolationMode

from diffusion.base.files import tensor_digest
from diffusion.data import Landscapes
from diffusion.findings.verdict import verdict
from diffusion.metric.distances import FrechetDistance, frechet
from diffusion.metric.estimate import RealSet
from diffusion.metric.features import Lite0
from diffusion.metric.photographs import real_sets
from diffusion.metric.score import extract, features_of
from diffusion.randomness import generator_for
from diffusion.report.figures import draw_judged
from diffusion.runs.folder import Run
from diffusion.scoring.pipeline import Scorer

N, SIDE = 250, 32
PASSES = 9 * [16] + 4 * [4]  # of an attack over all images: the steps in grey levels
MOST = 64  # grey levels by which an attack may change a pixel
Made = tuple[Tensor, dict[str, Any]]  # images uint8 (n, 3, H, W), and further arrays of the file
given = argparse.Namespace()
DATA = Landscapes(resolution=SIDE)
DATA.setup()
REAL = {name: split.images for name, split in DATA.splits.items()}
TRAIN, VAL = REAL["train"], REAL["val"]


def some(n: int, count: int, *purpose: str | int) -> Tensor:
    """`count` of the numbers below n, in random order."""
    return torch.randperm(n, generator=generator_for("cheats", *purpose))[:count]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator_for("cheats noise", seed))


def rounded(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def noisy(images: Tensor, sigma: float) -> Tensor:
    return rounded(images + sigma * normal(*images.shape, seed=int(images.sum())))  # other noise for each image


class Convolutions:
    """Four random networks of three 3×3 layers with He's weights: the means and deviations of each layer."""

    def __init__(self) -> None:
        sizes = [(net, *size) for net in range(4) for size in ((3, 32), (32, 64), (64, 128))]
        generators = [generator_for("convolutions", net, net, a) for net, a, _ in sizes]
        noise = [torch.randn(b, a, 3, 3, generator=g) for (_, a, b), g in zip(sizes, generators, strict=True)]
        self.weights = [each * (2 / each[0].numel()) ** 0.5 for each in noise]
        self.shift, self.scale = torch.zeros(()), torch.ones(())
        x = torch.cat([self.features(part.float()) for part in TRAIN.split(64)])
        self.shift, self.scale = x.mean(dim=0), x.std(dim=0).clamp(min=0.01)  # some channels are always 0

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) from 0 to 255 -> (B, D), of mean 0 and variance 1 for training tiles."""
        found, x = [], images
        for weight in self.weights:
            x = images / 64 - 2 if weight.shape[1] == 3 else F.avg_pool2d(x, 2)
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), weight).relu()
            found += [x.mean(dim=(2, 3)), (x.var(dim=(2, 3)) + 1e-6).sqrt()]
        return (torch.cat(found, dim=1) - self.shift) / self.scale


def distances(x: Tensor, reference: RealSet) -> Tensor:
    """The squared Fréchet distance of features (N, D), and the unbiased MMD² with the kernel of KID, (2,)."""
    x, y = x.double(), reference.features.double()
    mean, n, m = x.mean(dim=0), len(x), len(y)
    centred = (x - mean) / (n - 1) ** 0.5
    trace = torch.linalg.matrix_norm(centred @ reference.root, "nuc")
    fd = (mean - reference.mean).square().sum() + centred.square().sum() + reference.cov.trace() - 2 * trace
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    kid = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    return torch.stack([fd, kid])


def coloured_noise() -> Tensor:
    """White noise whose colours have the mean and the covariance of those of training tiles."""
    colours = TRAIN.float().transpose(0, 1).flatten(1)
    noise = torch.einsum("cd,ndhw->nchw", torch.linalg.cholesky(colours.cov()), normal(N, 3, SIDE, SIDE))
    return rounded(colours.mean(dim=1)[:, None, None] + noise)


def attacked(noise: Callable[[], Tensor], *networks: type[Any]) -> Tensor:
    """Images of noise, moved by the signs of the gradient of its distances to the val tiles.

    The loss is the sum of the distances of all networks, each divided by its value at the start. Thirty-two images
    are moved at a time.
    """
    start, found = noise().float(), []
    for net in [network() for network in networks]:
        with torch.no_grad():
            x, y = (torch.cat([net.features(part.float()) for part in each.split(16)]) for each in (start, VAL))
        found.append((net, x, reference := RealSet.of(y), distances(x, reference)))
    images = start.clone()
    for step in PASSES:
        for rows in torch.arange(N).split(32):
            part, loss = images[rows].requires_grad_(), torch.zeros(())
            for net, x, reference, scale in found:
                loss = loss + (distances(x.index_copy(0, rows, net.features(part)), reference) / scale).sum()
            moved = (images[rows] - step * torch.autograd.grad(loss, part)[0].sign()).clamp(0, 255)
            images[rows] = moved.clamp(start[rows] - MOST, start[rows] + MOST)
            for net, x, _, _ in found:
                with torch.no_grad():
                    x[rows] = net.features(images[rows])
        print(step, *(distances(x, reference).tolist() for _, x, reference, _ in found), flush=True)
    return rounded(images)


def gaussian() -> Tensor:
    """Noise with the mean and the covariance of all pixels of training tiles."""
    pixels = TRAIN.double().flatten(1)
    values, vectors = torch.linalg.eigh(pixels.T.cov())
    noise = (normal(N, len(values)).double() * values.clamp(min=0).sqrt()) @ vectors.T
    return rounded((noise + pixels.mean(dim=0)).view(N, 3, SIDE, SIDE))


def zoomed(image: Tensor, factor: float) -> Tensor:
    return V.center_crop(V.resize(image, [round(SIDE * factor)] * 2, InterpolationMode.BICUBIC), [SIDE, SIDE])


def turned(image: Tensor) -> Tensor:
    wide = V.pad(image, [8], padding_mode="reflect")
    return V.center_crop(V.rotate(wide, 8, InterpolationMode.BILINEAR), [SIDE, SIDE])


def coloured(image: Tensor) -> Tensor:
    return V.adjust_saturation(V.adjust_contrast(image, 1.15), 0.85)


def compressed(image: Tensor) -> Tensor:
    V.to_pil_image(image).save(file := io.BytesIO(), "JPEG", quality=20)
    return V.pil_to_tensor(Image.open(file))


EXACT: dict[str, Callable[[Tensor], Tensor]] = {"exact": lambda x: x}
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": lambda x: V.pad(x, [4, 0, 0, 0], padding_mode="edge")[:, :, :SIDE], "zoom": lambda x: zoomed(x, 1.2),
    "zoom and colour": lambda x: coloured(zoomed(x, 1.3)), "rotation": turned, "colour": coloured,
    "mirror": lambda x: x.flip(2), "upside down": lambda x: x.flip(1), "noise": lambda x: noisy(x, 10),
}  # fmt: skip


def copies(split: str, ways: dict[str, Callable[[Tensor], Tensor]]) -> Made:
    """Random images of a split, changed in these ways in turn."""
    index, names = some(len(REAL[split]), N, "copies", split), ([*ways] * N)[:N]
    images = [ways[name](image) for name, image in zip(names, REAL[split][index], strict=True)]
    return torch.stack(images), {"index": index, "way": names}


def averages() -> Tensor:
    return rounded(TRAIN[some(len(TRAIN), 2 * N, "averages").view(2, N)].float().mean(dim=0))


def some_of_train(begin: int, end: int | None) -> Made:
    index = some(len(TRAIN), len(TRAIN), "further")[begin:end].sort().values
    return TRAIN[index], {"index": index}


def six_photographs(draw: int) -> Made:
    """250 tiles of six random training photographs."""
    photograph = torch.from_numpy(np.unique(np.array(DATA.splits["train"].sources), return_inverse=True)[1])
    index = real_sets(photograph, N, 6, draw + 1)[0][draw].nonzero()[:, 0]
    return TRAIN[index], {"index": index}


def other_places() -> Tensor:
    """Random squares of the photographs in a folder, in equal numbers."""
    files, generator, tiles = sorted(given.photos.iterdir()), np.random.default_rng(0), []
    for i in range(N):
        photo = Image.open(files[i % len(files)]).convert("RGB")
        side = round(min(photo.size) * generator.uniform(0.5, 0.9))
        left, top = (int(generator.integers(0, length - side + 1)) for length in photo.size)
        tiles.append(photo.resize((SIDE, SIDE), Image.Resampling.BOX, (left, top, left + side, top + side)))
    return torch.stack([V.pil_to_tensor(tile) for tile in tiles])


@cache
def demo() -> tuple[Tensor, Tensor, RealSet]:
    """The samples, their features, and the val tiles as a reference."""
    images, net = torch.from_numpy(np.load(given.demo)["arr_0"]).permute(0, 3, 1, 2), Lite0()
    return images, extract(images, net), RealSet.of(extract(VAL, net))


def best_of_k(k: int = 1000) -> Made:
    """The nearest to the val tiles of k random sets of samples, by the Fréchet distance."""
    images, x, reference = demo()
    index = min((some(len(x), N, "best", i) for i in range(k)), key=lambda index: frechet(x[index], reference)[0])
    return images[index], {"index": index}


def best_picked() -> Made:
    """The nearest sample of each val tile in turn, each taken once."""
    images, x, reference = demo()
    chosen = list[int]()
    for away in torch.cdist(reference.features, x):
        away[chosen] = torch.inf
        chosen.append(int(away.argmin()))
    return images[chosen], {"index": chosen}


def repeated(changed: bool) -> Made:
    """The nearest samples of 25 val tiles, ten times each; perhaps with faint noise, and half of them mirrored."""
    picked, more = best_picked()
    images = picked[: N // 10].repeat(10, 1, 1, 1)
    if changed:
        images = noisy(images, 4)
        images[N // 2 :] = images[N // 2 :].flip(3)
    return images, {"index": 10 * more["index"][: N // 10]}


SETS: dict[str, Callable[[], Made | Tensor]] = {
    "noise_colours": coloured_noise, "gaussian": gaussian, "noise_lite0": partial(attacked, coloured_noise, Lite0),
    "noise_second": partial(attacked, coloured_noise, Convolutions),
    "gaussian_second": partial(attacked, gaussian, Convolutions),
    "noise_both": partial(attacked, gaussian, Lite0, Convolutions),
    "averages": averages,
    "copies_train": partial(copies, "train", WAYS), "copies_train_exact": partial(copies, "train", EXACT),
    "copies_val": partial(copies, "val", WAYS), "copies_val_exact": partial(copies, "val", EXACT),
    "blurred": lambda: V.gaussian_blur(VAL, [7, 7], [1.0, 1.0]),
    "noisy_8": lambda: noisy(VAL, 8), "noisy_20": lambda: noisy(VAL, 20),
    "tinted": lambda: rounded(VAL + torch.tensor([15, 0, 0]).view(3, 1, 1)),
    "jpeg_20": lambda: torch.stack([compressed(image) for image in VAL]),
    "further_train": partial(some_of_train, 0, N), "rest_of_train": partial(some_of_train, N, None),
    "val": lambda: VAL, "test": lambda: REAL["test"], "other_places": other_places,
    **{f"six_photographs_{draw}": partial(six_photographs, draw) for draw in range(6)},
    "demo": lambda: demo()[0][:N], "best_of_k": best_of_k, "best_picked": best_picked,
    "repeated": partial(repeated, False), "repeated_mirrored": partial(repeated, True),
}  # fmt: skip

ABSENT = {"further_train": "images", **{f"six_photographs_{draw}": "photographs" for draw in range(6)}}


def judged(name: str, images: Tensor, index: Tensor | None, folder: Path) -> dict[str, str]:
    """The verdict on a set, and what it rests on: the eyes that tell it apart, the copies, and the faults.

    Real images of the training photographs are compared with the training images without them, or their photographs.
    """
    data, train = copy(DATA), DATA.splits["train"]
    if name in ABSENT and index is not None:
        taken = {*index.tolist()} if ABSENT[name] == "images" else {train.sources[i] for i in index.tolist()}
        left = [i for i in range(len(train)) if i not in taken and train.sources[i] not in taken]
        data.splits = {**DATA.splits, "train": train.take(torch.tensor(left))}
    folder.mkdir(parents=True, exist_ok=True)
    network = Lite0()
    known = {tensor_digest({network.name: images}): features_of(images, network)[0]}  # kept for the next time
    scorer = Scorer(data, "val", network, [FrechetDistance()], folder, folder, known=known)
    scorer.write([*scorer.score(images, "images"), *scorer.audit(images, "images")])
    draw_judged(scorer.judge(images), folder)
    run = Run(folder)
    answers = [run.referee[question] for question in ("further", "others")]
    more = [*answers, *({"by": by} for by in answers[1]["with"].values())]
    (distance,), (audit,) = ([s for s in run.scores if s.metric.startswith(start)] for start in ("fd", "copies"))
    seen = {what: "+".join(each["by"]) for what, each in zip(("further", "6", "20", "100"), more, strict=True)}
    about = {"set": name, "fd_lite0": f"{distance.value:.1f}", "verdict": verdict(run, "complete").headline}
    return about | seen | {"copies": str(audit.source["flagged"]), "faults": "+".join(f["fault"] for f in run.faults)}


def sheet(folder: Path) -> Image.Image:
    """Eight images of each set in the folder, in two columns of rows with their names."""
    files = [file for name in SETS if (file := folder / f"{name}.npz").is_file()]
    rows, wide = -(-len(files) // 2), 8 * (SIDE + 2) + 120
    picture = Image.new("RGB", (2 * wide, rows * (SIDE + 2)), "white")
    draw = ImageDraw.Draw(picture)
    for i, file in enumerate(files):
        left, top = i // rows * wide, i % rows * (SIDE + 2)
        draw.text((left + 2, top + 10), file.stem, fill="black")
        for k, image in enumerate(np.load(file)["arr_0"][:: N // 8][:8]):
            picture.paste(Image.fromarray(image), (left + 120 + k * (SIDE + 2), top))
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.parse_args(namespace=given)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        if not (file := given.folder / f"{name}.npz").is_file():
            made = SETS[name]()
            images, more = (made, {}) if isinstance(made, Tensor) else made
            np.savez_compressed(file, images.permute(0, 2, 3, 1).numpy(), **more)
        found = np.load(file)
        images, index = torch.from_numpy(found["arr_0"]).permute(0, 3, 1, 2).contiguous(), found.get("index")
        row = judged(name, images, None if index is None else torch.from_numpy(index), given.folder / name)
        with (given.folder / "cheats.csv").open("a", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, [*row], lineterminator="\n")
            if not table.tell():
                writer.writeheader()
            writer.writerow(row)
    sheet(given.folder).save(given.folder / "sheet.png")
