"""Cost of the metrics: scoring samples against cached statistics, relative to the extractor's forward pass alone.

    python bench/scoring.py [--n 2048] [--features lite0] [--metrics standard] [--resolution 64]

Each batch is scored and then passed through the bare extractor before the next one, because a machine's speed drifts by
more than the difference. The rest of the score (reading the statistics and computing the metrics) is compared with the
bare batches just before and after it. The ratio is the median of the pairs' ratios, with its 95% interval (order
statistics), plus the share of the rest; the goal is below 1.1 at 2,048 samples. The share of the rest falls with the
number of samples. The images and an equal number of reference features are random: their content does not affect the
cost.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import torch
from measuring import Moment, between, moment
from rich.table import Table
from torch import Tensor

from diffusion.config.build import make
from diffusion.config.composition import choice
from diffusion.console import console, hiding_bars
from diffusion.errors import UserError
from diffusion.evaluation.pipeline import make_metrics
from diffusion.metric.extract import extract
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.reference import reference_statistics
from diffusion.metric.score import Factory, score, score_features, wants_spatial

AROUND = 8  # bare batches before and after the rest of a score


def seconds(what: Callable[[], object], device: torch.device) -> Moment:
    start = moment(device)
    what()
    return between(start, moment(device))


class Turns:
    """Yields batches to score; passes each through the bare extractor after it is scored, and times both."""

    def __init__(self, images: Tensor, batch_size: int, bare: Callable[[Tensor], object], device: torch.device):
        self.batches, self.bare_pass, self.device = images.split(batch_size), bare, device
        self.scored: list[Moment] = []
        self.bare: list[Moment] = []

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            start = moment(self.device)
            yield batch
            self.scored.append(between(start, moment(self.device)))
            self.bare.append(seconds(partial(self.bare_pass, batch), self.device))


def fill_cache(images: Tensor, extractor: FeatureExtractor, spatial: bool) -> None:
    """Cache the statistics of random features as the statistics of `images`."""
    width = extractor.num_features + spatial * extractor.num_spatial
    extractor.forward = lambda batch, spatial: torch.randn(len(batch), width).abs()  # type: ignore[method-assign]
    try:
        reference_statistics(images, extractor, spatial=spatial)
    finally:
        del extractor.forward


def interval(scored: list[float], bare: list[float], rest: float) -> str:
    """`1.032 [1.029, 1.036]`: the median of the pairs' ratios plus `rest`, and its 95% interval."""
    ratios = sorted(a / b + rest for a, b in zip(scored, bare, strict=True))
    n = len(ratios)
    k = max(0, int(n / 2 - 0.98 * n**0.5))
    return f"{statistics.median(ratios):.3f} [{ratios[k]:.3f}, {ratios[n - 1 - k]:.3f}]"


@hiding_bars()
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
    spatial = wants_spatial(metrics, extractor)
    generator = torch.Generator().manual_seed(0)
    shape = (2, asked.n, 3, asked.resolution, asked.resolution)
    images, real = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    batch_size = 128 if device.type == "cuda" else 8

    def bare(batch: Tensor) -> Tensor:
        return extractor(batch).cpu()

    with tempfile.TemporaryDirectory() as cache:
        os.environ["DIFFUSION_CACHE"] = cache
        fill_cache(real, extractor, spatial)
        for batch in images[: 3 * batch_size].split(batch_size):
            bare(batch)  # allocate memory and choose kernels
        turns = Turns(images, batch_size, bare, device)

        def scored() -> None:
            against = reference_statistics(real, extractor, spatial=spatial)
            score(turns, extractor, against, metrics=metrics)

        whole = seconds(scored, device)
        after = [seconds(partial(bare, batch), device) for batch in turns.batches[:AROUND]]
        against = reference_statistics(real, extractor, spatial=spatial)
        reading = seconds(lambda: reference_statistics(real, extractor, spatial=spatial), device)
        features = extract(images[:64], extractor, spatial=spatial)
        features = features[torch.arange(asked.n) % len(features)] + torch.rand(asked.n, 1)
        each = {}
        for metric in metrics:
            found: dict[str, object] = {}

            def measure(metric: Factory = metric, found: dict[str, object] = found) -> None:
                with suppress(UserError):  # too few images for this metric
                    found.update(score_features(features, extractor, against, metrics=[metric]))

            taken = seconds(measure, device)
            if found:
                each[", ".join(found)] = taken
    table = Table(title=f"{asked.n} images, {asked.features} features, {asked.metrics} metrics, {device}")
    for column in ("what", "wall s", "CPU s"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    line = {}
    for clock in (0, 1):
        bares, scoreds = ([pair[clock] for pair in times] for times in (turns.bare, turns.scored))
        rest = whole[clock] - sum(bares) - sum(scoreds)
        near = statistics.mean([*bares[-AROUND:], *(pair[clock] for pair in after)])
        line[clock] = (sum(bares), sum(scoreds) + rest, rest, interval(scoreds, bares, rest / near / len(bares)))
    for i, what in enumerate(
        ("the extractor's forward pass", "scoring against cached statistics", "  outside the batches")
    ):
        table.add_row(what, *(f"{line[clock][i]:.2f}" for clock in (0, 1)))
    for names, taken in {"reading the statistics": reading, **each}.items():
        table.add_row(f"    {names}", *(f"{value:.2f}" for value in taken))
    console.print(table)
    console.print(f"ratio {line[0][3]} in wall time, {line[1][3]} in CPU time (goal: below 1.1)")


if __name__ == "__main__":
    main()
