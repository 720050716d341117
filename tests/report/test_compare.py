"""The comparison of runs: rows of recipes, intervals over seeds, ranking, and rejected input."""

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats
from scipy.stats import binom

from diffusion.compare import main
from diffusion.errors import UserError
from diffusion.report.compare import compare, gather
from diffusion.report.comparison import by_recipe, figure, in_cells, in_lines, write
from diffusion.report.page.comparison import comparison_page
from diffusion.report.recipes import Column, Comparison, Row, mean_over_seeds, rejected, welch
from diffusion.report.sweep import compare_jobs

Make = Callable[..., Path]
FILES = {"compare.md", "compare.csv", "runs.csv", "compare.png", "report.html"}


@pytest.fixture
def seeds(tmp_path: Path, make_run: Make) -> Callable[..., list[Path]]:
    """`seeds(name, lr, values)`: a run for each value of the Fréchet distance; they differ only in their seeds."""

    def make(name: str, lr: float, values: list[float], **record: Any) -> list[Path]:
        folders = []
        for seed, value in enumerate(values):
            base = {"metric": "fd_lite0", "what": "samples", "n": 64, "value": value, "std": None, "seed": seed}
            folder = make_run(tmp_path / name / str(seed), lr=lr, scores=[base | record])
            config = folder / "config.yaml"
            text = config.read_text().replace("seed: 0", f"seed: {seed}").replace("  size: 32", f"  seed: {seed}")
            config.write_text(text)
            folders.append(folder)
        return folders

    return make


def column(comparison: Comparison, name: str) -> Any:
    return next(c for c in comparison.columns if c.name == name)


def test_seeds_of_one_recipe_form_one_row_with_a_t_interval(seeds: Any, tmp_path: Path) -> None:
    x = [10.0, 12.0, 17.0]
    runs = gather([*seeds("a", 1e-3, x), *seeds("b", 1e-2, [40.0, 41.0, 45.0])])
    comparison = compare(runs)
    assert [row.settings for row in comparison.rows] == [{"optimizer.lr": "0.001"}, {"optimizer.lr": "0.01"}]
    assert [len(row.runs) for row in comparison.rows] == [3, 3]
    mean = comparison.rows[0].mean("fd_lite0")
    assert mean is not None
    low, high = stats.t.interval(0.95, 2, loc=13.0, scale=stats.sem(x))
    assert mean.mean == 13.0
    assert (13 - mean.half, 13 + mean.half) == pytest.approx((low, high))
    assert comparison.best(column(comparison, "fd_lite0")) == (0, set())


def test_evaluations_of_two_checkpoints_get_two_rows_but_a_resumed_run_does_not(seeds: Any, tmp_path: Path) -> None:
    folders = seeds("a", 1e-3, [10.0, 12.0])
    for folder, ckpt in zip(folders, ("null", "auto"), strict=True):
        config = folder / "config.yaml"
        config.write_text(config.read_text() + f"ckpt: {ckpt}\n")
    assert len(compare(gather(folders)).rows) == 1
    for folder, ckpt in zip(folders, ("a.ckpt", "b.ckpt"), strict=True):
        (folder / "config.yaml").write_text(f"ckpt: {ckpt}\nseed: 0\nname: evaluate\n")
    assert [row.label for row in compare(gather(folders)).rows] == ["ckpt=a.ckpt", "ckpt=b.ckpt"]


@pytest.fixture
def evaluation(tmp_path: Path) -> Callable[..., Path]:
    """`evaluation(recipe, value, …)`: the folder of an evaluation of a checkpoint with that recipe."""

    def make(recipe: dict[str, Any] | None, value: float, **chosen: Any) -> Path:
        folder = tmp_path / f"evaluation-{len(list(tmp_path.glob('evaluation-*')))}"
        folder.mkdir()
        config = {"ckpt": "run/checkpoints/best.ckpt", "seed": 0, "sampler": {"steps": 9}, "data": None, "n": 64}
        kept = {} if recipe is None else {"recipe": {"sampler": {"steps": 50}, "trainer": {}} | recipe}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | chosen | kept))
        (folder / "scores.json").write_text(json.dumps([of(value=value)]))
        return folder

    return make


def trained(seed: int, lr: float = 1e-3) -> dict[str, Any]:
    return {"seed": seed, "data": {"seed": seed, "val": 8}, "optimizer": {"lr": lr}}


def test_evaluations_of_one_recipe_share_a_row_across_training_and_sampling_seeds(evaluation: Any) -> None:
    one = [evaluation(trained(s), 10.0 + s, ckpt=f"{s}/checkpoints/best.ckpt", step=90 + s) for s in range(3)]
    (row,) = compare(gather(one)).rows
    assert row.numbers("fd_lite0") == [10.0, 11.0, 12.0]
    one.append(evaluation(trained(2), 13.0, ckpt="2/checkpoints/best.ckpt", step=92, seed=1))
    other = [evaluation(trained(s, lr=1e-2), 20.0 + s) for s in range(2)]
    comparison = compare(gather([*one, *other, evaluation(trained(0), 9.0, ckpt="0/checkpoints/best.ckpt", step=90)]))
    assert [row.label for row in comparison.rows] == ["lr=0.001", "lr=0.01"]
    assert [len(row.runs) for row in comparison.rows] == [4, 2]
    assert [(run.folder, why[:20]) for run, why in comparison.left_out] == [(one[0], "same recipe and seed")]


