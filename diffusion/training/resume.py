"""Finds the checkpoint that a run resumes from, and checks what must not have changed since."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from diffusion.checkpoint.find import find
from diffusion.checkpoint.restore import PREFIX, what_changed
from diffusion.checkpoint.storage import Storage
from diffusion.config.schema import Train
from diffusion.config.untrusted import plain_config
from diffusion.config.validation import flat, shown
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.runs.jobs import config_text

# The learned weights and the saved state depend on these settings:
FIXED = ("schedule.", "prediction.", "optimizer._target_", "ema._target_", "ema.lengths")
REPORTED = (
    "seed", "data.", "model.", "objective.", "augmentation.", "crops.", "optimizer.", "lr_scheduler.", "ema.",
    "label_dropout", "validation.", "guard.", "trainer.devices", "trainer.num_nodes", "trainer.precision",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip", "trainer.limit_",
)  # fmt: skip
LOSS = ("objective.", "data.", "augmentation.", "crops.", "label_dropout")  # the training loss depends on these
ERROR = ("validation.", "trainer.limit_val_batches")  # val/mse depends on these, and on the images
VALIDATED = ("val", "labels")  # keys of the images and labels of the validation
REMEMBERING = ("Checkpoints", "EarlyStopping")  # callbacks that keep errors of the validation


class Resumed(NamedTuple):
    """The checkpoint that a run resumes from."""

    path: Path
    contents: dict[str, Any]
    config: dict[str, Any]  # what its run was asked for
    changed: dict[str, str]  # the settings that differ now -> both values, in words

    @property
    def step(self) -> int:
        """The optimizer steps so far."""
        return int(self.contents["global_step"])

    @property
    def folder(self) -> Path:
        """The folder of the run that saved the checkpoint."""
        return self.path.parent.parent

    @property
    def storage(self) -> Storage:
        """Provides the contents, which have been read already, to Lightning."""
        return Storage(self.contents)

    def seen(self, data: object) -> int:
        """The number of training images used so far, if they were of the same class of data."""
        return int(self.contents.get(type(data).__qualname__, {}).get("seen", 0))

    def check(self, state: Mapping[str, Tensor], images: Mapping[str, str], total: int, folder: Path) -> None:
        """Refuse to resume with another network, diffusion or images, or without steps left; print other changes.

        If the validation or the training loss measures something else now, the callbacks that remember it start anew.

        Args:
            state: The module's weights.
            images: A hash of each split.
            total: The steps of the run.
            folder: The run's folder. In another folder than the checkpoint's, changed images only print a warning.
        """
        where, own = f"ckpt={self.path}", self.folder.resolve() == folder.resolve()
        saved, present = shapes_of(self.contents["state_dict"]), shapes_of(state)
        if differing := [name for name in saved | present if saved.get(name) != present.get(name)]:
            name = differing[0]
            raise UserError(
                f"{where}: it was saved from a different network: {len(differing)} weights differ; {name} is "
                f"{saved.get(name, 'missing')} there, and {present.get(name, 'missing')} in model; use the model it "
                "was trained with, or train another in another folder, without ckpt"
            )
        if refused := [words for key, words in self.changed.items() if key.startswith(FIXED)]:
            raise UserError(
                f"{where}: it was trained with other settings: {', '.join(refused)}; use the settings it was trained "
                "with, or train with others from the start in another folder, without ckpt"
            )
        if reported := [words for key, words in self.changed.items() if key.startswith(REPORTED)]:
            console.print(f"other settings than the checkpoint's: {', '.join(reported)}", style="yellow")
        before = self.contents.get("images", {})
        if changed := what_changed(before, images):
            found = f"{where}: {changed} are not those it was trained with"
            if own:
                raise UserError(
                    f"{found}; restore them, or continue with these images, and all settings of the run, in another "
                    f"folder: hydra.run.dir=… {where}"
                )
            console.print(f"{found}; held-out images may have been training images", style="yellow")
        # A run that saved its last step but ended before its scores can be resumed in its own folder to compute them.
        if self.step > total or (self.step == total and not own):
            raise UserError(
                f"{where}: it is at step {self.step} and the run ends at step {total}: nothing is left to train; raise "
                "trainer.max_epochs or trainer.max_steps, or remove ckpt"
            )
        validated = {name: key for name, key in before.items() if name in VALIDATED}
        other_error = what_changed(validated, images) or any(key.startswith(ERROR) for key in self.changed)
        other_loss = any(key.startswith(LOSS) for key in self.changed)
        forgetting = REMEMBERING * bool(other_error) + ("Guard",) * other_loss
        for key in [key for key in self.contents["callbacks"] if key.startswith(forgetting)]:
            del self.contents["callbacks"][key]


def resumed_from(settings: Train, folder: Path) -> Resumed | None:
    """The checkpoint that `ckpt` names, see `checkpoint.find`; None for a new run."""
    found = None if settings.ckpt is None else find(settings.ckpt, folder)
    if found is None:
        return None
    path, contents = found
    console.print(f"resuming from {path}, step {contents['global_step']}")
    config = plain_config(contents["config"], path)
    return Resumed(path, contents, config, changes(config, yaml.safe_load(config_text(settings))))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The settings that differ, with both values in words. Of another choice, only its class is listed."""
    old, new = flat(before), flat(now)
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    other = tuple(key.removesuffix("_target_") for key in changed if key.endswith("._target_"))  # their settings too
    return {
        key: f"{key} {shown(old.get(key))} → {shown(new.get(key))}"
        for key in changed
        if key.endswith("._target_") or not key.startswith(other)
    }


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each of the network's weights."""
    return {name: tuple(value.shape) for name, value in weights.items() if name.startswith(PREFIX)}
