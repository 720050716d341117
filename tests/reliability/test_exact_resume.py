"""T5. A run resumed from any step in a new process is the same run, bit for bit; every saved item is needed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import train as train_here
from forked import FORK
from outcomes import lines
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.randomness import Streams
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

RECIPE = [  # 24 images: 6 batches of 4, 3 optimizer steps per epoch, 9 in total
    "model.dropout=0.3", "data.flip=true", "optimizer=adam", "lr_scheduler=cosine", "ema=warm",
    "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2", "checkpoint.every_n_steps=1", "checkpoint.keep=20",
    "samples.n=0",
]  # fmt: skip
POINTS = (1, 2, 3, 5, 7, 8)  # within epochs and at the end of one
STATES = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers")


def digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()


def traced(folder: Path, overrides: list[str]) -> None:
    """Train in this process; trace.pt contains the digests of all inputs and results of each batch."""
    trace: list[dict[str, Any]] = []
    step, normal, uniform = Diffusion.training_step, Streams.normal, Streams.uniform
    inside = False

    def training_step(self: Diffusion, batch: Any, batch_idx: int) -> Tensor:
        nonlocal inside
        trace.append({"index": batch.index.tolist(), "image": digest(batch.image), "draws": []})
        inside = True
        loss = step(self, batch, batch_idx)
        inside = False
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        trace[-1] |= {"loss": digest(loss), "epoch": batch.epoch, "step": self.global_step, "rate": rate}
        return loss

    def drawn(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(self: Streams, *args: Any, **kwargs: Any) -> Tensor:
            value = draw(self, *args, **kwargs)
            if inside:
                trace[-1]["draws"].append(digest(value))
            return value

        return wrapper

    Diffusion.training_step = training_step  # type: ignore[method-assign]
    Streams.normal, Streams.uniform = drawn(normal), drawn(uniform)  # type: ignore[method-assign]
    train_here(overrides, folder)
    torch.save(trace, folder / "trace.pt")


def train(folder: Path, overrides: list[str]) -> bool:
    """Train in a separate process and return whether it succeeded."""
    folder.mkdir()
    process = FORK.Process(target=traced, args=(folder, overrides))
    process.start()
    process.join()
    return process.exitcode == 0


def flat(node: Any, name: str = "") -> dict[str, Any]:
    if isinstance(node, dict):
        return {key: value for k, inner in node.items() for key, value in flat(inner, f"{name}/{k}").items()}
    if isinstance(node, list | tuple):
        return flat(dict(enumerate(node)), name)
    return {name: digest(node) if isinstance(node, Tensor) else node}


def outcome(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The trace, and the digests of the final state."""
    contents = storage.load(folder / "checkpoints/last.ckpt")
    assert contents["global_step"] == 9
    return torch.load(folder / "trace.pt", weights_only=True), flat({key: contents[key] for key in STATES})


def step_of(folder: Path, step: int) -> Path:
    return folder / f"checkpoints/step-{step:08d}.ckpt"


@pytest.mark.parametrize("workers", [0, 2])
def test_runs_resumed_from_six_different_steps_equal_the_uninterrupted_run(tiny, tmp_path, workers, figure):
    overrides = [*tiny, *RECIPE, f"data.num_workers={workers}"]
    assert train(tmp_path / "whole", overrides)
    trace, state = outcome(tmp_path / "whole")
    assert len(trace) == 18
    assert len({tuple(batch["index"]) for batch in trace}) == 18
    assert len({draw for batch in trace for draw in batch["draws"]}) >= 2 * 18
    assert len({batch["rate"] for batch in trace}) == 9
    for point in POINTS:
        folder = tmp_path / f"from {point}"
        assert train(folder, [*overrides, f"ckpt={step_of(tmp_path / 'whole', point)}"])
        resumed, end = outcome(folder)
        assert resumed == trace[2 * point :], point
        assert end == state, point
    figure(f"resumed with {workers} workers", f"{len(POINTS)} points, 0 bits differ")


def _reset(progress: dict[str, Any]) -> None:
    for counts in ("total", "current"):
        progress[counts] = dict.fromkeys(progress[counts], 0)


ITEMS: dict[str, Callable[[dict[str, Any]], Any]] = {  # the value of each item in a checkpoint without it
    "nothing": lambda c: None,
    "raw weights": lambda c: c.update(current_model_state=c["state_dict"]),
    "averaged weights": lambda c: c.update(state_dict=c["current_model_state"]),
    "moments of Adam": lambda c: c["optimizer_states"][0].update(state={}),
    "place in the schedule of the learning rate": lambda c: c["lr_schedulers"][0].update(last_epoch=0, _step_count=1),
    "place in the run": lambda c: _reset(c["loops"]["fit_loop"]["epoch_loop.batch_progress"]),
    "place in the data": lambda c: c["Folder"].update(seen=0),
    "optimizer steps": lambda c: _reset(
        c["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    ),
}


DERIVED = ("nothing", "place in the run")  # the latter also follows from the number of steps: `loops.adapt`


def test_every_saved_item_is_needed(tiny, tmp_path, figure):
    overrides = [*tiny, *RECIPE, "timesteps@objective.timesteps=stratified"]  # its times depend on the batch's number
    assert train(tmp_path / "whole", overrides)
    trace, state = outcome(tmp_path / "whole")
    log = [row for row in lines(tmp_path / "whole") if float(row["step"]) >= 5]  # the copies have no curves
    for item, remove in ITEMS.items():
        contents = storage.load(step_of(tmp_path / "whole", 5))
        remove(contents)
        without = tmp_path / f"{item}.ckpt"
        storage.save(contents, without)
        folder = tmp_path / item
        assert train(folder, [*overrides, f"ckpt='{without}'"]), item
        contents = storage.load(folder / "checkpoints/last.ckpt")
        resumed = torch.load(folder / "trace.pt", weights_only=True)
        end = flat({key: contents[key] for key in STATES})
        found = resumed, end, lines(folder)
        assert (found == (trace[10:], state, log)) == (item in DERIVED), item
    needed = len(ITEMS) - len(DERIVED)
    figure("saved items left out, and noticed", f"{needed} of {needed}")
