"""torch's optimizers are fused, unless the settings, the precision or the run's earlier steps say otherwise."""

from functools import partial
from pathlib import Path

import pytest
import torch
from composing import settings, train
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from diffusion.checkpoint import storage
from diffusion.training import module
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.optimizer import optimizer_of
from diffusion.training.recipe import Recipe


def built(make: partial[Optimizer], fuse: bool = True) -> bool | None:
    return optimizer_of(make, nn.Linear(2, 2).parameters(), nn.Module(), fuse).defaults.get("fused")


@pytest.mark.parametrize("kind", [AdamW, Adam, SGD])
def test_an_implementation_that_is_chosen_is_kept(kind: type[Optimizer]) -> None:
    assert built(partial(kind, lr=0.1)) is True
    assert built(partial(kind, lr=0.1, fused=False)) is False
    assert built(partial(kind, lr=0.1, fused=True), fuse=False) is True
    assert not built(partial(kind, lr=0.1, foreach=True))
    assert not built(partial(kind, lr=0.1, foreach=False))
    assert not built(partial(kind, lr=0.1), fuse=False)


def test_an_optimizer_without_a_fused_implementation_is_built_as_it_is() -> None:
    assert built(partial(RMSprop, lr=0.1)) is None


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", False)])
def test_an_optimizer_is_not_fused_in_float16(precision: str, fused: bool, tiny: list[str]) -> None:
    chosen = settings([*tiny, f"trainer.precision={precision}"])
    diffusion = Diffusion(chosen, Recipe.build(chosen), Clock.of(chosen.trainer, 8, 4, 1))
    assert bool(diffusion.new_optimizer().defaults["fused"]) is fused


def test_a_resumed_run_keeps_its_implementation(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*tiny, "score=off", "samples.n=0"]

    def weights(name: str) -> dict[str, torch.Tensor]:
        return storage.load(tmp_path / name / "checkpoints/last.ckpt")["current_model_state"]

    with monkeypatch.context() as earlier:
        earlier.setattr(module, "optimizer_of", lambda *given: optimizer_of(*given[:3], fuse=False))
        train([*overrides, "trainer.max_steps=40"], tmp_path / "whole")
        train([*overrides, "trainer.max_steps=5"], tmp_path / "first")
    ckpt = f"ckpt={tmp_path}/first/checkpoints/last.ckpt"
    train([*overrides, "trainer.max_steps=40", ckpt], tmp_path / "rest")
    train([*overrides, "trainer.max_steps=40"], tmp_path / "fused")
    whole, rest, fused = (weights(name) for name in ("whole", "rest", "fused"))
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert any(not torch.equal(whole[name], fused[name]) for name in whole)
