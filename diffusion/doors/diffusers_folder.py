"""Models as diffusers pipeline folders, which diffusers itself writes and reads: JSON and safetensors, no code.

    model_index.json                               the classes of the parts
    unet/config.json
    unet/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json
    vae/                                           only of a model in latents, and only in ours: its autoencoder
    recipe.json                                    only in ours: `Restored.about`

The recipe says what the other files cannot: the data, the number of sampling steps, the labels. A folder without it is
read if its network and scheduler have a counterpart here: converted to diffusers again, it must have each setting in
the folder.
"""

import inspect
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn

from diffusion.base.pixels import height_width, resolution_of
from diffusion.config.build import make
from diffusion.config.choices import choice, composed
from diffusion.errors import UserError, first_line, imported
from diffusion.kinds.encoder import VAE
from diffusion.model import UNet
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import DDIM, Ancestral, Sampler
from diffusion.process.schedule import Discrete, Schedule
from diffusion.recipe.facts import Facts

if TYPE_CHECKING:
    from diffusion.checkpoint.restore import Restored

INDEX, RECIPE = "model_index.json", "recipe.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# that are read:
FILES = (INDEX, RECIPE, "unet/*.json", "unet/*.safetensors", "scheduler/*.json", "vae/*.json", "vae/*.safetensors")
STEPS = 1000  # the T for which a network's time label 1000·t − 1 is diffusers' timestep
CLASSES = "time.classes.weight"
SETTINGS = {  # ours -> diffusers'
    "in_channels": "in_channels", "out_channels": "out_channels", "channels": "block_out_channels",
    "blocks": "layers_per_block", "dropout": "dropout", "groups": "norm_num_groups", "head_dim": "attention_head_dim",
    "norm_eps": "norm_eps", "down_padding": "downsample_padding", "frequency_shift": "freq_shift",
    "cosines_first": "flip_sin_to_cos",
}  # fmt: skip
NAMES = {  # of classes and functions: ours -> diffusers'
    "Eps": "epsilon", "V": "v_prediction", "X0": "sample", "DDIM": "DDIMScheduler", "Ancestral": "DDPMScheduler",
    "uniform": "trailing", "leading": "leading", "fixed_small": "fixed_small", "fixed_large": "fixed_large",
    "clip": "clip_sample",
}  # fmt: skip
OURS = {theirs: ours for ours, theirs in NAMES.items()}
TABLE = ("beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr")
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


def library() -> Any:
    """The module `diffusers`, without its warnings. Raises UserError if it is not installed."""
    diffusers = imported("diffusers", "a diffusers folder", "diffusers")
    diffusers.utils.logging.set_verbosity(50)  # CRITICAL
    return diffusers


def write(folder: Path, model: "Restored") -> str:
    """Write a model with the sampler in its configuration; returns a line on how diffusers draws the same images.

    Raises UserError, before anything is written, for parts without a counterpart in diffusers and for a folder that
    exists.
    """
    if model.facts.condition is not None:
        raise UserError("condition: diffusers' U-Nets have none like it; export a safetensors file")
    model.kind.require("export --format diffusers")
    if model.config["data"].get("scale", 1.0) != 1:
        raise UserError("data.scale: diffusers' pipelines have none; export a safetensors file")
    denoiser, sampler = model.denoiser, make(model.config["sampler"], "sampler", Sampler)
    network = network_of(denoiser.network, model.model, resolution_of(*model.kind.space(model.shape)[1:]))
    scheduler = scheduler_of(denoiser.schedule, denoiser.prediction, sampler)
    if folder.exists():
        raise UserError(f"{folder}: already exists; choose another")
    network.load_state_dict(to_diffusers(denoiser.network.state_dict()))
    pipeline = type(scheduler).__name__.replace("Scheduler", "Pipeline")
    getattr(library(), pipeline)(network, scheduler).save_pretrained(folder)
    (folder / RECIPE).write_text(json.dumps(model.about, indent=1))
    if encoder := getattr(model.kind, "encoder", None):
        if isinstance(encoder, VAE):
            encoder.network.save_pretrained(folder / "vae")
        return (
            f".unet and .scheduler of DiffusionPipeline.from_pretrained({str(folder)!r}) draw latents x; "
            "the autoencoder in vae/ decodes mean + 2 deviation x, of facts.figures in recipe.json"
        )
    words = f"num_inference_steps={sampler.steps}"
    if isinstance(sampler, DDIM):
        words += f", eta={sampler.eta:g}, use_clipped_model_output=True"
    how = f": draw with its .unet and .scheduler ({words}), as the pipeline takes no classes"
    return f"DiffusionPipeline.from_pretrained({str(folder)!r}){how if model.labels else f'({words})'}"


