"""The verdict on a run: on the published numbers of docs/, and where the numbers show little or nothing."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion.errors import command_line
from diffusion.metric.record import Reference, Score
from diffusion.report.verdict import closeness, copying, recipe_command, training, verdict
from diffusion.runs.folder import Run, Series
from diffusion.runs.record import RunRecord

Make = Callable[..., Path]
RESULTS = Path(__file__).parents[2] / "docs/results"
REAL, NOISE, FLOOR = (97.8, 92.2, 103.3), (279.0, 277.0, 280.3), (44.6, 41.4, 47.9)  # of fd_lite0, 250 tiles
Ends = tuple[float, float | None, float | None]


def scores(n: int = 250, metric: str = "fd_lite0", **found: Ends) -> list[Score]:
    """Scores against n images: what=(value, low, high)."""
    against = Reference("val", n)
    return [Score(metric, v, 250, what, against, low=low, high=high) for what, (v, low, high) in found.items()]


@pytest.mark.parametrize(("found", "kind", "words"), [
    # docs/recipes.md: the demo's first version, with Muon, with patches; memoire_narrow: both recipes, ± 3
    (scores(samples=(103.8, 100.8, 106.8), real=REAL, noise=NOISE), "unclear", "not shown"),
    (scores(samples=(90.2, 87.9, 92.6), real=REAL, noise=NOISE), "as real", "these samples 90.2 ± 2.3: as close to"),
    (scores(samples=(143.7, 139.0, 148.5), real=REAL, noise=NOISE), "behind real", "not as close"),
    (scores(samples=(122.5, 119.5, 125.5), real=(97.0, 92, 102), noise=NOISE), "behind real", "not as close"),
    (scores(samples=(94.4, 91.4, 97.4), real=(97.0, 92, 102), noise=NOISE), "unclear", "not shown"),
    # README.md: the demo, whose distances do not agree; the studies' trial, of which only the floor is scored
    (scores(samples=(78.9, 76.5, 81.2), real=REAL)
     + scores(metric="kid_lite0", samples=(0.0331, 0.0291, 0.0370), real=(0.0219, 0.0182, 0.0257)),
     "mixed", "By the kernel distance, other real images score 0.0219, these samples 0.0331 ± 0.0039: not as close"),
    (scores(samples=(162.3, 158.0, 166.0), floor=FLOOR), "no baseline", "was not measured"),
    # points whose mean and covariance are right, and whose distribution is not
    (scores(metric="energy_points", samples=(0.02, 0.019, 0.021), real=(0.001, 0.0, 0.002))
     + scores(metric="fd_points", samples=(0.001, 0.0, 0.002), real=(0.003, 0.002, 0.004)),
     "behind real", "not as close"),
    # experiment=colourise
    ([replace(score, source={"given": "val"}) for score in scores(samples=(54.3, 51.7, 57.0), real=REAL, noise=NOISE)],
     "same images", "from the conditions of held-out images themselves, so other real images are no fair measure"),
    # made: almost noise, no interval, no baseline, and a reference of 24 images
    (scores(samples=(276.0, 272.0, 280.0), real=REAL, noise=NOISE), "like noise", "not shown to be better than noise"),
    (scores(samples=(284.5, 274.0, 294.9), real=REAL, noise=(297.4, 291.3, 303.5)), "behind real", "not as close"),
    (scores(samples=(50.0, None, None), real=REAL, noise=NOISE), "unclear", "not shown"),
    (scores(samples=(50.0, 45.0, 55.0)), "no baseline", "says little"),
    (scores(24, samples=(50.0, 45.0, 55.0), real=REAL, noise=NOISE), "few", "24 images are too few"),
])  # fmt: skip
def test_praise_needs_a_whole_interval_of_every_distance(found: list[Score], kind: str, words: str) -> None:
    (said,) = closeness(found).items()
    assert said[0] == kind
    assert words in said[1]


def test_no_recipe_of_the_small_studies_is_said_to_be_as_close_as_real_images() -> None:
    files = [file for file in RESULTS.glob("*/*.csv") if file.parent.name not in ("demo", "floor", "memoire_narrow")]
    rows = [row for file in files for row in csv.DictReader(file.open())]
    values = [float(row["fd_lite0"]) for row in rows if row.get("fd_lite0")]
    assert len(values) > 150
    for value in values:
        said = closeness(scores(samples=(value, value - 3, value + 3), real=REAL, noise=NOISE))
        assert said.keys() <= {"behind real", "unclear", "like noise"}


@pytest.mark.parametrize(("flagged", "n", "repeats", "repeating", "kind"), [
    (0, 250, 0, 0, "no copies"), (2, 750, 0, 0, "few copies"), (9, 512, 0, 0, "few copies"), (40, 512, 0, 0, "copies"),
    (0, 250, 1, 0, "copies"), (0, 250, 2, 0.02, "unclear copies"), (10, 250, 0, 0, "unclear copies"),
])  # fmt: skip
def test_copies_are_suspected_only_beyond_chance(
    flagged: int, n: int, repeats: int, repeating: float, kind: str
) -> None:
    import scipy

    low, high = scipy.stats.binomtest(flagged, n).proportion_ci(0.95, method="exact")
    source = {"flagged": flagged, "repeats": repeats, "repeating": repeating, "chance": 0.022}
    (said,) = copying([Score("copies", flagged / n, n, low=low, high=high, source=source)]).items()
    assert said[0] == kind
    assert f"{n} samples" in said[1]
    assert ("are close to a training image; by chance, up to 2.2% are." in said[1]) == (" copies" in kind[3:])


@pytest.mark.parametrize(("val", "gap", "kinds"), [
    ([0.0469, 0.0428, 0.0411, 0.0407], [-0.004, -0.003, -0.003, -0.003], {"falling"}),  # the demo's
    ([0.0469, 0.0428, 0.0427, 0.0425], [-0.004, -0.003, -0.003, -0.003], {"flat"}),
    ([0.0469, 0.0400, 0.0430, 0.0450], [0.0, 0.01, 0.01, 0.01], {"rising"}),
    ([0.0469, 0.0400, 0.0430, 0.0450], [0.0, 0.01, 0.02, 0.06], {"memorizing"}),
    ([0.9921, 0.9838, 0.9780, 0.9759], [0.0] * 4, set()),  # three steps have taught it nothing
    ([0.0469], [0.06], set()),  # one validation shows no change
])  # fmt: skip
def test_the_end_of_the_validation_error_is_judged_by_quarters(
    val: Sequence[float], gap: Sequence[float], kinds: set[str]
) -> None:
    steps = np.array([500, 1000, 1500, 2000][-len(val) :])
    metrics = {"val/mse": val, "gap/mse": gap, "gap/half": [0.02] * len(gap)}
    assert {*training({name: Series(steps, np.array(values)) for name, values in metrics.items()})} == kinds


@pytest.mark.parametrize(("state", "info", "command"), [
    ("interrupted", {}, "ckpt=auto"), ("complete", {}, " trainer.max_steps=200"),
])  # fmt: skip
def test_the_next_step_fits_the_findings(
    make_run: Make, tmp_path: Path, state: str, info: dict[str, Any], command: str
) -> None:
    record = {"state": "complete", "command": "diffusion train experiment=demo", "steps": 400, "total_steps": 400}
    run = Run(make_run(tmp_path / "demo", info=record | info))
    assert command in verdict(run, state).command


def test_images_of_an_unknown_source_have_no_next_step(make_output: Make, tmp_path: Path) -> None:
    folder = make_output(tmp_path / "scored", "evaluate", scores=[])
    (folder / "config.yaml").write_text("images: samples.npz\nckpt: null\n")
    (folder / "faults.json").write_text('[{"fault": "blur", "value": 1, "low": 2, "high": 8, "real": 4}]')
    found = verdict(Run(folder), "complete")
    assert (found.headline, found.step) == ("They are blurred. Not scored.", "")
    assert [*found.findings] == ["blur", "no scores"]


@pytest.mark.parametrize(("errors", "step"), [
    ([0.06], "as many steps again"), ([0.08, 0.07, 0.06, 0.05], "as many steps again"), ([0.05] * 4, "other seeds"),
])  # fmt: skip
def test_other_seeds_are_for_a_run_whose_error_no_longer_falls(
    make_run: Make, tmp_path: Path, errors: Sequence[float], step: str
) -> None:
    folder = make_run(tmp_path / "demo")
    with (folder / "config.yaml").open("a") as file:
        file.write("guidance: {scale: 2}\n")
    lines = [f"{100 * i + 399},{error}" for i, error in enumerate(errors, 1 - len(errors))]
    (folder / "metrics.csv").write_text("\n".join(["step,val/mse", *lines]))
    assert step in verdict(Run(folder), "complete").step


def test_the_recipe_of_a_fine_tuned_run_names_its_model_and_its_photographs(make_run: Make, tmp_path: Path) -> None:
    typed = "diffusion finetune demo PHOTOS hydra.run.dir=X ema.decay=0.9"
    folder = make_run(tmp_path / "tuned", info={"command": typed})
    config = (folder / "config.yaml").read_text("utf-8").replace("  size: 32", "  root: MY PHOTOS")
    (folder / "config.yaml").write_text(config.replace("name: demo", "name: finetune\ninit: demo"), "utf-8")
    assert recipe_command(Run(folder), "seed=1") == "diffusion finetune demo 'MY PHOTOS' ema.decay=0.9 seed=1"
    assert recipe_command(Run(folder), "init=RUN") == "diffusion finetune RUN 'MY PHOTOS' ema.decay=0.9"
    for words in (["trainer.max_steps=700", "seed=1"], ["trainer.max_steps=800"]):  # it is resumed twice
        RunRecord(folder).begin(command_line("train", ["hydra.run.dir=X", "ckpt=auto", *words]))
    again = "diffusion finetune demo 'MY PHOTOS' ema.decay=0.9 trainer.max_steps=800 seed=1"
    assert recipe_command(Run(folder)) == again
