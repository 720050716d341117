import math

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from diffusion.metric.diversity import InceptionScore, Vendi
from diffusion.metric.estimate import Reference


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


REFERENCE = Reference.of(normal(5, 4))


def vendi(x: torch.Tensor) -> float:
    return Vendi().measure(x, REFERENCE)["vendi"].value


def score(logits: torch.Tensor) -> float:
    return InceptionScore().measure(logits, REFERENCE)["inception_score"].value


def test_inception_score_matches_torch_fidelity_and_known_limits() -> None:
    logits = 3 * normal(500, 10)
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    assert score(logits) == pytest.approx(theirs, rel=1e-6)
    assert score(torch.zeros(50, 10)) == pytest.approx(1, abs=1e-12)  # nothing is known of any image
    assert score(1000 * torch.eye(10)) == pytest.approx(10)  # all classes, with certainty
    assert score(1000 * torch.eye(10)[:4]) == pytest.approx(4)


def test_vendi_score_is_the_exponential_of_the_eigenvalue_entropy() -> None:
    x = normal(30, 40).double()
    u = x / x.norm(dim=1, keepdim=True)
    eigenvalues = torch.linalg.eigvalsh(u @ u.T / 30)  # n × n, as in the definition
    assert vendi(x) == pytest.approx(math.exp(-sum(v * math.log(v) for v in eigenvalues.tolist())), rel=1e-9)
    assert vendi(torch.eye(7)) == pytest.approx(7)
    assert vendi(5 * torch.ones(9, 7)) == pytest.approx(1)
    assert vendi(torch.eye(7)[[0, 0, 0, 1, 1, 1]]) == pytest.approx(2)
