"""Models as diffusers pipeline folders, which diffusers itself writes and reads: JSON and safetensors, no code.

    model_index.json                               the classes of the parts
    unet/config.json
    unet/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json
    recipe.json                                    only in ours: the metadata of an exported file, see `exported`

The recipe says what the other files cannot: the data, the number of sampling steps, the labels. A folder without it is
read if its network and scheduler have a counterpart here. This is checked by converting the counterpart to diffusers
again: each setting must be the one in the folder. Weights are converted in `model.diffusers`.
"""

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from diffusion.checkpoint import exported
from diffusion.config.build import make
from diffusion.config.composition import choice, composed
from diffusion.errors import UserError, first_line
from diffusion.model import ADMUNet, UNet
from diffusion.model.diffusers import from_diffusers, to_diffusers
from diffusion.pixels import height_width, resolution_of
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import DDIM, Ancestral, Sampler
from diffusion.process.schedule import Discrete, Schedule

INDEX, RECIPE = "model_index.json", "recipe.json"
STEPS = 1000  # the T for which a network's time label 1000·t − 1 is diffusers' timestep
CLASSES = "time.classes.weight"
UNET_NAMES = {  # ours -> diffusers'
    "in_channels": "in_channels", "out_channels": "out_channels", "channels": "block_out_channels",
    "blocks": "layers_per_block", "dropout": "dropout", "groups": "norm_num_groups", "head_dim": "attention_head_dim",
    "norm_eps": "norm_eps", "frequency_shift": "freq_shift", "cosines_first": "flip_sin_to_cos",
}  # fmt: skip
BLOCKS = {UNet: ("DownBlock2D", "UpBlock2D"), ADMUNet: ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
SPACINGS = {"uniform": "trailing", "leading": "leading", "linspace": "linspace"}  # our grid -> their spacing
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
TABLE = ("beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr")
NOT_OURS = (AttributeError, KeyError, TypeError, ValueError, RuntimeError, UserError)  # from settings of others


def library() -> Any:
    """The module `diffusers`. Raises UserError if it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError("a diffusers folder needs diffusers: pip install 'diffusion-experiments[diffusers]'") from error
    return diffusers


def is_folder(path: Path) -> bool:
    """Whether `path` is a pipeline folder."""
    return (path / INDEX).is_file()


def weights_file(path: Path) -> Path:
    """The file of the weights in a pipeline folder; any other file itself."""
    return path / "unet/diffusion_pytorch_model.safetensors" if path.is_dir() else path


def write(
    folder: Path,
    denoiser: Denoiser,
    sampler: Sampler,
    model: Mapping[str, Any],
    size: int | list[int],
    about: Mapping[str, str],
) -> str:
    """Write a model as a folder; returns one line that explains how to draw the same images with diffusers.

    For `model` and `size` see `network_of`, for `about` `exported.metadata`. Raises UserError, before anything is
    written, for parts without a counterpart in diffusers and for a folder that is not empty.
    """
    network = network_of(denoiser.network, model, size)
    learned = network.config.out_channels == 2 * network.config.in_channels
    scheduler = scheduler_of(denoiser.schedule, denoiser.prediction, sampler, learned)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and is not an empty folder; choose another")
    network.load_state_dict(to_diffusers(denoiser.network.state_dict()))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline = type(scheduler).__name__.replace("Scheduler", "Pipeline")
    getattr(library(), pipeline)(network, scheduler).save_pretrained(part)
    (part / RECIPE).write_text(json.dumps(dict(about), indent=1))
    part.rename(folder)
    words = f"num_inference_steps={sampler.steps}"
    if isinstance(sampler, DDIM):
        words += f", eta={sampler.eta:g}, use_clipped_model_output=True"
    call = f"DiffusionPipeline.from_pretrained({str(folder)!r})"
    if network.config.num_class_embeds is None:
        return f"{call}({words})"
    return f"{call}: draw with its .unet and .scheduler ({words}), because the pipeline takes no classes"


def network_of(network: nn.Module, model: Mapping[str, Any], size: int | list[int]) -> Any:
    """diffusers' counterpart of a network, with new weights. Raises UserError for a network without one.

    Args:
        model: the configuration node that the network was built from.
        size: the side of the images, or [height, width], in pixels.
    """
    if type(network) not in BLOCKS:
        raise UserError(f"model: diffusers has no counterpart of {type(network).__name__}, only of UNet and ADMUNet")
    assert isinstance(network, UNet)
    defaults = {name: p.default for name, p in inspect.signature(type(network)).parameters.items()}
    chosen = {name: model.get(name, default) for name, default in defaults.items()}
    for key, only in (("augment", 0), ("coordinates", False), ("patch", 1)):
        if (chosen.get(key) or only) != only:
            raise UserError(f"model.{key}={chosen[key]}: diffusers' U-Nets have only {key}={only}")
    adm = type(network) is ADMUNet
    down, up = BLOCKS[type(network)]
    chosen |= {key: getattr(network, key) for key in ("norm_eps", "frequency_shift", "cosines_first")}
    return library().UNet2DModel(
        **{theirs: chosen[ours] for ours, theirs in UNET_NAMES.items()},
        sample_size=size,
        down_block_types=["AttnDownBlock2D" if attends else down for attends in chosen["attention"]],
        up_block_types=["AttnUpBlock2D" if attends else up for attends in reversed(chosen["attention"])],
        num_class_embeds=chosen["classes"] + 1 if chosen["classes"] else None,
        downsample_padding=1 if adm else network.down_padding,
        attn_norm_num_groups=chosen["groups"] if adm else None,
        resnet_time_scale_shift="scale_shift" if adm else "default",
        downsample_type="resnet" if adm else "conv",
        upsample_type="resnet" if adm else "conv",
    )


def scheduler_of(table: Schedule, prediction: Prediction, sampler: Sampler, learned: bool) -> Any:
    """diffusers' scheduler. Raises UserError for a part that does not exist in diffusers, or works differently there.

    Args:
        learned: whether the sampler sees output channels of the network for a variance.
    """
    spacing, prediction_type = SPACINGS.get(_name(sampler.grid)), PREDICTIONS.get(type(prediction).__name__.lower())
    ancestral, partial = type(sampler) is Ancestral, sampler.steps < STEPS
    kind = _name(getattr(sampler, "variance", None))
    known = ancestral or (type(sampler) is DDIM and spacing != "linspace")
    uneven = (spacing == "trailing" and STEPS % sampler.steps) or (spacing == "linspace" and sampler.steps == 1)
    clip = _name(sampler.threshold)
    for wrong, reason in (
        (not isinstance(table, Discrete) or table.steps != STEPS, f"schedule: it has only tables of {STEPS} steps"),
        (prediction_type is None, "prediction: it has only eps, v and x0"),
        (not known or spacing is None, "sampler: it has only ddim and ancestral, on the grids uniform and leading"),
        (uneven, f"sampler.steps={sampler.steps}: its grid has other times; choose a divisor of {STEPS}"),
        (ancestral and kind not in VARIANCES, f"sampler.variance: it has only {', '.join(VARIANCES)}"),
        (learned != (kind == "learned_range"), "sampler.variance: learned_range needs a network with channels for it"),
        (partial and spacing == "trailing" and kind in ("fixed_large", "learned_range"),
         f"sampler.variance: with {kind} and fewer than {STEPS} steps, it adds noise in the last one"),
        (clip not in ("", "clip"), "sampler.threshold: only clip and none are exported"),
    ):  # fmt: skip
        if wrong:
            raise UserError(f"no counterpart in diffusers: {reason}; --sampler chooses another sampler")
    assert isinstance(table, Discrete)
    settings: dict[str, Any] = {
        "trained_betas": table.betas().tolist(),
        "prediction_type": prediction_type,
        "timestep_spacing": spacing,
        "clip_sample": bool(clip),
    }
    if clip:
        settings["clip_sample_range"] = float(getattr(sampler.threshold, "keywords", {}).get("limit", 1))
    if ancestral:
        return library().DDPMScheduler(**settings, variance_type=kind)
    return library().DDIMScheduler(**settings)


def _name(part: Any) -> str:
    """The name of a part's function, which may be a partial; empty for None."""
    return str(getattr(getattr(part, "func", part), "__name__", ""))


def read(folder: Path, prefix: str) -> dict[str, Any]:
    """Read the model of any pipeline folder, in the form of a checkpoint: `prefix` is added to each tensor's name.

    Raises UserError for parts that are missing, unreadable, or have no counterpart here.
    """
    parts = {key: part for key, part in _json(folder / INDEX).items() if isinstance(part, list) and any(part)}
    if parts.get("unet") != ["diffusers", "UNet2DModel"] or parts.keys() - {"unet", "scheduler"}:
        raise UserError(f"{folder / INDEX}: its parts are {parts}; expected a UNet2DModel and a scheduler")
    how = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True}  # a pickle could run code
    network, loaded = _from_pretrained("UNet2DModel", folder / "unet", **how)
    if wrong := [key for keys in loaded.values() for key in keys]:
        raise UserError(f"{folder}: its weights do not fit its network, such as {wrong[0]}; get it again")
    try:
        weights = from_diffusers(network.state_dict())
        if (folder / RECIPE).is_file():
            contents = exported.described(_json(folder / RECIPE))
        else:
            contents = _foreign(folder, dict(network.config))
            if contents["labels"]:  # our last row is "no class"; theirs are all classes
                weights[CLASSES] = torch.cat([weights[CLASSES], torch.zeros_like(weights[CLASSES][:1])])
    except (*NOT_OURS, *exported.MALFORMED) as error:
        raise UserError(f"{folder}: it has no counterpart here: {first_line(error)}") from error
    return contents | {"state_dict": {prefix + key: value for key, value in weights.items()}}


