"""The comparison of runs: rows of recipes, the settings in which they differ, intervals over seeds, ranking."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf
from scipy import stats
from scipy.stats import binom

from diffusion.cli.compare import SweepTable, main
from diffusion.errors import UserError
from diffusion.findings.compare import Column, Comparison, Row, compare, differing, label
from diffusion.findings.ranking import ranking
from diffusion.runs.folder import Run

Make = Callable[..., Path]
FILES = {"compare.md", "runs.csv", "report.html"}


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


def numbers(comparison: Comparison, name: str = "fd_lite0") -> list[list[float]]:
    """The numbers of each recipe: one per training seed."""
    return [mean.of_seeds for mean in column(comparison, name).means]


def labels(comparison: Comparison) -> list[str]:
    return [label(row.settings) for row in comparison.rows]


def test_seeds_of_one_recipe_form_one_row_with_a_t_interval(seeds: Any, tmp_path: Path) -> None:
    x = [10.0, 12.0, 17.0]
    comparison = compare([*seeds("a", 1e-3, x), *seeds("b", 1e-2, [40.0, 41.0, 45.0])])
    assert [row.settings for row in comparison.rows] == [{"optimizer.lr": "0.001"}, {"optimizer.lr": "0.01"}]
    assert [len(row.runs) for row in comparison.rows] == [3, 3]
    mean = column(comparison, "fd_lite0").means[0]
    low, high = stats.t.interval(0.95, 2, loc=13.0, scale=stats.sem(x))
    assert mean.mean == 13.0
    assert (13 - mean.half, 13 + mean.half) == pytest.approx((low, high))
    assert column(comparison, "fd_lite0").differs == {1: True}


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
    assert numbers(compare(one)) == [[10.0, 11.0, 12.0]]
    one.append(evaluation(trained(2), 13.0, ckpt="2/checkpoints/best.ckpt", step=92, seed=1))
    other = [evaluation(trained(s, lr=1e-2), 20.0 + s) for s in range(2)]
    comparison = compare([*one, *other, evaluation(trained(0), 9.0, ckpt="0/checkpoints/best.ckpt", step=90)])
    assert labels(comparison) == ["optimizer.lr=0.001", "optimizer.lr=0.01"]
    assert [len(row.runs) for row in comparison.rows] == [4, 2]
    assert numbers(comparison) == [[11.0, 12.5, 9.0], [20.0, 21.0]]  # several samplings of a model count as one
    (note,) = comparison.notes
    assert note.startswith(f"left out: {one[0]}: same recipe and seed as ")


def test_two_checkpoints_of_one_run_get_two_rows(evaluation: Any) -> None:
    def rows(*checkpoints: tuple[int, str, int]) -> list[str]:
        folders = [evaluation(trained(s), 1.0, ckpt=f"{s}/checkpoints/{name}", step=n) for s, name, n in checkpoints]
        return labels(compare(folders))

    assert rows((0, "best.ckpt", 90), (0, "last.ckpt", 99)) == ["ckpt=best.ckpt", "ckpt=last.ckpt"]
    assert rows((0, "best.ckpt", 90), (1, "best.ckpt", 95)) == ["all"]


class Drawn(NamedTuple):
    """In place of a run: the seed, and the recipe."""

    seeds: tuple[int, int]


def test_equal_recipes_are_rarely_shown_as_worse_than_the_best() -> None:
    random, wrong, tables, k = np.random.default_rng(0), 0, 50, 20
    for _ in range(tables):
        values: Any = {Drawn((seed, row)): random.normal() for row in range(k) for seed in range(3)}
        rows: Any = [Row({}, [run for run in values if run.seeds[1] == row]) for row in range(k)]
        wrong += any(Column("x", False, "", values, rows).differs.values())
    assert wrong <= binom.ppf(0.999, tables, 0.07)


def test_scores_of_different_protocols_are_in_different_columns(seeds: Any, tmp_path: Path) -> None:
    comparison = compare([*seeds("a", 1e-3, [10.0, 11.0]), *seeds("b", 1e-2, [5.0, 6.0], n=32)])
    found = [c for c in comparison.columns if c.name.startswith("fd")]
    assert [c.order for c in found] == [[], []]
    assert [c.words[:9] for c in found] == ["64 images", "32 images"]


def of(**changed: Any) -> dict[str, Any]:
    return {"metric": "fd_lite0", "what": "samples", "n": 64, "seed": 0, "weights": "ema", **changed}


def test_only_the_newest_complete_run_of_a_seed_counts(seeds: Any, make_run: Make, make_output: Make) -> None:
    folders = [*seeds("a", 1e-3, [10.0, 12.0]), *seeds("again", 1e-3, [11.0]), *seeds("copy", 1e-3, [10.0])]
    for folder, hour in zip(folders, (3, 3, 5, 3), strict=True):
        info = json.loads((folder / "run.json").read_text()) | {"finished": f"2026-01-02T0{hour}:00:00"}
        (folder / "run.json").write_text(json.dumps(info))
    make_output(folders[0].parent / "sample", "sample")
    failed = make_run(folders[0].parent / "f", lr=1e-3, info={"state": "failed", "reason": "NaN at step 7"})
    comparison = compare([folders[0].parent, *folders[2:]])
    assert [run.folder for _, run in comparison.runs] == [folders[1], folders[2]]
    reason = f"same recipe and seed as {folders[2]}"
    expected = [f"{failed}: failed: NaN at step 7", f"{folders[0]}: {reason}", f"{folders[3]}: {reason}"]
    assert comparison.notes == [f"left out: {words}" for words in expected]
    assert numbers(compare([folders[0], folders[3]])) == [[10.0]]  # of equal age
    (folders[3] / "scores.json").write_text("[]")
    with (folders[3] / "config.yaml").open("a") as file:
        file.write("score: {n: 0}\nsamples: {n: 4}\n")
    scored = compare([folders[0], folders[3]])  # of one recipe, the one with scores
    assert (scored.settings, [run.folder for _, run in scored.runs]) == ([], [folders[0]])


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("schedule.last", 0.01, "schedule.last"),
        ("trainer.limit_val_batches", 1, "trainer.limit_val_batches"),
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
    mse = column(compare(folders), "val/mse")
    assert mse.higher is (False if why is None else None)
    assert why is None or f"not ranked, because what is measured depends on {why}" in mse.words


@pytest.mark.parametrize(
    ("metric", "a", "b", "shown"),
    [
        ("fd_lite0", [10.0, 10.1, 10.2], [20.0, 20.1, 20.2], {1: True}),
        ("coverage", [0.1, 0.2, 0.11], [0.8, 0.9, 0.85], {0: True}),
        ("fd_lite0", [10.0, 20.0, 15.0], [11.0, 21.0, 15.5], {1: False}),  # the difference may be due to chance
        ("fd_lite0", [10.0, 10.1, 10.2], [20.0], {1: None}),  # one seed has no test, and so no mark
        ("density_lite0", [0.9, 1.0], [8.0, 9.0], {}),
    ],
)
def test_the_best_mean_and_those_not_shown_to_differ_are_marked(
    metric: str, a: list[float], b: list[float], shown: Any, seeds: Any
) -> None:
    comparison = compare([*seeds("a", 1e-3, a, metric=metric), *seeds("b", 1e-2, b, metric=metric)])
    assert column(comparison, metric).differs == shown


def test_choosing_among_recipes_by_their_test_scores_or_by_few_images_gives_a_warning(seeds: Any) -> None:
    reference = {"split": "test", "n": 199, "key": "k"}
    one = seeds("a", 1e-3, [1.0, 2.0], reference=reference)
    assert compare(one).notes == []
    two = compare([*one, *seeds("b", 1e-2, [2.0], reference=reference)])
    (note,) = two.notes
    assert "choosing among 2 recipes by their test scores" in note
    assert ranking(two, Path()).findings["few"].startswith("But 199 reference images are too few")


def test_the_last_score_of_a_folder_counts(tmp_path: Path, make_run: Make) -> None:
    scores = [of(value=1.0, step=5), of(value=2.0, step=9), of(value=4.0, step=12, checkpoint={"path": "a"})]
    assert numbers(compare([make_run(tmp_path / "a", scores=scores)])) == [[4.0]]


@pytest.mark.usefixtures("undrawn")
def test_the_command_writes_its_files_into_a_sweep_or_a_folder_of_its_own(
    seeds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds("a", 1e-3, [10.0, 12.0])
    seeds("b", 1e-2, [40.0, 41.0])
    assert main(["a", "b", "--out", "out"]) == 0
    for text, mean in (capsys.readouterr().out, "*11 ± 13*"), (Path("out/compare.md").read_text(), "| **11 ± 13** |"):
        assert mean in text
    with Path("out/runs.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [(line["optimizer.lr"], line["fd_lite0"]) for line in lines][1:3] == [("0.001", "12.0"), ("0.01", "40.0")]
    assert main(["a"]) == 0
    assert {path.name for path in Path("outputs/comparisons").glob("*/*")} == FILES
    Path("a/multirun.yaml").touch()
    assert main(["a"]) == 0
    assert {path.name for path in Path("a").iterdir()} == {"0", "1", "multirun.yaml"} | FILES
    assert main(["nowhere"]) == 2


@pytest.mark.usefixtures("undrawn")
def test_the_sweeps_callback_writes_the_comparison_after_each_job_and_prints_it_at_the_end(
    seeds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds("sweep", 1e-3, [10.0, 12.0])
    config = OmegaConf.create({"hydra": {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(tmp_path / "sweep")}}})
    failed = JobReturn(status=JobStatus.FAILED, _return_value=UserError("no memory"))
    for call, shown in (
        (lambda: SweepTable().on_job_end(config, failed), True),
        (lambda: SweepTable().on_job_end(config, JobReturn(status=JobStatus.COMPLETED)), False),
        (lambda: SweepTable().on_multirun_end(config), True),
    ):
        call()
        assert ("11 ± 13" in capsys.readouterr().out) == shown
        assert {path.name for path in (tmp_path / "sweep").iterdir()} >= FILES


LINEAR = {"_target_": "diffusion.process.schedule.linear", "steps": 100, "first": 1e-4, "last": 0.02}
COSINE = {"_target_": "diffusion.process.schedule.cosine", "steps": 100, "s": 0.008}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """`run(config, choices, overrides)`: a run's folder as written by Hydra and training."""
    made: list[Run] = []

    def make(config: dict[str, Any], choices: dict[str, str] | None = None, overrides: tuple[str, ...] = ()) -> Run:
        folder = tmp_path / str(len(made))
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
        record: dict[str, Any] = {"job": {"name": "train"}, "overrides": {"task": list(overrides)}}
        if choices is not None:
            record["runtime"] = {"choices": {**choices, "hydra/launcher": "basic", "experiment": "x"}}
        OmegaConf.save(OmegaConf.create({"hydra": record}), folder / ".hydra/hydra.yaml")
        (folder / "run.json").write_text('{"state": "complete"}')
        made.append(Run(folder))
        return made[-1]

    return make


