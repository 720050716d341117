"""`init=`: a run starts with the weights of another model and is independent of it in everything else."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from composing import settings as settings_of
from composing import train
from PIL import Image

from diffusion import export
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.training.initial import start_from, with_initial

SHORT = ["trainer.max_steps=1", "samples.n=0", "optimizer.lr=1e-30", "optimizer.weight_decay=0"]


@pytest.fixture(scope="module")
def first(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that others start from; next to it is the model in other formats."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train([*tiny, "trainer.max_steps=2", "samples.n=0", "seed=5"], folder)
    assert export.main([str(folder), str(folder.parent / "model.safetensors")]) == 0
    assert export.main([str(folder), str(folder.parent / "theirs"), "--format=diffusers", "--sampler=ddim"]) == 0
    return folder


def weights(folder: Path, which: str = "state_dict") -> dict[str, torch.Tensor]:
    found = storage.load(folder / "checkpoints/last.ckpt")[which]
    return {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}


def started(init: Path, *overrides: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A network's weights before and after initialization."""
    config: dict[str, Any] = settings_of([*overrides, f"init={init}"]).model_dump()
    network = make(config["model"], "model")
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    start_from(config["init"], network, config)
    return fresh, network.state_dict()


@pytest.mark.parametrize("form", ["run/checkpoints/last.ckpt", "model.safetensors", "theirs"])
def test_every_model_format_provides_the_averaged_weights(tiny, first, capsys, form) -> None:
    init, expected = first.parent / form, weights(first)
    assert any(not value.equal(weights(first, "current_model_state")[name]) for name, value in expected.items())
    _, now = started(init, *tiny)
    assert all(torch.equal(value, expected[name]) for name, value in now.items())
    n = len(expected)
    assert capsys.readouterr().out == f"starting from {init}, step 2: loaded {n} weights (0.05 M numbers) of {n}\n"


def test_mismatched_weights_are_reported_and_newly_initialized(tiny, first, capsys) -> None:
    words = [*tiny, "model.channels=[8,16,16]", "model.attention=[false,true,false]", "model.out_channels=6"]
    fresh, now = started(first / "checkpoints/last.ckpt", *words, "prediction=v", "model.blocks=2", "schedule=cosine")
    given = weights(first)
    other = [name for name in now if name in given and now[name].shape != given[name].shape]
    missing, unused = ([n for n in a if n not in b] for a, b in ((now, given), (given, now)))
    assert other
    assert missing
    there, here = tuple(given[other[0]].shape), tuple(now[other[0]].shape)
    lines = capsys.readouterr().out.replace("\n  ", "\n").splitlines()
    assert f": loaded {len(now) - len(other) - len(missing)} weights" in lines[0]
    assert lines[1:] == [
        f"{len(other)} weights of another shape, newly initialized: {other[0]} is {there} there and {here} here",
        f"{len(missing)} weights missing in the file, newly initialized, such as {missing[0]}",
        *([f"{len(unused)} weights unused, such as {unused[0]}"] if unused else []),
        "it was trained with another schedule and prediction and must adapt to this one",
    ]
    for name, value in now.items():
        assert torch.equal(value, fresh[name] if name in [*other, *missing] else given[name])


def test_class_weights_missing_in_the_file_are_newly_initialized(tiny, first, capsys) -> None:
    fresh, now = started(first / "checkpoints/last.ckpt", *tiny, "model.classes=4")
    assert "  1 weight missing in the file, newly initialized, such as time.classes.weight\n" in capsys.readouterr().out
    given = weights(first)
    table = "time.classes.weight"
    assert all(torch.equal(value, fresh[name] if name == table else given[name]) for name, value in now.items())


@pytest.mark.parametrize("words", [["model=unet_memoire"], ["model=dit_tiny"]])
def test_a_model_without_any_matching_matrix_is_refused(tiny, first, words) -> None:
    words = [*(word for word in tiny if not word.startswith("model")), *words]
    with pytest.raises(UserError, match=r"^init=.*last\.ckpt: none of its \d+ weights, such as time\."):
        started(first / "checkpoints/last.ckpt", *words)


@pytest.mark.parametrize("init", ["nothing.ckpt", "nothing.safetensors"])
def test_a_missing_initial_model_gives_a_one_line_error(command, tiny, tmp_path, init) -> None:
    status, out, err = command("train", [*tiny, *SHORT, f"init={init}", "hydra.run.dir=new"])
    assert status == 2, out
    assert err.count("\n") == 1
    assert err.startswith(f"error: init={init}: ")


