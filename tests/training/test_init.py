"""`init=`: a run starts with the weights of another model, and is a new run in everything else."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from composing import settings, train
from PIL import Image

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import network_weights
from diffusion.cli import export
from diffusion.cli.finetune import few_and_large
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.runs.record import RunRecord
from diffusion.training.resume import start_from

SHORT = ["trainer.max_steps=1", "samples.n=0", "optimizer.lr=1e-30", "optimizer.weight_decay=0"]


@pytest.fixture(scope="module")
def first(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that others start from; next to it is the model in other formats."""
    folder = tmp_path_factory.mktemp("first") / "run"
    recipe = ["schedule=sigmoid", "prediction=v", "optimizer=muon", "optimizer.lr=1e-3", "sampler.steps=3"]
    train([*tiny, *recipe, "trainer.max_steps=2", "samples.n=0", "seed=5"], folder)
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
    other = settings([*tiny, "model.attention=[true,true]", "model.out_channels=6"])
    network = make(other.model, "model")
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    start_from(str(first), network, other.model_dump())
    given, now = averaged(first), network.state_dict()
    fitting = [name for name in now if name in given and now[name].shape == given[name].shape]
    assert all(torch.equal(now[name], given[name] if name in fitting else fresh[name]) for name in now)
    assert f"loaded {len(fitting)} weights" in capsys.readouterr().out


def test_a_model_that_is_missing_or_has_less_than_half_of_the_weights_is_refused(tiny, first):
    with pytest.raises(UserError, match="init=nowhere: no such file"):
        start_from("nowhere", make(settings(tiny).model, "model"), {})
    other = settings([*tiny, "model.channels=[12,24]"])
    given = ["diffusion", "train", "init=RUN", "model=unet_tiny", "++model.channels=[12,24]", "seed=1"]
    with pytest.raises(UserError, match=r"only [\d,]+ of .* numbers are in it; .*: diffusion train init=RUN seed=1$"):
        start_from(str(first), make(other.model, "model"), other.model_dump(), given)


def config_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_the_network_and_what_it_was_trained_for_are_inherited_unless_given(ran, tiny, first, tmp_path, started):
    own = [word for word in tiny if not word.startswith(("model", "data.resolution"))]
    words = [*own, "experiment=trial", *SHORT, "sampler.steps=2", f"init={first}", "schedule.tau=0.9"]
    swept = [*words, "model.dropout=0.5", "hydra.sweep.dir=sweep"]
    theirs = config_of(first)
    assert "loaded" in ran("train", [*words, "hydra.run.dir=run"])
    given = [*own, *SHORT, f"init={first}", "prediction=eps", "data.channels=1", "hydra.run.dir=given"]
    out = ran("train", given)
    ran("train", ["-m", *swept])
    for name, dropout in {"run": 0.0, "sweep/0": 0.5}.items():
        config = config_of(tmp_path / name)
        assert config["model"] == theirs["model"] | {"dropout": dropout}
        assert config["schedule"] == theirs["schedule"] | {"tau": 0.9}
        assert (config["prediction"], config["data"]["resolution"]) == (theirs["prediction"], 8)
        assert config["optimizer"]["_target_"] != theirs["optimizer"]["_target_"]
    assert "newly initialized: stem.weight, out.weight, out.bias" in out
    assert "trained with another prediction" in out
    assert config_of(tmp_path / "given")["model"] == theirs["model"]


def test_finetune_takes_all_settings_of_the_model_but_the_images(ran, first, photos, tmp_path):
    model, few = first.parent / "run/checkpoints/last.ckpt", ["data.val=8", "data.test=8"]
    photos = Path(shutil.copytree(photos, tmp_path / "photos"))
    (photos / "broken.jpg").write_text("broken")
    fast = ["trainer.max_steps=4", "samples.every_n_epochs=1", "samples.n=4", "hydra.run.dir=run"]
    assert "each is one image of the training (data.tiles=null)" in ran(
        "finetune", [str(model), str(photos), *few, *fast]
    )
    new, theirs = config_of(tmp_path / "run"), config_of(first)
    expected = theirs | {"name": "finetune", "init": str(model), "data": theirs["data"] | {"root": str(photos)}}
    assert {key for key in new if new[key] != expected[key]} == {"trainer", "optimizer", "samples"}
    assert new["optimizer"]["lr"] < theirs["optimizer"]["lr"]
    assert (tmp_path / "run/samples/step-00000000.png").is_file()
    record = RunRecord(tmp_path / "run").content
    assert record["command"][1:5] == ["finetune", str(model), str(photos), "data.val=8"]
    assert record["left_out"] == 1


def test_finetune_cuts_a_few_large_photographs_into_tiles(tmp_path):
    for i in range(3):
        Image.new("RGB", (300, 400 + i)).save(tmp_path / f"{i}.png")
    assert few_and_large({"root": str(tmp_path), "resolution": 32}) is True
    assert few_and_large({"root": str(tmp_path), "resolution": [256, 128]}) is None


def test_finetune_says_what_it_expects(command, tmp_path):
    assert command("finetune", ["demo"])[2].startswith("error: expected a model and a folder")
    assert command("finetune", ["dmeo", str(tmp_path)])[2].startswith("error: dmeo: no such file; name a run")
    assert command("finetune", ["demo", "photso"])[2].startswith("error: photso is not an existing folder")
    status, _, said = command("finetune", ["demo", str(tmp_path)])
    assert (status, said.count("\n")) == (2, 1)
    assert "none of 0 files is a usable image" in said
    command("finetune", ["demo", str(tmp_path), "-m", "optimizer.lr=1e-4", "seed=0", "hydra.sweep.dir=sweep"])
    words = ["demo", str(tmp_path), "optimizer.lr=0.0001", "seed=0"]
    assert RunRecord(tmp_path / "sweep/0").content["command"][2:] == words


def test_the_initial_model_is_read_only_at_the_start_of_the_run(tiny, first, tmp_path):
    train([*tiny, *SHORT, f"init={first}"], tmp_path / "run")
    start, expected = storage.load(tmp_path / "run/checkpoints/last.ckpt"), averaged(first)
    assert start["global_step"] == 1
    for name, value in network_weights(start["state_dict"]).items():
        torch.testing.assert_close(value, expected[name])
    words = [*tiny, *SHORT, "init=nowhere", f"ckpt={tmp_path / 'run'}", "trainer.max_steps=2"]
    train(words, tmp_path / "again")
    assert storage.load(tmp_path / "again/checkpoints/last.ckpt")["global_step"] == 2
