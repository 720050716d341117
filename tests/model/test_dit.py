"""DiT: its output at initialisation, its patches and positions, and its block compared with the formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion.model import DiT
from diffusion.model.dit import positions, to_image


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
