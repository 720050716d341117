"""trainer.strategy=fsdp2 in one process: unsupported settings, and that all networks can be sharded."""

import copy

import pytest
import torch
import torch.distributed as dist
from networks import randomised
from outcomes import refusal
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from diffusion.config.build import make
from diffusion.config.choices import conf_dir
from diffusion.config.composition import choice
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Eps
from diffusion.process.schedule import cosine
from diffusion.training.sharding import outline, shard, units

TINY = [file.stem for file in sorted((conf_dir() / "model").glob("*_tiny.yaml"))] + ["unet_memoire"]


ROUNDING = {"rtol": 1e-10, "atol": 1e-14}  # float64, with sums in a different order


@pytest.fixture
def mesh(tmp_path):
    """A device mesh of only this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Trained(torch.nn.Module):
    """The attributes of a LightningModule that `shard` uses."""

    def __init__(self, network):
        super().__init__()
        self.denoiser, self.objective = Denoiser(network, cosine(), Eps()), None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer=muon"], "optimizer: Muon is not supported with trainer.strategy=fsdp2"),
        (["optimizer=schedule_free"], "ema: OptimizersAverage is not supported"),
        (["ema=power"], "ema: PowerEMA is not supported with trainer.strategy=fsdp2"),
        (["compile=true"], "compile=true: not supported with trainer.strategy=fsdp2"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed: not supported"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: with an average of the weights, not supported"),
        (["data.global_batch_size=8", "data.batch_size=auto"], "data.batch_size=auto: it would try the whole network"),
    ],
)
def test_settings_unsupported_with_fsdp2_are_refused(command, tiny, tmp_path, words, said):
    line = refusal(command("train", [*tiny, "trainer.strategy=fsdp2", *words, "hydra.run.dir=run"]))
    assert said in line
    assert not (tmp_path / "run/data_report.json").exists()


@pytest.mark.parametrize("name", TINY)
def test_every_network_can_be_sharded(mesh, name):
    """Its parts are gathered one by one; outputs and gradients equal those without sharding."""
    torch.manual_seed(0)
    network = randomised(make(choice("model", name), "model")).double().train()
    module = Trained(copy.deepcopy(network))
    without = outline(module.denoiser)
    assert all(weight.is_meta for weight in without.parameters())
    assert len(list(units(module.denoiser.network))) > 3
    shard(module, mesh)
    x, label = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 32, 32), (2,)))
    for _ in range(2):  # the second finds the files of the first
        outputs = [each(x, label) for each in (network, module.denoiser.network)]
        torch.testing.assert_close(*outputs, **ROUNDING)
        for y in outputs:
            y.square().mean().backward()
        found = dict(module.denoiser.network.named_parameters())
        for key, whole in network.named_parameters():
            assert isinstance(found[key], DTensor), key
            for divided, expected in ((found[key], whole), (found[key].grad, whole.grad)):
                torch.testing.assert_close(divided.full_tensor().reshape(whole.shape), expected, **ROUNDING, msg=key)
