"""Read and write models as diffusers pipeline folders, without diffusers: JSON and safetensors, no executable code.

    model_index.json                               the classes of the parts (which may also lie beside it)
    unet/config.json                               or transformer/, for a DiT
    unet/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json

In a folder written by us, the metadata of the weights also contain those of an exported file (see `exported`): the
recipe, the step and the labels. They are used if the JSON files are still the ones written with them. Other folders are
read without them, provided that their network, schedule, prediction and sampler have a counterpart here.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffusion.checkpoint import counterpart_networks as networks
from diffusion.checkpoint import counterpart_schedulers as schedulers
from diffusion.checkpoint import exported
from diffusion.checkpoint.facts import Facts, model_of
from diffusion.checkpoint.fields import Fields
from diffusion.config import untrusted
from diffusion.config.build import make
from diffusion.config.composition import composed, plain
from diffusion.errors import UserError, first_line
from diffusion.files import replacing
from diffusion.model.diffusers import from_diffusers, to_diffusers
from diffusion.pixels import MODES, resolution_of
from diffusion.process.denoiser import Denoiser
from diffusion.process.sampler import Sampler
from diffusion.process.variance import learned_range

INDEX, WEIGHTS = "model_index.json", "diffusion_pytorch_model.safetensors"
LIBRARY, VERSION = "diffusers", "0.32.2"  # the oldest version known to draw the same images from our folders
LARGEST_SIDE = 1 << 12  # of an image, in pixels
PIPELINES = {schedulers.DDPM_NAME: "DDPMPipeline", schedulers.DDIM_NAME: "DDIMPipeline"}
CLASSES = "time.classes.weight"
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
OF = "of"  # metadata key: a hash of the JSON files that the metadata belong to


def is_folder(path: Path) -> bool:
    """Whether `path` is a pipeline folder."""
    return (path / INDEX).is_file()


def weights_file(folder: Path) -> Path:
    """The file of the network's weights."""
    return next((file for part in networks.PART.values() if (file := _part(folder, part) / WEIGHTS).exists()), folder)


def _part(folder: Path, name: str) -> Path:
    """The folder of a pipeline's part; if there is none, the pipeline's own, as in google/ddpm-cat-256."""
    return folder / name if (folder / name).is_dir() else folder


