"""Settings in which runs differ: a column for a choice, and its settings only if runs of that choice differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from diffusion.report.compare import compare
from diffusion.report.differences import differing, labels
from diffusion.runs.folder import Run

Make = Callable[..., Run]
LINEAR = {"_target_": "diffusion.process.schedule.linear", "steps": 100, "first": 1e-4, "last": 0.02}
COSINE = {"_target_": "diffusion.process.schedule.cosine", "steps": 100, "s": 0.008}


@pytest.fixture
def run(tmp_path: Path) -> Make:
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


def test_a_choice_is_one_column_without_its_settings(run: Make) -> None:
    runs = [
        run({"seed": 0, "schedule": node}, {"schedule": name}) for node, name in ((LINEAR, "ddpm"), (COSINE, "adm"))
    ]
    assert differing(runs) == {"schedule": ["ddpm", "adm"]}
    assert [row.label for row in compare(runs).rows] == ["schedule=ddpm", "schedule=adm"]


def test_a_setting_that_differs_among_runs_of_one_choice_is_shown(run: Make) -> None:
    nodes = [(LINEAR, "linear"), (COSINE, "cosine"), (COSINE | {"s": 0.02}, "cosine")]
    runs = [run({"schedule": node}, {"schedule": name}) for node, name in nodes]
    settings = differing(runs)
    assert settings == {"schedule": ["linear", "cosine", "cosine"], "schedule.s": ["—", "0.008", "0.02"]}
    assert labels(settings, 3) == ["schedule=linear", "schedule=cosine, s=0.008", "schedule=cosine, s=0.02"]
    same = [run({"schedule": node}, {"schedule": "cosine"}) for node, _ in nodes[1:]]
    assert differing(same) == {"schedule.s": ["0.008", "0.02"]}


def test_a_choice_overridden_with_null_is_shown_as_none(run: Make) -> None:
    clip = {"_target_": "diffusion.process.threshold.clip"}
    pairs = ((clip, "clip"), (None, "clip"), (None, None))  # Hydra records None for a part without a choice
    runs = [run({"sampler": {"threshold": node}}, {"sampler.threshold": name}) for node, name in pairs]
    assert differing(runs) == {"sampler.threshold": ["clip", "none", "none"]}


def test_an_override_is_shown_in_addition_to_a_choice(run: Make) -> None:
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}
    adam = {"_target_": "torch.optim.Adam", "lr": 0.001, "amsgrad": False}
    choices = [{"optimizer": "sgd"}, {"optimizer": "adam"}]
    implied = [run({"optimizer": node}, choice) for node, choice in zip((sgd, adam), choices, strict=True)]
    assert differing(implied) == {"optimizer": ["sgd", "adam"]}
    given = ("optimizer=sgd", "optimizer.lr=0.1")
    chosen = [run({"optimizer": sgd}, choices[0], given), run({"optimizer": adam}, choices[1])]
    assert differing(chosen) == {"optimizer": ["sgd", "adam"], "optimizer.lr": ["0.1", "0.001"]}


def test_a_nested_group_is_shown_only_if_the_outer_choice_is_the_same(run: Make) -> None:
    def of(weighting: str, name: str) -> dict[str, Any]:
        return {"objective": {"_target_": f"a.{name}", "weighting": {"_target_": f"b.{weighting}", "gamma": 5}}}

    def choices(weighting: str, name: str) -> dict[str, str]:
        return {"objective": name, "weighting@objective.weighting": weighting}

    pairs = [("unit", "simple"), ("vlb", "hybrid")]
    assert differing([run(of(*pair), choices(*pair)) for pair in pairs]) == {"objective": ["simple", "hybrid"]}
    pairs = [("unit", "simple"), ("snr", "simple")]
    runs = [run(of(*pair), choices(*pair)) for pair in pairs]
    assert differing(runs) == {"objective.weighting": ["unit", "snr"]}


def test_a_value_that_equals_the_seed_is_not_shown(run: Make) -> None:
    runs = [run({"seed": seed, "data": {"seed": seed}}) for seed in (0, 1)]
    assert differing(runs) == {"seed": ["0", "1"]}
    fixed = [run({"seed": seed, "data": {"seed": other}}) for seed, other in ((0, 5), (1, 6))]
    assert differing(fixed) == {"seed": ["0", "1"], "data.seed": ["5", "6"]}
    assert len(compare(runs).rows) == 1
    assert len(compare(fixed).rows) == 2