def test_of_two_evaluations_the_newer_one_counts_in_any_order(evaluation: Any) -> None:
    old, new = evaluation(trained(0), 9.0), evaluation(trained(0), 10.0)
    os.utime(old / "scores.json", (1e9, 1e9))
    for order in ([old, new], [new, old]):
        comparison = compare(gather(order))
        assert comparison.rows[0].numbers("fd_lite0") == [10.0]
        assert [run.folder for run, _ in comparison.left_out] == [old]


def test_several_samplings_of_one_model_count_as_one_seed(evaluation: Any, tmp_path: Path) -> None:
    def samplings(lr: float, values: list[float]) -> list[Path]:
        return [evaluation(trained(s, lr), x + d / 8, seed=d) for s, x in enumerate(values) for d in range(4)]

    comparison = compare(gather([*samplings(1e-3, [80.0, 90.0, 100.0]), *samplings(1e-2, [95.0, 105.0, 115.0])]))
    row, other = comparison.rows
    means = [80.1875, 90.1875, 100.1875]
    assert (len(row.runs), row.seeds, row.numbers("fd_lite0")) == (12, 3, means)
    assert row.mean("fd_lite0") == mean_over_seeds(means)
    assert welch(row.numbers("fd_lite0"), other.numbers("fd_lite0")) == welch([80.0, 90.0, 100.0], [95.0, 105.0, 115.0])
    assert comparison.best(column(comparison, "fd_lite0")) == (0, {1})
    _, cells = in_cells(comparison, "*")
    assert cells == [["3", "*90 ± 25*"], ["3", "105 ± 25 ≈"]]
    assert [line[1:5] for line in by_recipe(comparison)[1:]] == [[3, *row.mean("fd_lite0")[:3]] for row in (row, other)]
    dots = [line.get_xdata().tolist() for line in figure(comparison).axes[0].lines if line.get_marker() == "o"]
    assert means in dots
    recipe = comparison_page(comparison, tmp_path, "t")["recipes"][0]
    assert (recipe["seeds"], recipe["cells"]["fd_lite0"]["numbers"]) == (3, means)


def test_several_samplings_of_one_model_have_no_interval_over_seeds(evaluation: Any) -> None:
    def shown(*folders: Path) -> list[str]:
        for i, folder in enumerate(folders):
            (folder / "scores.json").write_text(json.dumps([of(value=240.58 + i, low=230.0, high=254.0)]))
        (cells,) = in_cells(compare(gather(folders)), "*")[1]
        return cells

    recipes = (trained(0), {"optimizer": {"lr": 1e-3}}, None)  # the last two lack the training seed
    for recipe in recipes:
        folders = [evaluation(recipe, 0.0, seed=seed) for seed in range(3)]
        assert shown(*folders) == ["1", "241.6"]
        assert shown(folders[0]) == ["1", "241"]  # rounded to its own interval


def test_two_checkpoints_of_one_run_get_two_rows(evaluation: Any) -> None:
    def rows(*checkpoints: tuple[int, str, int]) -> list[str]:
        folders = [evaluation(trained(s), 1.0, ckpt=f"{s}/checkpoints/{name}", step=n) for s, name, n in checkpoints]
        return [row.label for row in compare(gather(folders)).rows]

    assert rows((0, "best.ckpt", 90), (0, "last.ckpt", 99)) == ["ckpt=best.ckpt", "ckpt=last.ckpt"]
    assert rows((0, "last.ckpt", 90), (0, "last.ckpt", 99)) == ["step=90", "step=99"]
    assert rows((0, "best.ckpt", 90), (1, "best.ckpt", 95)) == ["all"]


def test_two_steps_of_one_training_seed_get_two_rows_whatever_the_sampling_seeds(evaluation: Any) -> None:
    folders = [evaluation(trained(0), 1.0, ckpt="0/checkpoints/best.ckpt", step=90 + i, seed=i) for i in range(2)]
    assert [row.label for row in compare(gather(folders)).rows] == ["step=90", "step=91"]


def test_seeds_trained_for_different_numbers_of_steps_give_a_warning(evaluation: Any) -> None:
    def evaluated(name: str, *steps: int) -> list[Path]:
        return [evaluation(trained(s), 1.0, ckpt=f"{s}/checkpoints/{name}", step=n) for s, n in enumerate(steps)]

    folders = evaluated("last.ckpt", 100, 2000, 2000)
    line = "seeds in one row were trained for different numbers of steps"
    assert compare(gather(folders)).warnings == [f"{line}: 100 in {folders[0]} and 2000 in {folders[1]}"]
    for usual in (evaluated("best.ckpt", 90, 95), evaluated("last.ckpt", 2000, 2000)):
        assert compare(gather(usual)).warnings == []
    rows = [*evaluated("last.ckpt", 2000, 2000), *evaluated("step-00000100.ckpt", 100, 100)]
    assert compare(gather(rows)).warnings == []


