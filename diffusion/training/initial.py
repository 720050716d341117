"""`init=`: start a run from the weights of another model. It is a new run: step 0, a new optimizer and average.

When a run resumes from a checkpoint, `init` is not read, because the checkpoint's weights are newer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import contents_of, network_weights, what_changed
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
        contents = contents_of(path)
    except UserError as error:
        raise UserError(str(error).replace("ckpt=", "init=", 1)) from error
    found, own = network_weights(contents["state_dict"]), network.state_dict()
    fitting = [name for name in own if name in found and found[name].shape == own[name].shape]
    other = [name for name in own if name in found and found[name].shape != own[name].shape]
    missing = [name for name in own if name not in found]
    unused = [name for name in found if name not in own]
    if not any(own[name].ndim > 1 for name in fitting):  # the shape of a bias may match by chance
        raise UserError(
            f"init={path}: none of its {count(len(found), 'weight')} fits the model; choose the model that it was "
            "trained with, or remove init"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(found[name])
    console.print(f"starting from {path}, step {contents['global_step']}: loaded {counted(fitting, own)} of {len(own)}")
    for names, what in ((other, "of another shape"), (missing, "missing there"), (unused, "there that are not used")):
        if names:
            console.print(f"  {counted(names, found | own)} {what}, such as {names[0]}", style="yellow")
    theirs = plain_config(contents["config"], path)
    if parts := [part for part in ("schedule", "prediction") if theirs.get(part) != config[part]]:
        console.print(f"  it was trained with another {' and '.join(parts)} and must adapt to this one", style="yellow")
    if changed := what_changed(contents.get("images", {}), data.keys):
        console.print(
            f"  {changed} are not those it was trained with; held-out images may have been training images",
            style="yellow",
        )


def counted(names: list[str], values: Mapping[str, Tensor]) -> str:
    """`3 weights (0.52 M numbers)`."""
    return f"{count(len(names), 'weight')} ({sum(values[name].numel() for name in names) / 1e6:.2f} M numbers)"
