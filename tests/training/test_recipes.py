"""Every recipe learns: a few hundred steps on tiny images beat the best constant prediction of its own objective."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusion.checkpoint.restore import restore
from diffusion.config.build import make
from diffusion.data import ImageData, to_unit
from diffusion.process.denoiser import Denoiser
from diffusion.randomness import Streams
from diffusion.runs.folder import read_metrics
from diffusion.runs.launch import Launch
from diffusion.training.run import train
from tests.support.composing import settings

RECIPES = ("improved_ddpm", "v_cosine", "min_snr", "edm", "flow", "score_sde_vp", "score_sde_ve", "zero_snr")


class Constant(nn.Module):
    """A network that returns the same image for any input."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.picture = nn.Parameter(torch.zeros(1, channels, side, side))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.picture.expand(len(x), -1, -1, -1)


def mean_loss(objective: nn.Module, denoiser: Denoiser, x0: Tensor) -> Tensor:
    """The mean objective, on the same random draws for every denoiser."""
    return objective(denoiser, x0, Streams(range(len(x0))))["loss"].mean()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_beats_the_best_constant_prediction(recipe, tiny, tmp_path):
    steps = 300
    overrides = [f"experiment={recipe}", *tiny, "optimizer.lr=2e-3", f"trainer.max_steps={steps}"]
    chosen = settings([*overrides, "trainer.max_epochs=-1", "trainer.check_val_every_n_epoch=1000"])
    train(chosen, tmp_path, Launch(tmp_path).claim())

    learner = restore(tmp_path / "checkpoints/last.ckpt").denoiser
    data: ImageData = make(chosen.data, "data")
    data.setup()
    x0 = to_unit(data.splits["train"].images).repeat(20, 1, 1, 1)
    objective = make(chosen.objective, "objective")
    with torch.no_grad():
        learned = float(mean_loss(objective, learner, x0))

    constant = Denoiser(Constant(chosen.model["out_channels"], 8), learner.schedule, learner.prediction)
    optimizer = torch.optim.LBFGS(constant.network.parameters(), max_iter=30)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = mean_loss(objective, constant, x0)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        best = float(mean_loss(objective, constant, x0))
    assert learned < 0.8 * best


def test_edm2_trains_a_narrow_network(photos, tmp_path):
    words = ["model.channels=[8,8]", "model.attention=[false,true]", "model.head_dim=4", "data.resolution=16"]
    words += ["data=folder", f"data.root={photos}", "data.val=8", "data.test=8", "data.batch_size=4", "score.n=0"]
    words += ["samples.n=0", "trainer.accelerator=cpu", "trainer.max_steps=8", "trainer.log_every_n_steps=1"]
    chosen = settings(["experiment=edm2", *words])
    train(chosen, tmp_path, Launch(tmp_path).claim())
    losses = read_metrics(tmp_path / "metrics.csv")["train/loss"].value
    assert len({*losses}) == 8
    assert all(map(math.isfinite, losses))


def test_recipes_have_the_authors_constants():
    """EDM2: the eps of Adam for a loss that is their sum over values as a mean. Steps: NVlabs' README files."""
    edm2 = settings(["experiment=edm2"])
    assert edm2.optimizer["eps"] == pytest.approx(1e-8 / (3 * 64**2), rel=0.01)
    assert edm2.sampler["steps"] == 32
    assert settings(["experiment=edm"]).sampler["steps"] == 40
    ve = settings(["experiment=score_sde_ve"]).schedule  # twice those for pixels in [0, 1]
    assert (ve["sigma_min"], ve["sigma_max"]) == (2 * 0.01, 2 * 50)
