"""The bundled models are what `experiment=demo` and `experiment=superres` make."""

from pathlib import Path

import pytest
import torch
from composing import settings, train

from diffusion.checkpoint import storage
from diffusion.checkpoint.find import BUNDLED, at_step, named, trained
from diffusion.checkpoint.restore import network_hash, restore
from diffusion.config.build import validated
from diffusion.config.schema import Train
from diffusion.extras import reproduce
from diffusion.runs.again import ENLARGED
from diffusion.runs.folder import read_metrics, read_yaml
from diffusion.sampling.given import condition_of

(TABLE,) = (table for table in reproduce.committed("demo") if table.stem == "train")
((_, PUBLISHED),) = ((key, mean.mean) for key, mean in reproduce.means(TABLE).items() if key[1] == "val/mse")
SPREAD = 0.0005  # several times the differences among them, and less than the 0.002 that another weighting makes


def error_of(folder: Path) -> float:
    return float(read_metrics(folder / "metrics.csv")["val/mse"].value[-1])


def test_its_recipe_is_that_of_the_experiment():
    folder = BUNDLED / "demo"
    recipe = settings(["experiment=demo", "name=demo"]).model_dump(mode="json")
    model = restore(trained("demo"))
    for found in (read_yaml(folder / "config.yaml"), recipe | dict(model.config)):
        found |= {"data": {"scale": 1.0, **found["data"]}, "encoder": {}}  # the files are older than these settings
        found["model"] = {"axes": 2, **found["model"]}
        assert validated(Train, found).model_dump(mode="json") == recipe
    assert model.step == recipe["trainer"]["max_steps"]
    early = at_step(model.path.parent, model.facts.guidance_step)
    for file in (model.path, early):
        assert {value.dtype for value in storage.exported(file, "")["state_dict"].values()} == {torch.float16}


def test_its_error_is_the_published_one(tmp_path):
    still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "ema=none", "trainer.max_steps=1", "samples.n=0"]
    train(["experiment=demo", "init=demo", "guidance=none", "trainer.accelerator=cpu", "score.n=0", *still], tmp_path)
    assert error_of(tmp_path) == pytest.approx(PUBLISHED, abs=SPREAD)


def test_super_enlarges_the_images_of_the_recipe_that_it_has():
    recipe = settings(["experiment=superres", "name=superres", "model.channels=[16,32,128]"]).model_dump(mode="json")
    model = restore(trained("super"))
    found, own = read_yaml(BUNDLED / "super/config.yaml"), dict(model.config)
    for each in (found, own):
        each["model"] = {"axes": 2, **each["model"]}  # the files are older than this setting
    assert validated(Train, found).model_dump(mode="json") == recipe == recipe | own
    condition = condition_of(found["condition"], model.facts, model.shape)
    assert condition is not None
    assert [*condition.shapes(model.shape).values()] == [ENLARGED]


def test_a_file_of_its_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named("demo") == BUNDLED / "demo"
    (tmp_path / "demo").mkdir()
    assert named("demo") == Path("demo")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_experiment_makes_it_again(tmp_path):
    """Bit for bit if the machine rounds like the one that made it; otherwise with other digits and this error."""
    train(["experiment=demo", "name=demo", "trainer.accelerator=cpu", "samples.n=0", "score.n=0"], tmp_path)
    network = restore(trained(tmp_path)).denoiser.network
    same = network_hash(network.half().float()) == network_hash(restore(trained("demo")).denoiser.network)
    assert same or error_of(tmp_path) == pytest.approx(PUBLISHED, abs=SPREAD)
