"""Counter-based randomness: a run's draws depend on (seed, epoch, image) and on nothing that happened before."""

from pathlib import Path

import torch
from composing import train
from torch import Tensor

from diffusion.process import objective
from diffusion.process.denoiser import diffuse

DROPOUT = "model.dropout=0.3"


def weights(folder: Path, key: str = "current_model_state") -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)[key]


def run(tmp_path: Path, name: str, overrides: list[str]) -> Path:
    train(overrides, tmp_path / name)
    return tmp_path / name


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_equal_seeds_give_equal_runs_and_different_seeds_do_not(tiny, two_steps, tmp_path):
    short = [*tiny, "trainer.max_steps=2", "samples.n=0"]
    b, c = (run(tmp_path, name, [*short, f"seed={seed}"]) for name, seed in (("b", 0), ("c", 1)))
    assert equal(weights(two_steps), weights(b))
    assert not equal(weights(two_steps), weights(c))


def test_two_recipes_use_the_same_images_times_and_noise(tiny, tmp_path, monkeypatch):
    recipes = {
        "a": ["schedule=linear", "prediction=eps"],
        "b": ["schedule=cosine", "prediction=v", "optimizer=sgd", DROPOUT],
    }
    drawn: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in recipes}
    for name, words in recipes.items():

        def recorded(schedule, x0, eps, t, seen=drawn[name]):
            seen.append((x0, eps, t))
            return diffuse(schedule, x0, eps, t)

        monkeypatch.setattr(objective, "diffuse", recorded)
        run(tmp_path, name, [*tiny, *words, "trainer.max_steps=8"])
    assert len(drawn["a"]) == len(drawn["b"]) >= 8
    for a, b in zip(drawn["a"], drawn["b"], strict=True):
        assert all(map(torch.equal, a, b))
    assert not torch.equal(drawn["a"][0][1], drawn["a"][1][1])
