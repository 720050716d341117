"""optimizer=schedule_free: its average x is used to validate, save and sample, without any effect on training."""

from pathlib import Path

import pytest
import torch
from composing import settings, train
from outcomes import lines, same, state
from torch import Tensor, nn

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.training import lr
from diffusion.training.periodic import averaged_weights
from diffusion.training.recipe import Recipe
from diffusion.training.schedule_free import OptimizersAverage

FREE = ["optimizer=schedule_free", "lr_scheduler=warmup", "lr_scheduler.warmup=3", "samples.n=0"]
STEPS = ["trainer.max_steps=8", "checkpoint.every_n_steps=1", "checkpoint.keep=20"]
BETA = 0.9


class Trainer:
    """The attributes of a trainer that the callback reads."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizers, self.global_step, self.callbacks = [optimizer], 0, []


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("schedule_free") / "run"
    train([*tiny, *FREE, *STEPS], folder)
    return folder


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for name, value in tensors.items() if name.startswith(PREFIX)])


def test_the_average_weights_iterates_by_the_squared_learning_rate():
    """With a constant gradient z_t = z_0 − Σγ_i sign(g) for any y, and x is Σγ_i² z_i / Σγ_i²."""
    module = nn.Linear(3, 2).double()
    module.device, module.stepped = torch.device("cpu"), True
    start = module.weight.detach().clone()
    optimizer = make(settings(FREE).optimizer, "optimizer")(module.parameters())
    scheduler = lr.warmup(optimizer, 20, warmup=5)
    callback, trainer, gradient = OptimizersAverage(), Trainer(optimizer), torch.full((2, 3), 7.0).double()
    gradient[0] = -2.0
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    assert torch.equal(callback.average.weight, start)
    rates, z = [], [start]
    for step in range(1, 21):
        rates.append(optimizer.param_groups[0]["lr"])
        z.append(z[-1] - rates[-1] * gradient.sign())
        module.weight.grad = gradient.clone()
        optimizer.step()
        scheduler.step()
        trained, trainer.global_step = module.weight.detach().clone(), step
        callback.on_train_batch_end(trainer, module)
        x = sum(rate**2 * each for rate, each in zip(rates, z[1:], strict=True)) / sum(rate**2 for rate in rates)
        torch.testing.assert_close(callback.average.weight, x, rtol=0, atol=1e-8)
        torch.testing.assert_close(trained, (1 - BETA) * z[-1] + BETA * x, rtol=0, atol=1e-8)
        assert torch.equal(module.weight, trained)
    assert len(set(rates)) == 6
    trainer.callbacks = [callback]
    with averaged_weights(trainer, module):
        assert torch.equal(module.weight, callback.average.weight) is False
        torch.testing.assert_close(module.weight.detach(), x, rtol=0, atol=1e-8)
    assert torch.equal(module.weight, trained)


def test_a_checkpoint_contains_x_and_y_and_is_loaded_with_x(run):
    file = run / "checkpoints/last.ckpt"
    contents = storage.load(file)
    x, y = flat(contents["state_dict"]), flat(contents["current_model_state"])
    z = torch.cat([each["z"].flatten() for each in contents["optimizer_states"][0]["state"].values()])
    torch.testing.assert_close(x, (y - (1 - BETA) * z) / BETA, rtol=0, atol=1e-5)
    assert (x - y).norm() > 1e-3 * x.norm()
    assert not same(contents["optimizer_states"][0]["param_groups"][0]["weight_sum"], 0.0)
    drawn = dict(restore(file).denoiser.network.named_parameters())
    assert all(torch.equal(value, contents["state_dict"][PREFIX + name]) for name, value in drawn.items())
    assert restore(file).weights == "ema"


def test_validation_and_sampling_do_not_affect_training(tiny, run, tmp_path):
    more = ["samples.n=2", "samples.every_n_epochs=1", "trainer.val_check_interval=1"]
    train([*tiny, *FREE, *STEPS, *more], tmp_path)
    assert len([line for line in lines(tmp_path) if "val/mse" in line]) == 8
    for what in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(state(tmp_path)[what], state(run)[what])


def test_the_optimizers_average_replaces_ema():
    average = Recipe.build(settings([*FREE, "ema=warm", "data=folder", "data.root=."])).ema
    assert type(average) is OptimizersAverage
    with pytest.raises(UserError, match="ema"):
        Recipe.build(settings([*FREE, "ema=power"]))