def network_of(network: nn.Module, model: Mapping[str, Any], size: int | list[int]) -> Any:
    """diffusers' counterpart of a network, with new weights. Raises UserError for a network without one.

    Args:
        model: the configuration node that the network was built from.
        size: the side of the images, or [height, width], in pixels.
    """
    if type(network) is not UNet:
        raise UserError(f"model: diffusers has no counterpart of {type(network).__name__}, only of UNet")
    defaults = {name: p.default for name, p in inspect.signature(UNet).parameters.items()}
    chosen = {name: model.get(name, default) for name, default in defaults.items()}
    wanted = ("augment", 0), ("coordinates", False), ("patch", 1), ("axes", 2), ("out_channels", chosen["in_channels"])
    for key, only in wanted:
        if chosen[key] != only:
            raise UserError(f"model.{key}={chosen[key]}: diffusers' U-Nets have only {key}={only}")
    return library().UNet2DModel(
        **{theirs: chosen[ours] for ours, theirs in SETTINGS.items()},
        sample_size=size,
        down_block_types=["AttnDownBlock2D" if attends else "DownBlock2D" for attends in chosen["attention"]],
        up_block_types=["AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(chosen["attention"])],
        num_class_embeds=chosen["classes"] + 1 if chosen["classes"] else None,
    )


def scheduler_of(table: Schedule, prediction: Prediction, sampler: Sampler) -> Any:
    """diffusers' scheduler. Raises UserError for a part that it does not have, or that works differently there."""
    if not isinstance(table, Discrete) or table.steps != STEPS:
        raise UserError(f"schedule: diffusers has only tables of {STEPS} steps")
    name, spacing = _theirs(sampler), _theirs(sampler.grid)
    settings: dict[str, Any] = {"trained_betas": table.betas().tolist(), "prediction_type": _theirs(prediction)}
    settings |= {"timestep_spacing": spacing, "clip_sample": False}
    if sampler.threshold is not None:
        settings[_theirs(sampler.threshold)] = True
        settings["clip_sample_range"] = float(getattr(sampler.threshold, "keywords", {}).get("limit", 1))
    if isinstance(sampler, Ancestral):
        settings["variance_type"] = _theirs(sampler.variance)
    noisy = settings.get("variance_type") == "fixed_large" and sampler.steps < STEPS  # in the last step
    if spacing == "trailing" and (STEPS % sampler.steps or noisy):
        raise UserError(
            f"sampler.steps={sampler.steps}: on the grid uniform, diffusers needs a divisor of {STEPS}, or with "
            f"fixed_large {STEPS} itself; --sampler chooses others, or another grid"
        )
    return getattr(library(), name)(**settings)


def _theirs(part: Any) -> str:
    """diffusers' name of an object of a class, or of a function, which may be a partial."""
    name = getattr(getattr(part, "func", part), "__name__", type(part).__name__)
    if name not in NAMES:
        raise UserError(f"diffusers has no counterpart of {name}; it has those of --sampler ddim and ancestral")
    return NAMES[name]


def read(folder: Path, prefix: str, about: Collection[str]) -> dict[str, Any]:
    """Read the model of any pipeline folder, in the form of a checkpoint: `prefix` is added to each tensor's name.

    `about` are the keys that the recipe of a folder of ours may have. Raises UserError for parts that are missing,
    unreadable, or have no counterpart here.
    """
    their = library()
    how = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True}  # a pickle could run code
    try:
        check_index(folder / INDEX)
        network, loaded = their.UNet2DModel.from_pretrained(folder / "unet", **how)
        if wrong := [key for keys in loaded.values() for key in keys]:
            raise ValueError(f"its weights do not fit its network, such as {wrong[0]}")
        weights = from_diffusers(network.state_dict())
        if (folder / RECIPE).is_file():
            contents = {key: value for key, value in _json(folder / RECIPE).items() if key in about}
        else:
            contents = _foreign(folder, dict(network.config))
            if contents["labels"]:  # our last row is "no class"; theirs are all classes
                weights[CLASSES] = torch.cat([weights[CLASSES], torch.zeros_like(weights[CLASSES][:1])])
    except Exception as error:  # damaged and foreign files raise many kinds
        raise UserError(
            f"{folder}: it has no counterpart here: {first_line(error)} (of pickles, "
            "DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW) makes safetensors)"
        ) from error
    return contents | {"state_dict": {prefix + key: value for key, value in weights.items()}}


