"""Finds the checkpoint that a run resumes from, and checks what must not have changed since."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from diffusion.checkpoint.find import find
from diffusion.checkpoint.restore import PREFIX, what_changed
from diffusion.checkpoint.storage import Storage
from diffusion.config.composition import flat
from diffusion.config.schema import Train
from diffusion.config.untrusted import plain_config
from diffusion.config.validation import shown
from diffusion.console import console, count
from diffusion.errors import UserError, first_line
from diffusion.randomness import GENERATOR
from diffusion.runs.metrics import BATCHED, LIMIT, measures
from diffusion.training.saving import Checkpoints

# The learned weights and the saved state depend on these settings:
FIXED = ("schedule.", "prediction.", "optimizer._target_", "ema._target_", "ema.lengths")
REPORTED = (
    "seed", "data.", "model.", "objective.", "augmentation.", "crops.", "optimizer.", "lr_scheduler.", "ema.",
    "label_dropout", "validation.", "guard.", "trainer.devices", "trainer.num_nodes", "trainer.precision",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip", "trainer.limit_",
)  # fmt: skip
LOSS = ("objective.", "data.", "augmentation.", "crops.", "label_dropout")  # the training loss depends on these,
SAME_LOSS = ("data.root", "data.num_workers", "data.eval_batch_size", "data.strict")  # but not on these
VALIDATED = ("val", "labels")  # keys of the images and labels of the validation
REMEMBERING = ("Checkpoints", "EarlyStopping", "OverfittingNotice")  # callbacks that keep errors of the validation
Shapes = dict[str, tuple[int, ...]]


class Resumed(NamedTuple):
    """The checkpoint that a run resumes from, and the properties that the run must match."""

    path: Path
    step: int
    config: dict[str, Any]
    shapes: Shapes  # of the network's weights
    images: Mapping[str, str]  # a hash of each split; empty if the checkpoint has none
    noise: str  # the noise generator; empty if the checkpoint does not name it
    storage: Storage  # provides the contents already read to Lightning
    batch_size: Any = None  # the batch size that the run found
    compiled: Any = None  # whether its network was compiled, if the checkpoint says so
    step_images: int = 0  # number of images per optimizer step; 0 if the checkpoint does not say it
    seen: Mapping[str, int] = {}  # class of the data -> number of training images used so far

    @property
    def folder(self) -> Path:
        """The folder of the run that saved the checkpoint."""
        return self.path.parent.parent

    def forget_errors(self) -> None:
        """Let the `REMEMBERING` callbacks start anew, because the validation measures something else from here on."""
        assert self.storage.contents is not None
        states = self.storage.contents["callbacks"]
        for key in [key for key in states if key.startswith(REMEMBERING)]:
            del states[key]


def resumed_from(settings: Train, folder: Path) -> Resumed | None:
    """The checkpoint that `ckpt` names, see `checkpoint.find`; None for a new run."""
    found = None if settings.ckpt is None else find(settings.ckpt, folder)
    if found is None:
        return None
    path, contents = found
    step = int(contents["global_step"])
    console.print(f"resuming from {path}, step {step}")
    config, shapes = plain_config(contents["config"], path), shapes_of(contents["state_dict"])
    images, noise = contents.get("images", {}), contents.get("noise", "")
    storage = Storage(path, contents)
    seen = {name: part["seen"] for name, part in contents.items() if isinstance(part, dict) and "seen" in part}
    found_out = contents.get("batch_size"), contents.get("compiled"), contents.get("step_images", 0), seen
    return Resumed(path, step, config, shapes, images, noise, storage, *found_out)


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """The shape of each of the network's weights."""
    return {name: tuple(value.shape) for name, value in weights.items() if name.startswith(PREFIX)}


def check_resumed(state: Mapping[str, Tensor], config: str, resumed: Resumed) -> None:
    """Refuse to resume with a network, diffusion or state that differs from the checkpoint's; print other changes.

    Args:
        state: The module's weights.
        config: The run's configuration, as yaml.
    """
    where = f"ckpt={resumed.path}"
    saved, present = resumed.shapes, shapes_of(state)
    if differing := [name for name in saved | present if saved.get(name) != present.get(name)]:
        name = differing[0]
        raise UserError(
            f"{where}: it was saved from a different network: {len(differing)} weights differ; {name} is "
            f"{saved.get(name, 'missing')} there, and {present.get(name, 'missing')} in model; use the model it was "
            "trained with, or train another in another folder, without ckpt"
        )
    before, now = flat(resumed.config), flat(yaml.safe_load(config))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    other = tuple(key.removesuffix("_target_") for key in changed if key.endswith("._target_"))  # their settings too
    words = {
        key: f"{key} {shown(before.get(key))} → {shown(now.get(key))}"
        for key in changed
        if key.endswith("._target_") or not key.startswith(other)
    }
    if refused := [words[key] for key in words if key.startswith(FIXED)]:
        raise UserError(
            f"{where}: it was trained with other settings: {', '.join(refused)}; use the settings it was trained "
            "with, or train with others from the start in another folder, without ckpt"
        )
    if reported := [words[key] for key in words if key.startswith(REPORTED)]:
        console.print(f"other settings than the checkpoint's: {', '.join(reported)}", style="yellow")


