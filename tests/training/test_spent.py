"""The memory of a run according to run.json: the bytes of each part are those of its tensors."""

import json
from itertools import chain

import pytest
import torch
from composing import train

from diffusion.training import run as training
from diffusion.training import spent
from diffusion.training.ending import draw_last
from diffusion.training.spent import Spent


@pytest.mark.parametrize(("ema", "copies"), [("none", 0), ("warm", 1), ("power", 2)])
def test_recorded_bytes_of_each_part_equal_those_of_its_tensors(tiny, tmp_path, monkeypatch, ema, copies):
    seen = {}

    def count_first(settings, drawing, folder, trainer, module, spent):
        seen.update(module=module, optimizer=trainer.optimizers[0])
        return draw_last(settings, drawing, folder, trainer, module, spent)

    monkeypatch.setattr(training, "draw_last", count_first)
    monkeypatch.setattr(training, "peak_bytes", lambda device: 10**9)
    train([*tiny, f"ema={ema}", "samples.n=0", "trainer.max_steps=2"], tmp_path / "run")
    found = json.loads((tmp_path / "run/run.json").read_text())["bytes_of"]

    def total(tensors):
        return sum(len(tensor.detach().contiguous().flatten().view(torch.uint8)) for tensor in tensors)

    module = seen["module"]
    weights, buffers = total(module.parameters()), total(buffer for buffer in module.buffers() if buffer.numel())
    moments = total(chain.from_iterable((s["exp_avg"], s["exp_avg_sq"]) for s in seen["optimizer"].state.values()))
    steps = 4 * len(seen["optimizer"].state)  # one number per weight
    assert moments == 2 * weights
    assert found.pop("rest") == 10**9 - sum(found.values())
    assert found == {
        "weights": weights + buffers,
        "gradients": weights,
        "optimizer": moments + steps,
        "averages of weights": copies * weights + min(copies, 1) * buffers,
        "images": 40 * 3 * 8 * 8,
    }


def test_images_in_host_memory_are_not_part_of_the_gpu_peak():
    took = Spent()
    took.bytes = {"weights": 10, spent.ELSEWHERE: 100}
    assert took.bytes_up_to(25) == {"weights": 10, spent.ELSEWHERE: 100, "rest": 15}
    assert took.bytes_up_to(5)["rest"] == 0