def check_index(file: Path) -> None:
    """Raise ValueError for the index of a pipeline with other parts than a UNet2DModel and a scheduler."""
    parts = {key: part for key, part in _json(file).items() if isinstance(part, list)}
    if parts.get("unet") != ["diffusers", "UNet2DModel"] or parts.keys() - {"unet", "scheduler"}:
        raise ValueError(f"its parts are {parts}; expected a UNet2DModel and a scheduler")


def _json(file: Path) -> dict[str, Any]:
    return {**json.loads(file.read_text("utf-8"))}


def _foreign(folder: Path, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a checkpoint, without weights, of a network of others with these settings."""
    size = theirs["sample_size"]
    model = choice("model", "unet_small") | {
        **{ours: theirs[name] for ours, name in SETTINGS.items()},
        "channels": list(theirs["block_out_channels"]),
        "attention": [block == "AttnDownBlock2D" for block in theirs["down_block_types"]],
        "classes": theirs["num_class_embeds"] or 0,
    }
    with torch.device("meta"):
        again = network_of(make(model, "model"), model, size)
    _check_same(theirs, again.config, but=("num_class_embeds",))
    images = {"resolution": resolution_of(*height_width(size)), "channels": theirs["in_channels"]}
    data = {**composed("train")["data"], **images}
    facts, model["classes"] = Facts({"classes": model["classes"]}), 0  # in a configuration, it follows from the labels
    config = {"model": model, **_process(folder / "scheduler"), "data": data, "seed": 0, "label_dropout": 0.0}
    labels = {str(number): 1 for number in range(facts.arguments["classes"])}
    return {"config": yaml.safe_dump(config), "facts": facts.written(), "global_step": 0, "epoch": 0, "labels": labels}


def _process(folder: Path) -> dict[str, dict[str, Any]]:
    """The nodes `schedule`, `prediction` and `sampler` of our configuration that the folder's scheduler describes."""
    name = _json(folder / "scheduler_config.json").get("_class_name")
    if name not in ("DDPMScheduler", "DDIMScheduler"):
        raise ValueError(f"its scheduler is {name}, and can only be DDPMScheduler or DDIMScheduler")
    scheduler = getattr(library(), name).from_pretrained(folder)
    theirs = scheduler.config
    threshold = {"limit": float(theirs["clip_sample_range"])} if theirs["clip_sample"] else None
    settings: dict[str, Any] = {"grid": OURS[theirs["timestep_spacing"]], "threshold": threshold}
    if name == "DDPMScheduler":
        settings["variance"] = theirs["variance_type"]
    betas = scheduler.betas.double().clamp(max=1 - 1e-12).tolist()
    nodes = {
        "schedule": choice("schedule", "table", betas=betas, steps=None),
        "prediction": choice("prediction", OURS[theirs["prediction_type"]].lower()),
        "sampler": choice("sampler", OURS[name].lower(), **settings),
    }
    made = {part: make(node, part) for part, node in nodes.items()}
    _check_same(theirs, scheduler_of(made["schedule"], made["prediction"], made["sampler"]).config, but=TABLE)
    return nodes


def _check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], but: tuple[str, ...]) -> None:
    """Raise ValueError for a setting of theirs that our counterpart, converted to diffusers again, does not have."""
    for key, value in ours.items():
        if key not in but and not key.startswith("_") and json.dumps(theirs.get(key)) != json.dumps(value):
            raise ValueError(f"{key} is {theirs.get(key)!r:.60}, and can only be {value!r:.60}")


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
