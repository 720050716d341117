"""Settings: every one is documented, and a wrong one is refused in one line, before anything is read or written."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import pytest
from pydantic import BaseModel
from torch import Tensor
from torch.nn import Conv2d

from diffusion.config import schema
from diffusion.config.build import check_arguments, make
from diffusion.config.choices import conf_dir, groups
from diffusion.errors import UserError
from tests.support.composing import settings


@pytest.mark.parametrize("command", schema.COMMANDS)
def test_every_setting_is_described(command):
    def check(model: type[BaseModel]) -> None:
        for key, field in model.model_fields.items():
            if key in groups():
                continue  # its choices are described in conf/
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)
                continue
            assert field.description, f"{model.__name__}.{key}"

    check(schema.COMMANDS[command])


def test_every_config_file_starts_with_a_comment():
    assert not [path for path in conf_dir().rglob("*.yaml") if not path.read_text().startswith("#")]


REFUSED = [  # the words of a command, and what its error names: the place, and the nearest names or the range
    ("train data=landscpes", "landscapes"),
    ("train data=null", "landscapes"),
    ("train data=3", "landscapes"),
    ("train logger=[csv,wanb]", "wandb"),
    ("train lr=1e-4", "optimizer.lr"),
    ("train --lr 1e-4", "optimizer.lr"),
    ("train optimizer.lr 1e-4", "optimizer.lr"),
    ("train seed=3 -m hello", "KEY=VALUE"),
    ("train --cfg", "--cfg"),
    ("train root=photos data=folder", "data.root"),
    ("train data.root=photos", "--help data"),
    ("train data=folder", "data.root"),
    ("train schedule=linear,cosine", "-m"),
    ("train optimizer.lr=1,2", "optimizer.lr=[1,2]"),
    ("train optimizer.lr=abc", "a number; --help optimizer"),
    ("train grid=karras", "grid@sampler.grid"),
    ("train objective=vlb weighting@objective.weighting=unit", "hybrid, simple have it"),
    ("train sampler.eta=1 sampler=heun", "--help sampler"),
    ("train trainer.logger=false", "logger=[wandb,tensorboard]"),
    ("train name=(a", 'name="(a"'),
    ("train samples=3", "samples"),
    ("train trainer.max_epochs=x", "trainer.max_epochs=250"),
    ("train trainer.max_time=5", "timeout 90m"),
    ("train checkpoint.finished=al", "all"),
    ("train validation.draws=0", "greater than or equal to 1"),
    ("train validation.drws=2", "validation.draws"),
    ("train hydra/sweeper=foo", "search"),
    ("train -m hydra/launcher=joblib hydra.launcher.n_job=2", "n_jobs"),
    ("train -m hydra/launcher=submitit_slurm", "joblib"),
    ("train -m seed=0,1 --cfg hydra", "leave out -m"),
    ("train --config-dir nowhere", "nowhere"),
    ("sample", "ckpt"),
    ("sample ckpt=nowhere.ckpt", "nowhere.ckpt"),
    ("sample ckpt=x ema=0.1", "ema"),
    ("sample ckpt=x weights=best", "raw"),
    ("evaluate ckpt=x split=tset", "test"),
    ("evaluate ckpt=x audit=pixels", "a valid array"),
    ("study sampler ckpt=x nfe=[abc]", "a valid integer"),
    ("study sampler ckpt=x samplers=ddim", "samplers=[ddim,"),
    ("study smpler ckpt=x", "sampler"),
    ("status --nonsense", "diffusion status"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "named"), REFUSED, ids=[words for words, _ in REFUSED])
def test_a_wrong_word_is_refused_in_one_line_that_names_the_mend(command, words, named, tmp_path):
    name, *rest = words.split()
    status, out, err = command(name, rest)
    assert (status, err.count("\n"), err[:7]) == (2, 1, "error: "), out + err
    assert named in err
    assert not [*tmp_path.glob("outputs/*/*")], "the refused command leaves a folder"


def test_a_choice_of_ones_own_without_its_folder_is_refused_with_the_option_that_is_missing(command, tmp_path):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").touch()
    assert command("train", ["model=mine"])[2] == "error: model=mine: for conf/model/mine.yaml, add --config-dir conf\n"


def test_a_recipe_without_its_first_line_is_refused_with_this_line(command, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text("name: mine\n")
    found = command("train", ["--config-dir", "conf", "experiment=mine"])[2]
    assert found == "error: experiment: its file in experiment/ must begin with the line `# @package _global_`\n"


def test_options_and_settings_can_be_mixed(command):
    assert command("train", ["seed=3", "--cfg", "job", "-p", "seed", "name=x"]) == (0, "3\n", "")


def test_accents_and_the_home_folder_need_no_quotes(command, monkeypatch):
    monkeypatch.setenv("HOME", "/home/josé")
    words = ["data=folder", "data.root=~/été", "--cfg", "job", "-p", "data.root"]
    assert command("train", words)[1].strip() == "/home/josé/été"


def test_a_folder_in_which_nothing_can_be_written_gives_one_line(refused, monkeypatch):
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    err = refused("sample", ["ckpt=nowhere.ckpt"])
    assert "outputs/samples" in err
    assert "hydra.run.dir" in err


def test_a_full_disk_is_named_by_the_folder(command, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusion.library.opening.opened_model", full)
    assert "/disk/out: No space" in command("sample", ["ckpt=x", "hydra.run.dir=disk/out"])[2]


def test_a_bug_ends_a_command_with_a_traceback(command, monkeypatch):
    def buggy(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("diffusion.library.opening.opened_model", buggy)
    with pytest.raises(ZeroDivisionError):
        command("sample", ["ckpt=x", "device=cpu", "hydra.run.dir=out"])


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
        part: Callable[[], Tensor] | None = None,
        own=None,  # type: ignore[no-untyped-def]
        **more: Any,
    ):
        pass


@pytest.mark.parametrize(
    ("argument", "good", "bad"),
    [
        ("rate", [1, 0.5, None], ["a", True, [1]]),
        ("sizes", [[], [1, 2]], [1, "12", [1.5], ["a"], {}]),
        ("pair", [[0, 0.5]], [[0], [0, 1, 2], 0]),
        ("side", [1], [1.0, None, "a"]),
        ("named", ["a"], ["c", None, 1]),
        ("ratio", [0.5, 1], [0, 1.5, float("nan"), "0.5"]),
        ("part", [None, {"_target_": "x"}], ["karras", 3]),
        ("own", [1, "a", [1], {"a": 1}], []),  # it has no annotation
        ("unknown", [], [1]),
    ],
)
def test_arguments_are_checked_against_their_annotations(argument, good, bad):
    for value in good:
        check_arguments(Child, {argument: value}, "model")
    for value in bad:
        with pytest.raises(UserError, match=f"^model.{argument}"):
            check_arguments(Child, {argument: value}, "model")


def test_parts_are_built_inside_out_and_functions_are_plain_partials():
    objective = make(settings(["weighting@objective.weighting=min_snr"]).objective, "objective")
    assert type(objective.noise) is type(objective.weighting) is partial
    assert objective.weighting.keywords == {"gamma": 5.0}
    inner = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 3, "kernel_size": 1}
    made = make({"_target_": "types.SimpleNamespace", "part": inner, "parts": [inner], "n": {"a": [1]}}, "model")
    assert isinstance(made.part, Conv2d)
    assert isinstance(made.parts[0], Conv2d)
    assert made.n == {"a": [1]}
    for wrong in ({"_target_": "torch.nn.Conv3"}, {"_target_": "no.such.Thing"}, {}, {**inner, "paddding": 1}):
        with pytest.raises(UserError, match=r"^model"):
            make(wrong, "model")
