"""The time of a training step of each recipe of the ledger, relative to the first one's, into cost.json.

    python -m docs.results.claims.cost

The recipes take turns in one process, and the time is that of the processor: other programs change it little.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.config.build import validated
from diffusion.config.choices import composed, searching
from diffusion.config.schema import Train
from diffusion.data import to_unit
from diffusion.extras.reproduce import read
from diffusion.randomness import Streams
from diffusion.training.module import Diffusion
from diffusion.training.parts import Parts

HERE = Path(__file__).parent
ROUNDS, SWEEPS = 12, ("train", "more", "rest", "flow", "labels", "contrastive", "terminal")


def recipes() -> Iterator[list[str]]:
    """The overrides of each recipe, with its first seed."""
    parse = OverridesParser.create().parse_overrides
    for name in SWEEPS:
        sweep = read("claims").sweeps[name]
        for case in sweep.cases:
            jobs = BasicSweeper.split_arguments(parse([*sweep.common, *case]), None)[0]
            yield from (words for words in jobs if "seed=0" in words)


def stepper(words: list[str], folder: Path) -> Callable[[], float]:
    """A function that makes one training step of a recipe, and returns its seconds."""
    settings = validated(Train, composed("train", [*words, "name=cost", "score.n=0", "samples.n=0"]))
    run = Parts(settings, folder, None)
    module = Diffusion(run).train()
    optimizer, split = module.new_optimizer(), run.data.splits["train"]
    x0, given = to_unit(split.images[:16]), {"classes": split.labels[:16]} if settings.data["labels"] else {}

    def step() -> float:
        begun = time.process_time()
        module.values(x0, {**given}, lambda use: Streams(range(16)), {})["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - begun

    return step


def main() -> None:
    torch.set_num_threads(1)
    with searching([HERE / "conf"]), tempfile.TemporaryDirectory() as folder:
        every = [*recipes()]
        steps = [stepper(words, Path(folder)) for words in every]
    rounds = [[step() for step in steps] for _ in range(ROUNDS)][2:]
    ratios = [median(each[i] / each[0] for each in rounds) for i in range(len(every))]
    common = {*every[0]}
    names = (" ".join(word for word in words if word not in common) for words in every)
    found = {name: round(x, 3) for name, x in zip(names, ratios, strict=True)}
    (HERE / "cost.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
