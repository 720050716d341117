"""Cost of the metrics: scoring samples against cached statistics, relative to the extractor's forward pass alone.

    python bench/scoring.py [--n 2048] [--features lite0] [--metrics standard] [--resolution 64]

The features of each part of the images are extracted by `extract` and by the bare extractor in turn, because a
machine's speed drifts by more than the difference. The cost is the median of the parts' ratios, plus the share of the
rest (reading the statistics and computing the metrics); the goal is below 1.1 at 2,048 samples. The share of the rest
falls with the number of samples. The images are random: their content does not affect the cost.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from measuring import Moment, between, median_of_ratios, moment
from rich.table import Table
from torch import Tensor

from diffusion.base.console import console
from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.errors import UserError
from diffusion.metric.score import extract, reference_of, score
from diffusion.scoring.pipeline import make_metrics


def seconds(what: Callable[[], object], device: torch.device) -> Moment:
    start = moment(device)
    try:
        what()
    except UserError:  # too few images for a metric
        return (0.0, 0.0)
    return between(start, moment(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--features", default="lite0")
    parser.add_argument("--metrics", default="standard")
    parser.add_argument("--resolution", type=int, default=64)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = make(choice("features", asked.features), "features").to(device)
    metrics = make_metrics(choice("metrics", asked.metrics))
    generator = torch.Generator().manual_seed(0)
    shape = (asked.n, 3, asked.resolution, asked.resolution)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    size = 128 if device.type == "cuda" else 8

    def bare(part: Tensor) -> None:
        for batch in part.split(size):
            extractor(batch).cpu()

    with tempfile.TemporaryDirectory() as cache:
        os.environ["DIFFUSION_CACHE"] = cache
        against = reference_of(images, extractor)
        each = {"reading": seconds(lambda: reference_of(images, extractor), device)}
        pairs = []
        for part in images.split(8 * size):
            extracting = partial(extract, part, extractor)
            pairs.append([seconds(what, device) for what in (partial(bare, part), extracting)])
        features = torch.randn(asked.n, extractor.num_features, generator=generator).abs()
        for metric in metrics:
            measure = partial(score, features, extractor, against, [metric])
            each[type(metric).__name__] = seconds(measure, device)
    table = Table("what", "wall s", "CPU s", title=f"{asked.n} images, {asked.features} features, {device}")
    total = {what: [sum(pair[k][i] for pair in pairs) for i in (0, 1)] for k, what in enumerate(("bare", "extract"))}
    for what, taken in {**total, **each}.items():
        table.add_row(what, *(f"{value:.2f}" for value in taken))
    console.print(table)
    for i, clock in enumerate(("wall", "CPU")):
        rest = sum(taken[i] for taken in each.values()) / total["bare"][i]
        ratio = median_of_ratios([pair[1][i] for pair in pairs], [pair[0][i] for pair in pairs])
        console.print(f"{clock} time: {ratio} for the features, and {rest:.3f} for the rest (goal: below 1.1 together)")


if __name__ == "__main__":
    main()
