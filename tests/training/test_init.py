"""`init=`: a run starts with the weights of another model, and is a new run in everything else."""

from pathlib import Path

import pytest
import torch
from composing import settings, train

from diffusion import export
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import network_weights
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.training.resume import start_from

SHORT = ["trainer.max_steps=1", "samples.n=0", "optimizer.lr=1e-30", "optimizer.weight_decay=0"]


@pytest.fixture(scope="module")
def first(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that others start from; next to it is the model in other formats."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train([*tiny, "trainer.max_steps=2", "samples.n=0", "seed=5"], folder)
    assert export.main([str(folder), str(folder.parent / "model.safetensors")]) == 0
    assert export.main([str(folder), str(folder.parent / "theirs"), "--format=diffusers", "--sampler=ddim"]) == 0
    return folder


def averaged(folder: Path) -> dict[str, torch.Tensor]:
    return network_weights(storage.load(folder / "checkpoints/last.ckpt")["state_dict"])


@pytest.mark.parametrize("form", ["run", "run/checkpoints/last.ckpt", "model.safetensors", "theirs"])
def test_every_model_format_provides_the_averaged_weights(tiny, first, form):
    network = make(settings(tiny).model, "model")
    start_from(str(first.parent / form), network, settings(tiny).model_dump())
    expected = averaged(first)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_weights_of_another_shape_are_newly_initialized(tiny, first, capsys):
    other = settings([*tiny, "model.channels=[8,16,16]", "model.attention=[false,true,false]", "model.out_channels=6"])
    network = make(other.model, "model")
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    start_from(str(first), network, other.model_dump())
    given, now = averaged(first), network.state_dict()
    fitting = [name for name in now if name in given and now[name].shape == given[name].shape]
    assert all(torch.equal(now[name], given[name] if name in fitting else fresh[name]) for name in now)
    assert f"loaded {len(fitting)} weights" in capsys.readouterr().out


@pytest.mark.parametrize("init", ["nowhere", "other"])
def test_a_model_that_is_missing_or_has_no_matching_matrix_is_refused(tiny, first, init):
    path = first if init == "other" else init
    other = settings([*tiny, "model.channels=[12,24]"])
    with pytest.raises(UserError, match="init="):
        start_from(str(path), make(other.model, "model"), other.model_dump())


def test_the_initial_model_is_read_only_at_the_start_of_the_run(tiny, first, tmp_path):
    train([*tiny, *SHORT, f"init={first}"], tmp_path / "run")
    start = storage.load(tmp_path / "run/checkpoints/last.ckpt")
    assert start["global_step"] == 1
    for name, value in network_weights(start["state_dict"]).items():
        torch.testing.assert_close(value, averaged(first)[name])
    words = [*tiny, *SHORT, "init=nowhere", f"ckpt={tmp_path / 'run'}", "trainer.max_steps=2"]
    train(words, tmp_path / "again")
    assert storage.load(tmp_path / "again/checkpoints/last.ckpt")["global_step"] == 2
