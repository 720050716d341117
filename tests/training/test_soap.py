"""optimizer=soap: its numbers for a known eigenbasis, and resuming a run with it."""

import io

import pytest
import torch
from composing import settings, train
from diffusion.training.optimizer import optimizer_of
from outcomes import same, state
from torch import Tensor, nn

from diffusion.config.build import make

SOAP = ["optimizer=soap", "optimizer.precondition_frequency=2"]


def soap(weights: list[nn.Parameter], **options) -> torch.optim.Optimizer:
    partial = make(settings(["optimizer=soap"]).optimizer, "optimizer")
    return optimizer_of(lambda params: partial(params, **options), weights, nn.Module())


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_rotated_along_each_dimension(layout):
    """A gradient a ⊗ b ⊗ c ⊗ d has one nonzero coordinate, its length, so the kernel follows Adam along it."""
    vectors = [torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (6, 4, 3, 2)]
    direction = torch.einsum("a,b,c,d->abcd", *(each / each.norm() for each in vectors))
    kernel = nn.Parameter(torch.zeros(6, 4, 3, 2, dtype=torch.float64).to(memory_format=layout))
    lengths = 5 + torch.arange(STEPS, dtype=torch.float64).sin()
    optimizer, way = soap([kernel], **OPTIONS), adam(lengths[1:], RATE, 0.95, EPS)
    for step in range(STEPS):
        kernel.grad = (lengths[step] * direction).to(memory_format=layout)
        optimizer.step()
        torch.testing.assert_close(kernel.detach(), way[step] * direction, rtol=0, atol=1e-4)
    assert kernel.norm() > 0.2


def test_training_resumes_bit_for_bit_from_a_saved_optimizer_state():
    def weights() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(1)
        made = [torch.randn(shape, generator=generator) for shape in ((6, 4, 3, 3), (5, 6), (7,))]
        return [nn.Parameter(made[0].to(memory_format=torch.channels_last)), *map(nn.Parameter, made[1:])]

    def stepped(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> list[Tensor]:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for p in params:
                p.grad = p.detach() + torch.randn(p.shape, generator=generator)
            optimizer.step()
        return [p.detach().clone() for p in params]

    whole, first, rest = weights(), weights(), weights()
    expected = stepped(soap(whole, precondition_frequency=2), whole, range(9))
    optimizer, file = soap(first, precondition_frequency=2), io.BytesIO()
    torch.save({"weights": stepped(optimizer, first, range(4)), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for p, value in zip(rest, saved["weights"], strict=True):
        p.data.copy_(value)
    loaded = soap(rest, precondition_frequency=2)
    loaded.load_state_dict(saved["optimizer"])
    assert all(map(torch.equal, stepped(loaded, rest, range(4, 9)), expected))


def test_a_run_resumes_bit_for_bit_and_uses_new_settings(tiny, tmp_path):
    overrides = [*tiny, *SOAP, "samples.n=0"]
    train([*overrides, "trainer.max_steps=8"], tmp_path / "whole")
    train([*overrides, "trainer.max_steps=5"], tmp_path / "first")
    ckpt = f"ckpt={tmp_path}/first/checkpoints/last.ckpt"
    train([*overrides, "trainer.max_steps=8", ckpt], tmp_path / "rest")
    assert same(state(tmp_path / "whole"), state(tmp_path / "rest"))
    changed = ["optimizer.precondition_frequency=3", "optimizer.betas=[0.5,0.6]", "trainer.max_steps=6", ckpt]
    train([*overrides, *changed], tmp_path / "changed")
    saved = state(tmp_path / "changed")["optimizer_states"][0]
    assert (saved["param_groups"][0]["betas"], saved["param_groups"][0]["step"]) == ([0.5, 0.6], 6)
    assert {each["precondition_frequency"] for each in saved["state"].values()} == {3}
