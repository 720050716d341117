"""What an experiment's comment states: GPU hours from its network, batches and steps, and settings of the authors."""

import re

import pytest
import torch
from composing import settings
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.config.choices import files

PEAK, SHARE = 989e12, 0.35  # FLOP/s of an H100 in bfloat16, and the used share
STATED = re.compile(
    r"([\d,]+) steps of (\d+) images.* At ([\d.]+) GFLOP an image forward, .* take (\d+) H100 hours at 35% of its peak"
)


@pytest.mark.parametrize("name", ["cifar10", "edm2"])
def test_stated_gpu_hours_follow_from_network_batches_and_steps(name):
    text = " ".join(line.lstrip("# ") for line in files("experiment")[name].read_text("utf-8").splitlines())
    stated = STATED.search(text)
    assert stated is not None
    steps, images, gflop, hours = int(stated[1].replace(",", "")), int(stated[2]), float(stated[3]), int(stated[4])
    chosen = settings([f"experiment={name}"])
    side = chosen.data["resolution"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make(chosen.model, "model")(torch.empty(2, 3, side, side), torch.empty(2))
    assert round(counter.get_total_flops() / 2e9, 1) == gflop
    assert chosen.trainer.max_steps == steps
    assert images % chosen.data["batch_size"] == 0
    assert round(3 * gflop * 1e9 * steps * images / (PEAK * SHARE) / 3600) == hours


@pytest.mark.parametrize("name", ["cifar10", "edm2"])
def test_labels_are_not_dropped_as_in_the_authors_trainings(name):
    assert settings([f"experiment={name}"]).label_dropout == 0
    assert settings(["experiment=edm2"]).data["flip"] is False


def test_recipes_have_the_authors_constants():
    """EDM2: the eps of Adam for a loss that is their sum over values as a mean. Steps: NVlabs' README files."""
    edm2 = settings(["experiment=edm2"])
    assert edm2.optimizer["eps"] == pytest.approx(1e-8 / (3 * 64**2), rel=0.01)
    assert edm2.sampler["steps"] == 32
    assert settings(["experiment=edm"]).sampler["steps"] == 40
    ve = settings(["experiment=score_sde_ve"]).schedule  # twice those for pixels in [0, 1]
    assert (ve["sigma_min"], ve["sigma_max"]) == (2 * 0.01, 2 * 50)
