"""DiT: its output at initialisation, its patches and positions, and its block compared with the formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion.errors import UserError
from diffusion.model import DiT
from diffusion.model.dit import Block, positions, to_image
from tests.support.networks import randomised


def small(**changes: object) -> DiT:
    return DiT(**({"patch": 2, "width": 16, "depth": 2, "heads": 2} | changes))  # type: ignore[arg-type]


def images(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 700.0])


def test_at_initialisation_blocks_are_the_identity_and_the_output_is_zero() -> None:
    network, (x, label) = small(), images()
    y = network(x, label)
    assert torch.equal(y, torch.zeros_like(y))
    h, emb = torch.randn(2, 16, 16), torch.randn(2, 16)
    assert all(torch.equal(block(h, emb), h) for block in network.blocks)
    assert float(network.time.linear1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not small(augment=9).time.augment.any()


def test_the_block_equals_its_formula() -> None:
    block = randomised(Block(16, 2, 40, 0.0))
    x, emb = torch.randn(3, 5, 16), torch.randn(3, 16)
    b1, g1, a1, b2, g2, a2 = block.modulation(emb)[:, None].split(16, dim=2)
    h = F.layer_norm(x, (16,), eps=1e-6) * (1 + g1) + b1
    q, k, v = block.qkv(h).chunk(3, dim=2)
    heads = [(q[..., s] @ k[..., s].mT / math.sqrt(8)).softmax(dim=2) @ v[..., s] for s in (slice(0, 8), slice(8, 16))]
    h = x + a1 * block.out(torch.cat(heads, dim=2))
    expected = h + a2 * block.mlp2(
        F.gelu(block.mlp1(F.layer_norm(h, (16,), eps=1e-6) * (1 + g2) + b2), approximate="tanh")
    )
    torch.testing.assert_close(block(x, emb), expected, rtol=1e-4, atol=1e-5)


def test_positions_match_a_hand_computed_example() -> None:
    where = positions(2, 3, 8, torch.device("cpu"))
    assert where.shape == (6, 8)
    row, column = 1, 2  # of the last token; frequencies 1 and 1/100
    expected = [f(n * omega) for n in (column, row) for f in (math.sin, math.cos) for omega in (1, 0.01)]
    torch.testing.assert_close(where[5], torch.tensor(expected))
    assert torch.pdist(positions(16, 16, 16, torch.device("cpu"))).min() > 0.01


def test_to_image_inverts_the_division_into_patches() -> None:
    x = torch.randn(2, 3, 4, 6)
    tokens = F.unfold(x, 2, stride=2).unflatten(1, (3, 4)).permute(0, 3, 2, 1).flatten(2)  # pixels, then channels
    assert torch.equal(to_image(tokens, 2, 4, 6), x)


def test_the_output_depends_on_the_position_of_a_patch() -> None:
    network, (x, label) = randomised(small()), images()
    moved = network(x.roll(2, dims=3), label).roll(-2, dims=3)
    assert (moved - network(x, label)).abs().max() > 1e-3


def test_attention_connects_every_pair_of_pixels() -> None:
    network, (x, label) = randomised(small(depth=1)), images()
    x.requires_grad_()
    network(x, label)[0, :, 0, 0].sum().backward()
    assert (x.grad[0] != 0).all()  # type: ignore[index]


@pytest.mark.parametrize(
    ("depth", "width", "heads", "millions", "gflop"),
    [
        (12, 384, 6, 32.9, 6.06),
        (12, 768, 12, 130.3, 23.01),
        (24, 1024, 16, 457.8, 80.71),
        (28, 1152, 16, 674.8, 118.64),
    ],
)
def test_parameter_counts_and_flops_match_the_published_ones(
    depth: int, width: int, heads: int, millions: float, gflop: float
) -> None:
    """DiT-S/2, B/2, L/2 and XL/2 (table 1), which counts a multiply-add once."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = DiT(4, 8, depth=depth, width=width, heads=heads, classes=1000)
        network(torch.empty(1, 4, 32, 32), torch.empty(1))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflop, rel=0.001)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"width": 18}, "model.width=18: expected a multiple of 4 for model.heads=2, such as model.width=16"),
        ({"heads": 3}, "model.width=16: expected a multiple of 12 for model.heads=3, such as model.width=12"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(changes: dict[str, object], found: str) -> None:
    with pytest.raises(UserError) as error:
        small(**changes)
    assert found in str(error.value)
