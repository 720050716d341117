"""Optimizers and learning rates: Muon against torch's, and resuming with a state of their own."""

import math

import pytest
import torch
from composing import train
from outcomes import same, state
from torch import Tensor, nn
from torch.optim import SGD

from diffusion.config.build import make
from diffusion.config.choices import choice, choices
from diffusion.errors import UserError
from diffusion.training import lr
from diffusion.training.muon import Muon, hidden_matrices, orthogonal


class Small(nn.Module):
    """A convolution, a matrix, a table and vectors between a first and a last layer."""

    ends = ("first", "last")

    def __init__(self, seed: int = 0):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.table = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(4, 6, (3, 2))
        self.depth = nn.Conv2d(6, 1, 1)
        self.norm = nn.LayerNorm(6)
        self.matrix = nn.Linear(6, 9)
        self.last = nn.Linear(9, 3)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))


HIDDEN = ["conv.weight", "matrix.weight"]


def gradients(network: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def stepped(optimizer: torch.optim.Optimizer, network: nn.Module, steps: range = range(3)) -> dict[str, Tensor]:
    for step in steps:
        gradients(network, step)
        optimizer.step()
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def muon(network: nn.Module, **options) -> Muon:
    return Muon(network.parameters(), network, lr=0.01, weight_decay=0.1, **options)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 13)])
def test_an_orthogonal_update_keeps_its_directions_and_has_singular_values_near_1(shape):
    matrix = 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    assert s.min() > 0.01 * s.norm()
    inner = u.T @ orthogonal(matrix).float() @ vt.T
    assert inner.diagonal().min() > 0.65
    assert inner.diagonal().max() < 1.25
    assert (inner - inner.diagonal().diag()).abs().max() < 0.05  # bfloat16's rounding
    assert orthogonal(torch.zeros(shape)).abs().max() == 0


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_a_matrix_is_updated_like_in_torch_muon(shape):
    ours, theirs = Small(), Small()
    ours.matrix, theirs.matrix = nn.Linear(*shape), nn.Linear(*shape)
    theirs.load_state_dict(ours.state_dict())
    options = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    expected = stepped(torch.optim.Muon([theirs.matrix.weight], **options), theirs)["matrix.weight"]
    assert torch.equal(stepped(muon(ours), ours)["matrix.weight"], expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_updated_like_its_flattened_matrix(layout):
    network, flat = Small(), Small()
    network.to(memory_format=layout)
    flat.conv = nn.Linear(24, 6)
    with torch.no_grad():
        flat.conv.weight.copy_(network.conv.weight.flatten(1))
        flat.conv.bias.copy_(network.conv.bias)
    one, other = stepped(muon(network), network), stepped(muon(flat), flat)
    assert torch.equal(one["conv.weight"].flatten(1), other["conv.weight"])
    assert not torch.equal(one["conv.weight"], Small().conv.weight)


def test_all_other_parameters_are_updated_like_in_adamw():
    ours, theirs = Small(), Small()
    optimizer = muon(ours, betas=(0.8, 0.9), eps=1e-3)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3)
    found, expected = stepped(optimizer, ours), stepped(adamw, theirs)
    assert [name for name in found if not torch.equal(found[name], expected[name])] == HIDDEN


@pytest.mark.parametrize("name", choices("model"))
def test_every_network_declares_its_first_and_last_layers(name):
    with torch.device("meta"):
        network = make(choice("model", name), "model")
    hidden = {id(p) for p in hidden_matrices(network, network.ends)}
    names = [name for name, p in network.named_parameters() if p.ndim > 1 and id(p) not in hidden]
    assert {name.removesuffix(".weight") for name in names} == set(network.ends)


def test_unknown_or_undeclared_ends_are_refused():
    with pytest.raises(UserError, match=r"optimizer.ends: name the first and last layers of Small"):
        muon(Small(), ends=["first", "end"])
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"optimizer.ends: name the first and last layers of Sequential"):
        muon(plain)
    assert len(muon(plain, ends=["0", "2"]).param_groups[0]["params"]) == 1


@pytest.mark.parametrize("name", ["soap", "muon"])
def test_a_run_resumes_bit_for_bit(tiny, tmp_path, name):
    words = [*tiny, f"optimizer={name}", "samples.n=0", "trainer.max_steps=4"]
    words += ["optimizer.precondition_frequency=2"] if name == "soap" else []
    train([*words, "checkpoint.every_n_steps=3", "checkpoint.keep=9"], tmp_path / "whole")
    train([*words, f"ckpt={tmp_path}/whole/checkpoints/step-00000003.ckpt"], tmp_path / "rest")
    assert same(state(tmp_path / "whole"), state(tmp_path / "rest"))


def rates(make, **options) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer, 10, **options)
    values = []
    for _ in range(10):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_learning_rate_schedules_give_the_expected_rates():
    assert rates(lr.constant) == [2.0] * 10
    assert rates(lr.warmup, warmup=3) == pytest.approx([0.5, 1.0, 1.5, *[2.0] * 7])
    expected = [2 / 3, 4 / 3] + [0.2 + 1.8 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates(lr.cosine, warmup=2, final=0.1) == pytest.approx(expected)
    expected = [2 / 3, 4 / 3, 2.0, 2.0, 2.0, *[2 * (4 / step) ** 0.5 for step in range(5, 10)]]
    assert rates(lr.inverse_sqrt, warmup=2, reference=4) == pytest.approx(expected)