def _from_pretrained(name: str, folder: Path, **how: Any) -> Any:
    """A part of a pipeline, loaded by diffusers without its warnings. Raises UserError if this fails."""
    log = library().utils.logging
    log.set_verbosity(log.CRITICAL)
    try:
        return getattr(library(), name).from_pretrained(folder, **how)
    except Exception as error:  # damaged and foreign files raise many types
        raise UserError(
            f"{folder}: not loaded by diffusers: {first_line(error)} (only safetensors are read; for a pickle, "
            "use DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW))"
        ) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{file}: it cannot be read as JSON ({first_line(error)}); get it again") from error
    return content if isinstance(content, dict) else {}


def _foreign(folder: Path, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a checkpoint, without weights, of a network of others with these settings."""
    adm = theirs["resnet_time_scale_shift"] == "scale_shift"
    model = {
        "_target_": f"diffusion.model.{'ADMUNet' if adm else 'UNet'}",
        **{ours: theirs[name] for ours, name in UNET_NAMES.items()},
        "channels": list(theirs["block_out_channels"]),
        "attention": [block == "AttnDownBlock2D" for block in theirs["down_block_types"]],
        "classes": theirs["num_class_embeds"] or 0,
        "patch": 1,
        "checkpointing": False,
        "down_padding": 0 if adm else theirs["downsample_padding"],
    }
    with torch.device("meta"):
        again = network_of(make(model, "model"), model, theirs["sample_size"])
    _check_same(theirs, again.config, but=("num_class_embeds",))
    images = {"resolution": resolution_of(*height_width(theirs["sample_size"])), "channels": theirs["in_channels"]}
    process = _process_nodes(folder / "scheduler")
    data = {**composed("train")["data"], **images}
    config = {"model": model, **process, "data": data, "seed": 0, "label_dropout": 0.0}
    labels = {str(number): 1 for number in range(model["classes"])}
    return {"config": yaml.safe_dump(config), "global_step": 0, "epoch": 0, "labels": labels}


def _check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], but: tuple[str, ...] = ()) -> None:
    """Raise UserError for a setting of theirs that our counterpart, converted to diffusers again, does not have."""
    for key, value in ours.items():
        if key not in but and not key.startswith("_") and json.dumps(theirs.get(key)) != json.dumps(value):
            raise UserError(f"{key} is {theirs.get(key)!r:.60}, and can only be {value!r:.60}")


def _process_nodes(folder: Path) -> dict[str, dict[str, Any]]:
    """The nodes `schedule`, `prediction` and `sampler` of our configuration that the folder's scheduler describes."""
    name = _json(folder / "scheduler_config.json").get("_class_name")
    if name not in ("DDPMScheduler", "DDIMScheduler"):
        raise UserError(f"its scheduler is {name}, and can only be DDPMScheduler or DDIMScheduler")
    scheduler = _from_pretrained(name, folder)
    theirs = dict(scheduler.config)
    spacing = {word: name for name, word in SPACINGS.items()}[theirs["timestep_spacing"]]
    predicted = {word: name for name, word in PREDICTIONS.items()}[theirs["prediction_type"]]
    settings: dict[str, Any] = {"grid": spacing, "threshold": None}
    if theirs["clip_sample"]:
        settings["threshold"] = {"limit": float(theirs["clip_sample_range"])}
    if name == "DDIMScheduler":
        sampler = choice("sampler", "ddim", **settings)
    else:
        theirs["variance_type"] = theirs["variance_type"].removesuffix("_log")  # the same, computed via the logarithm
        sampler = choice("sampler", "ancestral", **settings, variance=theirs["variance_type"])
    betas = scheduler.betas.double().clamp(max=1 - 1e-12).tolist()
    schedule = choice("schedule", "table", betas=betas, steps=None)
    nodes = {"schedule": schedule, "prediction": choice("prediction", predicted), "sampler": sampler}
    made = [make(node, part) for part, node in nodes.items()]
    learned = theirs.get("variance_type") == "learned_range"
    _check_same(theirs, scheduler_of(made[0], made[1], made[2], learned).config, but=TABLE)
    return nodes
