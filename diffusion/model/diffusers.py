"""Convert weights of `UNet` and `ADMUNet` to and from diffusers' `UNet2DModel`. Does not import diffusers.

The settings of the two networks are matched by `checkpoint.diffusers_folder.network_of`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Names = list[tuple[str, str]]

# (diffusers' name, our name). {} is a number, the same on both sides. The first entry that matches a prefix applies.
MODULES: Names = [
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
# (diffusers' name, our name) of layers within a block or an attention. All other layers have the same name in both.
LAYERS: Names = [
    ("time_emb_proj.", "time."),
    ("conv_shortcut.", "shortcut."),
    ("group_norm.", "norm."),
    ("to_qkv.", "qkv."),
    ("to_out.0.", "out."),
]


def rename(key: str, modules: Names, layers: Names) -> str:
    """`key` with the names of its module and its layer translated from the left column of the tables to the right."""
    for old, new in modules:
        if match := re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), key):
            rest = key[match.end() :]
            layer = next((pair for pair in layers if rest.startswith(pair[0])), ("", ""))
            return new.format(*match.groups()) + layer[1] + rest.removeprefix(layer[0])
    raise KeyError(f"{key!r} has no counterpart in the other network")


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our `state_dict` from that of diffusers' network. Raises KeyError for the weights of another architecture."""
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if ".to_q." in key:
            tensor = torch.cat([weights[key.replace(".to_q.", f".to_{part}.")] for part in "qkv"])
        if ".to_k." not in key and ".to_v." not in key:
            found[rename(key.replace(".to_q.", ".to_qkv."), MODULES, LAYERS)] = tensor
    return found


def to_diffusers(weights: Mapping[str, Tensor], modules: Names = MODULES, layers: Names = LAYERS) -> dict[str, Tensor]:
    """The `state_dict` of diffusers' network from ours. Raises KeyError for the weights of another architecture."""
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        theirs = rename(key, [names[::-1] for names in modules], [names[::-1] for names in layers])
        if ".to_qkv." in theirs:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[theirs.replace("qkv", part)] = rows.clone()
        else:
            found[theirs] = tensor
    return found
