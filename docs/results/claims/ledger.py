"""The ledger: a row for each claim, from the committed numbers of this study and of earlier ones, into README.md.

python -m docs.results.claims.ledger
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diffusion.base.files import read_table
from diffusion.report.compare import Mean
from diffusion.report.numbers import plus_minus

HERE = Path(__file__).parent
PAGE, START, END = HERE / "README.md", "<!-- ledger -->\n", "\n<!-- end -->"
HEAD = ["claim", "what the paper says", "measured: changed, baseline", "n", "difference", "cost of a step", "verdict"]


class Runs(NamedTuple):
    """Runs in a committed table, such as recipe/train, which have these values; other settings are equal."""

    table: str
    values: dict[str, str] = {}

    def of(self, column: str) -> dict[str, float]:
        """Training seed -> number; {} if the runs are missing."""
        file = HERE.parent / f"{self.table}.csv"
        rows = read_table(file) if file.is_file() else []
        mine = [row for row in rows if all(row.get(key) == value for key, value in self.values.items())]
        return {row["seed"].partition("/")[0]: float(row[column]) for row in mine if row.get(column)}


class Row(NamedTuple):
    """A claim, what the paper says, where; the changed runs and those without the change; what is measured."""

    claim: str
    says: str
    source: str
    changed: Runs
    baseline: Runs
    column: str = "fd_lite0"
    cost: str = ""  # the recipe in cost.json, or the cost in words
    paired: bool = True

    def cells(self) -> list[str]:
        """The row of the table; [] if there are no runs."""
        x, y = self.changed.of(self.column), self.baseline.of(self.column)
        if self.paired:
            pairs = [(x[seed], y[seed]) for seed in x if seed in y]
        else:
            pairs = [*zip(x.values(), y.values(), strict=False)]
        if len(pairs) < 2:
            return []
        difference = Mean(enumerate(a - b for a, b in pairs))
        low, high = difference.mean - difference.half, difference.mean + difference.half
        verdict = "**holds here**" if high < 0 else "**the opposite**" if low > 0 else "not shown"
        means = [Mean(enumerate(side)) for side in zip(*pairs, strict=True)]
        shown = ", ".join(plus_minus(mean.mean, mean.half) for mean in means)
        study = self.changed.table.partition("/")[0]
        link = shown if study == "claims" else f"[{shown}](../{study}/README.md)"
        cost = COST.get(self.cost, self.cost)
        cost = f"× {cost:.2f}" if isinstance(cost, float) else cost
        return [self.claim, f"{self.says} ({self.source})", link, str(len(pairs)), str(difference), cost, verdict]


COST: dict[str, float] = json.loads((HERE / "cost.json").read_text("utf-8"))
TRIAL = Runs("recipe/train", {"objective.weighting": "unit", "prediction": "v", "objective.noise": "independent",
                              "trainer.precision": "32-true"})  # fmt: skip


def arxiv(number: str) -> str:
    return f"[{number}](https://arxiv.org/abs/{number})"


EARLIER = [
    Row("nothing: the same recipe and seeds, on another machine", "—", "A/A", Runs("optimizer/train", {
        "optimizer": "adamw", "optimizer.lr": "0.001"}), TRIAL, cost=""),
    Row("min-SNR weighting", "3.4 times faster convergence; FID 2.06 on ImageNet 256", arxiv("2303.09556"),
        TRIAL._replace(values=TRIAL.values | {"objective.weighting": "min_snr"}), TRIAL,
        cost="weighting@objective.weighting=min_snr"),
    Row("sigmoid weighting", "better images than other weights, at high resolution", arxiv("2303.00848"),
        TRIAL._replace(values=TRIAL.values | {"objective.weighting": "sigmoid"}), TRIAL,
        cost="weighting@objective.weighting=sigmoid"),
    Row("log-normal times", "part of the recipe with FID 1.97 on CIFAR-10", arxiv("2206.00364"),
        Runs("times/train", {"objective.timesteps": "log_normal"}),
        Runs("times/train", {"objective.timesteps": "uniform_table"}), cost="timesteps@objective.timesteps=log_normal"),
    Row("Laplace times", "a lower FID on ImageNet than with even times", arxiv("2407.03297"),
        Runs("times/train", {"objective.timesteps": "laplace"}),
        Runs("times/train", {"objective.timesteps": "uniform_table"}), cost="timesteps@objective.timesteps=log_normal"),
    Row("Muon, both at 3e-3", "a loss 18% lower than AdamW's on a U-Net at 64×64", arxiv("2510.19376"),
        Runs("optimizer/train", {"optimizer": "muon", "optimizer.lr": "0.003"}),
        Runs("optimizer/train", {"optimizer": "adamw", "optimizer.lr": "0.003"}), cost="optimizer=muon"),
    Row("immiscible noise", "training up to 3 times faster on CIFAR-10", arxiv("2406.12303"),
        TRIAL._replace(values=TRIAL.values | {"objective.noise": "immiscible"}), TRIAL,
        cost="noise@objective.noise=immiscible"),
    Row("x0 with the velocity loss", "FID 8.6 instead of 372 (ε) and 97 (v), by a transformer on large patches",
        arxiv("2511.13720"), TRIAL._replace(values={"prediction": "x0"}), TRIAL,
        cost="prediction=x0 weighting@objective.weighting=velocity"),
    Row("v instead of ε", "more stable, above all with few sampling steps", arxiv("2202.00512"),
        Runs("continuous/train", {"schedule": "linear", "prediction": "v"}),
        Runs("continuous/train", {"schedule": "linear", "prediction": "eps"}), cost="prediction=eps"),
    Row("EDM's preconditioning, with VE noise", "part of the recipe with FID 1.97 on CIFAR-10", arxiv("2206.00364"),
        Runs("continuous/train", {"schedule": "ve"}),
        Runs("continuous/train", {"schedule": "vp", "prediction": "eps"}), cost="prediction=edm"),
    Row("cosine instead of linear schedule", "a better likelihood and a lower FID", arxiv("2102.09672"),
        Runs("schedule/train", {"schedule": "cosine", "schedule.steps": "1000"}),
        Runs("schedule/train", {"schedule": "linear"}), cost="schedule=scaled_linear"),
    Row("average of length 0.05 instead of none", "FID depends strongly on the length of the average",
        arxiv("2312.02696"), Runs("recipe/lengths", {"weights": "0.05"}), Runs("recipe/lengths", {"weights": "raw"}),
        cost="ema=power ~ema.decay=null"),
    Row("autoguidance by early weights, the demo", "FID 1.58 to 1.01 on ImageNet 64", arxiv("2406.02070"),
        Runs("demo/train"), Runs("demo/drawn", {"guidance": "none", "sampler": "DPMSolver", "sampler.steps": "25"}),
        "train/fd_lite0", "sampling × 2"),
    Row("the same, at equal seconds of sampling", "", "", Runs("demo/train"),
        Runs("demo/drawn", {"guidance": "none", "sampler": "DPMSolver", "sampler.steps": "50"}),
        "train/fd_lite0", "sampling × 1"),
    Row("guidance by windows, the demo", "better images without labels or training", arxiv("2411.10257"),
        Runs("demo/drawn", {"guidance": "WindowGuidance"}),
        Runs("demo/drawn", {"guidance": "none", "sampler": "DPMSolver", "sampler.steps": "50"}),
        "train/fd_lite0", "sampling × 1"),
    Row("a solver of second order, 10 steps", "good samples in 15 to 20 steps", arxiv("2211.01095"),
        Runs("samplers/samplers", {"sampler": "DPMSolver", "sampler.steps": "10", "sampler.grid": "karras"}),
        Runs("samplers/samplers", {"sampler": "DDIM", "sampler.steps": "10"}), cost="sampling × 1"),
]  # fmt: skip


def table(rows: Iterable[Row]) -> str:
    """The rows of the ledger that have runs, as Markdown."""
    shown = [cells for row in rows if (cells := row.cells())]
    lines = [HEAD, ["---", "---", "---", "--:", "---", "---", "---"], *shown]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print(table(EARLIER))
