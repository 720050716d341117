"""How a run begins: with `ckpt` it resumes from a checkpoint; with `init` it is new, but starts from given weights."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from diffusion.base.console import console, count
from diffusion.checkpoint.find import find, run_folder, trained
from diffusion.checkpoint.restore import PREFIX, network_weights, read, what_changed
from diffusion.config.build import flat, plain_config
from diffusion.config.choices import default_choices, left_by
from diffusion.config.inherit import inherit, of_recipe
from diffusion.config.schema import Train
from diffusion.errors import UserError, given_as, shown
from diffusion.runs.launch import Launch
from diffusion.runs.record import CONFIG

SIZE = ("resolution", "channels", "scale")  # of the images, in `data`
# The learned weights and the saved state depend on these settings:
FIXED = ("schedule.", "prediction.", "data.scale", "condition.", "optimizer._target_", "ema._target_", "ema.lengths")
MOVED = ("condition.root", "condition.table", "condition.level")  # what is in them has a hash of its own; for samples
UNSAID = ("ckpt", "name", "trainer.max_", "checkpoint.", "samples.", "score.", "sweep.")  # without effect


class Resumed(NamedTuple):
    """The checkpoint that a run resumes from."""

    path: Path
    contents: dict[str, Any]
    changed: dict[str, str]  # the settings that differ now -> both values, in words

    @property
    def step(self) -> int:
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
            {name: value.shape for name, value in tensors.items()} for tensors in (self.contents["state_dict"], state)
        )
        other = [name for name in saved | present if saved.get(name) != present.get(name)]
        network = [f"weight {name}" for name in other if name.startswith(PREFIX)]
        kept = (*FIXED, "objective.") if other else FIXED  # such as its last losses
        fixed = [words for key, words in self.changed.items() if key.startswith(kept) and key not in MOVED]
        if different := network + fixed:
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
    saved, asked = plain_config(contents["config"], path), settings.model_dump(mode="json")
    usual = {"data.scale": 1.0, "model.axes": 2}  # of files and classes without them
    old, new = (usual | flat(each) for each in (saved, asked))
    changed = {
        key: f"{key} {shown(old.get(key))} → {shown(new.get(key))}" for key in old | new if old.get(key) != new.get(key)
    }
    return Resumed(path, contents, changed)


def set_progress(checkpoint: dict[str, Any], accumulate: int, total: int, due: bool) -> None:
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


def initial(init: str) -> tuple[Path, dict[str, Any]]:
    """The file of the model that `init` names, and its contents. Raises UserError if it cannot be read."""
    with given_as("init", "ckpt"):
        return (path := trained(init)), read(path)


def inherited(values: dict[str, Any], launch: Launch, config: str = "init", copied: Sequence[str] = SIZE) -> Any:
    """Composed settings, with what conf/CONFIG.yaml leaves to the model that `init` names, changed by the launch.

    The settings `copied` of its images are inherited, too, and with config=finetune all settings outside of groups.
    """
    path, contents = initial(values["init"])
    recipe, file = plain_config(contents["config"], path), run_folder(path) / CONFIG
    if path.parent.name == "checkpoints" and file.is_file():  # an exported file has only a part of the recipe
        recipe = plain_config(file.read_bytes(), file) | recipe
    left, more = left_by(config), set[str]()
    if config == "finetune":
        more = values.keys() - {*default_choices(config), "name", "ckpt", "init"}
    data = {key: recipe["data"][key] for key in copied if key in recipe["data"] and not launch.gives(f"data.{key}")}
    base = {group: of_recipe(group, recipe) for group in left} | {key: recipe.get(key, values[key]) for key in more}
    return inherit(values | base, launch.changes, {*left, *more}, path) | {"data": values["data"] | data}


def start_from(init: str, network: nn.Module, config: Mapping[str, Any], command: Sequence[str] = ()) -> None:
    """Copy those weights of a model into `network` that match its own by name and shape, and print their number.

    The averaged weights are used if there are any. The other weights of `network` keep their initial values.

    Args:
        init: a run, a checkpoint, an exported file, a diffusers folder, a bundled model, or `last`.
        config: the run's configuration; its schedule and prediction are compared with those of the model.
        command: the command line of the run.

    Raises UserError if the model cannot be read, or if less than half of the network's numbers are in it.
    """
    path, contents = initial(init)
    found, own = network_weights(contents["state_dict"]), network.state_dict()
    fitting = [name for name in own if name in found and found[name].shape == own[name].shape]
    fit, whole = (sum(own[name].numel() for name in names) for names in (fitting, own))
    if 2 * fit < whole:
        fix = shlex.join(word for word in command if not re.match(r"[+~]*model\b", word))
        raise UserError(
            f"init={path}: only {fit:,} of the network's {whole:,} numbers are in it; without settings of the model, "
            f"the network is that of init: {fix}"
        )
    for name in fitting:
        own[name].copy_(found[name])
    loaded, new = f"loaded {count(len(fitting), 'weight')} of {len(own)}", [name for name in own if name not in fitting]
    more = f"; newly initialized: {', '.join(new[:3])}{', …' * (len(new) > 3)}" if new else ""
    console.print(f"starting from {init}, step {contents['global_step']}: {loaded}{more}")
    theirs = plain_config(contents["config"], path)
    if parts := [part for part in ("schedule", "prediction") if theirs.get(part) != config[part]]:
        console.print(f"  it was trained with another {' and '.join(parts)} and must adapt to this one", style="yellow")
