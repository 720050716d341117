"""Network evaluations are counted as they are made, with guidance those of both networks."""

import pytest
import torch

from diffusion.evaluation.cost import Blank, evaluations, print_cost
from diffusion.process import grid
from diffusion.process.guidance import AutoGuidance, ClassifierFree
from diffusion.process.sampler import DDIM, Heun
from diffusion.process.schedule import VP


@pytest.mark.parametrize("kind", [ClassifierFree, AutoGuidance])
def test_guidance_costs_an_evaluation_of_the_weak_network_where_it_acts(kind):
    sampler = DDIM(10, grid=grid.karras)
    alpha, sigma = VP()(sampler.grid(VP(), 10)[:-1])
    inside = int(((sigma / alpha > 0.3) & (sigma / alpha <= 3)).sum())
    assert 0 < inside < 10
    assert evaluations(sampler, VP()) == 10
    assert evaluations(sampler, VP(), kind(2.0)) == 20
    assert evaluations(sampler, VP(), kind(1.0)) == 10
    assert evaluations(sampler, VP(), kind(2.0, 0.3, 3.0)) == 10 + inside
    assert sampler.evaluations == 10


def test_both_evaluations_of_a_step_count():
    assert evaluations(Heun(4), VP()) == 7
    assert evaluations(Heun(4), VP(), ClassifierFree(2.0)) == 14


def test_the_printed_cost_is_with_guidance(capsys):
    settings = (DDIM(5), 3, (1, 4, 4), 2, torch.device("cpu"))
    print_cost(Blank(VP()), *settings)
    print_cost(Blank(VP()), *settings, guidance=AutoGuidance(2.0))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "3 samples × 5 network evaluations",
        "3 samples × 10 network evaluations",
    ]
