"""The study `treatments`: from which strength planted faults are found; and causes, the faults by them, and treatments.

    nice -n 19 python -m docs.treatments OUT alarms | strengths | trainings [SEED …]

Writes docs/results/treatments/*.csv and pictures; trains and draws in the folder OUT what is not there yet. The two of
a pair have the same seed. The base is trained once; the short trainings go on from it.
"""

import csv
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import diffusion
from diffusion.base.pixels import grey, grid, save_png, tiles
from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.data import Landscapes
from diffusion.data.module import Split
from diffusion.findings.verdict import verdict
from diffusion.library import Model
from diffusion.metric.denoising import numbered
from diffusion.metric.faults import diagnose
from diffusion.randomness import generator_for
from diffusion.runs.folder import Run

RESULTS = Path(__file__).parent / "results/treatments"
N, POOL = 250, 310
BASE = [
    *("experiment=trial", "data.resolution=16", "optimizer.lr=4e-3", "schedule=sigmoid", "sampler=dpm_2m_sde"),
    *("weighting@objective.weighting=sigmoid", "trainer.check_val_every_n_epoch=3", "trainer.accelerator=cpu"),
    *("samples.n=250", "score.n=0", "score.audit=[]", "score.baselines=[]", "trainer.max_steps=1000"),
]
SHORT = ["init={out}/base", "trainer.max_steps=150"]
SCORED = ["score.n=250", "score.audit=[pixels]", "score.baselines=[noise]"]
FEW = [*SCORED, "data.limit=20", "trainer.check_val_every_n_epoch=100", "trainer.max_epochs=-1"]
PATCHES = [  # of 8×8 pixels: 192 values in tokens of 96
    *("model=dit_tiny", "~model.channels", "~model.attention", "model.width=96", "model.patch=8"),
    *("prediction=x0", "optimizer.lr=1e-3"),
]
RUNS = {  # name -> overrides
    "20 steps": ["trainer.max_steps=20"],
    "100 steps": ["trainer.max_steps=100"],
    "1,000 steps": SCORED,
    "2,000 steps": ["init={out}/{seed}/1000_steps"],
    "rate of 0.1": ["optimizer.lr=0.1"],
    "rate of 0.01": ["optimizer.lr=0.01"],
    "20 images": FEW,
    "20 images, 200 steps": [*FEW, "trainer.max_steps=200"],
    "patches of 8": PATCHES,
    "patches of 8, 4,000 steps": [*PATCHES, "trainer.max_steps=4000"],
    "patches of 2": [*PATCHES, "model.patch=2"],
    "high rate": [*SHORT, "optimizer.lr=5e-2"],
    "low rate": [*SHORT, "optimizer.lr=1e-3"],
    "no average": [*SHORT, "optimizer.lr=1e-2", "lr_scheduler=constant", "ema=none"],
    "average": [*SHORT, "optimizer.lr=1e-2", "lr_scheduler=constant"],
    "training in half precision": [*SHORT, "trainer.precision=bf16-mixed"],
}
GUIDED = "auto guidance.ckpt={out}/0/100_steps guidance.scale=2"
DRAWN: dict[str, tuple[str, str | None, str | None]] = {  # from the base: guidance, threshold, precision
    "as it is": ("none", None, None),
    "guided by 100 steps": (GUIDED, None, None),
    "guided, dynamic threshold": (GUIDED, "dynamic", None),
    "guided, clipped": (GUIDED, "clip", None),
    "clipped": ("none", "clip", None),
    "half precision": ("none", None, "bf16-mixed"),
}
Plant = Callable[[Tensor, float], Tensor]