def test_training_runs_that_ended_at_different_steps_give_a_warning(seeds: Any) -> None:
    folders = seeds("a", 1e-3, [10.0, 12.0])
    assert compare(gather(folders)).warnings == []
    for folder, step in zip(folders, (50, 60), strict=True):
        info = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(info | {"steps": step}))
    line = f"seeds in one row were trained for different numbers of steps: 50 in {folders[0]} and 60 in {folders[1]}"
    assert line in compare(gather(folders)).warnings


def test_settings_that_change_no_number_do_not_split_a_row(evaluation: Any) -> None:
    idle = {"batch_size": 5, "device": "cpu", "devices": 1, "baselines": [], "audit": ["pixels"], "by_class": True}
    folders = [evaluation(trained(0), 1.0), evaluation(trained(0), 2.0, seed=1, **idle)]
    for folder, sampler in zip(folders, ("run", "ddim"), strict=True):
        (folder / ".hydra").mkdir()
        hydra = {"job": {"name": "evaluate"}, "runtime": {"choices": {"sampler": sampler}}}
        (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    assert len(compare(gather(folders)).rows) == 1


def test_a_later_command_in_its_folder_does_not_change_a_runs_recipe(seeds: Any) -> None:
    folders = seeds("a", 1e-3, [10.0, 12.0])
    for folder, name, sampler in zip(folders, ("train", "sample"), ("ddim", "run"), strict=True):
        (folder / ".hydra").mkdir()
        hydra = {"job": {"name": name}, "runtime": {"choices": {"sampler": sampler}}}
        (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
        (folder / ".hydra/overrides.yaml").write_text("[n=2]")
    assert len(compare(gather(folders)).rows) == 1
    assert [run.overrides for run in gather(folders)] == [["n=2"], []]


def test_evaluations_get_rows_by_sampler_and_reference_and_old_ones_by_checkpoint(
    evaluation: Any,
) -> None:
    elsewhere = {"data": {"root": "photos"}}
    folders = [evaluation(trained(0), 1.0, **chosen) for chosen in ({}, {"sampler": {"steps": 20}}, elsewhere)]
    labels = [row.label for row in compare(gather(folders)).rows]
    assert labels == ["steps=9", "steps=20", "steps=9, root=photos"]
    earlier = [evaluation(None, 1.0, ckpt=f"{name}/last.ckpt") for name in "ab"]
    assert [row.label for row in compare(gather(earlier)).rows] == ["ckpt=a/last.ckpt", "ckpt=b/last.ckpt"]
    assert len(compare(gather([folders[0], *earlier])).rows) == 3


def test_an_evaluation_by_an_earlier_version_does_not_share_a_row_with_a_run(seeds: Any, tmp_path: Path) -> None:
    (run,) = seeds("a", 1e-3, [10.0])
    folder = tmp_path / "evaluated"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text("ckpt: a/last.ckpt\nseed: 0\nname: ${hydra:job.name}\n")
    (folder / "scores.json").write_text(json.dumps([of(value=1.0)]))
    assert len(compare(gather([run, folder])).rows) == 2


def test_one_seed_has_no_interval_and_no_significance_test(seeds: Any) -> None:
    comparison = compare(gather([*seeds("a", 1e-3, [10.0]), *seeds("b", 1e-2, [10.1])]))
    assert str(comparison.rows[0].mean("fd_lite0")) == "10"
    assert comparison.best(column(comparison, "fd_lite0")) == (0, {1})


def test_a_row_with_one_seed_is_not_shown_to_differ_from_the_best(seeds: Any) -> None:
    best, far = seeds("a", 1e-3, [10.0, 10.1, 10.2]), seeds("b", 1e-2, [20.0, 20.1, 20.2])
    comparison = compare(gather([*best, *far, *seeds("c", 1e-1, [20.0])]))
    assert comparison.best(column(comparison, "fd_lite0")) == (0, {2})


def test_holms_test_compares_the_smallest_p_values_with_stricter_levels() -> None:
    assert rejected({1: 0.01, 2: 0.04, 3: 0.02}) == {1, 2, 3}  # 0.05/3, 0.05/2, 0.05
    assert rejected({1: 0.01, 2: 0.04, 3: 0.03}) == {1}
    assert rejected({1: 0.02, 2: 0.02, 3: 0.02}) == set()
    assert rejected({}) == set()


@pytest.mark.parametrize("k", [5, 20])
def test_equal_recipes_are_rarely_shown_as_worse_than_the_best(k: int) -> None:
    random, wrong, tables = np.random.default_rng(0), 0, 400
    quality = Column("fd", lower=True, words="")
    for _ in range(tables):
        numbers: Any = [{j: {"fd": x} for j, x in enumerate(random.normal(size=3))} for _ in range(k)]  # by seed
        rows = [Row({}, str(i), by_seed, {}, [*by_seed]) for i, by_seed in enumerate(numbers)]
        _, similar = Comparison([], rows, [quality], [], []).best(quality)
        wrong += len(similar) < k - 1
    assert wrong <= binom.ppf(0.999, tables, 0.07)


def test_means_that_cannot_be_distinguished_from_the_best_are_marked(seeds: Any) -> None:
    comparison = compare(gather([*seeds("a", 1e-3, [10.0, 20.0, 15.0]), *seeds("b", 1e-2, [11.0, 21.0, 15.5])]))
    assert comparison.best(column(comparison, "fd_lite0")) == (0, {1})


def test_higher_is_better_for_coverage(seeds: Any) -> None:
    low, high = seeds("a", 1e-3, [0.1, 0.2], metric="coverage"), seeds("b", 1e-2, [0.8, 0.9], metric="coverage")
    comparison = compare(gather([*low, *high]))
    assert comparison.best(column(comparison, "coverage"))[0] == 1


@pytest.mark.parametrize("metric", ["density_lite0", "vendi_lite0"])
def test_a_metric_without_a_direction_has_no_best_value(metric: str, seeds: Any) -> None:
    comparison = compare(
        gather([*seeds("a", 1e-3, [0.9, 1.0], metric=metric), *seeds("b", 1e-2, [8.0, 9.0], metric=metric)])
    )
    assert comparison.best(column(comparison, metric)) == (None, set())


def test_scores_of_different_protocols_are_refused_unless_mixed(seeds: Any) -> None:
    folders = [*seeds("a", 1e-3, [10.0, 11.0]), *seeds("b", 1e-2, [5.0, 6.0], n=32, resize="nearest")]
    with pytest.raises(UserError, match=r"n is 64 in .*a/0 and 32 in .*b/0; resize is None in .* and nearest"):
        compare(gather(folders))
    comparison = compare(gather(folders), mixed=True)
    names = [c.name for c in comparison.columns if c.name.startswith("fd")]
    assert names == ["fd_lite0 [1]", "fd_lite0 [2]"]
    assert all(comparison.best(column(comparison, name)) == (None, set()) for name in names)


def test_a_metric_with_different_settings_is_refused_or_split_into_columns(seeds: Any) -> None:
    few, many = ({"metric": "coverage", "settings": {"k": k}} for k in (5, 50))
    folders = [*seeds("a", 1e-3, [0.1], **few), *seeds("b", 1e-2, [0.9], **many)]
    with pytest.raises(UserError, match=r"can't be ranked: k is 5 in .*a/0 and 50 in .*b/0;"):
        compare(gather(folders))
    comparison = compare(gather(folders), mixed=True)
    assert column(comparison, "coverage [2]").words.endswith("resize not recorded, k=50")
    pooled = seeds("c", 1e-1, [0.5], metric="coverage", settings={"k": 5, "pool": 10_000})
    with pytest.raises(UserError, match=r"pool is None in .*a/0 and 10000 in .*c/0;"):
        compare(gather([folders[0], *pooled]))


def of(**changed: Any) -> dict[str, Any]:
    return {"metric": "fd_lite0", "what": "samples", "n": 64, "seed": 0, "weights": "ema", **changed}


def test_a_folder_scored_with_several_samplers_is_refused_unless_mixed(tmp_path: Path, make_run: Make) -> None:
    ddim, heun = {"name": "DDIM", "steps": 9}, {"name": "Heun", "steps": 5}
    scores = [of(sampler=ddim, value=1.0), of(sampler=heun, value=2.0), of(sampler=heun, value=3.0, step=9)]
    studied = make_run(tmp_path / "study", lr=1e-3, scores=scores)
    alone = make_run(tmp_path / "alone", lr=1e-2, scores=[of(sampler=ddim, value=4.0)])
    line = r"study: fd_lite0 was measured .*: add --mixed .* its own table\)$"
    with pytest.raises(UserError, match=line) as error:
        compare(gather([alone, studied]))
    assert "sampler is DDIM(steps=9) and Heun(steps=5): add" in str(error.value)
    comparison = compare(gather([alone, studied]), mixed=True)
    columns = [c for c in comparison.columns if c.name.startswith("fd")]
    assert [c.name for c in columns] == ["fd_lite0 [1]", "fd_lite0 [2]"]
    assert [c.words.rpartition("; ")[2] for c in columns] == ["sampler DDIM(steps=9)", "sampler Heun(steps=5)"]
    values = [[row.numbers(c.name) for c in columns] for row in comparison.rows]
    assert values == [[[4.0], []], [[1.0], [3.0]]]


def test_scores_of_known_and_unknown_checkpoints_get_separate_columns(tmp_path: Path, make_run: Make) -> None:
    scores = [of(value=1.0)] + [of(value=v, checkpoint={"path": name}) for v, name in ((2.0, "a"), (3.0, "b"))]
    comparison = compare(gather([make_run(tmp_path / "x", scores=scores)]), mixed=True)
    columns = [c for c in comparison.columns if c.name.startswith("fd")]
    assert [comparison.rows[0].numbers(c.name) for c in columns] == [[1.0], [2.0], [3.0]]
    assert [c.words.rpartition("; ")[2] for c in columns][1:] == ["checkpoint a", "checkpoint b"]


@pytest.mark.parametrize("part", [{"weights": "raw"}, {"seed": 1}, {"checkpoint": {"path": "b", "sha256": "1"}}])
def test_a_folder_scored_with_several_weights_seeds_or_checkpoints_is_refused(
    part: dict[str, Any], tmp_path: Path, make_run: Make
) -> None:
    first = of(value=1.0, checkpoint={"path": "a", "sha256": "0"})
    folder = make_run(tmp_path / "a", scores=[first, first | part | {"value": 2.0}])
    with pytest.raises(UserError, match=rf"several times, and {next(iter(part))} is \w+ and \w+: add"):
        compare(gather([folder]))


def test_a_folder_scored_with_and_without_guidance_is_refused(tmp_path: Path, make_run: Make) -> None:
    first = of(value=1.0, sampler={"name": "DDIM", "steps": 9})
    guided = first | {"value": 2.0, "guidance": {"name": "ClassifierFree", "scale": 2.0}}
    folder = make_run(tmp_path / "a", scores=[first, guided])
    with pytest.raises(UserError, match=r"several times, and guidance is none and ClassifierFree\(scale=2\): add"):
        compare(gather([folder]))


DDIM = {"sampler": {"name": "DDIM", "steps": 50}}
GUIDED = DDIM | {"guidance": {"name": "AutoGuidance", "scale": 2.0, "step": 5}}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (DDIM | {"precision": "bf16-mixed"}, DDIM, "precision is bf16-mixed in {} and float32 in {}"),
        (GUIDED, DDIM, "guidance is AutoGuidance(scale=2, step=5) in {} and none in {}"),
        (DDIM, {"sampler": {"name": "DDIM", "steps": 10}}, "sampler is DDIM(steps=50) in {} and DDIM(steps=10) in {}"),
        ({"weights": "ema"}, {"weights": "raw"}, "weights is ema in {} and raw in {}"),
        (
            {"variance": "fixed_small"},
            {"variance": "fixed_large"},
            "variance is fixed_small in {} and fixed_large in {}",
        ),
        (DDIM | {"seed": 1}, DDIM | {"seed": 2, "checkpoint": {"path": "b"}}, ""),
        (DDIM, {}, ""),  # an unknown sampler
    ],
)
def test_scores_of_images_made_in_different_ways_give_a_warning(
    one: dict[str, Any], other: dict[str, Any], words: str, seeds: Any
) -> None:
    row = seeds("row", 1e-3, [1.0, 2.0, 3.0])
    for folder, changed in zip(row, (one, one, other), strict=True):
        scores = [of(value=1.0) | changed, of(value=1.0, metric="kid_lite0") | changed]
        (folder / "scores.json").write_text(json.dumps(scores))
    (apart,) = seeds("apart", 1e-2, [4.0], **other)
    within, between = words.format(row[0], row[2]), words.format(row[0], apart)
    assert compare(gather(row)).warnings == [f"scores in one row were not made in the same way: {within}"] * bool(words)
    line = f"rows were not made in the same way, and their settings do not show it: {between}"
    assert compare(gather([*row[:2], apart])).warnings == [line] * bool(words)


