"""Checkpoints that the authors of a network have published: its weights, under other names and without a recipe.

The choices of conf/authors, and those of the user's own folder, describe such networks: the words of a recipe, and how
the weights are named. Weights are recognized by their names and shapes, which are those of exactly one of the choices.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from diffusion.config.build import make
from diffusion.config.choices import choice, choices, composed
from diffusion.errors import UserError, first_line
from diffusion.kinds.encoder import DEVIATION
from diffusion.kinds.latents import Latents
from diffusion.model.unet import Attention
from diffusion.recipe.facts import Facts

KEPT = ("model", "schedule", "prediction", "objective", "encoder", "sampler", "data", "seed", "label_dropout")
AVERAGED_RAW = "model_ema1", "ema", "model", "state_dict"  # the weights of a training, by their names
# The names of layers, theirs -> ours.
ADM_BLOCK = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "shortcut",
}  # fmt: skip
ADM_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
ADM_ENDS = {
    "time_embed.0": "time.linear1", "time_embed.2": "time.linear2", "label_emb": "time.classes",
    "input_blocks.0.0": "stem", "out.0": "norm", "out.2": "out",
}  # fmt: skip
BLOCK = {  # of DiT, SiT and JiT
    "norm1": "norm1", "norm2": "norm2", "attn.q_norm": "norm_q", "attn.k_norm": "norm_k", "attn.qkv": "qkv",
    "attn.proj": "out", "mlp.w12": "mlp1", "mlp.w3": "mlp2", "mlp.fc1": "mlp1", "mlp.fc2": "mlp2",
    "adaLN_modulation.1": "modulation",
}  # fmt: skip
ENDS = {
    "t_embedder.mlp.0": "time.linear1", "t_embedder.mlp.2": "time.linear2", "in_context_posemb": "context",
    "y_embedder.embedding_table": "time.classes", "x_embedder.proj": "stem", "x_embedder.proj1": "reduce",
    "x_embedder.proj2": "stem", "final_layer.norm_final": "norm", "final_layer.linear": "out",
    "final_layer.adaLN_modulation.1": "modulation",
}  # fmt: skip


class Weights:
    """Base class: the weights of a network in the form of its authors' code.

    Args:
        recipe: the words of `diffusion train` for its network, its schedule, its prediction and its images.
    """

    first = ""  # the name of a tensor that all weights of this form have
    classes = ""  # the name of the table of classes, and whether its last row is that of "no class"
    unlabelled = False
    named = ""  # in the name of the file, where other networks have the same names and shapes
    latents: Mapping[str, Any] | None = None  # the figures of those that it works in

    def __init__(self, recipe: Sequence[str]):
        self.recipe = recipe

    def words(self, theirs: Mapping[str, Tensor]) -> Sequence[str]:
        """The words for the network with these weights."""
        return self.recipe

    def modules(self, network: Any) -> dict[str, str]:
        """The authors' names of layers, or of weights, -> ours, in a network of ours."""
        raise NotImplementedError

    def converted(self, name: str, value: Tensor, network: Any) -> Tensor:
        """A weight of the authors as the one with this name in our network."""
        raise NotImplementedError

    def translated(self, theirs: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Our `state_dict`. Raises ValueError if its names and shapes are not exactly the network's."""
        names, found = self.modules(network), dict[str, Tensor]()
        for key, value in theirs.items():
            layer, _, kind = key.rpartition(".")
            name = names.get(key) or (f"{names[layer]}.{kind}" if layer in names else f"their {key}")
            found[name] = self.converted(name, value, network)
            if key == self.classes and not self.unlabelled:
                found[name] = torch.cat([value, torch.zeros_like(value[:1])])
        own, wanted = ({name: tuple(value.shape) for name, value in s.items()} for s in (found, network.state_dict()))
        for name in wanted | own:
            if own.get(name) != wanted.get(name):
                raise ValueError(f"{name} is {own.get(name, 'missing')}, there {wanted.get(name, 'missing')}")
        return found


class ADMWeights(Weights):
    """guided-diffusion's U-Net (Dhariwal, Nichol 2021).

    Args:
        heads_first: whether the rows of its queries, keys and values are ordered by heads: the authors' default, which
            `--use_new_attention_order True` changes.
    """

    first = "input_blocks.0.0.weight"
    classes = "label_emb.weight"

    def __init__(self, recipe: Sequence[str], heads_first: bool = True):
        super().__init__(recipe)
        self.heads_first = heads_first

    def modules(self, network: Any) -> dict[str, str]:
        sequences = {f"input_blocks.{i}": [f"encoder.{name}"] for i, name in enumerate(network.encoder, 1)}
        sequences["middle_block"] = ["middle.0", "middle.1"]
        decoder = [[f"decoder.{name}"] for name in network.decoder]
        for before, after in pairwise([*decoder]):
            if after[0].endswith("_up"):  # in their code, the end of the block before it
                before += after
                decoder.remove(after)
        sequences |= {f"output_blocks.{i}": names for i, names in enumerate(decoder)}
        found = {**ADM_ENDS}
        attends = {name for name, module in network.named_modules() if isinstance(module, Attention)}
        for theirs, (first, *then) in sequences.items():
            for i, ours in enumerate([first, *{f"{first}.attention"} & attends, *then]):
                layers = ADM_ATTENTION if ours in attends else ADM_BLOCK
                found |= {f"{theirs}.{i}.{layer}": f"{ours}.{own}" for layer, own in layers.items()}
        return found

    def converted(self, name: str, value: Tensor, network: Any) -> Tensor:
        if ".attention." in name and value.ndim == 3:
            value = value.squeeze(2)  # a convolution of one pixel
        if ".attention.qkv." in name and self.heads_first:
            dim = network.get_submodule(name.rpartition(".qkv.")[0]).head_dim
            value = value.unflatten(0, (-1, 3, dim)).transpose(0, 1).flatten(0, 2)
        return value


class Transformer(Weights):
    """Base class: a transformer with a table of classes and a fixed table of positions, which tells the resolution."""

    classes = "y_embedder.embedding_table.weight"
    unlabelled = True
    factor = 1  # the side of an image divided by that of its latents

    def words(self, theirs: Mapping[str, Tensor]) -> Sequence[str]:
        side = math.isqrt(theirs["pos_embed"].shape[1]) * theirs[self.first].shape[-1] * self.factor
        return [*self.recipe, f"data.resolution={side}"]

    def modules(self, network: Any) -> dict[str, str]:
        blocks = range(len(network.blocks))
        return ENDS | {f"blocks.{i}.{key}": f"blocks.{i}.{own}" for i in blocks for key, own in BLOCK.items()}

    def translated(self, theirs: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        return super().translated({key: value for key, value in theirs.items() if key != "pos_embed"}, network)


class DiTWeights(Transformer):
    """DiT's transformer (Peebles, Xie 2023), and with `flow` SiT's (Ma et al. 2024), which are for latents.

    SiT's time is 0 for noise, so its velocity has the other sign; the second half of its outputs is not used. Its
    weights have the names and shapes of DiT's.

    Args:
        factor: the side of an image divided by that of its latents.
        scale: by which its authors multiply latents.
        named: what the file's name must contain.
    """

    first = "x_embedder.proj.weight"

    def __init__(self, recipe: Sequence[str], factor: int, scale: float, named: str, flow: bool = False):
        super().__init__(recipe)
        self.factor, self.named, self.flow, self.scale = factor, named, flow, scale

    def words(self, theirs: Mapping[str, Tensor]) -> Sequence[str]:
        n = theirs[self.first].shape[1]
        self.latents = {"key": None, "mean": [0.0] * n, "deviation": [DEVIATION / self.scale] * n}
        return super().words(theirs)

    def converted(self, name: str, value: Tensor, network: Any) -> Tensor:
        if self.flow and name.startswith("out."):
            return -value.unflatten(0, (network.patch**2, -1))[:, : network.stem.in_channels].flatten(0, 1)
        return value


class JiTWeights(Transformer):
    """JiT's transformer (Li, He 2025). Its rotations turn neighbouring features, ours those of two halves."""

    first = "x_embedder.proj1.weight"

    def converted(self, name: str, value: Tensor, network: Any) -> Tensor:
        if ".norm_q." in name or ".norm_k." in name:
            return value.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        if ".qkv." in name:
            pairs = value.unflatten(0, (3, -1, network.head_dim // 2, 2))
            return torch.cat([pairs[:2].transpose(2, 3).flatten(0, 3), pairs[2].flatten(0, 2)])
        return value[0] if name == "context" else value


def recognized(contents: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Any]:
    """What the contents of a checkpoint of authors say, in the form of ours: `prefix` is added to each tensor's name.

    They are a `state_dict`; or, as a training saves them, several under the names `model` and `model_ema1` (JiT) or
    `ema` (DiT), which are then the raw and the averaged weights. Those that no choice of conf/authors describes are
    returned unchanged, or refused with a UserError if one of the choices is of the same form.
    """
    kinds = [name for name in AVERAGED_RAW if isinstance(contents.get(name), Mapping)][:2]
    named = [contents[name] for name in kinds] or [contents]
    tensors = [{str(name): each for name, each in state.items() if torch.is_tensor(each)} for state in named]
    states = [{name.removeprefix(prefix).removeprefix("net."): each for name, each in t.items()} for t in tensors]
    reasons = []
    for name in choices("authors"):
        family: Weights = make(choice("authors", name), "authors", Weights)
        if family.first not in states[0]:
            continue
        if family.named.lower() not in path.name.lower():
            reasons.append(f"{name}: the name of its file has {family.named} in it")
            continue
        config = composed("train", family.words(states[0]))
        classes = max(0, len(states[0].get(family.classes, ())) - family.unlabelled)
        facts = Facts({"classes": classes})
        if family.latents:
            facts = replace(facts, kind=Latents.name, figures={**family.latents})
        with torch.device("meta"):
            network = make(facts.model(config), "model")
        try:
            own = [{prefix + key: value for key, value in family.translated(each, network).items()} for each in states]
        except (ValueError, RuntimeError, AttributeError) as error:  # of another network
            reasons.append(f"{name}: {first_line(error)}")
            continue
        text = yaml.safe_dump({key: config[key] for key in KEPT})
        labels = {str(i): 1 for i in range(classes)}
        about = {"config": text, "facts": facts.written(), "labels": labels}
        raw = {"current_model_state": own[1]} if len(own) > 1 else {}
        return {**about, "state_dict": own[0], **raw, "global_step": 0, "epoch": 0}
    if reasons:
        raise UserError(
            f"{path}: the weights are of none of the networks in conf/authors ({'; '.join(reasons)}); describe theirs "
            "in CONF/authors/NAME.yaml, like adm_64.yaml, and pass --config-dir CONF",
            key="ckpt",
        )
    return {**contents}
