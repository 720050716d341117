"""JiT: its output at initialisation, its rotary embedding, its block compared with the formula, its bottleneck."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.model import JiT
from diffusion.model.jit import Block, rotate, rotations
from tests.support.networks import randomised


def small(**changes: object) -> JiT:
    settings = {"patch": 2, "bottleneck": 6, "width": 16, "depth": 2, "heads": 2} | changes
    return JiT(**settings)  # type: ignore[arg-type]


def images(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 700.0])


def test_at_initialisation_blocks_are_the_identity_and_the_output_is_zero() -> None:
    network, (x, label) = small(), images()
    y = network(x, label)
    assert torch.equal(y, torch.zeros_like(y))
    h, emb, turns = torch.randn(2, 16, 16), torch.randn(2, 16), rotations(4, 4, 8, torch.device("cpu"))
    assert all(torch.equal(block(h, emb, *turns), h) for block in network.blocks)
    assert all((p == 1).all() for name, p in network.named_parameters() if "norm" in name)
    assert not small(augment=9).time.augment.any()


def test_rotations_match_a_hand_computed_example() -> None:
    cos, sin = rotations(2, 3, 8, torch.device("cpu"))
    row, column = 1, 2  # of the last token; frequencies 1 and 1/100
    angles = [row, row / 100, column, column / 100]
    torch.testing.assert_close(cos[5], torch.tensor([math.cos(a) for a in angles]))
    torch.testing.assert_close(sin[5], torch.tensor([math.sin(a) for a in angles]))


def test_dot_products_of_rotated_vectors_depend_only_on_the_offset() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    turns = [part.double() for part in rotations(6, 5, 16, torch.device("cpu"))]
    products = (rotate(q.expand(30, 16), *turns) @ rotate(k.expand(30, 16), *turns).T).reshape(6, 5, 6, 5)
    for rows, columns in ((1, 0), (0, 2), (3, 1)):
        same = torch.stack([products[i, j, i + rows, j + columns] for i in range(6 - rows) for j in range(5 - columns)])
        torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-5)
    assert products[0, 0].std() > 0.1
    torch.testing.assert_close(rotate(q, *(part[29] for part in turns)).norm(), q.norm())


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def test_the_block_equals_its_formula() -> None:
    block = randomised(Block(16, 2, 10, 0.0))
    x, emb, turns = torch.randn(3, 6, 16), torch.randn(3, 16), rotations(2, 3, 8, torch.device("cpu"))
    b1, g1, a1, b2, g2, a2 = block.modulation(emb)[:, None].split(16, dim=2)
    q, k, v = block.qkv(rms_norm(x, block.norm1.weight) * (1 + g1) + b1).chunk(3, dim=2)
    heads = []
    for s in (slice(0, 8), slice(8, 16)):
        q_s = rotate(rms_norm(q[..., s], block.norm_q.weight), *turns)
        k_s = rotate(rms_norm(k[..., s], block.norm_k.weight), *turns)
        heads.append((q_s @ k_s.mT / math.sqrt(8)).softmax(dim=2) @ v[..., s])
    h = x + a1 * block.out(torch.cat(heads, dim=2))
    w1, w2 = block.mlp1(rms_norm(h, block.norm2.weight) * (1 + g2) + b2).chunk(2, dim=2)
    torch.testing.assert_close(block(x, emb, *turns), h + a2 * block.mlp2(F.silu(w1) * w2), rtol=1e-4, atol=1e-5)


def test_parameter_counts_match_the_published_ones() -> None:
    """131 and 459 million parameters of JiT-B/16 and JiT-L/16, with 1000 classes."""
    for settings, millions in (({}, 131), ({"width": 1024, "depth": 24, "heads": 16}, 459)):
        with torch.device("meta"):
            network = JiT(patch=16, classes=1000, **settings)  # type: ignore[arg-type]
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)