def test_a_warning_names_all_parts_in_which_the_makers_differ(seeds: Any) -> None:
    folders = [*seeds("a", 1e-3, [1.0], **GUIDED, weights="ema"), *seeds("b", 1e-2, [1.0], **DDIM, weights="raw")]
    (warning,) = compare(gather(folders)).warnings
    assert re.search(r"guidance is AutoGuidance.* in .*a/0 and none in .*b/0; weights is ema in .* and raw in", warning)


def test_images_made_as_the_settings_in_the_table_say_give_no_warning(evaluation: Any) -> None:
    def scored(recipe: dict[str, Any], made: dict[str, Any], **chosen: Any) -> Path:
        folder = evaluation(trained(0) | recipe, 1.0, **chosen)
        (folder / "scores.json").write_text(json.dumps([of(value=1.0) | made]))
        return folder

    sampled = [scored({}, {"sampler": {"name": "DDIM", "steps": n}}, sampler={"steps": n}) for n in (9, 20)]
    precise = [scored({}, DDIM | {"precision": p}, precision=p) for p in (None, "bf16-mixed")]
    auto = {"_target_": "AutoGuidance", "scale": 2.0}
    guided = [scored({}, made, guidance=node) for made, node in ((DDIM, None), (GUIDED, auto))]
    weighed = [scored({}, {"weights": w}, weights=w) for w in ("ema", "raw")]
    averaged = [
        scored({"ema": e}, {"weights": w}) for e, w in ((None, "raw"), ({"_target_": "EMA", "decay": 0.9}, "ema"))
    ]
    learned = [scored({"objective": o}, {"variance": o}) for o in ("simple", "hybrid")]
    for folders in (sampled, precise, guided, weighed, averaged, learned):
        comparison = compare(gather(folders))
        assert (len(comparison.rows), comparison.warnings) == (2, [])


