"""`init=`: start a run from the weights of another model. It is a new run: step 0, a new optimizer and average."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import network_weights, read, what_changed
from diffusion.config.untrusted import plain_config
from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError


def start_from(init: str, network: nn.Module, config: Mapping[str, Any], data: ImageData) -> None:
    """Copy those weights of a model into `network` that match its own by name and shape, and print what is copied.

    The averaged weights are used if there are any. The other weights of `network` keep their initial values.

    Args:
        init: a run, a checkpoint, an exported file, a diffusers folder, or `last`.
        config: the run's configuration; its schedule and prediction are compared with those of the model.
        data: the run's images, which are compared with those of the model.

    Raises UserError if the model cannot be read, or if none of its matrices fits.
    """
    try:
        path = trained(init)
        contents = read(path)
    except UserError as error:
        raise UserError(str(error).replace("ckpt=", "init=", 1)) from error
    found, own = network_weights(contents["state_dict"]), network.state_dict()
    fitting = [name for name in own if name in found and found[name].shape == own[name].shape]
    if not any(own[name].ndim > 1 for name in fitting):  # the shape of a bias may match by chance
        raise UserError(
            f"init={path}: none of its {count(len(found), 'weight')} fits the model; choose the model that it was "
            "trained with, or remove init"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(found[name])
    console.print(
        f"starting from {path}, step {contents['global_step']}: loaded {count(len(fitting), 'weight')} of {len(own)}"
    )
    for names, what in ((own, "missing there, or of another shape"), (found, "there that are not used")):
        if left := [name for name in names if name not in fitting]:
            console.print(f"  {count(len(left), 'weight')} {what}, such as {left[0]}", style="yellow")
    theirs = plain_config(contents["config"], path)
    if parts := [part for part in ("schedule", "prediction") if theirs.get(part) != config[part]]:
        console.print(f"  it was trained with another {' and '.join(parts)} and must adapt to this one", style="yellow")
    if changed := what_changed(contents.get("images", {}), data.keys):
        said = f"  {changed} are not those it was trained with; held-out images may have been training images"
        console.print(said, style="yellow")
