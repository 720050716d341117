"""The averages of the weights: EMA, power functions with snapshots, and that of a schedule-free optimizer."""

import shutil
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from composing import settings, train
from outcomes import lines, same, state
from torch import Tensor, nn

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, average_of_length, restore
from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.process.averaging import decay, gamma_of
from diffusion.training import lr
from diffusion.training.ema import EMA, OptimizersAverage, PowerEMA, average_for
from diffusion.training.periodic import averaged_weights

EACH = ["samples.n=0", "checkpoint.every_n_steps=1", "checkpoint.keep=20"]
POWER = ["ema=power", "ema.snapshots=4", "trainer.max_steps=12", "optimizer.lr=0.01", *EACH]
FREE = ["optimizer=schedule_free", "lr_scheduler=warmup", "lr_scheduler.warmup=3", "trainer.max_steps=8", *EACH]
BETA = 0.9  # of schedule_free


@pytest.fixture(scope="module")
def power(tmp_path_factory, tiny) -> Path:
    """The folder of a run of 12 steps with ema=power and a checkpoint of every step."""
    folder: Path = tmp_path_factory.mktemp("power") / "run"
    train([*tiny, *POWER], folder)
    return folder


@pytest.fixture(scope="module")
def free(tmp_path_factory, tiny) -> Path:
    """The folder of a run of 8 steps with a schedule-free optimizer."""
    folder: Path = tmp_path_factory.mktemp("free") / "run"
    train([*tiny, *FREE], folder)
    return folder


def held(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = storage.load(file)["callbacks"]["PowerEMA"]
    return found


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for name, value in sorted(tensors.items()) if name.startswith(PREFIX)])


class Walk(pl.LightningModule):
    """A module whose weight is set from outside."""

    stepped = True  # no step is skipped

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("table", torch.tensor(float("inf")))


def walk(ema: EMA, module: Walk, weights: list[float], step: int = 0) -> None:
    """Make steps after which the weight has these values."""
    trainer = SimpleNamespace(global_step=step)
    ema.on_train_start(trainer, module)
    for weight in weights:
        module.weight.data.fill_(weight)
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, module)


def test_ema_follows_its_recurrence_with_warmup():
    module, ema, average = Walk(), EMA(decay=0.5), 0.0
    ema.setup(None, module, "fit")
    walk(ema, module, [float(n) for n in range(1, 13)])
    for n in range(1, 13):
        average += (1 - min(0.5, (1 + n) / (10 + n))) * (n - average)
    ema.swap(module)
    assert float(module.weight.detach()) == pytest.approx(average, rel=1e-6)
    assert torch.isinf(module.table)  # buffers are copied: averaging infinities would give NaN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_of_half_precision_weights_follows_them(dtype):
    """After 1000 steps at 0 and 2000 at 1, the average is 1 − 6e-5; in bfloat16 it would stop at 0.79.

    An average that is saved and restored on the way continues exactly.
    """
    weights, ends = [float(step > 1000) for step in range(1, 3001)], []
    for stops in ([0, 3000], [0, 1700, 3000]):
        module, state = Walk().to(dtype), None
        for start, stop in pairwise(stops):
            ema = EMA(0.9995)
            ema.setup(None, module, "fit")
            if state is not None:
                ema.average.load_state_dict(state[1])
                ema.load_state_dict(state[0])
            walk(ema, module, weights[start:stop], start)
            state = deepcopy((ema.state_dict(), ema.average.state_dict()))
        ends.append((ema.average.weight, ema.averages[0][0]))
    (average, exact), restored = ends
    assert average.dtype == dtype
    assert float(exact) == pytest.approx(1 - 6e-5, abs=2e-5)
    assert average == exact.to(dtype)
    assert restored == (average, exact)


def test_power_averages_follow_their_recurrence_and_the_first_is_used(power):
    found = [storage.load(storage.numbered(power / "checkpoints", step)) for step in range(1, 13)]
    own = found[-1]["callbacks"]["PowerEMA"]["averages"]
    names = own["0.05"].keys()
    weights = [flat({name: contents["current_model_state"][name] for name in names}) for contents in found]
    for length in (0.05, 0.1):
        average = torch.zeros_like(weights[0])
        for n, w in enumerate(weights, start=1):
            average += (1 - decay(gamma_of(length), n)) * (w - average)
        assert torch.allclose(flat(own[str(length)]), average, rtol=0, atol=1e-6)
    assert all(torch.equal(value, found[-1]["state_dict"][name]) for name, value in own["0.05"].items())
    network = restore(power / "checkpoints/last.ckpt", "ema").denoiser.network
    assert all(torch.equal(value, own["0.05"][PREFIX + name]) for name, value in network.named_parameters())


def test_a_snapshot_holds_the_averages_of_its_step(power):
    assert list(storage.snapshots(power / "checkpoints")) == [3, 6, 9, 12]
    for step, file in storage.snapshots(power / "checkpoints").items():
        found = storage.load(file)
        assert found["updates"] == step
        assert same(found["averages"], held(storage.numbered(power / "checkpoints", step))["averages"])