def test_a_setting_that_only_evaluations_have_does_not_explain_a_difference_from_a_run(
    seeds: Any, evaluation: Any
) -> None:
    (run,), drawn = seeds("a", 1e-3, [1.0], **DDIM, precision="bf16-mixed"), evaluation(trained(0), 1.0, precision=None)
    (drawn / "scores.json").write_text(json.dumps([of(value=1.0) | DDIM]))
    comparison = compare(gather([run, drawn]))
    assert [row.settings["precision"] for row in comparison.rows] == ["—", "none"]
    (warning,) = comparison.warnings
    assert warning.endswith(f"precision is bf16-mixed in {run} and float32 in {drawn}")


def test_only_the_score_of_a_runs_last_step_is_used(tmp_path: Path, make_run: Make) -> None:
    last = {"path": "a/checkpoints/last.ckpt", "sha256": "0"}
    scores = [of(value=1.0, step=5), of(value=2.0, step=9), of(value=3.0, step=9, checkpoint=last)]
    scores += [of(value=4.0, step=12, checkpoint=last | {"sha256": "1"})]  # resumed
    (row,) = compare(gather([make_run(tmp_path / "a", scores=scores)])).rows
    assert row.numbers("fd_lite0") == [4.0]


def test_scores_of_a_step_before_the_last_give_a_warning(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a", scores=[of(value=1.0, step=5)])
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"steps": 9}))
    (warning,) = compare(gather([folder])).warnings
    assert warning == f"{folder}: its scores are those of step 5, but its training ended at step 9"
    (folder / "run.json").write_text(json.dumps(info | {"steps": 5}))
    assert compare(gather([folder])).warnings == []


