"""optimizer=schedule_free: its average x is used to validate, save and sample, without any effect on training."""

import sys
from pathlib import Path

import pytest
import torch
from composing import settings, train
from diffusion.training.optimizer import optimizer_of
from outcomes import lines, refusal, same, state
from pytorch_optimizer import ScheduleFreeAdamW
from torch import Tensor, nn

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.training import lr
from diffusion.training.ema import EMA
from diffusion.training.periodic import averaged_weights
from diffusion.training.schedule_free import OptimizersAverage, check_rate, with_average

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
    optimizer = optimizer_of(make(settings(FREE).optimizer, "optimizer"), module.parameters(), module)
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


def test_validation_uses_the_averaged_weights(run):
    """So its error differs from that of the raw weights, which is logged next to it."""
    last = [line for line in lines(run) if "val/mse" in line][-1]
    assert float(last["val/mse"]) != float(last["val/mse_raw"])


@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_equals_an_uninterrupted_run(tiny, run, tmp_path, step):
    train([*tiny, *FREE, *STEPS, f"ckpt={storage.numbered(run / 'checkpoints', step)}"], tmp_path)
    assert same(state(tmp_path), state(run))
    assert lines(tmp_path) == lines(run)


def test_validation_and_sampling_do_not_affect_training(tiny, run, tmp_path):
    more = ["samples.n=2", "samples.every_n_epochs=1", "trainer.val_check_interval=1"]
    train([*tiny, *FREE, *STEPS, *more], tmp_path)
    assert len([line for line in lines(tmp_path) if "val/mse" in line]) == 8
    for what in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(state(tmp_path)[what], state(run)[what])


def test_accumulated_batches_equal_one_large_batch(tiny, tmp_path):
    double = [*tiny, *FREE, "trainer.max_steps=4", "trainer.precision=64-true"]
    train(double, tmp_path / "whole")
    train([*double, "data.batch_size=2", "trainer.accumulate_grad_batches=2"], tmp_path / "parts")
    whole, parts = (flat(state(tmp_path / name)["state_dict"]) for name in ("whole", "parts"))
    assert (whole - parts).abs().max() < 1e-10


@pytest.mark.parametrize("ema", ["ema=warm", "ema=none"])
def test_the_optimizer_average_replaces_ema(ema):
    chosen = with_average(settings([*FREE, ema]))
    assert isinstance(make(chosen.ema, "ema"), OptimizersAverage)
    assert with_average(chosen) == chosen
    others = settings(["optimizer=adamw", ema])
    assert with_average(others) == others


def test_only_decaying_learning_rates_are_refused():
    weight = nn.Parameter(torch.zeros(1))
    free, adamw = ScheduleFreeAdamW([weight]), torch.optim.AdamW([weight])
    for scheduler in (lr.constant(free, 100), lr.warmup(free, 100, 10), lr.inverse_sqrt(free, 100, 0, 200)):
        check_rate(free, scheduler, 100)
    for make_scheduler in (lr.cosine, lr.inverse_sqrt):
        check_rate(adamw, make_scheduler(adamw, 5000), 5000)
        with pytest.raises(UserError, match="lr_scheduler: the learning rate decays"):
            check_rate(free, make_scheduler(free, 5000), 5000)


BAD = {
    "a rate that falls": (
        ["optimizer=schedule_free", "lr_scheduler=cosine", "lr_scheduler.warmup=2"], ["lr_scheduler: ", "=constant"]
    ),
    "averages of other lengths": (["optimizer=schedule_free", "ema=power"], ["ema: PowerEMA", "ema=none"]),
    "an average that nobody keeps": (
        [f"ema._target_={OptimizersAverage.__module__}.OptimizersAverage", "~ema.decay"], ["ema: ", "ema=warm"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_incompatible_settings_give_one_line_errors(command, tiny, case):
    overrides, words = BAD[case]
    line = refusal(command("train", [*tiny, *overrides, "name=bad"]))
    assert all(word in line for word in words), line


class Hidden:
    """Hides pytorch_optimizer, as if it were not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pytorch_optimizer":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.mark.parametrize("choice", ["soap", "schedule_free"])
def test_a_missing_package_error_says_how_to_install_it(command, tiny, monkeypatch, choice):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_optimizer"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    status, out, err = command("train", [*tiny, f"optimizer={choice}", "name=bad"])
    assert status == 2, out + err
    assert "pytorch_optimizer is not installed; pip install 'diffusion-experiments[optim]'" in err


def test_the_default_average_is_ema():
    assert type(make(settings([]).ema, "ema")) is EMA
