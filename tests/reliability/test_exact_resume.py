"""A run resumed from any step in a new process is the same run, bit for bit; every saved item is needed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from composing import train as train_here
from forked import FORK
from outcomes import lines, same, state
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.randomness import Streams
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

RECIPE = (  # 24 images: 6 batches of 4, 3 optimizer steps per epoch, 9 in total
    "model.dropout=0.3", "data.flip=true", "optimizer=adam", "lr_scheduler=cosine", "ema=warm",
    "timesteps@objective.timesteps=uniform",
    "objective.timesteps.stratified=true", "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2",
    "checkpoint.every_n_steps=1", "checkpoint.keep=20", "samples.n=0",
)  # fmt: skip


def digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()


class Outcome(NamedTuple):
    """The digests of all inputs, draws and results of each batch, the lines of metrics.csv, and the final state."""

    trace: list[dict[str, Any]]
    lines: list[dict[str, str]]
    state: dict[str, Any]


def traced(folder: Path, overrides: list[str]) -> None:
    """Train in this process; trace.pt contains the trace."""
    trace: list[dict[str, Any]] = []
    step = Diffusion.training_step

    def training_step(self: Diffusion, batch: Any, batch_idx: int) -> Tensor:
        trace.append({"index": batch.index.tolist(), "image": digest(batch.image), "draws": []})
        loss = step(self, batch, batch_idx)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        trace[-1] |= {"loss": digest(loss), "epoch": batch.epoch, "step": self.global_step, "rate": rate}
        return loss

    def drawn(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(self: Streams, *args: Any, **kwargs: Any) -> Tensor:
            value = draw(self, *args, **kwargs)
            if trace and "loss" not in trace[-1]:  # within a training step
                trace[-1]["draws"].append(digest(value))
            return value

        return wrapper

    Diffusion.training_step = training_step  # type: ignore[method-assign]
    for name in ("normal", "uniform", "stratified"):
        setattr(Streams, name, drawn(getattr(Streams, name)))
    train_here(overrides, folder)
    torch.save(trace, folder / "trace.pt")


def train(folder: Path, overrides: list[str]) -> Outcome:
    """Train in a separate process."""
    folder.mkdir()
    process = FORK.Process(target=traced, args=(folder, overrides))
    process.start()
    process.join()
    assert process.exitcode == 0
    return Outcome(torch.load(folder / "trace.pt", weights_only=True), lines(folder), state(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture(scope="module")
def whole(tiny, folder) -> Outcome:
    return train(folder, [*tiny, *RECIPE])


@pytest.mark.parametrize("point", [1, 3, 5, 8])  # 3: the end of an epoch
def test_a_resumed_run_equals_the_uninterrupted_run(tiny, whole, folder, tmp_path, point):
    assert len({tuple(batch["index"]) for batch in whole.trace}) == 18
    assert len({draw for batch in whole.trace for draw in batch["draws"]}) >= 2 * 18
    assert len({batch["rate"] for batch in whole.trace}) == 9
    resumed = train(tmp_path / "run", [*tiny, *RECIPE, f"ckpt={storage.numbered(folder / 'checkpoints', point)}"])
    assert resumed.trace == whole.trace[2 * point :]
    assert resumed.lines == whole.lines
    assert same(resumed.state, whole.state)


def _reset(progress: dict[str, Any]) -> None:
    for counts in ("total", "current"):
        progress[counts] = dict.fromkeys(progress[counts], 0)


ITEMS: dict[str, Callable[[dict[str, Any]], Any]] = {  # the value of each item in a checkpoint without it
    "place in the run": lambda c: _reset(c["loops"]["fit_loop"]["epoch_loop.batch_progress"]),
    "raw weights": lambda c: c.update(current_model_state=c["state_dict"]),
    "averaged weights": lambda c: c.update(state_dict=c["current_model_state"]),
    "moments of Adam": lambda c: c["optimizer_states"][0].update(state={}),
    "place in the schedule of the learning rate": lambda c: c["lr_schedulers"][0].update(last_epoch=0, _step_count=1),
    "place in the data": lambda c: c["Folder"].update(seen=0),
    "optimizer steps": lambda c: _reset(
        c["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    ),
}
DERIVED = "place in the run"  # it also follows from the number of steps: `resume.set_progress`


@pytest.mark.parametrize("item", ITEMS)
def test_every_saved_item_is_needed(tiny, whole, folder, tmp_path, item):
    contents = storage.load(storage.numbered(folder / "checkpoints", 5))
    ITEMS[item](contents)
    storage.save(contents, tmp_path / "without.ckpt")
    resumed = train(tmp_path / "run", [*tiny, *RECIPE, f"ckpt={tmp_path}/without.ckpt"])
    log = [row for row in whole.lines if float(row["step"]) >= 5]  # there are no earlier curves beside the copy
    equal = (resumed.trace, resumed.lines) == (whole.trace[10:], log) and same(resumed.state, whole.state)
    assert equal == (item == DERIVED)


def test_checkpoints_at_validations_within_a_step_contain_whole_steps(tiny, tmp_path):
    """A validation every 6 batches, and 4 batches of 2 images per step."""
    overrides = [*tiny, *RECIPE, "data.batch_size=2", "trainer.accumulate_grad_batches=4"]
    overrides += ["trainer.val_check_interval=6", "checkpoint.every_n_steps=null"]
    expected = train(tmp_path / "whole", overrides)
    files = storage.numbered_files(tmp_path / "whole/checkpoints")
    assert [storage.load(file)["global_step"] for file in files] == [9, 8, 6, 4, 2]
    for file in (files[1], files[3]):
        resumed = train(tmp_path / file.stem, [*overrides, f"ckpt={file}"])
        assert resumed.lines == expected.lines
        assert same(resumed.state, expected.state)