def test_only_the_newest_of_several_runs_with_one_seed_counts(seeds: Any, tmp_path: Path) -> None:
    folders = [*seeds("a", 1e-3, [10.0, 12.0]), *seeds("again", 1e-3, [11.0]), *seeds("copy", 1e-3, [10.0])]
    for folder, hour in zip(folders, (3, 3, 5, 3), strict=True):
        info = json.loads((folder / "run.json").read_text()) | {"finished": f"2026-01-02T0{hour}:00:00"}
        (folder / "run.json").write_text(json.dumps(info))
    comparison = compare(gather(folders))
    (row,) = comparison.rows
    assert sorted(row.numbers("fd_lite0")) == [11.0, 12.0]
    assert [run.folder for run in row.runs] == [folders[2], folders[1]]
    reason = f"same recipe and seed as {folders[2]}"
    assert [(run.folder, why) for run, why in comparison.left_out] == [(folders[0], reason), (folders[3], reason)]
    copied = compare(gather([folders[0], folders[3]]))  # of equal age: the last one
    assert [run.folder for run in copied.rows[0].runs] == [folders[3]]
    assert copied.rows[0].mean("fd_lite0").n == 1  # type: ignore[union-attr]


def test_runs_with_unknown_seeds_count_separately(seeds: Any) -> None:
    folders = seeds("a", 1e-3, [10.0, 12.0])
    for folder in folders:
        (folder / "config.yaml").write_text("name: a\n")
    assert len(compare(gather(folders)).rows[0].runs) == 2


def test_failed_runs_are_listed_and_not_averaged(seeds: Any, tmp_path: Path, make_run: Make) -> None:
    failed = make_run(tmp_path / "f", lr=1e-3, info={"state": "failed", "reason": "NaN at step 7"})
    comparison = compare(gather([*seeds("a", 1e-3, [10.0, 11.0]), failed]))
    assert [len(row.runs) for row in comparison.rows] == [2]
    assert [(run.folder, reason) for run, reason in comparison.left_out] == [(failed, "failed: NaN at step 7")]
    console = Console(file=io.StringIO(), width=200)
    write(comparison, tmp_path / "out", "t", console)
    assert "NaN at step 7" in (tmp_path / "out/compare.md").read_text()
    assert "NaN at step 7" in console.file.getvalue()  # type: ignore[attr-defined]


def test_samples_and_edits_beside_runs_are_not_compared(seeds: Any, tmp_path: Path, make_output: Make) -> None:
    folders = seeds("a", 1e-3, [10.0, 11.0])
    for command in ("sample", "edit"):
        made = make_output(tmp_path / "a" / command, command)
    assert [run.folder for run in gather([tmp_path / "a"])] == folders
    ((_, reason),) = compare(gather([folders[0], made])).left_out
    assert reason == "an output of diffusion.edit without scores"


def test_mse_is_ranked_only_if_all_runs_share_a_schedule(seeds: Any) -> None:
    same = compare(gather([*seeds("a", 1e-3, [1.0]), *seeds("b", 1e-2, [1.0])]))
    assert column(same, "val/mse").lower is True
    (other,) = seeds("c", 1e-3, [1.0])
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("last: 0.02", "last: 0.01"))
    apart = compare(gather([*seeds("d", 1e-3, [1.0]), other]))
    assert column(apart, "val/mse").lower is None
    assert "schedule.last differ" in column(apart, "val/mse").words


