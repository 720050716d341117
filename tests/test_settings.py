"""Settings of a wrong kind are one line; every value that is shipped is of its kind."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import Tensor

from diffusion.config import settings
from diffusion.config.build import check_kinds
from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.runs import naming as folders

CHOICES = [
    (group, file.stem)
    for group in (*settings.GROUPS["train"], "ema", "logger", "experiment")
    for file in sorted((conf_dir() / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_is_of_its_kind(group, choice):
    folders.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides=[f"{group}={choice}", "name=x", *["data.root=x"] * (choice == "folder")])
    settings.check("train", OmegaConf.to_container(config, resolve=True))
    for part in config:
        if OmegaConf.is_dict(config[part]):
            check_kinds(config[part], part)


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
        "yardsticks=[untrained]": "noise, real, floor",
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
def test_commands_refuse_it_before_they_look_for_the_checkpoint(command, name, word):
    status, out, err = command(name, [*["sampler"] * (name == "study"), "ckpt=nowhere.ckpt", word])
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert line.startswith(f"error: {word}: expected ")
    assert WRONG[name][word] in line


class Parent:
    def __init__(self, side: int, named: Literal["a", "b"] = "a"):
        pass


class Child(Parent):
    def __init__(self, rate: float | None, sizes: Sequence[int] = (), pair: tuple[float, float] = (0, 1), **more: Any):
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
        (Child, "unknown", ["anything"], []),
        (Alone, "side", ["is not its own"], []),
        (Alone, "part", [None, {"_target_": "x"}], ["karras", 3]),
    ],
)
def test_arguments_are_what_their_annotations_say(target, argument, good, bad):
    for value in good:
        settings.check_arguments(target, {argument: value}, "model")
    for value in bad:
        with pytest.raises(UserError, match=f"^model.{argument}="):
            settings.check_arguments(target, {argument: value}, "model")