def noise(x: Tensor, channels: int, block: int = 1) -> Tensor:
    n, _, height, width = x.shape
    noise = torch.randn(n, channels, height // block, width // block, generator=generator_for(0, "planted"))
    return F.interpolate(noise, scale_factor=block)


def blur(x: Tensor, s: float) -> Tensor:
    """A Gaussian of s pixels."""
    kernel = torch.exp(-torch.arange(-4.0, 5).square() / (2 * s * s))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = F.pad(x, (4, 4, 4, 4), mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(flat, kernel), kernel.mT).view_as(x)


def blotched(x: Tensor, share: float) -> Tensor:
    x = x.clone()
    every = generator_for(0, "blotches")
    for each in x[: round(share * len(x))]:
        top, left = torch.randint(0, x.shape[-1] - 8, (2,), generator=every).tolist()
        each[:, top : top + 8, left : left + 8] = torch.rand(3, 1, 1, generator=every) * 255
    return x


def first(x: Tensor, share: float, to: Tensor) -> Tensor:
    """x, in which a share of the images is `to`."""
    return torch.cat([to[: round(share * len(x))], x[round(share * len(x)) :]])


def channels(*weights: float) -> Plant:
    return lambda x, s: x * (1 + s * torch.tensor(weights).view(3, 1, 1))


PLANTED: dict[str, tuple[str, Plant, list[float]]] = {  # fault -> what the strength is, how, strengths
    "noise": ("grey noise, grey levels", lambda x, s: x + s * noise(x, 1), [2, 4, 6, 8, 12]),
    "colour noise": ("noise of each channel, grey levels", lambda x, s: x + s * noise(x, 3), [1, 2, 3, 5]),
    "blur": ("Gaussian, pixels", blur, [0.4, 0.5, 0.6, 0.8]),
    "rough": ("sharpened by this factor", lambda x, s: x + s * (x - blur(x, 0.6)), [0.5, 1, 2, 4]),
    "grid": ("steps between 4×4 patches, grey levels", lambda x, s: x + s * noise(x, 1, 4), [0.5, 1, 2, 4]),
    "blotches": ("share of pictures with one of 8×8 pixels", blotched, [0.1, 0.2, 0.3, 0.5, 1]),
    "red": ("red up, blue down", channels(1, 0, -1), [0.1, 0.2, 0.3, 0.5]),
    "blue": ("blue up, red down", channels(-1, 0, 1), [0.1, 0.2, 0.3, 0.5]),
    "green": ("green up", channels(0, 1, 0), [0.1, 0.2, 0.3, 0.5]),
    "purple": ("green down", channels(0, -1, 0), [0.1, 0.2, 0.3, 0.5]),
    "dark": ("darker by", lambda x, s: (1 - s) * x, [0.1, 0.2, 0.3, 0.5]),
    "bright": ("nearer to white by", lambda x, s: x + s * (255 - x), [0.1, 0.2, 0.3, 0.5]),
    "flat": ("contrast lower by", lambda x, s: 128 + (1 - s) * (x - 128), [0.2, 0.3, 0.4, 0.6]),
    "harsh": ("contrast higher by", lambda x, s: 128 + (1 + s) * (x - 128), [1, 2, 4]),
    "pale": ("colours weaker by", lambda x, s: grey(x) + (1 - s) * (x - grey(x)), [0.2, 0.4, 0.6, 0.8]),
    "saturated": ("share of black pictures", lambda x, s: first(x, s, x / 60), [0.05, 0.1, 0.2]),
    "repeated": ("share of one picture", lambda x, s: first(x, s, x[-1:].expand_as(x)), [0.05, 0.1, 0.2]),
    "alike": ("nearer to one picture by", lambda x, s: (1 - s) * x + s * x[-1:], [0.5, 0.6, 0.7, 0.8]),
}  # fmt: skip


def data(side: int) -> Landscapes:
    found = Landscapes(side)
    found.setup()
    return found


def found_in(images: Tensor, known: Iterable[Split], k: int = 6, most: int = POOL) -> list[str]:
    """The faults of images, judged by `most` images of some splits."""
    real = torch.cat([split.images for split in known])
    photograph = numbered([source for split in known for source in split.sources])
    keep = torch.randperm(len(real), generator=generator_for(0, "treatments"))[:most]
    return [fault["fault"] for fault in diagnose(images, real[keep], photograph[keep], k)]


def write(name: str, head: list[str], rows: Iterable[Iterable[Any]]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def alarms(out: Path, draws: int = 200) -> None:
    """How often tiles of six random photographs of all 37 have a fault, judged by 300 tiles of the others."""
    counts = dict[str, list[int]]()
    for k, side in enumerate((16, 32)):
        splits = data(side).splits.values()
        photograph = numbered([source for split in splits for source in split.sources])
        images = torch.cat([split.images for split in splits])
        for draw in range(draws):
            own = torch.isin(photograph, torch.randperm(37, generator=generator_for(draw, "alarms"))[:6])
            few = torch.randperm(int((~own).sum()), generator=generator_for(draw, "known"))[:300]
            new = images[own][torch.randperm(int(own.sum()), generator=generator_for(draw, "new"))[:N]]
            for fault in diagnose(new, images[~own][few], photograph[~own][few], 6):
                counts.setdefault(fault["fault"], [0, 0])[k] += 1
    write("alarms", ["fault", f"of {draws} sets, 16 pixels", "32 pixels"], [[name, *n] for name, n in counts.items()])


def strengths(out: Path) -> None:
    """The weakest strength from which on a planted fault is found, in test tiles and in the demo's samples."""
    splits, rows = data(32).splits, []
    sets = {"test": splits["test"].images}
    sets["demo"] = drawn(out / "demo.pt", lambda: diffusion.load("demo", device="cpu").sample(N))
    known = [splits[name] for name in ("train", "val")]
    print({name: found_in(x, known) for name, x in sets.items()})
    for fault, (what, plant, levels) in PLANTED.items():
        row: list[Any] = [fault, what]
        for x in sets.values():
            called = []
            for s in levels:
                planted = plant(x.float(), s).round().clamp(0, 255).to(torch.uint8)
                called.append(
                    fault in [name.partition(" ")[0] if "grid" in name else name for name in found_in(planted, known)]
                )
            from_on = next((s for i, s in enumerate(levels) if all(called[i:])), None)
            row.append(f"> {levels[-1]:g}" if from_on is None else f"{from_on:g}")
        rows.append(row)
        print(row, flush=True)
    write("strengths", ["fault", "strength", "real images", "the demo's samples"], rows)


def trained(folder: Path, words: list[str]) -> Path:
    """The folder of a run, which is trained unless it is complete."""
    if not (folder / "samples/all.png").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "diffusion.train", *BASE, *words, f"hydra.run.dir={folder}"]
        with folder.with_suffix(".log").open("w") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
                print(folder, "failed", flush=True)
    return folder


def sheet(run: Path) -> Tensor:
    """The last samples of a run."""
    return torch.from_numpy(tiles(Image.open(run / "samples/all.png"))).movedim(3, 1)


def drawn(file: Path, draw: Callable[[], Tensor]) -> Tensor:
    """The images in a file, which are drawn unless it is there."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(draw(), file)
    return torch.load(file)


def from_base(
    model: Model, out: Path, seed: int, guidance: str, threshold: str | None, precision: str | None
) -> Tensor:
    drawing = model.drawing(seed=seed, guidance=guidance.format(out=out), precision=precision)
    if threshold:
        sampler = replace(drawing.sampler, threshold=make(choice("threshold", threshold), "threshold"))
        drawing = replace(drawing, sampler=sampler)
    return drawing(model.denoiser, 100, torch.device("cpu"), 50)


def learned(run: Path) -> str:
    """What the page of a run says of memorising, and its share of copies."""
    found = verdict(Run(run), "complete").findings
    share = [f"{score.value:.0%} copies" for score in Run(run).scores if score.metric == "copies"]
    return ", ".join([*(name for name in ("rising", "memorizing", "copies") if name in found), *share])


def trainings(out: Path, *seeds: str) -> None:
    """The faults of trainings, and of drawings from the base, by seed."""
    base = trained(out / "base", ["seed=0"])
    more = trained(out / "longer", [f"init={base}", "seed=1"])
    known = [data(16).splits[name] for name in ("train", "val")]
    rows: list[list[Any]] = []
    for run, steps in ((base, "1,000 steps"), (more, "2,000 steps")):
        rows.append([steps, 0, ", ".join(found_in(sheet(run), known, most=1000)), ""])
    for seed in map(int, seeds or "012"):
        made, said = dict[str, Tensor](), dict[str, str]()
        for name, words in RUNS.items():
            run = out / str(seed) / name.replace(",", "").replace(" ", "_")
            trained(run, [*(word.format(out=out, seed=seed) for word in words), f"seed={seed}"])
            if (run / "samples/all.png").is_file():
                made[name], said[name] = sheet(run), learned(run)
        model = diffusion.load(base, device="cpu")
        for name, options in DRAWN.items():
            made[name] = drawn(out / str(seed) / f"{name}.pt", partial(from_base, model, out, seed, *options))
        for name, images in made.items():
            rows.append([name, seed, ", ".join(found_in(images, known, most=1000)), said.get(name, "")])
            print(rows[-1], flush=True)
        write("treatments", ["what", "seed", "faults, the clearest first", "memorising"], rows)
        if seed == 0:
            save_png(grid(torch.cat([images[:12] for images in made.kind()]), 12, large=True), RESULTS / "samples.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"alarms": alarms, "strengths": strengths, "trainings": trainings}[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])  # type: ignore[operator]