def test_mse_is_ranked_only_if_all_runs_share_validation_settings(seeds: Any) -> None:
    folders = [*seeds("a", 1e-3, [1.0]), *seeds("b", 1e-3, [1.0])]
    for i, folder in enumerate(folders):
        with (folder / "config.yaml").open("a") as file:
            file.write(f"validation: {{draws: 1, seed: {i}}}\n")
    apart = column(compare(gather(folders)), "val/mse")
    assert (apart.lower, "validation.seed differs" in apart.words) == (None, True)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ({"limit_val_batches": 1}, {"limit_val_batches": None}, "trainer.limit_val_batches differs"),
        ({"limit_val_batches": 1, "devices": 1}, {"limit_val_batches": 1, "devices": 2}, "trainer.devices differs"),
        ({"devices": 1}, {"devices": 2}, None),
        ({"limit_val_batches": 2, "eval_batch_size": 4}, {"limit_val_batches": 2}, "data.eval_batch_size differs"),
        ({"limit_val_batches": None, "eval_batch_size": 4}, {"limit_val_batches": None}, None),
    ],
)
def test_mse_is_ranked_only_if_all_runs_validated_the_same_images(
    one: dict[str, Any], other: dict[str, Any], why: str | None, seeds: Any
) -> None:
    folders = [*seeds("a", 1e-3, [1.0]), *seeds("b", 1e-2, [1.0])]
    for folder, chosen in zip(folders, (one, other), strict=True):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["data"]["eval_batch_size"] = chosen.get("eval_batch_size", 32)
        config["trainer"] |= {key: value for key, value in chosen.items() if key != "eval_batch_size"}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    mse = column(compare(gather(folders)), "val/mse")
    if why is None:
        assert mse.lower is True
    else:
        assert (mse.lower, f"not ranked, because {why}, and with it what is measured" in mse.words) == (None, True)


def test_the_mse_column_states_which_weights_were_validated(
    seeds: Any, tmp_path: Path, without_average: Callable[[Path], None]
) -> None:
    folders = [*seeds("a", 1e-3, [1.0]), *seeds("b", 1e-2, [1.0])]

    def words() -> str:
        return column(compare(gather(folders)), "val/mse").words

    assert "on validation images, EMA weights, at the end" in words()
    without_average(folders[0])
    assert "on validation images, EMA weights or, without EMA, raw weights, at the end" in words()
    without_average(folders[1])
    assert "on validation images, raw weights, at the end" in words()
    compare_jobs(tmp_path / "a", console=None)
    assert "on validation images, raw weights, at the end" in (tmp_path / "a/compare.md").read_text()


def test_choosing_recipes_by_test_scores_gives_a_warning(seeds: Any, tmp_path: Path) -> None:
    reference = {"split": "test", "n": 250, "key": "k"}
    two = [*seeds("a", 1e-3, [1.0], reference=reference), *seeds("b", 1e-2, [2.0], reference=reference)]
    line = "choosing among 2 recipes by their test scores"
    console = Console(file=io.StringIO(), width=200)
    write(compare(gather(two)), tmp_path / "out", "t", console)
    assert f"warning: fd_lite0: {line}" in console.file.getvalue()  # type: ignore[attr-defined]
    assert line in (tmp_path / "out/compare.md").read_text()
    assert compare(gather(two[:1])).warnings == []
    val = [*seeds("c", 1e-3, [1.0]), *seeds("d", 1e-2, [2.0])]
    assert compare(gather(val)).warnings == []


def test_a_repeated_test_evaluation_gives_a_warning_with_its_folder(seeds: Any) -> None:
    reference = {"split": "test", "n": 250, "key": "k"}
    first, second = (
        seeds(name, 1e-3, [1.0], reference=reference, test_evaluation=k) for k, name in ((1, "a"), (2, "b"))
    )
    (warning,) = compare(gather(second)).warnings
    assert warning.startswith(f"{second[0]} (test evaluation 2): not the first test evaluation of its run")
    assert compare(gather(first)).warnings == []


def test_different_code_versions_give_one_warning(seeds: Any, tmp_path: Path) -> None:
    old, new = seeds("a", 1e-3, [1.0, 2.0], code="0.1.0 aaa"), seeds("b", 1e-2, [2.0], code="0.1.0 bbb")
    unknown = seeds("c", 1e-1, [3.0])
    console = Console(file=io.StringIO(), width=400)
    write(compare(gather([*old, *new, *unknown])), tmp_path / "out", "t", console)
    line = rf"warning: .* different versions of the code: 0.1.0 aaa in {old[0]} and 0.1.0 bbb in {new[0]}\n"
    assert len(re.findall(line, console.file.getvalue())) == 1  # type: ignore[attr-defined]
    assert "different versions of the code" in (tmp_path / "out/compare.md").read_text()
    assert compare(gather([*old, *unknown])).warnings == []