def test_the_initial_model_is_read_only_at_the_start_of_the_run(command, tiny, tmp_path, first) -> None:
    """It resumes with its original arguments, even if the model is gone."""
    own = tmp_path / "own.safetensors"
    assert export.main([str(first), str(own)]) == 0
    words = [*tiny, *SHORT, f"init={own}", "ckpt=auto", "hydra.run.dir=new"]
    status, out, err = command("train", words)
    assert status == 0, out + err
    assert f"starting from {own}, step 2: " in out
    saved = storage.load(tmp_path / "new/checkpoints/last.ckpt")
    assert saved["global_step"] == 1
    assert {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {1}
    expected = weights(first)
    for which in ("state_dict", "current_model_state"):  # the average also starts from these weights
        for name, value in weights(tmp_path / "new", which).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-12)
    own.unlink()
    status, out, err = command("train", [*words, "trainer.max_steps=2"])
    assert status == 0, out + err
    assert "starting from" not in out
    assert "resuming from" in out
    assert storage.load(tmp_path / "new/checkpoints/last.ckpt")["global_step"] == 2


def test_init_last_is_resolved_to_a_file_in_the_configuration(tiny, tmp_path, first, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first, tmp_path / "outputs/a")
    assert with_initial(settings_of([*tiny, "init=last"])).init == "outputs/a/checkpoints/last.ckpt"
    train([*tiny, *SHORT, "init=last"], tmp_path / "new")
    for config in (
        yaml.safe_load((tmp_path / "new/config.yaml").read_text()),
        restore(tmp_path / "new/checkpoints/last.ckpt").config,
    ):
        assert config["init"] == "outputs/a/checkpoints/last.ckpt"


def test_resuming_from_a_diffusers_folder_is_refused(tiny, first, tmp_path) -> None:
    theirs = first.parent / "theirs"
    with pytest.raises(UserError, match=f"^ckpt={theirs}: an exported model contains no training state; .* init=…$"):
        train([*tiny, f"ckpt={theirs}"], tmp_path / "new")


def test_settings_not_visible_in_the_weights_are_reported(tiny, tmp_path, capsys) -> None:
    """diffusers' default network has the names and shapes of ours, but computes something else."""
    theirs = ["model.norm_eps=1e-5", "model.down_padding=1", "model.groups=2", "model.head_dim=4"]
    train([*tiny, *theirs, "trainer.max_steps=1", "samples.n=0"], tmp_path)
    capsys.readouterr()
    started(tmp_path / "checkpoints/last.ckpt", *tiny, "model.down_padding=1")
    said = "its network has model.norm_eps=1e-05 model.groups=2 model.head_dim=4, which its weights do not show"
    assert said in " ".join(capsys.readouterr().out.split())


def test_held_out_images_that_the_model_was_trained_on_are_reported(tiny, tmp_path, capsys) -> None:
    train([*tiny, *SHORT], tmp_path / "first")
    said = "the images of train and val and test are not those it was trained with; held-out images may have been"
    for words, warned in (([], False), (["data.seed=1"], True), (["data.resolution=16"], False)):
        capsys.readouterr()
        train([*tiny, *SHORT, f"init={tmp_path}/first", *words], tmp_path / "next")
        assert (said in capsys.readouterr().out) == warned, words


def test_classes_with_other_names_than_those_of_the_model_are_reported(tiny, tmp_path, capsys) -> None:
    for name, classes in {"before": ("cat", "dog"), "after": ("dog", "wolf")}.items():
        for each in classes:
            (tmp_path / name / each).mkdir(parents=True)
            for i in range(20):
                colours = np.random.default_rng([i, *each.encode()]).integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(colours).save(tmp_path / name / each / f"{i}.png")
    labelled = [*tiny, *SHORT, "data.labels=folders"]
    train([*labelled, f"data.root={tmp_path}/before"], tmp_path / "first")
    for name, warned in (("before", False), ("after", True)):
        capsys.readouterr()
        train([*labelled, f"data.root={tmp_path}/{name}", f"init={tmp_path}/first"], tmp_path / f"next {name}")
        said = "its class 0 is 'cat', and here 'dog': weights of classes are copied by number, and must adapt"
        assert (said in capsys.readouterr().out.replace("\n", "")) == warned
