"""The ledger: a row for each claim, from the committed numbers of this study and of earlier ones, into README.md.

python -m docs.results.claims.ledger              # the table
python -m docs.results.claims.ledger pictures     # samples.png, from the runs in outputs/results/claims
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from diffusion.base.files import read_table
from diffusion.base.pixels import grid, save_png, tiles
from diffusion.extras.reproduce import means, read
from diffusion.findings.compare import Mean, label

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
SHOWN = ("val/mse", "regret/mse", "fd_lite0", "kid_lite0", "energy_points")
HEAD = ["claim", "what the paper says", "here", "verdict", "cost", "before: 32×32, 2,000 steps"]


class Runs(NamedTuple):
    """Runs in a committed table, such as recipe/train, which have these values; without values, its first recipe."""

    table: str
    values: Mapping[str, str] | None = None

    def of(self, column: str) -> dict[str, float]:
        """Training seed -> number; {} if the runs are missing."""
        file = HERE.parent / f"{self.table}.csv"
        rows = read_table(file) if file.is_file() else []
        recipes = [label(dict([*row.items()][: [*row].index("seed")])) for row in rows]
        mine = [row for row, recipe in zip(rows, recipes, strict=True) if self.has(row, recipe == recipes[0])]
        found = {row["seed"].partition("/")[0]: float(row[column]) for row in mine if row.get(column)}
        assert len(found) == len(mine), f"{self}: several recipes"
        return found

    def has(self, row: Mapping[str, str], first: bool) -> bool:
        return first if self.values is None else all(row.get(key) == value for key, value in self.values.items())


class Pair(NamedTuple):
    """The changed runs, those without the change, and what is compared; if not `paired`, they have other seeds."""

    changed: Runs
    baseline: Runs
    column: str = "fd_lite0"
    paired: bool = True

    def difference(self) -> Mean | None:
        """The mean difference over seeds; None if there are no runs."""
        x, y = self.changed.of(self.column), self.baseline.of(self.column)
        seeds = [(k, k) for k in x if k in y] if self.paired else [*zip(x, y, strict=False)]
        return Mean((a, x[a] - y[b]) for a, b in seeds) if len(seeds) > 1 else None


def verdict(mean: Mean | None) -> str:
    """By the 95% interval of the difference in a score of which less is better."""
    if mean is None:
        return "—"
    return (
        "**holds here**" if mean.mean + mean.half < 0 else "**the opposite**" if mean.mean > mean.half else "not shown"
    )


class Claim(NamedTuple):
    """A row: the change, what its paper says, and where; this study's runs and an earlier study's; the cost."""

    what: str
    says: str
    source: str = ""
    here: Pair | None = None
    before: Pair | None = None
    cost: str = ""  # the recipe in cost.json, or words

    def cells(self) -> list[str]:
        says = f"{self.says} ([{self.source}](https://arxiv.org/abs/{self.source}))" if self.source else self.says
        now, then = (pair and pair.difference() for pair in (self.here, self.before))
        study = self.before.changed.table.partition("/")[0] if self.before else ""
        earlier = f"[{then}](../{study}/README.md), {verdict(then)}".replace("*", "") if then else "—"
        cost = f"{COST[self.cost]:.2f}" if self.cost in COST else self.cost
        return [self.what, says, str(now or "—"), verdict(now), cost, earlier]


def one(key: str, value: str, table: str = "claims/train", first: Runs | None = None) -> Pair:
    """The recipe of a table with this value, and the first one."""
    return Pair(Runs(table, {key: value}), first or Runs(table))


COST: dict[str, float] = json.loads((HERE / "cost.json").read_text("utf-8"))
WEIGHT, TIMES, NOISE = (f"{name}@objective.{name}=" for name in ("weighting", "timesteps", "noise"))
BASE, TRIAL, FLOW = (
    Runs("claims/train"),
    Runs("recipe/train"),
    "schedule=flow timesteps@objective.timesteps=uniform prediction=",
)
PLAIN = Runs("demo/drawn", {"guidance": "none", "sampler": "DPMSolver", "sampler.steps": "25"})
LONG = Runs("demo/drawn", {"guidance": "none", "sampler": "DPMSolver", "sampler.steps": "50"})
POINTS = {"column": "energy_points"}
CLAIMS = [
    Claim("A/A: nothing, with other seeds; before: with the same seeds, on another machine", "no difference", "",
          Pair(Runs("claims/again"), BASE, paired=False),
          Pair(Runs("optimizer/train", {"optimizer": "adamw", "optimizer.lr": "0.001"}), TRIAL), "1"),
    Claim("sabotage: a quarter of the targets exchanged", "must be worse", "", one("objective", "shuffled"),
          cost="objective=shuffled"),
    Claim("min-SNR weighting", "3.4 times faster convergence, FID 2.06 on ImageNet 256", "2303.09556",
          one("objective.weighting", "min_snr"), one("objective.weighting", "min_snr", "recipe/train"),
          f"{WEIGHT}min_snr"),
    Claim("sigmoid weighting", "better images than with other weights", "2303.00848",
          one("objective.weighting", "sigmoid"), one("objective.weighting", "sigmoid", "recipe/train"),
          f"{WEIGHT}sigmoid"),
    Claim("log-normal times", "part of the recipe with FID 1.97 on CIFAR-10", "2206.00364",
          one("objective.timesteps", "log_normal"), one("objective.timesteps", "log_normal", "times/train"),
          f"{TIMES}log_normal"),
    Claim("Laplace times", "a lower FID on ImageNet", "2407.03297", None,
          one("objective.timesteps", "laplace", "times/train"), f"{TIMES}log_normal"),
    Claim("EDM's preconditioning", "part of the recipe with FID 1.97 on CIFAR-10", "2206.00364",
          one("prediction", "edm", "claims/more", BASE),
          Pair(Runs("continuous/train", {"schedule": "ve"}),
                                         Runs("continuous/train", {"schedule": "vp", "prediction": "eps"})),
          "prediction=edm"),
    Claim("Muon", "a loss 18% lower than AdamW's on a U-Net at 64×64", "2510.19376",
          one("optimizer", "muon", "claims/more", BASE),
          Pair(Runs("optimizer/train", {"optimizer": "muon", "optimizer.lr": "0.003"}),
               Runs("optimizer/train", {"optimizer": "adamw", "optimizer.lr": "0.003"})), "optimizer=muon"),
    Claim("Muon at equal seconds: 325 steps", "", "", Pair(Runs("claims/seconds"), BASE), cost="1"),
    Claim("immiscible noise", "training up to 3 times faster on CIFAR-10", "2406.12303",
          one("objective.noise", "immiscible", "claims/more", BASE),
          one("objective.noise", "immiscible", "recipe/train"),
          f"{NOISE}immiscible"),
    Claim("x0 with the velocity loss", "FID 8.6, with v 97, with ε 372: a transformer on large patches", "2511.13720",
          one("prediction", "x0", "claims/rest", BASE), one("prediction", "x0", "recipe/train"),
          f"prediction=x0 {WEIGHT}velocity"),
    Claim("averages by a power of the step, length 0.05", "FID depends on the length of the average", "2312.02696",
          one("ema", "power", "claims/rest", BASE),
          Pair(Runs("recipe/lengths", {"weights": "0.05"}), Runs("recipe/lengths")),
          "ema=power ~ema.decay=null"),
    Claim("dropout of 0.1", "without it, poorer samples on CIFAR-10", "2006.11239", one("model.dropout", "0.1"),
          cost="model.dropout=0.1"),
    Claim("dropout at equal seconds: 424 steps", "", "", Pair(Runs("claims/seconds_dropout"), BASE), cost="1"),
    Claim("dispersive loss", "consistent improvements on ImageNet", "2506.09027",
          one("objective", "dispersive"), cost="objective=dispersive"),
    Claim("contrastive flow matching, by scene", "FID lower by up to 8.9 on ImageNet, in up to 9 times fewer steps",
          "2506.05350", Pair(Runs("claims/contrastive"), Runs("claims/labels")),
          cost=f"{FLOW}velocity data.labels=True objective=contrastive"),
    Claim("equilibrium matching", "FID 1.90 on ImageNet 256, lower than with flow matching", "2510.02300",
          one("prediction", "equilibrium", "claims/flow"), cost=f"{FLOW}equilibrium sampler=descent"),
    Claim("a schedule that ends in pure noise", "bright and dark images, too", "2305.08891",
          one("schedule", "zero_snr", "claims/terminal"), cost="1"),
    Claim("cosine instead of linear schedule", "a better likelihood and a lower FID", "2102.09672", None,
          Pair(Runs("schedule/train", {"schedule": "cosine", "schedule.steps": "1000"}),
               Runs("schedule/train", {"schedule": "linear"})), "1"),
    Claim("v instead of ε", "stable in distillation to few steps", "2202.00512", None,
          Pair(Runs("continuous/train", {"schedule": "linear", "prediction": "v"}),
               Runs("continuous/train", {"schedule": "linear", "prediction": "eps"})), "1"),
    Claim("autoguidance by early weights; before: the demo", "FID 1.58 to 1.01 on ImageNet 64", "2406.02507",
          one("guidance", "early", "claims/early_drawn"), Pair(Runs("demo/train"), PLAIN, "train/fd_lite0"),
          "sampling 2"),
    Claim("the same at equal seconds of sampling", "", "", Pair(
          Runs("claims/early_drawn", {"guidance": "early"}),
          Runs("claims/early_drawn", {"guidance": "none", "sampler.steps": "50"})),
          Pair(Runs("demo/train"), LONG, "train/fd_lite0"), "1"),
    Claim("guidance by windows, at equal seconds; before: the demo", "better images without labels", "2411.10257", None,
          Pair(Runs("demo/drawn", {"guidance": "WindowGuidance"}), LONG, "train/fd_lite0"), "1"),
    Claim("guidance by labels (the scene), scale 2", "better images, less diverse", "2207.12598",
          one("guidance", "cfg", "claims/interval"), cost="sampling 2"),
    Claim("the same in an interval of noise levels only", "FID 1.81 to 1.40 on ImageNet 512", "2404.07724",
          Pair(Runs("claims/interval", {"guidance": "interval"}), Runs("claims/interval", {"guidance": "cfg"})),
          cost="1 or less"),
    Claim("points, A/A: nothing, with other seeds", "no difference", "",
          Pair(Runs("claims/points_again"), Runs("claims/points"), "energy_points", paired=False), cost="1"),
    Claim("points, sabotage", "must be worse", "",
          one("objective", "shuffled", "claims/points")._replace(**POINTS), cost="1"),
    Claim("points: minibatch optimal transport, drawn in 5 steps", "straighter paths, fewer steps", "2302.00482",
          one("objective.noise", "assigned", "claims/points_few")._replace(**POINTS), cost="1"),
    Claim("points: equilibrium matching", "see above", "2510.02300",
          one("prediction", "equilibrium", "claims/points")._replace(**POINTS), cost="1"),
    Claim("points: contrastive flow matching, by moon", "see above", "2506.05350",
          one("objective", "contrastive", "claims/points_labels")._replace(**POINTS), cost="1"),
]  # fmt: skip


def ledger() -> str:
    """The claims that have runs, as a table in Markdown."""
    rows = [claim.cells() for claim in CLAIMS]
    lines = [HEAD, ["---"] * len(HEAD), *(row for row in rows if row[2] + row[5] != "——")]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def numbers(sweep: str) -> str:
    """The committed means of a sweep, as a table between the marks that its test looks for; "" if there are none."""
    if not (file := HERE / f"{sweep}.csv").is_file():
        return ""
    rows, found = read_table(file), means(file)
    settings, columns = [*rows[0]][: [*rows[0]].index("seed")], [name for name in SHOWN if name in rows[0]]
    recipes = {label({key: row[key] for key in settings}): [row[key] for key in settings] for row in rows}
    body = [[*values, *(str(found[recipe, name]) for name in columns)] for recipe, values in recipes.items()]
    lines = [[*settings, *columns], ["---"] * (len(settings) + len(columns)), *body]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"`{sweep}`:\n\n<!-- table: {sweep} -->\n{text}\n<!-- end -->\n\n"


def pictures(runs: Path = Path("outputs/results/claims"), n: int = 12) -> None:
    """Save the first samples of the first seed of some recipes, a row for each."""
    shown = []
    for place in (line.split()[0] for line in (HERE / "pictures.txt").read_text("utf-8").splitlines()):
        shown.append(torch.from_numpy(tiles(Image.open(runs / place / "samples/all.png"))[:n]).movedim(3, 1))
    save_png(grid(torch.cat(shown), n, large=True), HERE / "samples.png")


if __name__ == "__main__":
    if "pictures" in sys.argv:
        pictures(*map(Path, sys.argv[2:]))
    text, all_numbers = PAGE.read_text("utf-8"), "".join(map(numbers, read("claims").sweeps))
    for mark, new in (("ledger", ledger()), ("numbers", all_numbers.strip())):
        before, after = text.split(f"<!-- {mark} -->\n")[0], text.split(f"\n<!-- end of {mark} -->")[1]
        text = f"{before}<!-- {mark} -->\n{new}\n<!-- end of {mark} -->{after}"
    PAGE.write_text(text, encoding="utf-8")
