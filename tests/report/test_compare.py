"""The comparison of runs: rows of recipes, intervals over seeds, ranking, and rejected input."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats
from scipy.stats import binom

from diffusion.compare import main
from diffusion.errors import UserError
from diffusion.report.compare import Comparison, best_of, compare, gather, mean_over_seeds, rejected, welch
from diffusion.report.comparison import figure, recipes_table, write
from diffusion.report.sweep import SweepTable

Make = Callable[..., Path]
FILES = {"compare.md", "runs.csv", "compare.png", "report.html"}


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
    assert [len(row.values) for row in comparison.rows] == [3, 3]
    mean = comparison.rows[0].mean("fd_lite0")
    assert mean is not None
    low, high = stats.t.interval(0.95, 2, loc=13.0, scale=stats.sem(x))
    assert mean.mean == 13.0
    assert (13 - mean.half, 13 + mean.half) == pytest.approx((low, high))
    assert comparison.best(column(comparison, "fd_lite0")) == (0, set())


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
    assert [len(row.values) for row in comparison.rows] == [4, 2]
    assert [(run.folder, why[:20]) for run, why in comparison.left_out] == [(one[0], "same recipe and seed")]


def test_several_samplings_of_one_model_count_as_one_seed(evaluation: Any, tmp_path: Path) -> None:
    def samplings(lr: float, values: list[float]) -> list[Path]:
        return [evaluation(trained(s, lr), x + d / 8, seed=d) for s, x in enumerate(values) for d in range(4)]

    comparison = compare(gather([*samplings(1e-3, [80.0, 90.0, 100.0]), *samplings(1e-2, [95.0, 105.0, 115.0])]))
    row, other = comparison.rows
    means = [80.1875, 90.1875, 100.1875]
    assert (len(row.values), row.seeds, row.numbers("fd_lite0")) == (12, 3, means)
    assert row.mean("fd_lite0") == mean_over_seeds(means)
    assert welch(row.numbers("fd_lite0"), other.numbers("fd_lite0")) == welch([80.0, 90.0, 100.0], [95.0, 105.0, 115.0])
    assert comparison.best(column(comparison, "fd_lite0")) == (0, {1})
    cells = [[cell.marked("*", cell.text) for cell in line] for line in recipes_table(comparison, brief=True).cells]
    assert cells == [["lr=0.001", "3", "*90 ± 25*"], ["lr=0.01", "3", "105 ± 25 ≈"]]
    dots = [line.get_xdata().tolist() for line in figure(comparison).axes[0].lines if line.get_marker() == "o"]
    assert means in dots


def test_two_checkpoints_of_one_run_get_two_rows(evaluation: Any) -> None:
    def rows(*checkpoints: tuple[int, str, int]) -> list[str]:
        folders = [evaluation(trained(s), 1.0, ckpt=f"{s}/checkpoints/{name}", step=n) for s, name, n in checkpoints]
        return [row.label for row in compare(gather(folders)).rows]

    assert rows((0, "best.ckpt", 90), (0, "last.ckpt", 99)) == ["ckpt=best.ckpt", "ckpt=last.ckpt"]
    assert rows((0, "best.ckpt", 90), (1, "best.ckpt", 95)) == ["all"]


def test_holms_test_compares_the_smallest_p_values_with_stricter_levels() -> None:
    assert rejected({1: 0.01, 2: 0.04, 3: 0.02}) == {1, 2, 3}  # 0.05/3, 0.05/2, 0.05
    assert rejected({1: 0.01, 2: 0.04, 3: 0.03}) == {1}
    assert rejected({1: 0.02, 2: 0.02, 3: 0.02}) == set()
    assert rejected({}) == set()


def test_equal_recipes_are_rarely_shown_as_worse_than_the_best() -> None:
    random, wrong, tables, k = np.random.default_rng(0), 0, 200, 20
    for _ in range(tables):
        _, similar = best_of([list(random.normal(size=3)) for _ in range(k)], lower=True)
        wrong += len(similar) < k - 1
    assert wrong <= binom.ppf(0.999, tables, 0.07)


def test_scores_of_different_protocols_are_refused_unless_mixed(seeds: Any) -> None:
    folders = [*seeds("a", 1e-3, [10.0, 11.0]), *seeds("b", 1e-2, [5.0, 6.0], n=32, resize="nearest")]
    with pytest.raises(UserError, match=r"n is 64 in .*a/0 and 32 in .*b/0; resize is None in .* and nearest"):
        compare(gather(folders))
    comparison = compare(gather(folders), mixed=True)
    names = [c.name for c in comparison.columns if c.name.startswith("fd")]
    assert names == ["fd_lite0 [1]", "fd_lite0 [2]"]
    assert all(comparison.best(column(comparison, name)) == (None, set()) for name in names)


def of(**changed: Any) -> dict[str, Any]:
    return {"metric": "fd_lite0", "what": "samples", "n": 64, "seed": 0, "weights": "ema", **changed}


def test_only_the_newest_of_several_runs_with_one_seed_counts(seeds: Any, tmp_path: Path) -> None:
    folders = [*seeds("a", 1e-3, [10.0, 12.0]), *seeds("again", 1e-3, [11.0]), *seeds("copy", 1e-3, [10.0])]
    for folder, hour in zip(folders, (3, 3, 5, 3), strict=True):
        info = json.loads((folder / "run.json").read_text()) | {"finished": f"2026-01-02T0{hour}:00:00"}
        (folder / "run.json").write_text(json.dumps(info))
    comparison = compare(gather(folders))
    (row,) = comparison.rows
    assert sorted(row.numbers("fd_lite0")) == [11.0, 12.0]
    assert [run.folder for run in row.values] == [folders[1], folders[2]]
    reason = f"same recipe and seed as {folders[2]}"
    assert [(run.folder, why) for run, why in comparison.left_out] == [(folders[0], reason), (folders[3], reason)]
    copied = compare(gather([folders[0], folders[3]]))  # of equal age: the last one
    assert [run.folder for run in copied.rows[0].values] == [folders[3]]
    assert copied.rows[0].mean("fd_lite0").n == 1  # type: ignore[union-attr]


def test_failed_runs_and_samples_are_left_out(seeds: Any, tmp_path: Path, make_run: Make, make_output: Make) -> None:
    folders = seeds("a", 1e-3, [10.0, 11.0])
    make_output(tmp_path / "a/sample", "sample")
    assert [run.folder for run in gather([tmp_path / "a"])] == folders
    failed = make_run(tmp_path / "f", lr=1e-3, info={"state": "failed", "reason": "NaN at step 7"})
    comparison = compare(gather([*folders, failed]))
    assert [len(row.values) for row in comparison.rows] == [2]
    assert [run.folder for run, _ in comparison.left_out] == [failed]
    console = Console(file=io.StringIO(), width=200)
    write(comparison, tmp_path / "out", "t", console)
    for text in ((tmp_path / "out/compare.md").read_text(), console.file.getvalue()):  # type: ignore[attr-defined]
        assert "failed: NaN at step 7" in text


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("schedule.last", 0.01, "schedule.last differs"),
        ("trainer.limit_val_batches", 1, "trainer.limit_val_batches differs"),
        ("data.eval_batch_size", 4, None),  # without a limit, the same images are validated
        ("trainer.devices", 2, None),
    ],
)
def test_mse_is_ranked_only_if_schedule_and_validated_images_are_the_same(
    key: str, value: Any, why: str | None, seeds: Any
) -> None:
    folders = [*seeds("a", 1e-3, [1.0]), *seeds("b", 1e-2, [1.0])]
    config = OmegaConf.load(folders[1] / "config.yaml")
    OmegaConf.update(config, key, value)
    OmegaConf.save(config, folders[1] / "config.yaml")
    mse = column(compare(gather(folders)), "val/mse")
    assert mse.lower is (True if why is None else None)
    assert why is None or f"not ranked, because {why}, and with it what is measured" in mse.words


@pytest.mark.parametrize(
    ("metric", "a", "b", "best"),
    [
        ("fd_lite0", [10.0, 10.1, 10.2], [20.0, 20.1, 20.2], (0, set())),
        ("coverage", [0.1, 0.2, 0.11], [0.8, 0.9, 0.85], (1, set())),
        ("fd_lite0", [10.0, 20.0, 15.0], [11.0, 21.0, 15.5], (0, {1})),  # the difference may be due to chance
        ("fd_lite0", [10.0, 10.1, 10.2], [20.0], (0, {1})),  # one seed cannot be tested
        ("density_lite0", [0.9, 1.0], [8.0, 9.0], (None, set())),
    ],
)
def test_the_best_mean_and_those_not_shown_to_differ_are_marked(
    metric: str, a: list[float], b: list[float], best: Any, seeds: Any
) -> None:
    comparison = compare(gather([*seeds("a", 1e-3, a, metric=metric), *seeds("b", 1e-2, b, metric=metric)]))
    assert comparison.best(column(comparison, metric)) == best


ON_TEST = {"reference": {"split": "test", "n": 250, "key": "k"}}


@pytest.mark.parametrize(
    ("first", "second", "other", "words"),
    [
        ({}, {}, {}, None),
        (ON_TEST, ON_TEST, ON_TEST, "choosing among 2 recipes by their test scores"),
        ({}, {"test_evaluation": 3}, {}, "has test evaluation 3 of its model"),
    ],
)
def test_numbers_that_cannot_be_compared_as_they_stand_give_a_warning(
    first: Any, second: Any, other: Any, words: str | None, seeds: Any
) -> None:
    folders = [*seeds("a", 1e-3, [1.0, 2.0]), *seeds("b", 1e-2, [2.0])]
    for folder, made in zip(folders, (first, second, other), strict=True):
        (folder / "scores.json").write_text(json.dumps([of(value=1.0) | made]))
    warnings = compare(gather(folders)).warnings
    assert [words in warning for warning in warnings] == [True] if words else warnings == []


def test_the_last_score_of_a_folder_counts(tmp_path: Path, make_run: Make) -> None:
    scores = [of(value=1.0, step=5), of(value=2.0, step=9), of(value=4.0, step=12, checkpoint={"path": "a"})]
    (row,) = compare(gather([make_run(tmp_path / "a", scores=scores)])).rows
    assert row.numbers("fd_lite0") == [4.0]


def test_the_command_writes_its_files_into_a_sweep_or_a_folder_of_its_own(
    seeds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds("a", 1e-3, [10.0, 12.0])
    seeds("b", 1e-2, [40.0, 41.0])
    assert main(["a", "b", "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("2 recipes", "*11 ± 13*"))
    assert {path.name for path in Path("out").iterdir()} == FILES
    assert "| 0.001 | 2 |" in Path("out/compare.md").read_text()
    assert "| **11 ± 13** |" in Path("out/compare.md").read_text()
    with Path("out/runs.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [(line["optimizer.lr"], line["fd_lite0"]) for line in lines][1:3] == [("0.001", "12.0"), ("0.01", "40.0")]
    assert main(["a"]) == 0
    assert {path.name for path in Path("outputs/comparisons").glob("*/*")} == FILES
    Path("a/multirun.yaml").touch()
    assert main(["a"]) == 0
    assert {path.name for path in Path("a").iterdir()} == {"0", "1", "multirun.yaml"} | FILES
    assert main(["nowhere"]) == 2
    assert "nowhere: " in capsys.readouterr().err


def test_the_sweeps_callback_writes_the_comparison_after_each_job_and_prints_it_at_the_end(
    seeds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds("sweep", 1e-3, [10.0, 12.0])
    config = OmegaConf.create(
        {"hydra": {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(tmp_path / "sweep")}, "job": {"num": 1, "name": "x"}}}
    )
    failed = JobReturn(status=JobStatus.FAILED, _return_value=UserError("no memory"))
    SweepTable().on_job_end(config, failed)
    assert {path.name for path in (tmp_path / "sweep").iterdir()} >= FILES
    assert "job 1 failed: no memory" in capsys.readouterr().out
    SweepTable().on_multirun_end(config)
    assert "11 ± 13" in capsys.readouterr().out


def test_recipes_with_long_labels_are_numbered_and_a_wide_table_is_split(seeds: Any, tmp_path: Path) -> None:
    folders = [*seeds("a", 1e-3, [10.0]), *seeds("b", 1e-2, [11.0])]
    for i, folder in enumerate(folders):
        with (folder / "config.yaml").open("a") as file:
            file.writelines(f"a_long_name_of_a_setting_{k}: {i}\n" for k in range(3))
        (folder / "scores.json").write_text(json.dumps([of(metric=f"metric_{k}", value=k + 0.5) for k in range(6)]))
    comparison, console = compare(gather(folders)), Console(file=io.StringIO(), width=80)
    write(comparison, tmp_path / "out", "t", console)
    assert comparison.names == ["row 1", "row 2"]
    assert "| 2 | 0.01 | 1 |" in (tmp_path / "out/compare.md").read_text()
    assert [text.get_text() for text in figure(comparison).axes[0].get_yticklabels()] == ["row 1", "row 2"]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(printed.count(f" {k}.5 ") == 2 for k in range(6))
    assert max(len(line) for line in printed.splitlines() if line[:1] == " ") <= 80
