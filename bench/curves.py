"""The workloads of `bench/scaling.py`, each measured at one size next to a floor that does only the necessary work."""

import gc
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from images import pictures, pillow
from loop import Turns, bare_loop, run
from measuring import Free, MadeUp, forget_peak, resident
from torch import Tensor

from diffusion.compare import main as compare
from diffusion.config.composition import composed, plain
from diffusion.config.schema import Train
from diffusion.config.validation import validated
from diffusion.console import console, quiet_libraries
from diffusion.data import Folder, duplicates, to_uint8
from diffusion.evaluation.drawing import Drawing
from diffusion.files import tensor_digest
from diffusion.metric.extract import extract
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Score
from diffusion.metric.reference import reference_statistics
from diffusion.metric.score import score
from diffusion.nearest import miniature
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import V
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import cosine
from diffusion.report.__main__ import main as report
from diffusion.report.run import write_report
from diffusion.runs import naming
from diffusion.runs.folder import Run
from diffusion.runs.jobs import config_text
from diffusion.status import main as status
from diffusion.training.loggers import MetricsFile

AGAIN = 5  # repetitions of a short workload, and 2 of a long one; the fastest counts, since the first one also imports
SHORT = 0.5  # seconds
SEEDS = 5  # per recipe
STEPS = 5  # measured steps of a run, after the first ones
CPU = torch.device("cpu")
VALIDATION = ["val/mse", "fit/mse", "gap/mse", "gap/half", *(f"val/mse_bin{i}" for i in range(10))]


class Measured(NamedTuple):
    """The cost of a workload at one size: CPU seconds, the floor's CPU seconds, and peak memory growth in bytes.

    (Wall time depends on other load on the machine.)
    """

    what: str
    seconds: float
    floor: float
    memory: int


def seconds(work: Callable[[], object], once: bool) -> float:
    """The CPU seconds of a workload: the least of `AGAIN` repetitions, or of two if it is long; with `once`, of one."""
    taken: list[float] = []
    while not taken or (not once and len(taken) < (AGAIN if sum(taken) < SHORT else 2)):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def measured(
    what: str, work: Callable[[], object], floor: Callable[[], object] | None = None, once: bool = False
) -> Measured:
    """Measure a workload.

    Args:
        floor: the workload to compare with; None: nothing.
        once: whether the workload can run only once.
    """
    before = resident("VmRSS")
    forget_peak()
    taken = seconds(work, once)
    memory = resident("VmHWM") - before
    return Measured(what, taken, math.nan if floor is None else seconds(floor, False), memory)


def images(n: int, folder: Path) -> Iterator[Measured]:
    """A folder of n images; floors: Pillow alone, miniatures, listing files with their metadata, indexing."""
    with pictures(n, 96, folder / "photos") as root:
        os.environ["DIFFUSION_CACHE"] = str(folder / "cache")

        def start(compared: bool = True) -> Folder:
            data = Folder(root=root, resolution=64, batch_size=64)
            data.splits = data.load()
            if compared:
                duplicates.report(data.splits)
            return data

        def listing() -> None:
            for top in os.scandir(root):
                for entry in os.scandir(top.path):
                    entry.stat()

        yield measured("first start", lambda: start(compared=False), lambda: pillow(root, 64, n), once=True)
        data = start(compared=False)
        splits = data.splits
        shrunk = [split.images for split in splits.values()]
        yield measured(
            "near-duplicates",
            lambda: duplicates.across(splits),
            lambda: [miniature(x, 16) for x in shrunk],
        )
        start()
        yield measured("second start", start, listing)
        train = splits["train"].images

        def epoch() -> None:
            for batch in data.train_dataloader():
                batch.image.float()

        def bare() -> None:
            for index in torch.randperm(len(train))[: len(train) // 64 * 64].view(-1, 64):
                train[index].float()

        yield measured("an epoch's batches", epoch, bare)


def stepped(what: str, overrides: list[str], data: MadeUp) -> Measured:
    """Measure steps of a run, alternating with steps of the bare loop."""
    data.prepare_data()
    words = ["samples.every_n_epochs=null", "trainer.check_val_every_n_epoch=1000000", "score.n=0", "samples.n=0"]
    settings = validated(Train, plain(composed("train", ["name=bench", "ema=none", *words, *overrides])))
    turns = Turns(bare_loop(settings, data, CPU))
    before = resident("VmRSS")
    forget_peak()
    run(settings, data, STEPS + 3, turns)
    times = (statistics.median(cpu for _, cpu in each[2:]) for each in (turns.run, turns.bare))
    return Measured(what, *times, resident("VmHWM") - before)


def batch(n: int, folder: Path) -> Iterator[Measured]:
    """A training step with batch size n: unet_tiny, 8×8 pixels; floor: a bare loop."""
    yield stepped("a training step", ["model=unet_tiny", "data.resolution=8"], MadeUp(max(64, 2 * n), 8, n))


def resolution(n: int, folder: Path) -> Iterator[Measured]:
    """A training step at n pixels: unet_tiny without attention, whose cost grows as n²; floor: a bare loop."""
    side = round(n**0.5)
    words = ["model=unet_tiny", "model.attention=[false,false,false,false]", f"data.resolution={side}"]
    yield stepped("a training step", words, MadeUp(16, side, 2))


class Projection(FeatureExtractor):
    """32 random features, which cost almost nothing."""

    name, num_features, resize = "random", 32, "none"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(3 * 16 * 16, 32, generator=torch.Generator().manual_seed(0)) / 1e3)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1).float() @ self.weight  # type: ignore[operator]