CLIP = {"_target_": "diffusion.process.threshold.clip"}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}
ADAM = {"_target_": "torch.optim.Adam", "lr": 0.001, "amsgrad": False}


def nested(weighting: str, name: str) -> tuple[Any, ...]:
    node = {"_target_": f"a.{name}", "weighting": {"_target_": f"b.{weighting}", "gamma": 5}}
    return {"objective": node}, {"objective": name, "weighting@objective.weighting": weighting}


DIFFERING: dict[str, tuple[list[tuple[Any, ...]], dict[str, list[str]]]] = {  # (config, choices, overrides) of each run
    "a choice, without its settings": (
        [({"schedule": LINEAR}, {"schedule": "ddpm"}), ({"schedule": COSINE}, {"schedule": "adm"})],
        {"schedule": ["ddpm", "adm"]}),
    "a choice, and a setting that differs among runs of it": (
        [({"schedule": LINEAR}, {"schedule": "linear"}),
         *(({"schedule": COSINE | {"s": s}}, {"schedule": "cosine"}) for s in (0.008, 0.02))],
        {"schedule": ["linear", "cosine", "cosine"], "schedule.s": ["—", "0.008", "0.02"]}),
    "a setting of one choice": (
        [({"schedule": COSINE | {"s": s}}, {"schedule": "cosine"}) for s in (0.008, 0.02)],
        {"schedule.s": ["0.008", "0.02"]}),
    "a choice overridden with null": (  # Hydra records None for a part without a choice
        [({"sampler": {"threshold": node}}, {"sampler.threshold": name})
         for node, name in ((CLIP, "clip"), (None, "clip"), (None, None))],
        {"sampler.threshold": ["clip", "none", "none"]}),
    "an override, in addition to its choice": (
        [({"optimizer": SGD}, {"optimizer": "sgd"}, ("optimizer=sgd", "optimizer.lr=0.1")),
         ({"optimizer": ADAM}, {"optimizer": "adam"})],
        {"optimizer": ["sgd", "adam"], "optimizer.lr": ["0.1", "0.001"]}),
    "the outer of two choices": (
        [nested("unit", "simple"), nested("vlb", "hybrid")], {"objective": ["simple", "hybrid"]}),
    "an inner choice": ([nested("unit", "simple"), nested("snr", "simple")], {"objective.weighting": ["unit", "snr"]}),
    "a seed, without what equals it": ([({"seed": s, "data": {"seed": s}},) for s in (0, 1)], {"seed": ["0", "1"]}),
    "two seeds": (
        [({"seed": s, "data": {"seed": s + 5}},) for s in (0, 1)], {"seed": ["0", "1"], "data.seed": ["5", "6"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERING)
def test_the_settings_that_differ_are_shown_once(run: Any, name: str) -> None:
    made, expected = DIFFERING[name]
    assert differing([run(*each) for each in made]) == expected


def test_a_limit_that_did_not_end_the_training_names_no_recipe(run: Any) -> None:
    runs = [run({"trainer": {"max_epochs": n, "max_steps": m}}) for n, m in ((-1, 100), (250, 60), (5, -1))]
    for each, total in zip(runs, (100, 60, 50), strict=True):
        (each.folder / "run.json").write_text(f'{{"state": "complete", "total_steps": {total}}}')
    names = ["trainer.max_steps=100", "trainer.max_steps=60", "trainer.max_epochs=5"]
    assert compare([each.folder for each in runs]).names == names


def test_the_name_of_a_recipe_has_its_overrides_that_differ(run: Any) -> None:
    def named(*recipes: dict[str, str]) -> list[str]:
        words = [tuple(f"{key}={value}" for key, value in recipe.items() if value != "default") for recipe in recipes]
        runs = [run(recipe, {}, typed) for recipe, typed in zip(recipes, words, strict=True)]
        return compare([each.folder for each in runs]).names

    plain = {"schedule": "default", "objective": "default"}
    assert named(plain, plain | {"schedule": "mine"}, plain | {"objective": "mine"}) == [
        "schedule=default, objective=default", "schedule=mine", "objective=mine",
    ]  # fmt: skip
    trials = [("warm", "0.1"), ("warm", "0.2"), ("power", "0.3")]
    assert named(*({"ema": ema, "lr": lr} for ema, lr in trials))[2] == "ema=power, lr=0.3"
