"""Intervals in epochs are converted to steps, with a minimum number of steps for tiny epochs."""

from types import SimpleNamespace
from typing import Any

import pytest

from diffusion.config.schema import Trainer
from diffusion.errors import UserError
from diffusion.training.clock import Clock, clock_of


def clock_with(images: int, least: int = 25, **settings: Any) -> Clock:
    """The clock of a run on one device with batches of 8 images."""
    data = SimpleNamespace(splits={"train": range(images)}, batch_size=8, global_batch_size=None)
    given = SimpleNamespace(trainer=Trainer(**settings), least_interval=least, data={})
    return clock_of(given, data, 1)  # type: ignore[arg-type]


def validated_at(images: int, least: int = 25, **settings: Any) -> list[int]:
    """The steps that are followed by a validation."""
    clock = clock_with(images, least, **settings)
    return [step for step in range(1, clock.total + 1) if clock.validates(step)]


def test_validations_of_tiny_epochs_are_a_minimum_number_of_steps_apart() -> None:
    assert validated_at(11, max_epochs=250) == [*range(25, 251, 25)]
    assert validated_at(11, max_epochs=-1, max_steps=1000) == [*range(25, 1001, 25)]
    assert validated_at(24, max_epochs=250) == [*range(27, 751, 27), 750]  # whole epochs
    assert validated_at(11, least=1, max_epochs=9) == [*range(1, 10)]
    assert validated_at(11, max_epochs=10, val_check_interval=2) == [2, 4, 6, 8, 10]  # in batches: exactly as requested


def test_the_minimum_interval_is_a_tenth_of_a_short_run() -> None:
    assert validated_at(48, max_epochs=2) == [6, 12]
    assert len(validated_at(11, max_epochs=100)) == 10


def test_intervals_and_limits_in_batches_are_converted_to_steps() -> None:
    between = validated_at(80, least=1, max_epochs=8, val_check_interval=0.5, check_val_every_n_epoch=2)
    assert between == [*range(10, 81, 10)]  # half of two epochs of ten steps
    every = validated_at(80, least=1, max_epochs=4, val_check_interval=5, accumulate_grad_batches=2)
    assert every == [3, 6, 9, 12, 15, 18, 20]  # a step is complete when its second batch is
    assert clock_with(80, limit_train_batches=3).epoch == 3
    assert clock_with(80, limit_train_batches=30).epoch == 10


@pytest.mark.parametrize(("images", "words"), [(24, "or remove trainer.limit_train_batches=0.2"), (7, "has 7 images")])
def test_an_epoch_without_a_step_is_explained_by_its_limit_or_its_images(images: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        clock_with(images, limit_train_batches=0.2)
