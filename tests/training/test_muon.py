"""Muon: the parameters that it orthogonalizes, its numbers, and resuming a run with it."""

import io
from pathlib import Path

import pytest
import torch
from composing import settings, train
from diffusion.training.optimizer import optimizer_of
from torch import Tensor, nn

from diffusion.checkpoint import storage
from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.errors import UserError
from diffusion.training import lr
from diffusion.training.muon import A, B, C, Muon, hidden_matrices, orthogonal


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


def test_five_polynomial_steps_bring_singular_values_within_bounds():
    s = torch.linspace(0.01, 1, 10_000, dtype=torch.float64)
    for _ in range(5):
        s = A * s + B * s**3 + C * s**5
    assert s.min() > 0.68
    assert s.max() < 1.21


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
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


def test_the_update_size_is_similar_to_adamw():
    """The root mean square of an update's elements is 0.2·lr for any shape of the matrix."""
    network = Small()
    network.conv, network.matrix = nn.Conv2d(8, 64, 3), nn.Linear(200, 16)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = Muon(network.parameters(), network, lr=0.01, weight_decay=0.0)
    after = stepped(optimizer, network, range(1))
    for name in HIDDEN:
        assert 0.7 < float((after[name] - before[name]).square().mean().sqrt()) / (0.2 * 0.01) < 1.2


def test_a_parameter_without_a_gradient_is_unchanged():
    network = Small()
    optimizer = muon(network)
    gradients(network, 0)
    network.conv.weight.grad = network.norm.weight.grad = None
    optimizer.step()
    assert torch.equal(network.conv.weight, Small().conv.weight)
    assert torch.equal(network.norm.weight, Small().norm.weight)
    assert not torch.equal(network.matrix.weight, Small().matrix.weight)


def test_parameters_of_other_modules_use_adamw():
    network, weight = Small(), nn.Linear(4, 4)
    optimizer = Muon([*network.parameters(), *weight.parameters()], network)
    matrices, others = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(6, 4, 3, 2), (9, 6)]
    assert any(p is weight.weight for p in others["params"])


@pytest.mark.parametrize("name", choices("model"))
def test_every_network_declares_its_first_and_last_layers(name):
    with torch.device("meta"):
        network = make(settings([f"model={name}"]).model, "model")
    hidden = {id(p) for p in hidden_matrices(network, network.ends)}
    names = [name for name, p in network.named_parameters() if p.ndim > 1 and id(p) not in hidden]
    assert {name.removesuffix(".weight") for name in names} == set(network.ends)
    shapes = dict(network.named_parameters())
    first, last = shapes[f"{network.ends[0]}.weight"], shapes[f"{network.ends[-1]}.weight"]
    assert first.shape[1] % 3 in (0, 1)  # the image's channels; in EDM2 one more with ones
    assert last.shape[0] % 3 == 0


def test_the_class_embedding_uses_adamw():
    for name, table in (("edm2_tiny", "label.weight"), ("dit_tiny", "time.classes.weight")):
        network = make(settings([f"model={name}", "model.classes=10"]).model, "model")
        hidden = {id(p) for p in hidden_matrices(network, network.ends)}
        assert id(dict(network.named_parameters())[table]) not in hidden


def test_unknown_or_undeclared_ends_are_refused():
    with pytest.raises(UserError, match=r"optimizer.ends=\[first,end\]: Small has no layer with one of these names"):
        muon(Small(), ends=["first", "end"])
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"optimizer.ends=null: Sequential does not declare"):
        muon(plain)
    assert len(muon(plain, ends=["0", "2"]).param_groups[0]["params"]) == 1


def test_training_resumes_bit_for_bit_from_a_saved_optimizer_state():
    whole = Small()
    expected = stepped(muon(whole), whole, range(6))
    first, rest = Small(), Small(seed=1)
    optimizer = muon(first)
    stepped(optimizer, first, range(3))
    file = io.BytesIO()
    torch.save({"weights": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    rest.load_state_dict(saved["weights"])
    loaded = Muon(rest.parameters(), rest)
    loaded.load_state_dict(saved["optimizer"])
    found = stepped(loaded, rest, range(3, 6))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_schedule_changes_the_learning_rate_of_all_parameters():
    network = Small()
    optimizer = muon(network)
    scheduler = lr.warmup(optimizer, 10, warmup=3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0025, 0.0025]
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    small = stepped(optimizer, network, range(1))
    for _ in range(3):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]
    fresh = Small()
    large = stepped(muon(fresh), fresh, range(1))
    for name, start in before.items():
        torch.testing.assert_close(4 * (small[name] - start), large[name] - start, rtol=1e-3, atol=1e-5)


def test_an_optimizer_receives_the_network_only_if_it_accepts_it():
    network = Small()
    assert isinstance(optimizer_of(make(settings(["optimizer=muon"]).optimizer, "optimizer"), network.parameters(),
                                   network), Muon)  # fmt: skip
    adamw = optimizer_of(make(settings([]).optimizer, "optimizer"), network.parameters(), network)
    assert type(adamw) is torch.optim.AdamW


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["current_model_state"]


def test_a_run_resumes_bit_for_bit_and_uses_new_settings(tiny, tmp_path):
    overrides = [*tiny, "optimizer=muon", "lr_scheduler=warmup", "trainer.gradient_clip_val=1.0", "score=off",
                 "samples.n=0"]  # fmt: skip
    train([*overrides, "trainer.max_steps=8"], tmp_path / "whole")
    train([*overrides, "trainer.max_steps=5"], tmp_path / "first")
    ckpt = f"ckpt={tmp_path}/first/checkpoints/last.ckpt"
    train([*overrides, "trainer.max_steps=8", ckpt], tmp_path / "rest")
    whole, first, rest = (weights(tmp_path / name) for name in ("whole", "first", "rest"))
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert not torch.equal(first["denoiser.network.time.linear1.weight"], rest["denoiser.network.time.linear1.weight"])
    changed = ["optimizer.lr=0.01", "optimizer.momentum=0.5", "optimizer.betas=[0.5,0.6]"]
    train([*overrides, *changed, "trainer.max_steps=6", ckpt], tmp_path / "changed")
    saved = storage.load(tmp_path / "changed/checkpoints/last.ckpt")
    matrices, others = saved["optimizer_states"][0]["param_groups"]
    assert (matrices["momentum"], *others["betas"]) == (0.5, 0.5, 0.6)
    assert matrices["initial_lr"] == others["initial_lr"] == 0.01
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.01, 0.01]