@pytest.fixture(scope="module")
def four(tmp_path_factory, tiny) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """The last checkpoint of a run whose files hold two of four tracked averages, and all averages at its end."""
    folder = tmp_path_factory.mktemp("four")
    long = ["ema=power", "ema.lengths=[0.05,0.1,0.08,0.2]", "samples.n=0", "trainer.max_epochs=8"]
    train([*tiny, *long, "trainer.check_val_every_n_epoch=8"], folder)  # 48 steps, 16 snapshots
    for file in storage.snapshots(folder / "checkpoints").values():
        contents = storage.load(file)
        storage.save({**contents, "averages": {each: contents["averages"][each] for each in ("0.05", "0.1")}}, file)
    return folder / "checkpoints/last.ckpt", held(folder / "checkpoints/last.ckpt")["averages"]


@pytest.mark.parametrize(("length", "bound"), [("0.08", 3e-4), ("0.2", 3e-2)])
def test_an_average_reconstructed_from_snapshots_equals_a_tracked_one(four, length, bound):
    """`bound` is relative to the distance between the averages of 0.05 and 0.1; relative to the weights: 7e-7, 7e-5."""
    path, own = four
    contents = storage.load(path)
    contents["callbacks"]["PowerEMA"]["averages"] = {each: own[each] for each in ("0.05", "0.1")}
    made, tracked = average_of_length(contents, path, float(length)), own[length]
    apart = (flat(own["0.05"]) - flat(own["0.1"])).norm()
    assert (flat(made) - flat(tracked)).norm() < bound * apart
    assert (flat(made) - flat(tracked)).norm() < bound / 400 * flat(tracked).norm()


def test_resuming_from_an_earlier_step_gives_the_same_averages_and_removes_later_snapshots(tiny, power, tmp_path):
    folder = Path(shutil.copytree(power, tmp_path / "run"))
    ckpt = storage.numbered(folder / "checkpoints", 7)
    train([*tiny, *POWER, "trainer.max_steps=8", f"ckpt={ckpt}"], folder)
    assert same(held(folder / "checkpoints/last.ckpt"), held(storage.numbered(power / "checkpoints", 8)))
    assert list(storage.snapshots(folder / "checkpoints")) == [3, 6, 8]
    assert restore(folder / "checkpoints/last.ckpt", 0.08).step == 8


def test_a_schedule_free_average_weights_iterates_by_the_squared_learning_rate():
    """With a constant gradient z_t = z_0 − Σγ_i sign(g) for any y, and x is Σγ_i² z_i / Σγ_i²."""
    module = nn.Linear(3, 2).double()
    module.device, module.stepped = torch.device("cpu"), True
    optimizer = make(settings(FREE).optimizer, "optimizer")(module.parameters())
    scheduler, callback = lr.warmup(optimizer, 20, warmup=5), OptimizersAverage()
    trainer = SimpleNamespace(optimizers=[optimizer], global_step=0, callbacks=[callback])
    gradient = torch.full((2, 3), 7.0).double()
    gradient[0] = -2.0
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    rates, z = [], [module.weight.detach().clone()]
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
    module.trainer = trainer
    with averaged_weights(module):
        torch.testing.assert_close(module.weight.detach(), x, rtol=0, atol=1e-8)
    assert torch.equal(module.weight, trained)


def test_a_checkpoint_contains_x_and_y_and_is_loaded_with_x(free):
    contents = storage.load(free / "checkpoints/last.ckpt")
    x, y = ({k: v for k, v in contents[key].items() if "network" in k} for key in ("state_dict", "current_model_state"))
    z = torch.cat([each["z"].flatten() for each in contents["optimizer_states"][0]["state"].values()])
    ours, trained = (torch.cat([v.flatten() for v in each.values()]) for each in (x, y))
    torch.testing.assert_close(ours, (trained - (1 - BETA) * z) / BETA, rtol=0, atol=1e-5)
    assert (ours - trained).norm() > 1e-3 * ours.norm()
    restored = restore(free / "checkpoints/last.ckpt")
    assert all(torch.equal(p, x[PREFIX + name]) for name, p in restored.denoiser.network.named_parameters())
    assert restored.weights == "ema"


def test_validation_and_sampling_do_not_affect_training(tiny, free, tmp_path):
    train([*tiny, *FREE, "samples.n=2", "samples.every_n_epochs=1", "trainer.val_check_interval=1"], tmp_path)
    assert len([line for line in lines(tmp_path) if "val/mse" in line]) == 8
    for what in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(state(tmp_path)[what], state(free)[what])


def test_the_optimizers_average_replaces_ema():
    optimizer = make(settings(FREE).optimizer, "optimizer")
    assert type(average_for(optimizer, EMA())) is OptimizersAverage
    with pytest.raises(UserError, match="ema"):
        average_for(optimizer, PowerEMA())
