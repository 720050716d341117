"""Parts of training with known results: EMA, learning rates, the weights that are validated, the fixed protocol."""

import math
from copy import deepcopy
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim import SGD

from diffusion.training import lr
from diffusion.training.ema import EMA


class Walk(pl.LightningModule):
    """A module with a weight that equals n after optimizer step n."""

    stepped = True  # no step is skipped

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("table", torch.tensor(float("inf")))

    def training_step(self, batch, batch_idx):
        return -self.weight

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=1.0)


def test_ema_follows_its_recurrence_with_warmup():
    module, ema = Walk(), EMA(decay=0.5)
    trainer = pl.Trainer(
        max_steps=12, callbacks=[ema], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(100, 1)))
    assert float(module.weight) == 12
    ema.swap(module)
    average = 0.0
    for n in range(1, 13):
        average += (1 - min(0.5, (1 + n) / (10 + n))) * (n - average)
    assert float(module.weight) == pytest.approx(average, rel=1e-6)
    assert torch.isinf(module.table)  # buffers are copied: averaging infinities would give NaN


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_average_of_half_precision_weights_follows_them(dtype):
    """After 1000 steps at 0 and 2000 at 1, the average is 1 − 6e-5; in bfloat16 it would stop at 0.79.

    An average that is saved and restored on the way continues exactly.
    """
    ends = []
    for stops in ((3000,), (1700, 3000)):
        module, trainer, step, state = Walk().to(dtype), SimpleNamespace(global_step=0), 0, None
        for stop in stops:
            ema = EMA(0.9995)
            ema.setup(trainer, module, "fit")
            if state is not None:
                ema.average.load_state_dict(state[1])
                ema.load_state_dict(state[0])
            ema.on_train_start(trainer, module)
            while step < stop:
                step += 1
                module.weight.data.fill_(float(step > 1000))
                trainer.global_step = step
                ema.on_train_batch_end(trainer, module)
            state = deepcopy((ema.state_dict(), ema.average.state_dict()))
        ends.append((ema.average.weight, ema.averages[0][0]))
    (average, exact), restored = ends
    assert average.dtype == dtype
    assert float(exact) == pytest.approx(1 - 6e-5, abs=2e-5)
    assert average == exact.to(dtype)
    assert restored == (average, exact)


def rates(make, **options) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer, 10, **options)
    values = []
    for _ in range(10):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_learning_rate_schedules_give_the_expected_rates():
    assert rates(lr.constant) == [2.0] * 10
    assert rates(lr.warmup, warmup=3) == pytest.approx([0.5, 1.0, 1.5, *[2.0] * 7])
    expected = [2 / 3, 4 / 3] + [0.2 + 1.8 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates(lr.cosine, warmup=2, final=0.1) == pytest.approx(expected)
    expected = [2 / 3, 4 / 3, 2.0, 2.0, 2.0, *[2 * (4 / step) ** 0.5 for step in range(5, 10)]]
    assert rates(lr.inverse_sqrt, warmup=2, reference=4) == pytest.approx(expected)
