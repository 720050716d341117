"""CPU time of a training step for each recipe of a study, for trainings of equal duration.

    python bench/recipes.py architecture [--rounds 20] [--threads 1]

A step is that of the bare loop (see `bench/loop.py`): forward pass, backward pass and optimizer at the recipe's
resolution and batch size. The recipes take turns in one process, so other load on the machine affects all of them. The
table shows medians, the ratio to the first recipe with its 95% interval, and the time of all of a recipe's steps.
"""

import argparse
import statistics

import torch
from loop import SKIPPED, bare_loop
from measuring import MadeUp, median_of_ratios, moment
from rich.table import Table

from diffusion.config.composition import composed, plain
from diffusion.config.schema import Train
from diffusion.config.validation import validated
from diffusion.console import console, duration
from diffusion.reproduce.studies import jobs, names, read
from diffusion.runs import naming


def recipes(study: str) -> dict[str, Train]:
    """The settings of each recipe that a study trains, without seeds, by the overrides in which recipes differ."""
    found = {}
    trained = {name: sweep for name, sweep in read(study).sweeps.items() if sweep.command == "train"}
    for name, sweep in trained.items():
        for case in sweep.cases:
            words = [word for word in [*sweep.common, *case] if not word.startswith("seed=")]
            for job in jobs(words):
                own = " ".join([name] * (len(trained) > 1) + [word for word in job if word not in sweep.common])
                found[own] = validated(Train, plain(composed("train", ["name=bench", *job])))
    return found


def times(chosen: dict[str, Train], rounds: int) -> dict[str, list[float]]:
    """Recipe -> the CPU seconds of its steps, after the first ones; the recipes take turns."""
    steps = {}
    for recipe, settings in chosen.items():
        data = MadeUp(64, settings.data["resolution"], settings.data["batch_size"])
        data.prepare_data()
        data.setup()
        steps[recipe] = bare_loop(settings, data, torch.device("cpu"))
    seconds: dict[str, list[float]] = {recipe: [] for recipe in chosen}
    for _ in range(SKIPPED + rounds):
        for recipe, step in steps.items():
            before = moment()
            step()
            seconds[recipe].append(moment()[1] - before[1])
    return {recipe: taken[SKIPPED:] for recipe, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training = [name for name in names() if any(sweep.command == "train" for sweep in read(name).sweeps.values())]
    parser.add_argument("study", choices=training)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    naming.register()
    torch.set_num_threads(asked.threads)
    chosen = recipes(asked.study)
    seconds = times(chosen, asked.rounds)
    first = next(iter(seconds.values()))
    table = Table("recipe", "ms per step", "ratio", "steps", "all steps", title="CPU time of training")
    for recipe, taken in seconds.items():
        median, steps = statistics.median(taken), chosen[recipe].trainer.max_steps
        steps = None if steps == -1 else steps  # a number of epochs is given instead
        whole = "" if steps is None else duration(median * steps)
        ratio = median_of_ratios(taken, first)
        table.add_row(recipe or asked.study, f"{median * 1e3:.1f}", ratio, "" if steps is None else f"{steps:,}", whole)
    console.print(table)


if __name__ == "__main__":
    main()
