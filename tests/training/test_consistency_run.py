"""Runs of consistency tuning: their stages, resuming, and settings rejected before the first step."""

import pytest
import torch
from composing import train
from outcomes import same

from diffusion.checkpoint import storage
from diffusion.process.consistency import Consistency

STATES = ("state_dict", "current_model_state")


@pytest.fixture
def stages(monkeypatch):
    """The stage of each training batch."""
    seen, call = [], Consistency.forward

    def forward(self, denoiser, *args, **given):
        if denoiser.network.training and torch.is_grad_enabled():
            seen.append(int(self.stage))
        return call(self, denoiser, *args, **given)

    monkeypatch.setattr(Consistency, "forward", forward)
    return seen


def test_a_run_goes_through_its_stages_and_resumes_bit_for_bit(tiny, tmp_path, stages):
    overrides = [
        *tiny, "experiment=ect", "model.dropout=0.3", "objective.stages=3", "trainer.max_steps=6",
        "trainer.accumulate_grad_batches=2", "checkpoint.every_n_steps=1", "checkpoint.keep=20", "samples.n=0",
    ]  # fmt: skip
    train(overrides, tmp_path / "whole")
    assert stages == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    stages.clear()
    train([*overrides, f"ckpt={tmp_path}/whole/checkpoints/step-00000003.ckpt"], tmp_path / "rest")
    assert stages == [2, 2, 3, 3, 3, 3]
    whole, rest = (storage.load(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "rest"))
    for state in STATES:
        assert all(torch.equal(value, rest[state][name]) for name, value in whole[state].items())
    assert same(whole["optimizer_states"], rest["optimizer_states"])
    before = storage.load(tmp_path / "whole/checkpoints/step-00000003.ckpt")
    assert any(not torch.equal(value, rest["state_dict"][name]) for name, value in before["state_dict"].items())
