"""optimizer=soap: its numbers for a known eigenbasis, and resuming a run with it."""

import torch
from composing import settings, train
from outcomes import same, state
from torch import Tensor, nn

from diffusion.config.build import make

SOAP = ["optimizer=soap", "optimizer.precondition_frequency=2"]


def soap(weights: list[nn.Parameter], **options) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = make(settings(["optimizer=soap"]).optimizer, "optimizer")(weights, **options)
    return made


def adam(gradients: Tensor, rate: float, beta: float, eps: float) -> Tensor:
    """Adam's path (T, …) for gradients (T, …), with equal betas and eps added to the biased √v."""
    m, v, way = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0]), [torch.zeros_like(gradients[0])]
    for t, g in enumerate(gradients, start=1):
        m, v, debias = m.lerp(g, 1 - beta), v.lerp(g**2, 1 - beta), 1 - beta**t
        way.append(way[-1] - rate * debias**-0.5 * m / (v.sqrt() + eps))
    return torch.stack(way)


STEPS, RATE, EPS = 25, 0.01, 1e-3  # eps exceeds the rounding of the float32 eigenvectors
OPTIONS = {"lr": RATE, "betas": (0.95, 0.95), "weight_decay": 0.0, "eps": EPS}


def test_a_matrix_is_updated_like_adam_in_its_eigenbasis():
    """Gradients U S_t V^T have the eigenvectors U and V, so diag S_t follows Adam from the second step on."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    u, v = torch.linalg.qr(noise[0]).Q, torch.linalg.qr(noise[1, :4]).Q
    phases = torch.arange(4) + torch.arange(STEPS, dtype=torch.float64)[:, None]
    s = torch.tensor([8.0, 4.0, 2.0, 1.0]) * (1 + 0.2 * phases.sin())  # distinct values, for unique eigenvectors
    weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer, way = soap([weight], **OPTIONS), adam(s[1:], RATE, 0.95, EPS)
    for step in range(STEPS):
        weight.grad = u @ s[step].diag() @ v.T
        optimizer.step()
        torch.testing.assert_close(weight.detach(), u @ way[step].diag() @ v.T, rtol=0, atol=1e-4)
    assert weight.norm() > 0.3


def test_a_run_resumes_bit_for_bit_and_uses_new_settings(tiny, tmp_path):
    overrides = [*tiny, *SOAP, "samples.n=0"]
    train([*overrides, "trainer.max_steps=8"], tmp_path / "whole")
    train([*overrides, "trainer.max_steps=5"], tmp_path / "first")
    ckpt = f"ckpt={tmp_path}/first/checkpoints/last.ckpt"
    train([*overrides, "trainer.max_steps=8", ckpt], tmp_path / "rest")
    assert same(state(tmp_path / "whole"), state(tmp_path / "rest"))
    changed = ["optimizer.betas=[0.5,0.6]", "trainer.max_steps=6", ckpt]
    train([*overrides, *changed], tmp_path / "changed")
    saved = state(tmp_path / "changed")["optimizer_states"][0]
    assert (saved["param_groups"][0]["betas"], saved["param_groups"][0]["step"]) == ([0.5, 0.6], 6)