def write(
    folder: Path,
    denoiser: Denoiser,
    sampler: Sampler,
    config: Mapping[str, Any],
    facts: Facts,
    step: int,
    epoch: int,
    kind: str,
    labels: Mapping[str, int],
) -> str:
    """Write a model as a folder. Returns one line that explains how to draw the same images with diffusers.

    Args:
        sampler: the sampler of the recipe in `config`.
        config, facts, step, epoch, kind, labels: see `exported.write`.

    Raises UserError, before anything is written, for parts without a counterpart in diffusers and for a folder that is
    not empty.
    """
    network = denoiser.network
    net = networks.network_config(network, model_of(config, facts), config["data"]["resolution"])
    channels = int(net["in_channels"])
    learned = int(net["out_channels"]) == 2 * channels
    name = net["_class_name"]
    if learned and name == networks.UNET and not _takes_variance(sampler):
        raise UserError(
            "model.out_channels: of diffusers' samplers for U-Nets, only the ancestral one with learned_range uses a "
            "learned variance; choose --sampler 'ancestral variance@sampler.variance=learned_range'"
        )
    pipeline_splits = name == networks.DIT  # DiTPipeline drops the variance before the scheduler's step
    scheduler = schedulers.scheduler_config(
        denoiser.schedule, denoiser.prediction, sampler, learned and not pipeline_splits
    )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and is not an empty folder; choose another")
    net["_diffusers_version"] = scheduler["_diffusers_version"] = VERSION
    part = networks.PART[name]
    index: dict[str, Any] = {
        "_class_name": PIPELINES[scheduler["_class_name"]] if name == networks.UNET else "DiTPipeline",
        "_diffusers_version": VERSION,
        "scheduler": [LIBRARY, scheduler["_class_name"]],
        part: [LIBRARY, name],
    }
    if name == networks.DIT:
        index["vae"] = [None, None]  # our DiT works on pixels
    metadata = exported.metadata(config, facts, step, epoch, kind, labels) | {"format": "pt", OF: _hash(net, scheduler)}
    tensors = {key: value.contiguous() for key, value in to_diffusers(network.state_dict()).items()}
    for inner in (part, "scheduler"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    with replacing(folder / part / WEIGHTS, durable=True) as target:
        target.write(save(tensors, metadata))
    for file, content in (
        (f"{part}/config.json", net),
        ("scheduler/scheduler_config.json", scheduler),
        (INDEX, index),  # last: only this file makes it a pipeline folder
    ):
        with replacing(folder / file, durable=True) as target:
            target.write(json.dumps(content, indent=2).encode())
    return _call(folder, net, scheduler, sampler)


def _takes_variance(sampler: Sampler) -> bool:
    """Whether the sampler uses a learned variance."""
    return getattr(getattr(sampler, "variance", None), "func", None) is learned_range


def _call(folder: Path, net: Mapping[str, Any], scheduler: Mapping[str, Any], sampler: Sampler) -> str:
    """One line that explains how to draw the same images from the folder with diffusers."""
    words = [f"num_inference_steps={sampler.steps}"]
    if scheduler["_class_name"] == schedulers.DDIM_NAME:
        words += [f"eta={getattr(sampler, 'eta', 0.0):g}", "use_clipped_model_output=True"]
    dit = net["_class_name"] == networks.DIT
    loaded = f"DiffusionPipeline.from_pretrained({str(folder)!r}{', vae=None' if dit else ''})"
    if not dit and net.get("num_class_embeds") is None:
        return f"{loaded}({', '.join(words)})"
    part = networks.PART[net["_class_name"]]
    why = "works on the latents of a vae" if dit else "accepts no classes"
    return f"{loaded}: draw with its .{part} and .scheduler ({', '.join(words)}), because the pipeline itself {why}"


def _hash(net: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
    """A hash of the contents of two JSON files, independent of the order of keys."""
    return hashlib.sha256(json.dumps([net, scheduler], sort_keys=True).encode()).hexdigest()


def read(folder: Path, prefix: str) -> dict[str, Any]:
    """Read the model of any pipeline folder, in the form of a checkpoint: `prefix` is added to each tensor's name.

    Raises UserError, before memory is allocated, for parts that are missing, malformed, or have no counterpart here.
    """
    index = Fields.read(folder / INDEX)
    name = _network_of(index)
    of_network = Fields.read(_part(folder, networks.PART[name]) / "config.json")
    of_scheduler = Fields.read(_part(folder, "scheduler") / "scheduler_config.json")
    defaults = networks.UNET_DEFAULTS if name == networks.UNET else networks.DIT_DEFAULTS
    net = Fields({**defaults, **of_network.values}, of_network.where)
    net.one_of("_class_name", [name])
    file = _part(folder, networks.PART[name]) / WEIGHTS
    metadata, weights = _weights(file)
    if metadata.get(OF) == _hash(of_network.values, of_scheduler.values):
        try:
            contents = exported.described(metadata)
        except exported.MALFORMED as error:
            raise UserError(f"{file}: its metadata cannot be read ({first_line(error)})") from error
        model = model_of(untrusted.buildable_config(contents["config"], folder), contents["facts"])
        if not model.get("classes") and name == networks.DIT:
            weights.pop(CLASSES, None)
    else:
        contents = _foreign(net, schedulers.with_defaults(of_scheduler), weights)
        model = contents["config"]["model"]
        contents["config"] = yaml.safe_dump(contents["config"])
    listed, kind = index.values.get("scheduler"), of_scheduler.values.get("_class_name")
    if isinstance(listed, list) and listed[-1:] != [kind]:
        index.refuse("scheduler", f"{[LIBRARY, kind]}, the class in {of_scheduler.where}")
    _check_shapes(weights, model, net)
    return contents | {"state_dict": {prefix + key: value for key, value in weights.items()}}


def _network_of(index: Fields) -> str:
    """The class name of the network. Raises UserError for a pipeline with parts that have no counterpart here."""
    parts = {
        key: value
        for key, value in index.values.items()
        if not key.startswith("_") and value not in ([None, None], None) and isinstance(value, list)
    }
    known = {part: [LIBRARY, name] for name, part in networks.PART.items()}
    found = next((part for part in known if part in parts), None)
    for key, value in parts.items():
        if key != "scheduler" and (key != found or value != known[key]):
            words = " or ".join(f"{part} {value[1]}" for part, value in known.items())
            index.refuse(key, f"a pipeline of only {words} and a scheduler: other parts have no counterpart here")
    if found is None:
        raise UserError(
            f"{index.where}: it names neither {' nor '.join(known)}; other networks have no counterpart here"
        )
    return known[found][1]


def _weights(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata of a file of weights, and its tensors under our names."""
    if not file.is_file():
        others = sorted(each.name for each in file.parent.glob("*.bin"))
        pickled = f" ({others[0]} is a pickle, which could run code)" if others else ""
        raise UserError(
            f"{file}: no such file{pickled}; only safetensors in a single file are supported, as written by diffusers' "
            "DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW)"
        )
    try:
        with safe_open(str(file), "pt") as opened:
            metadata = opened.metadata() or {}
            theirs = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file}: not a readable safetensors file ({first_line(error)}); get it again") from error
    if other := [key for key, value in theirs.items() if not value.is_floating_point()]:
        raise UserError(f"{file}: {other[0]} is {theirs[other[0]].dtype}; expected floating-point weights")
    try:
        return metadata, from_diffusers({_modern(key): value for key, value in theirs.items()})
    except (UserError, KeyError, RuntimeError) as error:
        raise UserError(f"{file}: {error.args[0] if error.args else error}; it has no counterpart here") from error


def _modern(key: str) -> str:
    """The current name of an attention weight, as diffusers renames it when it reads an old file."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key


def _foreign(net: Fields, scheduler: Fields, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The contents of a checkpoint, without weights, from a folder's JSON. `weights` are adapted to the network."""
    model = networks.model_node(net, len(weights))
    if model["in_channels"] not in MODES:
        net.refuse("in_channels", "1 (grey), 3 (RGB) or 4 (RGBA)")
    if model["out_channels"] not in (model["in_channels"], 2 * model["in_channels"]):
        net.refuse("out_channels", "as many as in_channels, or twice as many for a learned variance")
    table = weights.get(CLASSES)
    if model["classes"] and table is not None and table.ndim == 2:
        if net.values["_class_name"] == networks.UNET:
            weights[CLASSES] = torch.cat([table, table.new_zeros(1, table.shape[1])])
        elif model["classes"] == 1 and not table.any():  # no classes; diffusers' DiT needs at least one
            model["classes"] = 0
            del weights[CLASSES]
    images = {"resolution": resolution_of(*_size(net)), "channels": model["in_channels"]}
    config = {
        "model": model,
        **schedulers.part_nodes(scheduler),
        "data": {**plain(composed("train").data), **images},
        "seed": 0,
        "label_dropout": 0.1 if net.values["_class_name"] == networks.DIT else 0.0,
    }
    labels = {str(number): 1 for number in range(model["classes"])}
    return {"config": config, "global_step": 0, "epoch": 0, "labels": labels}


def _size(net: Fields) -> tuple[int, int]:
    """(height, width) of the images."""
    size = net.values.get("sample_size")
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    height, width = (Fields({"sample_size": side}, net.where).whole("sample_size", high=LARGEST_SIDE) for side in sides)
    return height, width


def _check_shapes(weights: Mapping[str, Tensor], model: Mapping[str, Any], net: Fields) -> None:
    """Raise UserError unless the weights fit the network of `model`, which is built without allocating memory."""
    try:
        with torch.device("meta"):
            network: nn.Module = make(model, "model")
        network.check_size(*_size(net))  # type: ignore[operator]
    except UserError as error:
        raise UserError(f"{net.where}: {error}") from error
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if differing := [key for key in expected | found if expected.get(key) != found.get(key)]:
        key = differing[0]
        raise UserError(
            f"{net.where}: the weights do not fit this network, in {len(differing)} of {len(expected | found)}: {key} "
            f"is {found.get(key, 'not there')}, and should be {expected.get(key, 'not there')}; get the folder again"
        )
