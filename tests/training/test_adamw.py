"""Steps of `optimizer=adamw` against the memoir (section 11; Loshchilov & Hutter, Algorithm 2).

g ← ∇f(θ);  θ ← θ − γλθ;  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²
m̂ = m/(1−β₁ᵏ);  v̂ = v/(1−β₂ᵏ). With amsgrad, v is replaced by its largest value so far, before the correction.
θ ← θ − γ m̂/(√v̂ + ϵ)
"""

import pytest
import torch
import yaml

from diffusion.config.build import make
from diffusion.config.choices import conf_dir


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamw_matches_the_memoirs_pseudocode(amsgrad: bool) -> None:
    lr, (beta1, beta2), decay, tiny = 3e-4, (0.9, 0.999), 1e-2, 1e-8
    generator = torch.Generator().manual_seed(0)
    theta = torch.nn.Parameter(torch.randn(5, dtype=torch.float64, generator=generator))
    expected = theta.detach().clone()
    m, v, largest = torch.zeros(3, 5, dtype=torch.float64)
    node = yaml.safe_load((conf_dir() / "optimizer/adamw.yaml").read_text("utf-8"))
    optimizer = make({**node, "amsgrad": amsgrad}, "optimizer")([theta])
    for k, scale in enumerate([3.0, 0.1, 1.0], start=1):  # a decreasing gradient, so amsgrad's maximum matters
        g = scale * torch.randn(5, dtype=torch.float64, generator=generator)
        theta.grad = g.clone()
        optimizer.step()

        expected = expected - lr * decay * expected
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        largest = torch.maximum(largest, v)
        v_hat = (largest if amsgrad else v) / (1 - beta2**k)
        expected = expected - lr * (m / (1 - beta1**k)) / (v_hat.sqrt() + tiny)
        torch.testing.assert_close(theta.detach(), expected, rtol=1e-12, atol=1e-12)