def test_the_command_writes_markdown_csv_and_a_plot(
    seeds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds("a", 1e-3, [10.0, 12.0])
    seeds("b", 1e-2, [40.0, 41.0])
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 0
    assert "2 recipes" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "| **11 ± 13** |" in (tmp_path / "out/compare.md").read_text()
    with (tmp_path / "out/compare.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert [first[name] for name in ("optimizer.lr", "seeds", "fd_lite0", "fd_lite0 n")] == ["0.001", "2", "11.0", "2"]
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere: neither a run" in capsys.readouterr().err


def test_a_comparison_is_written_into_the_given_folder_only_if_it_is_a_sweep(
    seeds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds("runs", 1e-3, [10.0, 12.0])
    assert main(["runs"]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"0", "1"}
    assert {path.name for path in Path("outputs/comparisons").glob("*/*")} == FILES
    Path("runs/multirun.yaml").touch()
    assert main(["runs"]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"0", "1", "multirun.yaml"} | FILES


def test_the_comparison_of_a_sweep_is_written_and_printed(seeds: Any, tmp_path: Path) -> None:
    seeds("sweep", 1e-3, [10.0, 12.0])
    console = Console(file=io.StringIO(), width=200)
    assert {path.name for path in compare_jobs(tmp_path / "sweep", console)} == FILES
    assert "11 ± 13" in console.file.getvalue()  # type: ignore[attr-defined]


def test_recipes_with_long_labels_are_numbered_in_the_table_and_named_by_row_in_figures(
    seeds: Any, tmp_path: Path
) -> None:
    folders = [*seeds("a", 1e-3, [10.0]), *seeds("b", 1e-2, [11.0])]
    assert compare(gather(folders)).names == ["lr=0.001", "lr=0.01"]
    for i, folder in enumerate(folders):
        with (folder / "config.yaml").open("a") as file:
            file.writelines(f"a_long_name_of_a_setting_{k}: {i}\n" for k in range(3))
    comparison = compare(gather(folders))
    assert comparison.names == ["row 1", "row 2"]
    write(comparison, tmp_path / "out", "t", None)
    head, _, *lines = (tmp_path / "out/compare.md").read_text().splitlines()[2:6]
    assert head.startswith("| row | ")
    assert [line[:6] for line in lines] == ["| 1 | ", "| 2 | "]
    labels = [text.get_text() for text in figure(comparison).axes[0].get_yticklabels()]
    assert labels == ["row 1", "row 2"]
    page = comparison_page(comparison, tmp_path, "t")
    assert (page["numbered"], [recipe["name"] for recipe in page["recipes"]]) == (True, ["row 1", "row 2"])


def test_a_mean_is_rounded_to_the_digits_of_its_interval() -> None:
    assert str(mean_over_seeds([0.01234, 0.01236])) == "0.01235 ± 0.00013"
    assert str(mean_over_seeds([12345.0, 12347.0])) == "12346 ± 13"


def test_the_score_of_one_seed_is_rounded_to_the_digits_of_its_interval(seeds: Any, tmp_path: Path) -> None:
    for name, value in (("a", 240.58), ("b", 250.04)):
        seeds(name, 1e-3 if name == "a" else 1e-2, [value], low=value - 12, high=value + 12)
    comparison = compare(gather([tmp_path / "a", tmp_path / "b"]))
    write(comparison, tmp_path / "out", "t", None)
    text = (tmp_path / "out/compare.md").read_text()
    assert text.count("| 250 ≈ |") == 1  # in the table of recipes
    assert text.count("| 250 |") == 1  # in the table of runs
    assert "240.58" in (tmp_path / "out/compare.csv").read_text()


@pytest.mark.parametrize(("width", "tables"), [(200, 1), (80, 1), (30, 10)])
def test_a_comparison_is_one_table_on_80_columns(width: int, tables: int, seeds: Any, tmp_path: Path) -> None:
    folders = [*seeds("a", 1e-3, [10.0]), *seeds("b", 1e-2, [11.0])]
    for folder in folders:
        scores = [of(metric=f"metric_{i}_lite0", value=i + 0.5) for i in range(6)]
        (folder / "scores.json").write_text(json.dumps(scores))
    console = Console(file=io.StringIO(), width=width)
    write(compare(gather(folders)), tmp_path / "out", "t", console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(re.findall("^ ─+ $", printed, re.MULTILINE)) == tables
    assert all(len(re.findall(rf"\b{i}\.5\b", printed)) == 2 for i in range(6))
    assert max(len(line) for line in printed.splitlines() if line[:1] == " ") <= width


def test_labels_of_a_figure_are_broken_between_settings_and_values() -> None:
    label = "sampler.variance=fixed_large, likelihood.variance=fixed_large"
    assert in_lines(label, 26).split("\n") == [
        "sampler.variance=",
        "fixed_large,",
        "likelihood.variance=",
        "fixed_large",
    ]
    assert in_lines("lr=0.001, batch=16", 26) == "lr=0.001, batch=16"
    assert in_lines("x" * 30, 26) == "x" * 26 + "\n" + "x" * 4


def test_the_console_lists_only_some_of_many_runs_that_are_left_out(seeds: Any, tmp_path: Path, make_run: Make) -> None:
    failed = [make_run(tmp_path / f"f{i}", lr=1e-3, info={"state": "failed"}) for i in range(12)]
    console = Console(file=io.StringIO(), width=200)
    write(compare(gather([*seeds("a", 1e-3, [10.0]), *failed])), tmp_path / "out", "t", console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("left out: ") == 11
    assert f"left out: 2 more, which {tmp_path}/out/compare.md lists" in printed
    assert (tmp_path / "out/compare.md").read_text().count("left out: ") == 12
