"""Weights to and from diffusers' networks: the same networks under other names. It does not import diffusers.

`UNet` is a `UNet2DModel` with `block_out_channels=channels`, `layers_per_block=blocks`, `norm_num_groups=groups`,
`attention_head_dim=head_dim`, `dropout=dropout`, `num_class_embeds=classes + 1` where there are classes,
"AttnDownBlock2D" / "AttnUpBlock2D" where `attention` is true (the up blocks are listed from the deepest), and what
`google/ddpm-cifar10-32` sets: `norm_eps=1e-6`, `downsample_padding=0`, `freq_shift=1`, `flip_sin_to_cos=False`.

`ADMUNet` is one with "ResnetDownsampleBlock2D" / "ResnetUpsampleBlock2D" where `attention` is false,
`resnet_time_scale_shift="scale_shift"`, `downsample_type="resnet"`, `upsample_type="resnet"`,
`attn_norm_num_groups=groups`, and else the defaults (`norm_eps=1e-5`, `freq_shift=0`, `flip_sin_to_cos=True`).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# (diffusers', ours); {} is a number, the same on both sides. The first entry that matches a name's start is taken.
MODULES = [
    ("time_embedding.linear_{}.", "time.linear{}."),
    ("class_embedding.", "time.classes."),
    ("conv_in.", "stem."),
    ("down_blocks.{}.attentions.{}.", "encoder.stage{}_block{}.attention."),
    ("down_blocks.{}.resnets.{}.", "encoder.stage{}_block{}."),
    ("down_blocks.{}.downsamplers.0.", "encoder.stage{}_down."),
    ("mid_block.attentions.{}.", "middle.{}.attention."),
    ("mid_block.resnets.{}.", "middle.{}."),
    ("up_blocks.{}.attentions.{}.", "decoder.stage{}_block{}.attention."),
    ("up_blocks.{}.resnets.{}.", "decoder.stage{}_block{}."),
    ("up_blocks.{}.upsamplers.0.", "decoder.stage{}_up."),
    ("conv_norm_out.", "norm."),
    ("conv_out.", "out."),
]
# (diffusers', ours) within a block or an attention; the other layers have the same name.
LAYERS = [
    ("time_emb_proj.", "time."),
    ("conv_shortcut.", "shortcut."),
    ("group_norm.", "norm."),
    ("to_qkv.", "qkv."),
    ("to_out.0.", "out."),
]


def rename(key: str, modules: list[tuple[str, str]], layers: list[tuple[str, str]]) -> str:
    """`key` with its module's name and then its layer's name turned from the left column to the right."""
    for old, new in modules:
        if match := re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), key):
            rest = key[match.end() :]
            for old_layer, new_layer in layers:
                if rest.startswith(old_layer):
                    rest = new_layer + rest.removeprefix(old_layer)
                    break
            return new.format(*match.groups()) + rest
    raise KeyError(f"{key!r} is no weight of a network that diffusers and this project share")


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `UNet` or `ADMUNet` from that of the `UNet2DModel` of the same settings.

    Raises:
        KeyError: at a name that none of our networks has (another architecture).
    """
    fused: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if ".to_q." in key:
            parts = [weights[key.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            fused[key.replace(".to_q.", ".to_qkv.")] = torch.cat(parts)
        elif ".to_k." not in key and ".to_v." not in key:
            fused[key] = tensor
    return {rename(key, MODULES, LAYERS): tensor for key, tensor in fused.items()}


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `UNet2DModel` from that of the `UNet` or `ADMUNet` of the same settings.

    Raises:
        KeyError: at a name that these do not have.
    """
    modules, layers = ([(theirs, ours)[::-1] for theirs, ours in table] for table in (MODULES, LAYERS))
    split: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        theirs = rename(key, modules, layers)
        if ".to_qkv." in theirs:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                split[theirs.replace(".to_qkv.", f".to_{part}.")] = rows.clone()
        else:
            split[theirs] = tensor
    return split
