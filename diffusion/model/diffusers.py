"""Convert weights to and from diffusers' equivalent networks. Does not import diffusers.

`UNet` and `ADMUNet` are `UNet2DModel`, and `DiT` is `DiTTransformer2DModel`, with the settings that
`checkpoint.diffusers_folder.network_of` lists.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion.errors import UserError

Names = list[tuple[str, str]]

# (diffusers' name, our name). {} is a number, the same on both sides. The first entry that matches a prefix applies.
UNET_MODULES = [
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
DIT_MODULES = [
    ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_{}.", "time.linear{}."),
    ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.", "time.classes."),
    ("transformer_blocks.{}.", "blocks.{}."),
    ("pos_embed.proj.", "stem."),
    ("proj_out_1.", "modulation."),
    ("proj_out_2.", "out."),
]
# (diffusers' name, our name) of layers within a block or an attention. All other layers have the same name in both.
UNET_LAYERS = [
    ("time_emb_proj.", "time."),
    ("conv_shortcut.", "shortcut."),
    ("group_norm.", "norm."),
    ("to_qkv.", "qkv."),
    ("to_out.0.", "out."),
]
DIT_LAYERS = [
    ("norm1.linear.", "modulation."),
    ("attn1.to_qkv.", "qkv."),
    ("attn1.to_out.0.", "out."),
    ("ff.net.0.proj.", "mlp1."),
    ("ff.net.2.", "mlp2."),
]
# Each block of a DiTTransformer2DModel has its own copy of the embedding; a DiT has one for all blocks.
COPY = re.compile(r"transformer_blocks\.\d+(\.norm1\.emb\..*)")
FIRST = "transformer_blocks.0"


def rename(key: str, modules: Names, layers: Names) -> str:
    """`key` with the names of its module and its layer translated from the left column of the tables to the right."""
    for old, new in modules:
        if match := re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), key):
            rest = key[match.end() :]
            for old_layer, new_layer in layers:
                if rest.startswith(old_layer):
                    rest = new_layer + rest.removeprefix(old_layer)
                    break
            return new.format(*match.groups()) + rest
    raise KeyError(f"{key!r} is not a weight of a UNet, ADMUNet or DiT")


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `UNet`, `ADMUNet` or `DiT` from that of diffusers' network with the matching settings.

    Raises:
        KeyError: if a name does not occur in these networks, such as in weights of another architecture.
        UserError: if the blocks of a DiT have different embeddings of label and class.
    """
    names = (DIT_MODULES, DIT_LAYERS) if "pos_embed.proj.weight" in weights else (UNET_MODULES, UNET_LAYERS)
    fused: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if (copy := COPY.fullmatch(key)) and not key.startswith(f"{FIRST}."):
            if not torch.equal(tensor, weights[FIRST + copy[1]]):
                raise UserError(f"{key} differs from the first block's: a DiT has one embedding for all its blocks")
        elif ".to_q." in key:
            parts = [weights[key.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            fused[key.replace(".to_q.", ".to_qkv.")] = torch.cat(parts)
        elif ".to_k." not in key and ".to_v." not in key:
            fused[key] = tensor
    return {rename(key, *names): tensor for key, tensor in fused.items()}


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of diffusers' network with the matching settings from that of a `UNet`, `ADMUNet` or `DiT`.

    A DiT without classes gets one class, whose vector is 0, because diffusers' network needs at least one.

    Raises:
        KeyError: if a name does not occur in these networks.
    """
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})  # 0 unless it is a DiT
    tables = (DIT_MODULES, DIT_LAYERS) if depth else (UNET_MODULES, UNET_LAYERS)
    modules, layers = ([(theirs, ours)[::-1] for theirs, ours in table] for table in tables)
    if depth and "time.classes.weight" not in weights:
        weights = {**weights, "time.classes.weight": torch.zeros(2, len(weights["time.linear2.bias"]))}
    split: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        theirs = rename(key, modules, layers)
        if copy := COPY.fullmatch(theirs):
            split |= {f"transformer_blocks.{i}{copy[1]}": tensor.clone() for i in range(depth)}
        elif ".to_qkv." in theirs:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                split[theirs.replace(".to_qkv.", f".to_{part}.")] = rows.clone()
        else:
            split[theirs] = tensor
    return split
