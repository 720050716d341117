"""How a run begins: with `ckpt` it resumes from a checkpoint; with `init` it is new, but starts from given weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from diffusion.checkpoint.find import find, trained
from diffusion.checkpoint.restore import PREFIX, network_weights, read, what_changed
from diffusion.config.build import flat, plain_config
from diffusion.config.schema import Train
from diffusion.console import console, count
from diffusion.errors import UserError, shown

# The learned weights and the saved state depend on these settings:
FIXED = ("schedule.", "prediction.", "optimizer._target_", "ema._target_", "ema.lengths")
UNSAID = ("ckpt", "name", "trainer.max_", "checkpoint.", "samples.", "score.", "sweep.", "restarts")  # without effect


class Resumed(NamedTuple):
    """The checkpoint that a run resumes from."""

    path: Path
    contents: dict[str, Any]
    changed: dict[str, str]  # the settings that differ now -> both values, in words

    @property
    def step(self) -> int:
        """The optimizer steps so far."""
        return int(self.contents["global_step"])

    @property
    def folder(self) -> Path:
        """The folder of the run that saved the checkpoint."""
        return self.path.parent.parent

    def seen(self, data: object) -> int:
        """The number of training images used so far, if they were of the same class of data."""
        return int(self.contents.get(type(data).__qualname__, {}).get("seen", 0))

    def check(self, state: Mapping[str, Tensor], images: Mapping[str, str], total: int, folder: Path) -> None:
        """Refuse to resume with another network, diffusion or images, or without steps left; print other changes.

        Args:
            state: The module's weights.
            images: A hash of each split.
            total: The steps of the run.
            folder: The run's folder. In another folder than the checkpoint's, changed images only print a warning.
        """
        where, own = f"ckpt={self.path}", self.folder.resolve() == folder.resolve()
        saved, present = (
            {name: value.shape for name, value in weights.items() if name.startswith(PREFIX)}
            for weights in (self.contents["state_dict"], state)
        )
        other = [f"weight {name}" for name in saved | present if saved.get(name) != present.get(name)]
        if different := other + [words for key, words in self.changed.items() if key.startswith(FIXED)]:
            raise UserError(
                f"{where}: it was trained with another network or other settings, such as {different[0]}; use those it "
                "was trained with, or train from the start in another folder, without ckpt"
            )
        if said := [words for key, words in self.changed.items() if not key.startswith(UNSAID)]:
            console.print(f"other settings than the checkpoint's: {', '.join(said)}", style="yellow")
        if changed := what_changed(self.contents.get("images", {}), images):
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


def resumed_from(settings: Train, folder: Path) -> Resumed | None:
    """The checkpoint that `ckpt` names, see `checkpoint.find`; None for a new run."""
    found = None if settings.ckpt is None else find(settings.ckpt, folder)
    if found is None:
        return None
    path, contents = found
    console.print(f"resuming from {path}, step {contents['global_step']}")
    old, new = flat(plain_config(contents["config"], path)), flat(settings.model_dump(mode="json"))
    changed = {
        key: f"{key} {shown(old.get(key))} → {shown(new.get(key))}" for key in old | new if old.get(key) != new.get(key)
    }
    return Resumed(path, contents, changed)


def place(checkpoint: dict[str, Any], accumulate: int, total: int, due: bool) -> None:
    """Set the progress that Lightning 2.6 restores from a checkpoint: between two steps, or before a validation.

    Whenever the checkpoint was saved, the run goes on after its last complete step, with `accumulate` batches per step.
    Lightning itself would go on within an interrupted validation, whose errors are lost.

    Args:
        total: the steps of the run, which may have been made longer.
        due: whether a validation follows after this step; if it is not complete, the run begins with it.
    """
    progress, step = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
    done, began = step * accumulate, int(due and checkpoint["validated"] < step)
    for loop, started, completed, last in (("", done, done, step >= total), ("val_loop.", began, 0, False)):
        counts = {"ready": started, "started": started, "processed": completed, "completed": completed}
        progress[f"epoch_loop.{loop}batch_progress"] = {
            "total": counts, "current": {**counts}, "is_last_batch": last
        }  # fmt: skip
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = step - due  # counted after the validation


def start_from(init: str, network: nn.Module, config: Mapping[str, Any]) -> None:
    """Copy those weights of a model into `network` that match its own by name and shape, and print their number.

    The averaged weights are used if there are any. The other weights of `network` keep their initial values.

    Args:
        init: a run, a checkpoint, an exported file, a diffusers folder, or `last`.
        config: the run's configuration; its schedule and prediction are compared with those of the model.

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
        raise UserError(f"init={path}: none of its weights fits the model; choose the one that it was trained with")
    for name in fitting:
        own[name].copy_(found[name])
    loaded = f"loaded {count(len(fitting), 'weight')} of {len(own)}"
    console.print(f"starting from {path}, step {contents['global_step']}: {loaded}")
    theirs = plain_config(contents["config"], path)
    if parts := [part for part in ("schedule", "prediction") if theirs.get(part) != config[part]]:
        console.print(f"  it was trained with another {' and '.join(parts)} and must adapt to this one", style="yellow")
