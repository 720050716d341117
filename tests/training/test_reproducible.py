"""Counter-based randomness: a run's draws depend on (seed, epoch, image) and on nothing that happened before."""

import torch
from composing import train
from torch import Tensor

from diffusion.process import objective
from diffusion.process.denoiser import diffuse


def test_two_recipes_use_the_same_images_times_and_noise(tiny, tmp_path, monkeypatch):
    recipes = {
        "a": ["schedule=linear", "prediction=eps"],
        "b": ["schedule=cosine", "prediction=v", "optimizer=sgd", "model.dropout=0.3"],
    }
    drawn: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in recipes}
    for name, words in recipes.items():

        def recorded(schedule, x0, eps, t, seen=drawn[name]):
            seen.append((x0, eps, t))
            return diffuse(schedule, x0, eps, t)

        monkeypatch.setattr(objective, "diffuse", recorded)
        train([*tiny, *words, "trainer.max_steps=3"], tmp_path / name)
    assert len(drawn["a"]) == len(drawn["b"]) >= 3
    for a, b in zip(drawn["a"], drawn["b"], strict=True):
        assert all(map(torch.equal, a, b))
    assert not torch.equal(drawn["a"][0][1], drawn["a"][1][1])
