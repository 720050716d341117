"""Networks that exist in diffusers, too: convert our settings to its config.json and back.

Their weights are converted in `model.diffusers`.

| ours | diffusers |
| --- | --- |
| `UNet` with `patch` 1 | `UNet2DModel`, with default settings or those of google/ddpm-cifar10-32 |
| `ADMUNet` with `patch` 1 | `UNet2DModel` with resampling blocks and adaptive group norm |
| `DiT` with `mlp_ratio` 4 | `DiTTransformer2DModel` |
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from diffusion.checkpoint.fields import LARGEST, Fields
from diffusion.errors import UserError
from diffusion.model import ADMUNet, DiT, UNet
from diffusion.pixels import height_width

UNET, DIT = "UNet2DModel", "DiTTransformer2DModel"
PART = {UNET: "unet", DIT: "transformer"}  # name and folder of the network in a pipeline

UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3], "mid_block_type": "UNetMidBlock2D",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"], "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2, "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv",
    "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8, "norm_num_groups": 32,
    "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default", "add_attention": True,
    "class_embed_type": None, "num_class_embeds": None,
}  # fmt: skip
UNET_FIXED = (
    "center_input_sample", "time_embedding_type", "mid_block_type", "mid_block_scale_factor", "act_fn",
    "add_attention", "class_embed_type",
)  # fmt: skip
STYLES: dict[type[UNet], dict[str, Any]] = {
    UNet: {"resnet_time_scale_shift": "default", "downsample_type": "conv", "upsample_type": "conv"},
    ADMUNet: {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"},
}
BLOCKS: dict[type[UNet], tuple[str, str]] = {
    UNet: ("DownBlock2D", "UpBlock2D"),
    ADMUNet: ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
}
ATTENDING = ("AttnDownBlock2D", "AttnUpBlock2D")

DIT_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": None, "num_layers": 28,
    "dropout": 0.0, "attention_bias": True, "sample_size": 32, "patch_size": 2, "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000, "upcast_attention": False, "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False, "norm_eps": 1e-5,
}  # fmt: skip
DIT_FIXED = {
    "attention_bias": True, "activation_fn": "gelu-approximate", "upcast_attention": False,
    "norm_type": "ada_norm_zero", "norm_elementwise_affine": False, "norm_eps": 1e-6,
}  # fmt: skip


def network_config(network: nn.Module, model: Mapping[str, Any], size: int | list[int]) -> dict[str, Any]:
    """The config.json for diffusers' counterpart of a network.

    Args:
        model: the configuration node that the network was built from.
        size: the side of the images, or [height, width], in pixels.

    Raises UserError for a network without a counterpart.
    """
    kind = type(network)
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    chosen = {**defaults, **{key: value for key, value in model.items() if key in defaults}}
    if chosen.get("augment"):
        raise UserError(f"model.augment={chosen['augment']}: diffusers' networks have no augmentation labels")
    if chosen.get("coordinates"):
        raise UserError("model.coordinates=true: diffusers' networks do not add coordinates, so it cannot be exported")
    if kind is DiT:
        return _dit_config(chosen, size)
    if kind not in STYLES:
        names = ", ".join(known.__name__ for known in (*STYLES, DiT))
        raise UserError(f"model: diffusers has no counterpart of {kind.__name__}, only of {names}")
    if chosen["patch"] != 1:
        raise UserError(f"model.patch={chosen['patch']}: diffusers' U-Nets work on pixels, so only patch=1 is exported")
    assert isinstance(network, UNet)
    return _unet_config(network, chosen, size)


def _unet_config(network: UNet, chosen: Mapping[str, Any], size: int | list[int]) -> dict[str, Any]:
    kind = type(network)
    down, up = BLOCKS[kind]
    attention = list(chosen["attention"])
    return {
        **UNET_DEFAULTS,
        **STYLES[kind],
        "_class_name": UNET,
        "sample_size": size,
        "in_channels": chosen["in_channels"],
        "out_channels": chosen["out_channels"],
        "down_block_types": [ATTENDING[0] if attends else down for attends in attention],
        "up_block_types": [ATTENDING[1] if attends else up for attends in reversed(attention)],
        "block_out_channels": list(chosen["channels"]),
        "layers_per_block": chosen["blocks"],
        "dropout": chosen["dropout"],
        "attention_head_dim": chosen["head_dim"],
        "norm_num_groups": chosen["groups"],
        "attn_norm_num_groups": chosen["groups"] if kind is ADMUNet else None,
        "num_class_embeds": chosen["classes"] + 1 if chosen["classes"] else None,
        "norm_eps": network.norm_eps,
        "downsample_padding": network.down_padding if kind is UNet else 1,
        "freq_shift": network.frequency_shift,
        "flip_sin_to_cos": network.cosines_first,
    }


def _dit_config(chosen: Mapping[str, Any], size: int | list[int]) -> dict[str, Any]:
    height, width = height_width(size)
    if height != width:
        raise UserError(f"data.resolution=[{height},{width}]: diffusers' DiT supports only square images")
    if int(chosen["mlp_ratio"] * chosen["width"]) != 4 * chosen["width"]:
        raise UserError(f"model.mlp_ratio={chosen['mlp_ratio']:g}: diffusers' DiT supports only 4")
    return {
        **DIT_DEFAULTS,
        **DIT_FIXED,
        "_class_name": DIT,
        "sample_size": height,
        "in_channels": chosen["in_channels"],
        "out_channels": chosen["out_channels"],
        "patch_size": chosen["patch"],
        "num_attention_heads": chosen["heads"],
        "attention_head_dim": chosen["width"] // chosen["heads"],
        "num_layers": chosen["depth"],
        "dropout": chosen["dropout"],
        "num_embeds_ada_norm": chosen["classes"] or 1,
    }


def model_node(theirs: Fields, layers: int) -> dict[str, Any]:
    """The node `model` of our configuration that builds the network of a config.json.

    Every class embedding of a U-Net is that of a class; it has none for "no class".

    Args:
        theirs: the fields of config.json, with the defaults of its class.
        layers: number of tensors of the network, an upper bound for its number of layers.

    Raises UserError for settings without a counterpart.
    """
    kind = theirs.one_of("_class_name", [UNET, DIT])
    return _dit_node(theirs, layers) if kind == DIT else _unet_node(theirs, layers)


def _unet_node(theirs: Fields, layers: int) -> dict[str, Any]:
    for key in UNET_FIXED:
        theirs.one_of(key, [UNET_DEFAULTS[key]])
    differing = {kind: theirs.differing(style) for kind, style in STYLES.items()}
    kind = min(differing, key=lambda each: len(differing[each]))
    if differing[kind]:
        theirs.refuse(differing[kind][0], f"{STYLES[kind][differing[kind][0]]!r}, as in a {kind.__name__}")
    channels, groups = theirs.wholes("block_out_channels"), theirs.whole("norm_num_groups")
    if channels[0] % 2:
        theirs.refuse("block_out_channels", "an even first width, for the sines and cosines of the time")
    theirs.one_of("time_embedding_dim", [None, 4 * channels[0]])
    theirs.one_of("attn_norm_num_groups", [groups] if kind is ADMUNet else [None, groups])
    blocks = theirs.whole("layers_per_block")
    if blocks * len(channels) > layers:
        theirs.refuse("layers_per_block", f"fewer, because the file contains {layers} tensors")
    attention = []
    for key, plain, attending in zip(("down_block_types", "up_block_types"), BLOCKS[kind], ATTENDING, strict=True):
        types = theirs.values.get(key)
        if not isinstance(types, list) or len(types) != len(channels) or not {*map(str, types)} <= {plain, attending}:
            theirs.refuse(key, f"{plain} or {attending} for each of {len(channels)} levels")
        attention.append([each == attending for each in types])
    if attention[0] != attention[1][::-1]:
        theirs.refuse("up_block_types", "attention on the levels that have it in down_block_types")
    return {
        "_target_": f"diffusion.model.{kind.__name__}",
        "in_channels": theirs.whole("in_channels"),
        "out_channels": theirs.whole("out_channels"),
        "channels": channels,
        "blocks": blocks,
        "attention": attention[0],
        "dropout": theirs.number("dropout", 0, 1),
        "groups": groups,
        "head_dim": None if theirs.values.get("attention_head_dim") is None else theirs.whole("attention_head_dim"),
        "classes": 0 if theirs.values.get("num_class_embeds") is None else theirs.whole("num_class_embeds"),
        "patch": 1,
        "checkpointing": False,
        "norm_eps": theirs.number("norm_eps", 1e-12, 1),
        "down_padding": theirs.one_of("downsample_padding", [0, 1]) if kind is UNet else 0,
        "frequency_shift": theirs.one_of("freq_shift", [0, 1]),
        "cosines_first": theirs.flag("flip_sin_to_cos"),
    }


def _dit_node(theirs: Fields, layers: int) -> dict[str, Any]:
    for key, value in DIT_FIXED.items():
        theirs.one_of(key, [value])
    depth, heads = theirs.whole("num_layers"), theirs.whole("num_attention_heads")
    channels = theirs.whole("in_channels")
    if isinstance(theirs.values.get("sample_size"), list):
        theirs.refuse("sample_size", "one number: its images are square")
    if depth > layers:
        theirs.refuse("num_layers", f"fewer, because the file contains {layers} tensors")
    return {
        "_target_": "diffusion.model.DiT",
        "in_channels": channels,
        "out_channels": channels if theirs.values.get("out_channels") is None else theirs.whole("out_channels"),
        "patch": theirs.whole("patch_size"),
        "width": heads * theirs.whole("attention_head_dim", high=LARGEST // heads),
        "depth": depth,
        "heads": heads,
        "mlp_ratio": 4.0,
        "dropout": theirs.number("dropout", 0, 1),
        "classes": theirs.whole("num_embeds_ada_norm"),
        "checkpointing": False,
    }
