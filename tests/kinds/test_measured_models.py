"""A model of measurements with missing values, from its files to edited files and scores: all in the files' units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image

import diffusion
from diffusion.base.nearest import near_duplicates
from diffusion.errors import UserError
from diffusion.kinds.measured import SHOWN, Measured
from diffusion.process.denoiser import Centred
from diffusion.runs.folder import read_scores

KELVIN, DEVIATION = 280, 5
WORDS = [
    "experiment=measurements", "data.resolution=8", "data.val=6", "data.test=6", "data.batch_size=4", "model=unet_tiny",
    "model.channels=[8,16]", "model.attention=[false,false]", "model.groups=4", "trainer.max_steps=2",
    "trainer.val_check_interval=2", "samples.n=0", "score.n=0", "sampler.steps=2", "trainer.accelerator=cpu",
    "least_interval=1", "condition=lowres", "condition.noise=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Temperatures around 280 K, of which some are missing."""
    values = np.random.default_rng(0).normal(KELVIN, DEVIATION, (24, 1, 8, 8)).astype("f4")
    values[::2, 0, :2] = np.nan
    np.save((place := tmp_path_factory.mktemp("kelvin")) / "all.npy", values)
    return place


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.Tensor]]:
    """The folder of a run, and the pictures that its network was given."""
    run, seen, output = tmp_path_factory.mktemp("measured") / "run", list[torch.Tensor](), Centred.output

    def noted(self: Any, x_t: torch.Tensor, t: torch.Tensor, picture: torch.Tensor, **given: Any) -> Any:
        seen.append(picture.detach())
        return output(self, x_t, t, picture=picture, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Centred, "output", noted)
        train([*WORDS, f"data.root={root}"], run)
    return run, seen


@pytest.fixture(scope="module")
def model(trained: tuple[Path, list[torch.Tensor]]) -> Any:
    return diffusion.load(trained[0], device="cpu")


def test_a_condition_is_standardised_and_has_no_missing_value(trained: Any, model: Any) -> None:
    """In training, in validation, and where a held-out image is drawn from."""
    _, seen = trained
    given = model.drawing().given
    drawn = given(range(len(given)), 0, torch.device("cpu"))["picture"]
    assert any(image.isnan().any() for image in given.split.images)
    assert len(seen) > 4
    for picture in (*seen, drawn):
        assert picture.abs().max() < 4


def test_a_threshold_that_is_asked_for_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match=r"sampler\.threshold: measurements have no limits"):
        model.drawing("ddim", threshold="clip")
    assert model.drawing("ddim").sampler.threshold is None


@pytest.mark.parametrize("name", ["edges", "mask"])
def test_a_condition_of_pictures_is_refused(name: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"condition={name}: .*the data are measurements"):
        train([*WORDS[:-2], f"data.root={root}", f"condition={name}"], tmp_path)


def test_edits_read_and_write_files_in_their_units(model: Any, ran: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(KELVIN, DEVIATION, (1, 8, 8)).astype("f4")
    np.save(tmp_path / "own.npy", values)
    np.save(tmp_path / "coarse.npy", coarse := values.reshape(1, 4, 2, 4, 2).mean((2, 4)))
    Image.fromarray(values[0]).save(tmp_path / "own.tif")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = [f"ckpt={model.restored.path}", "n=2", "device=cpu"]
    ran("edit", [*words, "image=own.npy", "mask=mask.png", "hydra.run.dir=filled"])
    filled = np.load(tmp_path / "filled/images/0.npy")
    assert np.array_equal(filled[:, :, :4], values[:, :, :4])
    ran("edit", [*words, "image=own.tif", "mask=mask.png", "hydra.run.dir=tif"])
    with Image.open(tmp_path / "tif/images/0.tif") as tif:
        assert np.array_equal(np.array(tif), filled[0])
    ran("edit", [*words, "upscale=coarse.npy", "hydra.run.dir=large"])
    large = np.load(tmp_path / "large/images/0.npy")
    assert large.shape == (1, 8, 8)
    given = model.enlarged(coarse).drawing.given.rows([0])
    assert torch.allclose(given["lowres"], model.kind.inside(torch.from_numpy(coarse)[None]), atol=1e-5)


def test_the_library_scores_measurements_as_the_command_does(model: Any, ran: Any, tmp_path: Path) -> None:
    words = [f"ckpt={model.restored.path}", "n=12", "baselines=[noise]", "device=cpu", "hydra.run.dir=scored"]
    ran("evaluate", words)
    scores = model.score(12, baselines=["noise"], referee=True, progress=False)
    written = read_scores(tmp_path / "scored")
    assert {each.metric: each.value for each in written if each.what == "samples"} == {
        name: each.value for name, each in scores.items()
    }
    assert "crps_1" in scores
    assert {"noise", "real"} <= scores.baselines.keys()
    assert scores.referee == {"n": 12, "train": 12, "faults": []}  # too few for more
    assert len(model.study(["ddim"], [2], 12, progress=False)) == 1


@pytest.mark.parametrize(("level", "step", "near"), [(122, 9, False), (219, 7, True)])
def test_near_duplicates_are_found_by_values_and_not_by_colours(level: int, step: int, near: bool) -> None:
    """Where the colours of pictures hardly change with the values, and where they change the most."""
    kind = Measured([0.0], [1.0], ["a"], [""])
    one, other = (kind.outside(torch.full((1, 1, 8, 8), SHOWN * (each / 255 - 0.5))) for each in (level, level + step))
    assert near_duplicates(kind.compared(one), kind.compared(other)).tolist() == [0 if near else -1]
