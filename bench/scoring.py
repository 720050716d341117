"""What the metrics cost beside the extractor: scoring samples against cached statistics, over its forward pass alone.

    python bench/scoring.py [--n 2048] [--features lite0] [--metrics standard] [--resolution 64] [--rounds 3]

The forward pass is timed as the score runs it (batch size, transfers), on random images: what is in them costs nothing.
The two are timed in turns, and medians are compared; the goal is below 1.1. The reference is as many images again, of
which the statistics lie in the cache.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from rich.table import Table

from diffusion.build import make
from diffusion.console import console
from diffusion.metric.score import Score, extract, reference_statistics, score, score_features
from diffusion.paths import conf_dir
from diffusion.training.scoring import chosen


def seconds(what: Callable[[], object]) -> float:
    """Of wall clock on a GPU; on a CPU of processor time, which other programs on the machine do not stretch."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--features", default="lite0")
    parser.add_argument("--metrics", default="standard")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("evaluate", [f"features={asked.features}", f"metrics={asked.metrics}", "name=bench"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor, metrics = make(cfg.features, "features").to(device), chosen(cfg.metrics)
    generator = torch.Generator().manual_seed(0)
    shape = (2, asked.n, 3, asked.resolution, asked.resolution)
    images, real = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DIFFUSION_CACHE"] = cache
        reference_statistics(real, extractor)  # fills the cache

        def scored() -> None:
            against = reference_statistics(real, extractor)
            score(images, extractor, against, metrics=metrics, progress=False)

        forward, whole = [], []
        for _ in range(asked.rounds):
            forward.append(seconds(lambda: extract(images, extractor, progress=False)))
            whole.append(seconds(scored))
        against, features = reference_statistics(real, extractor), extract(images, extractor, progress=False)
        each = []
        for metric in metrics:
            found: dict[str, Score] = {}
            taken = seconds(
                lambda m=metric, f=found: f.update(score_features(features, extractor, against, metrics=[m]))
            )
            each.append((", ".join(found), taken))
    what = f"{asked.n} images, {asked.features} features, {asked.metrics} metrics, {device}"
    table = Table("what", "seconds", title=what)
    table.add_row("the extractor's forward pass", f"{statistics.median(forward):.2f}")
    table.add_row("scoring against cached statistics", f"{statistics.median(whole):.2f}")
    for names, taken in each:
        table.add_row(f"  {names}", f"{taken:.2f}")
    console.print(table)
    console.print(f"ratio {statistics.median(whole) / statistics.median(forward):.3f} (goal: below 1.1)")


if __name__ == "__main__":
    main()
