"""study.stop=decided: a test that may look after each seed, and the jobs of a sweep that it makes needless."""

import json

import numpy as np
import pytest

from diffusion.config.build import validated
from diffusion.config.choices import composed
from diffusion.config.schema import Train
from diffusion.errors import UserError
from diffusion.findings.paired import decided
from diffusion.runs.launch import Launch
from diffusion.training import jobs


def test_of_500_equal_pairs_at_most_5_percent_are_told_apart_however_many_seeds_are_looked_at():
    x = np.random.default_rng(0).normal(size=(500, 9))
    assert 5 < sum(bool(decided(each.tolist())) for each in x) <= 25  # all looks at 5%: 84
    assert decided([1.0, 1.1, 0.9, *x[0]]) == "1.00 ± 0.36 after 3 seeds", "what is decided stays so"


def settings(*words: str) -> Train:
    return validated(Train, composed("train", ["name=a", "study.stop=decided", *words]))


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Run jobs of a sweep, given their words and result; returns what is printed of those that are not run."""
    monkeypatch.setattr(jobs, "run_in_processes", lambda *begun: None)

    def run(result: float, *words: str) -> str:
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        (folder / ".hydra").mkdir(parents=True)
        jobs.start(settings(*words), Launch(folder, [*words], job=True))
        if (file := folder / "run.json").is_file():
            file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "complete", "result": result}))
        return capsys.readouterr().out.replace("\n", " ")

    return run


def test_a_decided_comparison_is_not_run_further_and_what_was_saved_is_told(sweep):
    for seed in range(3):
        sweep(1 + 0.1 * seed, f"seed={seed}")
        sweep(1 + 0.5 * (seed - 1), f"seed={seed}", "optimizer.lr=0.1")
        assert not sweep(2 + 0.11 * seed, f"seed={seed}", "optimizer.lr=0.2")
    assert not sweep(1.3, "seed=3"), "the other comparison goes on"
    said = sweep(0, "seed=3", "optimizer.lr=0.2")
    assert "val/mse differs from the first recipe's by 1.01" in said
    assert "saved so far: 1" in said


def test_the_first_recipe_ends_with_the_last_comparison(sweep):
    for seed in range(3):
        assert not sweep(1 + seed, f"seed={seed}") + sweep(2 + 1.01 * seed, f"seed={seed}", "optimizer.lr=0.2")
    sweep(0, "seed=3")
    assert "saved so far: 2" in sweep(0, "seed=3", "optimizer.lr=0.2")


def test_scores_that_cannot_be_compared_are_refused(sweep):
    sweep(1, "seed=0")
    with pytest.raises(UserError, match="not comparable if schedule"):
        sweep(1, "seed=0", "schedule=cosine")
    sweep(1, "seed=0", "schedule=cosine", "sweep.score=val/fd_lite0")
