"""`init=`: start a run from the weights of another model. It is a new run: step 0, a new optimizer and average.

When a run resumes from a checkpoint, `init` is not read, because the checkpoint's weights are newer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import contents_of, network_weights, what_changed
from diffusion.config.schema import Train
from diffusion.config.untrusted import plain_config
from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.data.module import SAME_DIVISION
from diffusion.errors import UserError
from diffusion.runs.metrics import changed_data

# Settings of a network that its weights do not show; those of imported networks are null for the network's own default:
CONFIGURED = ("groups", "head_dim", "heads")
IMPORTED = ("norm_eps", "down_padding", "frequency_shift", "cosines_first")


def with_initial(settings: Train) -> Train:
    """Return the settings with `init` resolved to a file or folder, because `last` may change before it is read."""
    if settings.init is None:
        return settings
    try:
        return settings.model_copy(update={"init": str(trained(settings.init))})
    except UserError as error:
        raise _of_init(error) from error


def start_from(init: str, network: nn.Module, config: Mapping[str, Any], data: ImageData | None = None) -> None:
    """Copy those weights of a model into `network` that match its own by name and shape, and print what is copied.

    The averaged weights are used if there are any. The other weights of `network` keep their initial values.

    Args:
        init: a checkpoint, an exported file or a diffusers folder.
        config: the run's configuration; its schedule and prediction are compared with those of the model.
        data: the run's images; their division and classes are compared with those of the model, if given.

    Raises UserError if the model cannot be read, or if none of its matrices fits.
    """
    path = Path(init)
    try:
        contents = contents_of(path)
    except UserError as error:
        raise _of_init(error) from error
    found = network_weights(contents["state_dict"])
    own = network.state_dict()
    fitting = [name for name in own if name in found and found[name].shape == own[name].shape]
    other = [name for name in own if name in found and found[name].shape != own[name].shape]
    missing = [name for name in own if name not in found]
    unused = [name for name in found if name not in own]
    if not any(own[name].ndim > 1 for name in fitting):  # the shape of a bias may match by chance
        example = f", such as {next(iter(found))}," if found else ""
        raise UserError(
            f"init={path}: none of its {count(len(found), 'weight')}{example} fits the model; choose the model that it "
            "was trained with, or remove init"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(found[name])
    console.print(
        f"starting from {path}, step {contents['global_step']}: loaded {_counted(fitting, own)} of {len(own)}"
    )
    if other:
        name = other[0]
        console.print(
            f"  {_counted(other)} of another shape, newly initialized: {name} is {tuple(found[name].shape)} there and "
            f"{tuple(own[name].shape)} here",
            style="yellow",
        )
    if missing:
        console.print(
            f"  {_counted(missing)} missing in the file, newly initialized, such as {missing[0]}", style="yellow"
        )
    if unused:
        console.print(f"  {_counted(unused)} unused, such as {unused[0]}", style="yellow")
    theirs = plain_config(contents["config"], path)
    _print_differences(theirs, config)
    _print_unseen_settings(theirs, network, config["model"])
    if data is not None:
        _print_seen_images(what_changed(contents.get("images", {}), data.keys), theirs.get("data"), config["data"])
        _print_other_classes([*contents.get("labels", {})], data.classes)


def _of_init(error: UserError) -> UserError:
    """Return an error about `ckpt` as one about `init`."""
    return UserError(str(error).replace("ckpt=", "init=", 1))


def _counted(names: list[str], values: Mapping[str, Tensor] | None = None) -> str:
    """`3 weights`, and their number of elements if `values` are given."""
    numbers = f" ({sum(values[name].numel() for name in names) / 1e6:.2f} M numbers)" if values else ""
    return f"{count(len(names), 'weight')}{numbers}"


def _print_differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Warn if the weights were trained with another schedule or prediction."""
    parts = [part for part in ("schedule", "prediction") if _plain(theirs.get(part)) != _plain(own.get(part))]
    if parts:
        console.print(f"  it was trained with another {' and '.join(parts)} and must adapt to this one", style="yellow")


def _print_unseen_settings(theirs: Mapping[str, Any], network: nn.Module, own: Mapping[str, Any]) -> None:
    """Warn about network settings that differ although the weights fit."""
    model = theirs["model"] if isinstance(theirs.get("model"), Mapping) else {}
    other = [key for key in IMPORTED if model.get(key) is not None and getattr(network, key, model[key]) != model[key]]
    other += [key for key in CONFIGURED if key in model and key in own and model[key] != own[key]]
    if shown := [f"model.{key}={'null' if model[key] is None else model[key]}" for key in other]:
        console.print(
            f"  its network has {' '.join(shown)}, which its weights do not show; set the same values", style="yellow"
        )


def _print_seen_images(changed: str, theirs: Any, own: Mapping[str, Any]) -> None:
    """Warn if the weights were trained on images that this run may hold out: of the same data, divided otherwise."""
    other = changed_data(theirs, own) if changed and isinstance(theirs, Mapping) else None
    if other is not None and (not other or not SAME_DIVISION.issuperset(other)):
        console.print(
            f"  {changed} are not those it was trained with; held-out images may have been training images",
            style="yellow",
        )


def _print_other_classes(theirs: Sequence[str], own: Sequence[str]) -> None:
    """Warn if the same number of classes has other names: the weights belong to class numbers."""
    differing = (i for i, name in enumerate(own) if name != theirs[i])
    if len(theirs) == len(own) and (i := next(differing, None)) is not None:
        console.print(
            f"  its class {i} is {theirs[i]!r}, and here {own[i]!r}: weights of classes are copied by number, and must "
            "adapt",
            style="yellow",
        )


def _plain(node: Any) -> Any:
    """A config node without its null values."""
    return {key: value for key, value in node.items() if value is not None} if isinstance(node, Mapping) else node
