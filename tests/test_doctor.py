"""`diffusion doctor --try` makes every check, and its page says how each ended. No command is run."""

from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch

from diffusion.checkpoint import storage
from diffusion.extras import checks

TRACEBACK = "Traceback:\n  File x\nRuntimeError: CUDA error: planted\nFor debugging consider CUDA_LAUNCH_BLOCKING=1.\n"
FILES = {
    "run.json": '{"devices": 1, "peak_gb": 0.5}', "metrics.csv": "step,train/images_per_second\n19,16\n",
    "scores.json": '[{"metric": "fd_lite0", "value": 3.0}]',
}  # fmt: skip


@pytest.fixture
def values(monkeypatch):
    """Run -> the value of an averaged weight and of all pixels, which is 0 by default; 255: its command fails."""
    found = {}

    def run(line, **_):
        folder = Path(line[-1].removeprefix("hydra.run.dir="))
        value = found.get(folder.name, 0)
        (folder / "checkpoints").mkdir(parents=True)
        for name, text in FILES.items():
            (folder / name).write_text(text)
        np.savez(folder / "images.npz", arr_0=np.full((8, 4, 4, 3), value, np.uint8))
        state = {"state_dict": {"w": torch.tensor(value)}, "current_model_state": {"w": torch.zeros(2)}}
        storage.save(state, storage.numbered(folder / "checkpoints", 20))
        return CompletedProcess(line, int(value == 255), "", TRACEBACK)

    monkeypatch.setattr(checks.subprocess, "run", run)
    monkeypatch.setattr(checks, "choose_device", lambda _: torch.device("cpu"))
    return found


def rows(page):
    """Check -> [its result, what was found]."""
    lines = page.read_text("utf-8").partition("##")[0].splitlines()
    return {name: found for name, *found in [line[2:-2].split(" | ") for line in lines if line[:1] == "|"][2:]}


def test_the_page_has_every_check(command, values, tmp_path):
    assert command("doctor", ["--try"])[0] == 0
    page = rows(tmp_path / "doctor.md")
    assert [*page] == [*checks.CHECKS]
    impossible = {"compiled", "devices", "CPU"}
    assert {name.split()[-1] for name in page if page[name][0] == checks.IMPOSSIBLE} == impossible
    assert page["train in bfloat16"] == [checks.PASSED, "500 ms per step (2 per second), at most 500 MB"]


@pytest.mark.parametrize(
    ("run", "value", "check", "found"),
    [
        ("bfloat16", 255, "train in bfloat16", "RuntimeError: CUDA error: planted (exit status 1)"),
        ("resumed", 1, "resume bit for bit", "1 of 2 weights and averages differ, the first of them w"),
    ],
)
def test_a_failure_is_one_line_and_the_other_checks_are_made(command, values, tmp_path, run, value, check, found):
    values[run] = value
    assert command("doctor", ["--try", "x.md"])[::2] == (1, f"error: failed: {check}; x.md says why\n")
    page = rows(tmp_path / "x.md")
    assert {name: row for name, row in page.items() if row[0] == checks.FAILED} == {check: [checks.FAILED, found]}
    assert [*page] == [*checks.CHECKS]


@pytest.mark.parametrize(("device", "most"), [("cuda", 3), ("mps", 1)])  # if bfloat16 changes pixels by 16 levels
def test_a_device_draws_the_images_of_the_cpu_within_rounding(values, tmp_path, device, most):
    for change, result in ((most, checks.PASSED), (most + 1, checks.FAILED)):
        values |= {"cpu": 100, "rough": 116, "device": 100 - change}
        assert checks.drawn(checks.DeviceTrial(device, 1, tmp_path / str(change)))[0] == result
