"""The paired differences in docs/recipes.md and in the pages of the studies are those of the committed numbers."""

import pytest

from diffusion.files import PACKAGE
from diffusion.report.recipes import mean_over_seeds
from diffusion.reproduce.committed import tables_of

DOCS = PACKAGE.parent / "docs"
Settings = dict[str, str]

# the beginning of a line of docs/recipes.md -> study, sweep, settings of the recipe, settings of its reference
TRIAL, WEIGHT = "recipe/train", "objective.weighting"
ADAMW, PLAIN = {"optimizer": "adamw", "optimizer.lr": "0.001"}, {"prediction": "v", WEIGHT: "unit"}
SMALL: Settings = {"model": "unet_tiny", "model.channels": "[16, 32, 48]", "trainer.max_steps": "2000"}
BASE = PLAIN | {"objective.noise": "independent", "trainer.precision": "32-true"}
COSINE, SIXTEEN = {"schedule": "cosine", "schedule.steps": "1000"}, {"data.batch_size": "16"}
LINES: dict[str, tuple[str, Settings, Settings]] = {
    "`optimizer=muon optimizer.lr=3e-3`": (
        "optimizer/train", {"optimizer": "muon", "optimizer.lr": "0.003"}, ADAMW),
    "`optimizer=muon` (at 1e-3)": ("optimizer/train", {"optimizer": "muon", "optimizer.lr": "0.001"}, ADAMW),
    "`optimizer.lr=3e-3`": ("optimizer/train", ADAMW | {"optimizer.lr": "0.003"}, ADAMW),
    "`optimizer.lr=3e-4`": ("optimizer/train", ADAMW | {"optimizer.lr": "0.0003"}, ADAMW),
    "`weighting=sigmoid`": (TRIAL, BASE | {WEIGHT: "sigmoid"}, BASE),
    "`weighting=min_snr`": (TRIAL, BASE | {WEIGHT: "min_snr"}, BASE),
    "`noise=immiscible`": (TRIAL, BASE | {"objective.noise": "immiscible"}, BASE),
    "`trainer.precision=bf16-mixed`": (TRIAL, BASE | {"trainer.precision": "bf16-mixed"}, BASE),
    "`prediction=x0`, `weighting=velocity`": (TRIAL, {"prediction": "x0"}, BASE),
    "an average of length 0.02": ("recipe/lengths", {"weights": "0.02"}, {"weights": "0.05"}),
    "no average": ("recipe/lengths", {"weights": "raw"}, {"weights": "0.05"}),
    "an average of length 0.1": ("recipe/lengths", {"weights": "0.1"}, {"weights": "0.05"}),
    "an average of length 0.2": ("recipe/lengths", {"weights": "0.2"}, {"weights": "0.05"}),
    "batches of 8, twice the steps": ("batch/epochs", {"data.batch_size": "8"}, SIXTEEN),
    "batches of 32, half of the steps": ("batch/epochs", {"data.batch_size": "32"}, SIXTEEN),
    "batches of 32, twice the images": ("batch/steps", {"data.batch_size": "32"}, SIXTEEN),
    "batches of 8, half of the images": ("batch/steps", {"data.batch_size": "8"}, SIXTEEN),
    "`schedule=sigmoid`": ("schedule/train", {"schedule": "sigmoid"}, COSINE),
    "`schedule=linear`": ("schedule/train", {"schedule": "linear"}, COSINE),
    "`schedule.steps=100`": ("schedule/train", COSINE | {"schedule.steps": "100"}, COSINE),
    "`schedule.steps=4000`": ("schedule/train", COSINE | {"schedule.steps": "4000"}, COSINE),
    "no attention, same operations": ("architecture/train", {"trainer.max_steps": "2090"}, SMALL),
    "deeper and narrower, same operations": ("architecture/train", {"trainer.max_steps": "2380"}, SMALL),
    "`model.patch=2`, same operations": ("architecture/train", {"model.patch": "2"}, SMALL),
    "`model=edm2_tiny` at 1e-3, same operations": (
        "architecture/train", {"model": "edm2_tiny", "optimizer.lr": "0.001"}, SMALL),
    "`model=edm2_tiny` at 1e-2, same operations": (
        "architecture/train", {"model": "edm2_tiny", "optimizer.lr": "0.01"}, SMALL),
    "`model=dit_tiny`, same operations": ("architecture/train", {"model": "dit_tiny"}, SMALL),
    "wider (×1.5), same time": ("architecture/train", {"trainer.max_steps": "1000"}, SMALL),
    "deeper (×2), same time": ("architecture/train", {"trainer.max_steps": "1200"}, SMALL),
}  # fmt: skip


def difference(place: str, recipe: Settings, reference: Settings, column: str) -> str:
    """The mean of the differences paired by seed and half of its 95% interval, such as `−45 ± 12`."""
    study, _, sweep = place.partition("/")
    table = tables_of(study)[sweep]

    def numbers(settings: Settings) -> dict[str, dict[str, float]]:
        (found,) = (
            rows
            for key, rows in table.numbers.items()
            if settings.items() <= dict(zip(table.settings, key, strict=True)).items()
        )
        return found

    here, there = numbers(recipe), numbers(reference)
    mean = mean_over_seeds([here[seed][column] - there[seed][column] for seed in there])
    return f"{'+' if mean.mean > 0 else ''}{mean}".replace("-", "−")


def rows() -> dict[str, list[str]]:
    section = (DOCS / "recipes.md").read_text("utf-8").split("\n## ")[1]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines[2:] if not line[0].startswith("**")}


def test_the_table_has_a_line_for_each_difference():
    assert sorted(rows()) == sorted(LINES)


@pytest.mark.parametrize("line", LINES)
def test_differences_are_those_of_the_committed_numbers(line):
    place, recipe, reference = LINES[line]
    error, distance, link = rows()[line]
    assert distance.strip("*") == difference(place, recipe, reference, "fd_lite0")
    if error not in ("", "not comparable"):
        assert error == difference(place, recipe, reference, "val/mse")
    assert place.partition("/")[0] in link
