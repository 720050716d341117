"""Convert weights to and from diffusers' `UNet2DModel`, the same network with other names. Does not import diffusers.

The matching settings there are `block_out_channels=channels`, `layers_per_block=blocks`, `norm_num_groups=groups`,
`attention_head_dim=head_dim` and `dropout=dropout`; "AttnDownBlock2D" and "AttnUpBlock2D" where `attention` is true (up
blocks are listed from the deepest); and, as in `google/ddpm-cifar10-32`, `norm_eps=1e-6`, `downsample_padding=0`,
`freq_shift=1` and `flip_sin_to_cos=False`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# (diffusers' name, our name). {} is a number, the same on both sides. The first entry that matches a prefix applies.
MODULES = [
    ("time_embedding.linear_{}.", "time.linear{}."),
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
# (diffusers' name, our name) of layers within a block or an attention. All other layers have the same name in both.
LAYERS = [
    ("time_emb_proj.", "time."),
    ("conv_shortcut.", "shortcut."),
    ("group_norm.", "norm."),
    ("to_qkv.", "qkv."),
    ("to_out.0.", "out."),
]


def rename(key: str, modules: list[tuple[str, str]], layers: list[tuple[str, str]]) -> str:
    """`key` with the names of its module and its layer translated from the left column of the tables to the right."""
    for old, new in modules:
        if match := re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), key):
            rest = key[match.end() :]
            for old_layer, new_layer in layers:
                if rest.startswith(old_layer):
                    rest = new_layer + rest.removeprefix(old_layer)
                    break
            return new.format(*match.groups()) + rest
    raise KeyError(f"{key!r} is not a weight of the DDPM U-Net")


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `UNet` from that of a `UNet2DModel` with the matching settings.

    Raises:
        KeyError: if a name does not occur in a DDPM U-Net, as in weights of another architecture.
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
    """The `state_dict` of a `UNet2DModel` from that of a `UNet` with the matching settings.

    Raises:
        KeyError: if a name does not occur in a `UNet`.
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