def samples(n: int, folder: Path) -> Iterator[Measured]:
    """n samples from a network that costs nothing, drawn into a file and scored; floors: random pixels, features."""
    os.environ["DIFFUSION_CACHE"] = str(folder / "cache")
    shape, file = (3, 16, 16), folder / "drawn.bin"
    drawing, denoiser = Drawing(DDIM(steps=5), shape, seed=0), Denoiser(Free(), cosine(), V())

    def draw() -> None:
        with torch.inference_mode():
            drawn = drawing.begin(file, denoiser, n, 64, {})
            drawing.into(drawn, denoiser, CPU)

    def bare() -> None:
        with (folder / "bare.bin").open("wb") as stream:
            for _ in range(0, n, 64):
                stream.write(to_uint8(torch.randn(64, *shape)).numpy().data)
                stream.flush()
                os.fsync(stream.fileno())

    yield measured("drawing into a file", draw, bare, once=True)
    drawn = drawing.begin(file, denoiser, n, 64, {}).images()
    extractor = Projection()
    real = torch.randint(0, 256, (2000, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    against = reference_statistics(real, extractor)
    yield measured(
        "fd and kid",
        lambda: score(drawn, extractor, against),
        lambda: extract(drawn, extractor),
    )
    yield measured("hash of the images", lambda: tensor_digest({"images": drawn}), lambda: drawn.sum())


@cache
def usual_config() -> str:
    """The settings of a run without overrides, as yaml."""
    return config_text(validated(Train, plain(composed("train", ["name=bench"]))))


def write_run(folder: Path, number: int) -> None:
    """Write a complete run with 20 validations and 3 scores; `SEEDS` runs share a recipe."""
    seed, recipe = number % SEEDS, number // SEEDS
    words = [f"optimizer.lr={1e-5 * (1 + recipe):.6g}", f"seed={seed}"]
    config = yaml.load(usual_config(), yaml.CSafeLoader)
    config["seed"], config["optimizer"]["lr"] = seed, 1e-5 * (1 + recipe)
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
    (folder / ".hydra/overrides.yaml").write_text(yaml.dump(words))
    choices = {"model": "unet_small", "optimizer": "adamw", "schedule": "linear"}
    (folder / ".hydra/hydra.yaml").write_text(yaml.dump({"hydra": {"runtime": {"choices": choices}}}))
    record = {"state": "complete", "steps": 2000, "total_steps": 2000, "seconds": 100.0 + number, "parameters": 1000}
    (folder / "run.json").write_text(json.dumps(record | {"finished": f"2026-01-01T00:00:{number % 60:02d}"}))
    write_validations(folder, 20, seed)
    values = {"fd_lite0": 100.0 + recipe, "kid_lite0": 0.1, "coverage_lite0": 0.5}
    scores = [Score(name, value + seed / 10, 250, low=value - 1, high=value + 1) for name, value in values.items()]
    (folder / "scores.json").write_text(json.dumps([each.to_json() for each in scores]))


def write_validations(folder: Path, n: int, seed: int = 0) -> None:
    """Write a metrics.csv with n validations and n losses."""
    lines = [",".join(["epoch", "step", "train/loss", *VALIDATION])]
    for i in range(n):
        values = (f"{0.05 + 1 / (10 + i + k + seed):.6f}" for k in range(len(VALIDATION)))
        lines += [f",{100 * i},0.{i % 90 + 10}" + "," * len(VALIDATION), f"{i},{100 * i},,{','.join(values)}"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def runs(n: int, folder: Path) -> Iterator[Measured]:
    """n runs below a folder, in sweeps of 50; floor: reading the necessary files with a parser in C."""
    root, sweep = folder / "outputs", folder / "sweep"
    for i in range(n):
        write_run(root / f"sweep-{i // 50}" / f"{i % 50}", i)
        write_run(sweep / f"{i}", i)
    for top in root.iterdir():
        (top / "multirun.yaml").touch()
    console.quiet = True

    def read(top: Path, configs: bool) -> None:
        for file in sorted(top.rglob("run.json")):
            json.loads(file.read_bytes())
            json.loads((file.parent / "scores.json").read_bytes())
            if configs:
                yaml.load((file.parent / "config.yaml").read_bytes(), yaml.CSafeLoader)
                (file.parent / "metrics.csv").read_text()

    yield measured("status", lambda: status([str(root)]), lambda: read(root, False))
    yield measured("report of the folder", lambda: report([str(root)]), lambda: read(root, False))
    yield measured("compare", lambda: compare([str(sweep)]), lambda: read(sweep, True))


def validations(n: int, folder: Path) -> Iterator[Measured]:
    """n validations in a run: logged, read, plotted, made with a network that costs nothing; floors: csv, bare loop."""
    line = dict.fromkeys(VALIDATION, 0.05) | {"epoch": 1.0}
    text = ",".join(map(str, line.values())) + "\n"

    def log() -> None:
        (folder / "metrics.csv").unlink(missing_ok=True)
        file = MetricsFile(folder)
        file.log_metrics({"train/loss": 0.1}, 0)
        for i in range(n):
            file.log_metrics(line, i)

    def bare() -> None:
        for _ in range(n):
            with (folder / "bare.csv").open("a") as file:
                file.write(text)

    yield measured("logging", log, bare)
    write_run(drawn := folder / "run", 0)
    write_validations(drawn, n)
    content = (drawn / "metrics.csv").read_text()

    def parse() -> None:
        for line in content.split()[1:]:
            [float(cell) for cell in line.split(",") if cell]

    yield measured("reading", lambda: Run(drawn).metrics, parse)
    yield measured("report of the run", lambda: write_report(drawn), once=True)
    data = MadeUp(64, 8, 8)
    data.prepare_data()
    words = ["name=bench", "trainer.val_check_interval=1", "trainer.max_epochs=-1", "score.n=0", "samples.n=0"]
    settings = validated(Train, plain(composed("train", [*words, "data.resolution=8", "model=unet_tiny"])))

    def steps() -> None:
        step = bare_loop(settings, data, CPU, Free())
        for _ in range(n):
            step()

    yield measured("a run", lambda: run(settings, data, n, network=Free()), steps, once=True)


class Curve(NamedTuple):
    """How costs grow with a size: its unit, and the sizes measured with `--small`, by default, and with `--full`."""

    measure: Callable[[int, Path], Iterator[Measured]]
    unit: str
    small: tuple[int, ...]
    usual: tuple[int, ...]
    full: tuple[int, ...]


def powers(first: int, last: int, factor: float) -> tuple[int, ...]:
    """Sizes from the first to the last, each about `factor` times the previous one."""
    sizes = [float(first)]
    while sizes[-1] * factor < last * 0.99:
        sizes.append(sizes[-1] * factor)
    return (*(round(size) for size in sizes), last)


THIRD = 10**0.5
CURVES = {
    "images": Curve(
        images, "images", powers(300, 3000, THIRD), powers(1000, 32_000, 2), (*powers(1000, 100_000, THIRD), 200_000)
    ),
    "batch": Curve(batch, "images in a batch", powers(1, 64, 4), powers(1, 1024, 4), powers(1, 1024, 2)),
    "resolution": Curve(
        resolution, "pixels", powers(32**2, 128**2, 4), powers(32**2, 256**2, 4), powers(32**2, 256**2, 2.25)
    ),
    "samples": Curve(
        samples, "samples", powers(100, 1000, THIRD), powers(100, 10_000, THIRD), powers(100, 10_000, 1.78)
    ),
    "runs": Curve(runs, "runs", powers(10, 100, THIRD), powers(10, 1000, THIRD), (10, 32, 100, 316, 1000, 2000)),
    "validations": Curve(
        validations, "validations", powers(10, 100, THIRD), powers(10, 1000, THIRD), powers(10, 10_000, THIRD)
    ),
}  # fmt: skip
torch.set_num_threads(1)
quiet_libraries()
naming.register()
gc.freeze()  # a full collection would scan what this module imports, which `status` and others do not
