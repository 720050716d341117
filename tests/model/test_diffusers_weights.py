"""Our networks equal those of diffusers: weights convert both ways and the outputs agree."""

from typing import Any

import pytest
import torch
from networks import filled
from torch import Tensor, nn

from diffusion.doors.diffusers_folder import from_diffusers, network_of, to_diffusers
from diffusion.model import DiT, UNet

diffusers = pytest.importorskip("diffusers")

NETWORKS: dict[str, dict[str, Any]] = {
    "unet_small": {"channels": (16, 32, 64, 64), "attention": (False, False, True, False), "groups": 8},
    "one block": {"channels": (16, 24, 32, 48), "attention": (False, False, True, True), "blocks": 1, "groups": 8},
    "classes": {"channels": (16, 32), "attention": (False, True), "groups": 8, "classes": 5},
    "heads": {"channels": (16, 32), "attention": (True, True), "groups": 4, "head_dim": 8},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_weights_give_the_same_outputs_in_diffusers_and_convert_back(name: str) -> None:
    settings = NETWORKS[name]
    ours = filled(UNet(**settings))
    theirs = network_of(ours, settings, 16).eval()
    theirs.load_state_dict(to_diffusers(ours.state_dict()))
    for width in (16, 32):
        x = torch.randn(2, 3, 16, width, generator=torch.Generator().manual_seed(1))
        agree(ours, theirs, x, torch.tensor([3, settings["classes"]]) if "classes" in settings else None)
    back = from_diffusers(theirs.state_dict())
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())


def agree(ours: nn.Module, theirs: nn.Module, x: Tensor, classes: Tensor | None, others: Tensor | None = None) -> None:
    label = torch.tensor([0, 731])
    with torch.no_grad():
        y = ours(x, label.float(), classes)
        expected = theirs(x, label, class_labels=classes if others is None else others).sample
    assert expected.std() > 0.01
    assert (y - expected).norm() / expected.norm() < 1e-5


DIT_MODULES = [
    ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_{}.", "time.linear{}."),
    ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.", "time.classes."),
    ("transformer_blocks.{}.", "blocks.{}."),
    ("pos_embed.proj.", "stem."),
    ("proj_out_1.", "modulation."),
    ("proj_out_2.", "out."),
]
DIT_LAYERS = [
    ("norm1.linear.", "modulation."), ("attn1.to_qkv.", "qkv."), ("attn1.to_out.0.", "out."),
    ("ff.net.0.proj.", "mlp1."), ("ff.net.2.", "mlp2."),
]  # fmt: skip
DITS = {
    "one channel": {"in_channels": 1, "out_channels": 2, "patch": 4, "width": 48, "depth": 3, "heads": 3},
    "classes": {"patch": 2, "width": 32, "depth": 2, "heads": 4, "classes": 5, "dropout": 0.1},
}


@pytest.mark.parametrize("name", DITS)
def test_a_dit_is_diffusers_transformer_with_one_embedding_for_all_blocks(name: str) -> None:
    settings: dict[str, Any] = {"in_channels": 3, "out_channels": 3, "classes": 0, "dropout": 0.0, **DITS[name]}
    ours = filled(DiT(**settings))
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=settings["heads"], attention_head_dim=settings["width"] // settings["heads"],
        in_channels=settings["in_channels"], out_channels=settings["out_channels"], num_layers=settings["depth"],
        dropout=settings["dropout"], sample_size=16, patch_size=settings["patch"],
        num_embeds_ada_norm=settings["classes"] or 1, norm_eps=1e-6,
    ).eval()  # fmt: skip
    theirs.load_state_dict(to_diffusers(ours.state_dict(), DIT_MODULES, DIT_LAYERS), strict=False)
    first = theirs.transformer_blocks[0].norm1.emb
    if not settings["classes"]:
        torch.nn.init.zeros_(first.class_embedder.embedding_table.weight)
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    x = torch.randn(2, settings["in_channels"], 16, 16, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([3, 5]) if settings["classes"] else None
    agree(ours, theirs, x, classes, torch.zeros(2, dtype=torch.long) if classes is None else classes)


def test_weights_of_another_architecture_are_named() -> None:
    with pytest.raises(KeyError, match=r"add_embedding\.weight"):
        from_diffusers({"add_embedding.weight": torch.zeros(1)})
