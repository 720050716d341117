"""Network evaluations are counted as they are made; with guidance, those of both networks."""

import pytest
import torch

from diffusion.evaluation.cost import evaluations
from diffusion.evaluation.drawing import Drawing
from diffusion.process import grid
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import AutoGuidance, ClassifierFree
from diffusion.process.prediction import V
from diffusion.process.sampler import DDIM, Heun
from diffusion.process.schedule import VP


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("kind", [ClassifierFree, AutoGuidance])
def test_guidance_adds_one_evaluation_per_step_inside_its_interval(kind):
    sampler = DDIM(10, grid=grid.karras)
    alpha, sigma = VP()(sampler.grid(VP(), 10)[:-1])
    inside = int(((sigma / alpha > 0.3) & (sigma / alpha <= 3)).sum())
    assert 0 < inside < 10
    assert evaluations(sampler, VP()) == 10
    assert evaluations(sampler, VP(), kind(2.0)) == 20
    assert evaluations(sampler, VP(), kind(1.0)) == 10
    assert evaluations(sampler, VP(), kind(2.0, 0.3, 3.0)) == 10 + inside
    assert sampler.evaluations == 10


def test_both_evaluations_of_a_heun_step_are_counted():
    assert evaluations(Heun(4), VP()) == 7
    assert evaluations(Heun(4), VP(), ClassifierFree(2.0)) == 14


def test_the_printed_cost_includes_guidance(capsys):
    denoiser, device = Denoiser(Same(), VP(), V()), torch.device("cpu")
    for guidance in (None, AutoGuidance(2.0)):
        drawing = Drawing(DDIM(5), (1, 4, 4), 0, guidance, denoiser)
        drawing.print_cost(denoiser, 3, 2, device, untrained=2)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "3 samples × 5 network evaluations, and 2 of an untrained network",
        "3 samples × 10 network evaluations, and 2 of an untrained network",
    ]
