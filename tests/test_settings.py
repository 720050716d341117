"""Settings of a wrong type cause a one-line error; every shipped value has the right type."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import annotated_types as at
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from diffusion.config import schema
from diffusion.config.build import check_node, make
from diffusion.config.choices import choices, conf_dir, is_group
from diffusion.config.validation import check_arguments, describe
from diffusion.errors import UserError
from tests.support.composing import settings

GROUPS = (*(key for key in schema.Train.model_fields if is_group(key)), "experiment", "trainer")
CHOICES = [(group, choice) for group in GROUPS for choice in choices(group)]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_with_valid_types(group, choice):
    chosen = settings([f"{group}={choice}", *["data.root=x"] * (choice == "folder")])
    for key, value in chosen:
        if is_group(key):
            check_node(value, key)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_recipe_can_do_without_an_average_of_its_weights(experiment):
    """Also one that sets `ema.decay`, which is then a setting of nothing."""
    assert settings([f"experiment={experiment}", "ema=none", "optimizer=adamw"]).ema is None


MADE = ("schedule", "prediction", "objective", "lr_scheduler", "ema", "sampler", "guidance", "model", "data")
SEVERAL = ("logger", "callbacks", "metrics")  # any number of their choices can be used


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g, c in CHOICES if g in MADE and c not in ("none", "wandb")])
def test_the_class_or_function_of_every_choice_exists(group, choice):
    chosen = getattr(settings([f"{group}={choice}", *["data.root=x"] * (choice == "folder")]), group)
    assert make({**chosen, "_partial_": True}, group) is not None


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g, c in CHOICES if g in SEVERAL])
def test_the_class_or_function_of_every_logger_callback_and_metric_exists(group, choice):
    for name, node in (getattr(settings([f"{group}=[{choice}]"]), group) or {}).items():
        assert make({**node, "_partial_": True}, f"{group}.{name}") is not None


@pytest.mark.parametrize("choice", choices("lr_scheduler"))
def test_every_learning_rate_schedule_has_the_settings_of_its_function(choice):
    schedule = make(settings([f"lr_scheduler={choice}"]).lr_scheduler, "lr_scheduler")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    assert 0 < schedule(optimizer, 1000).get_last_lr()[0] <= 1


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_file_starts_with_a_comment(path):
    assert path.read_text().startswith("#")


@pytest.mark.parametrize("command", schema.COMMANDS)
def test_every_setting_is_described(command):
    def check(model: type[BaseModel]) -> None:
        for key, field in model.model_fields.items():
            if is_group(key):
                continue  # its choices are described in conf/
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)
                continue
            assert field.description, f"{model.__name__}.{key}"
            assert describe(field.annotation) != "anything", f"{model.__name__}.{key}"

    check(schema.COMMANDS[command])


WRONG = {
    "sample": {
        "n=abc": "at least 1; n=64 is the default",
        "n=2.5": "a whole number",
        "batch_size=0": "at least 1",
        "batch_size=-1": "at least 1",
        "frames=0": "at least 1",
        "seed=abc": "a whole number",
        "seed=-1": "from 0",
        "weights=best": "ema, raw",
    },
    "evaluate": {
        "n=abc": "at least 1 or null",
        "batch_size=0": "at least 1",
        "bits=-3": "at least 0; bits=0 is the default",
        "split=tset": "train, val, test",
        "audit=pixels": "a list",
        "baselines=[untrained]": "noise, real, floor",
        "again=perhaps": "true or false",
    },
    "study": {
        "nfe=4": "a list of at least 1, each a whole number",
        "nfe=[abc]": "a list of at least 1, each a whole number",
        "samplers=ddim": "all or a list",
        "n=0": "at least 1",
    },
}


@pytest.mark.parametrize(("name", "word"), [(name, word) for name in WRONG for word in WRONG[name]])
def test_invalid_settings_are_refused_before_the_checkpoint_is_searched(command, name, word):
    status, out, err = command(name, [*["sampler"] * (name == "study"), "ckpt=nowhere.ckpt", word])
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert line.startswith(f"error: {word}: expected ")
    assert WRONG[name][word] in line


class Parent:
    def __init__(self, side: int, named: Literal["a", "b"] = "a"):
        pass


class Child(Parent):
    def __init__(
        self,
        rate: float | None,
        sizes: Sequence[int] = (),
        pair: tuple[float, float] = (0, 1),
        ratio: Annotated[float, at.Gt(0), at.Le(1)] = 1,
        **more: Any,
    ):
        pass


class Alone(Parent):
    def __init__(self, rate: float, part: Callable[[], Tensor] | None = None):
        pass


@pytest.mark.parametrize(
    ("target", "argument", "good", "bad"),
    [
        (Child, "rate", [1, 0.5, None], ["a", True, [1]]),
        (Child, "sizes", [[], [1, 2]], [1, "12", [1.5], ["a"], {}]),
        (Child, "pair", [[0, 0.5]], [[0], [0, 1, 2], 0]),
        (Child, "side", [1], [1.0, None, "a"]),
        (Child, "named", ["a"], ["c", None, 1]),
        (Child, "ratio", [0.5, 1], [0, 1.5, float("nan"), "0.5"]),
        (Child, "unknown", ["anything"], []),
        (Alone, "side", ["is not its own"], []),
        (Alone, "part", [None, {"_target_": "x"}], ["karras", 3]),
    ],
)
def test_arguments_are_checked_against_their_annotations(target, argument, good, bad):
    for value in good:
        check_arguments(target, {argument: value}, "model")
    for value in bad:
        with pytest.raises(UserError, match=f"^model.{argument}="):
            check_arguments(target, {argument: value}, "model")


def test_recipe_functions_are_plain_partials_without_hydra() -> None:
    """Hydra checks its policy again at every call of its own partial functions: twice per training step."""
    objective = make(settings(["weighting@objective.weighting=min_snr"]).objective, "objective")
    assert type(objective.noise) is type(objective.weighting) is partial
    assert objective.weighting.keywords == {"gamma": 5.0}
    assert type(make(settings([]).optimizer, "optimizer")) is partial