def has_same_loss(config: str, resumed: Resumed) -> bool:
    """Whether the training loss measures the same as before the run was resumed."""
    return not any(key.startswith(LOSS) and key not in SAME_LOSS for key in _changed(config, resumed))


def has_same_error(config: str, images: Mapping[str, str], resumed: Resumed) -> bool:
    """Whether val/mse measures the same task, on the same images, as before the run was resumed.

    The images of the validation are compared by their hashes, which do not depend on where they are.
    """
    limited = any(flat(each).get(LIMIT) is not None for each in (resumed.config, yaml.safe_load(config)))
    changed = {key for key in _changed(config, resumed) if measures(key, limited)}
    if resumed.images:
        changed = {key for key in changed if key in BATCHED or not key.startswith("data.")}
    return not changed and not what_changed({k: v for k, v in resumed.images.items() if k in VALIDATED}, images)


def _changed(config: str, resumed: Resumed) -> list[str]:
    """The settings that differ from those before the run was resumed."""
    before, now = flat(resumed.config), flat(yaml.safe_load(config))
    return [key for key in before | now if before.get(key) != now.get(key)]


def check_images(present: Mapping[str, str], resumed: Resumed, folder: Path) -> None:
    """Refuse to resume a run in its own folder with changed images; in another folder, print a warning.

    Args:
        present: a hash of each split.
    """
    changed = what_changed(resumed.images, present)
    if not changed:
        return
    found = f"ckpt={resumed.path}: {changed} are not those it was trained with"
    if resumed.folder.resolve() == folder.resolve():
        raise UserError(
            f"{found}; restore them, or continue with these images, and all settings of the run, in another folder: "
            f"hydra.run.dir=… ckpt={resumed.path}"
        )
    console.print(f"{found}; held-out images may have been training images", style="yellow")


def check_noise(resumed: Resumed) -> None:
    """Print a warning if the run continues with a noise generator other than the checkpoint's."""
    if resumed.noise != GENERATOR:
        console.print(
            f"ckpt={resumed.path}: its noise came from {resumed.noise or 'an older generator'}, and now comes from "
            f"{GENERATOR}: the run continues, but not bit for bit as before",
            style="yellow",
        )


def check_step_images(images: int, devices: int, resumed: Resumed) -> None:
    """Print a warning if optimizer steps have another number of images from here on, such as on fewer devices."""
    if resumed.step_images not in (0, images):
        console.print(
            f"ckpt={resumed.path}: a step had {count(resumed.step_images, 'image')}, and has {images} from here on "
            f"(on {count(devices, 'device')}); data.global_batch_size={resumed.step_images} keeps their number",
            style="yellow",
        )


@contextmanager
def continuing(resumed: Resumed | None, checkpoints: Checkpoints, log: Path) -> Iterator[None]:
    """Context of training: errors in a resumed run before its first save are attributed to its checkpoint.

    They are raised as UserError, and the traceback is added to `log`.
    """
    try:
        yield
    except (UserError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if resumed is None or checkpoints.saved_at >= 0:
            raise
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        raise UserError(
            f"ckpt={resumed.path}: training cannot resume from its state ({type(error).__name__}: "
            f"{first_line(error)}; the traceback is in {log}); use another checkpoint, or ckpt=auto"
        ) from error


def check_steps_left(total: int, resumed: Resumed, folder: Path) -> None:
    """Raise UserError if no step is left.

    (A run that saved its last step but ended before its scores can be resumed in its own folder to compute them.)
    """
    inside = resumed.folder.resolve() == folder.resolve()
    if resumed.step > total or (resumed.step == total and not inside):
        raise UserError(
            f"ckpt={resumed.path}: it is at step {resumed.step} and the run ends at step {total}: nothing is left to "
            "train; raise trainer.max_epochs or trainer.max_steps, or remove ckpt"
        )
