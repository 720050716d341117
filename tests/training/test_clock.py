"""Intervals in epochs are converted to steps, with a minimum number of steps for tiny epochs."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusion.config.schema import Trainer
from diffusion.errors import UserError
from diffusion.runs.metrics import read_metrics
from diffusion.training.clock import Clock


def validated_at(images: int, least: int = 25, **settings: Any) -> list[int]:
    """The steps that are followed by a validation."""
    clock = Clock.of(Trainer(**settings), images, 8, 1, least)
    return [step for step in range(1, clock.total + 1) if clock.validates(step)]


def test_validations_of_tiny_epochs_are_a_minimum_number_of_steps_apart() -> None:
    assert validated_at(11, max_epochs=250) == [*range(25, 251, 25)]
    assert validated_at(11, max_epochs=-1, max_steps=1000) == [*range(25, 1001, 25)]
    assert validated_at(24, max_epochs=250) == [*range(27, 751, 27), 750]  # whole epochs
    assert validated_at(11, least=1, max_epochs=9) == [*range(1, 10)]
    assert validated_at(11, max_epochs=10, val_check_interval=2) == [2, 4, 6, 8, 10]  # in batches: exactly as requested


@pytest.mark.parametrize("images", [2091, 250, 200])
@pytest.mark.parametrize("between", [1, 4])
def test_the_minimum_interval_does_not_affect_usual_epochs(images: int, between: int) -> None:
    steps = validated_at(images, max_epochs=8, check_val_every_n_epoch=between)
    assert steps == validated_at(images, least=1, max_epochs=8, check_val_every_n_epoch=between)
    assert steps == [epoch * (images // 8) for epoch in range(between, 9, between)]


def test_the_minimum_interval_is_a_tenth_of_a_short_run() -> None:
    assert validated_at(48, max_epochs=2) == [6, 12]
    assert len(validated_at(11, max_epochs=100)) == 10


def test_the_minimum_interval_also_applies_to_pictures() -> None:
    clock = Clock.of(Trainer(max_epochs=250), 11, 8, 1, 25)
    assert [step for step in range(251) if clock.every(10, step)] == [*range(30, 251, 30)]
    assert not any(clock.every(None, step) for step in range(9))


def test_a_run_on_few_images_validates_at_the_minimum_interval(command, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for i in range(9):
        Image.new("RGB", (8, 8), (20 * i, 0, 99)).save(tmp_path / f"few/{i}.png")
    words = ["data.root=few", "data.val=0.3", "data.test=0", "data.batch_size=6", "trainer.max_epochs=60"]
    status, out, err = command("train", [*tiny, *words, "samples.n=0", "hydra.run.dir=run"])
    assert status == 0, out + err
    steps = read_metrics(tmp_path / "run/metrics.csv")["val/mse"].step
    assert {int(b - a) for a, b in pairwise(steps)} == {6}  # 60 steps


def test_a_run_says_that_its_epochs_end_it_before_its_steps(capfd) -> None:
    assert Clock.of(Trainer(max_steps=50, max_epochs=10), 80, 8, 1).total == 50
    assert capfd.readouterr().out == ""
    assert Clock.of(Trainer(max_steps=50, max_epochs=2), 80, 8, 1).total == 20
    said = "trainer.max_epochs=2 ends the run at step 20, before trainer.max_steps=50; trainer.max_epochs=-1 removes"
    assert said in " ".join(capfd.readouterr().out.split())


def test_intervals_and_limits_in_batches_are_converted_to_steps() -> None:
    between = validated_at(80, least=1, max_epochs=8, val_check_interval=0.5, check_val_every_n_epoch=2)
    assert between == [*range(10, 81, 10)]  # half of two epochs of ten steps
    every = validated_at(80, least=1, max_epochs=4, val_check_interval=5, accumulate_grad_batches=2)
    assert every == [3, 6, 9, 12, 15, 18, 20]  # a step is complete when its second batch is
    assert Clock.of(Trainer(limit_train_batches=3), 80, 8, 1).epoch == 3
    assert Clock.of(Trainer(limit_train_batches=30), 80, 8, 1).epoch == 10


@pytest.mark.parametrize(("images", "words"), [(24, "leaves no optimizer step in an epoch of 3"), (7, "has 7 images")])
def test_an_epoch_without_a_step_is_explained_by_its_limit_or_its_images(images: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Clock.of(Trainer(limit_train_batches=0.2), images, 8, 1)
