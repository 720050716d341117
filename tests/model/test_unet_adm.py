"""ADM's U-Net: its block compared with the formula, its resampling, and its output at initialisation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.model import ADMUNet
from diffusion.model.unet import Attention
from diffusion.model.unet_adm import AdaptiveBlock
from tests.support.networks import randomised


def small(**changes: object) -> ADMUNet:
    settings = {"channels": (16, 32), "attention": (False, True), "blocks": 1, "groups": 8, "head_dim": 16} | changes
    return ADMUNet(**settings)  # type: ignore[arg-type]


def averaged(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize(("resample", "resampled"), [("down", averaged), ("up", repeated), (None, lambda x: x)])
def test_the_block_equals_its_formula(resample, resampled) -> None:  # type: ignore[no-untyped-def]
    block = randomised(AdaptiveBlock(8, 12, 20, 4, 0.0, None, resample))
    x, emb = torch.randn(2, 8, 4, 6), torch.randn(2, 20)
    h = block.conv1(resampled(F.silu(F.group_norm(x, 4, block.norm1.weight, block.norm1.bias))))
    s, b = (emb @ block.time.weight.T + block.time.bias).split(12, dim=1)
    h = F.group_norm(h, 4, block.norm2.weight, block.norm2.bias) * (1 + s[..., None, None]) + b[..., None, None]
    expected = block.shortcut(resampled(x)) + block.conv2(F.silu(h))
    torch.testing.assert_close(block(x, emb), expected, rtol=1e-4, atol=1e-5)


def test_at_initialisation_blocks_equal_their_shortcuts_and_the_output_is_zero() -> None:
    network, x = small(), torch.randn(2, 3, 8, 8)
    y = network(x, torch.tensor([3.0, 700.0]))
    assert torch.equal(y, torch.zeros_like(y))
    h, emb = torch.randn(2, 16, 4, 4), torch.randn(2, 64)
    assert torch.equal(network.encoder["stage0_down"](h, emb), F.avg_pool2d(h, 2))
    block = network.encoder["stage1_block0"]
    assert torch.equal(block(h, emb), block.shortcut(h))


def test_attention_heads_have_the_given_width() -> None:
    network = small(channels=(16, 64), head_dim=16)
    widths = {name: m.head_dim for name, m in network.named_modules() if isinstance(m, Attention)}
    assert set(widths.values()) == {16}
    assert list(widths) == [
        f"{block}.attention"
        for block in ("encoder.stage1_block0", "middle.0", "decoder.stage0_block0", "decoder.stage0_block1")
    ]
