"""The commands that go on with a run, or repeat it, each as its words after `diffusion`."""

import os
from collections.abc import Sequence
from pathlib import Path

from diffusion.errors import shown
from diffusion.runs.folder import Run

Words = Sequence[str]
ENLARGED = (3, 32, 32)  # (C, H, W) of the images that the bundled model `super` enlarges


def recipe(run: Run, *more: str, init: Path | None = None) -> list[str]:
    """The command that trains the run's recipe from the start, with more words, which replace its own, or weights."""
    name = run.commands[0][0] if run.commands else "train"
    places = ("init", "data.root") if name == "finetune" else ()  # which its first words are
    words = dict(zip(places, run.commands[0][1:] if places else (), strict=False))
    typed = [word for each in run.commands for word in each[1:] if not word.startswith(("ckpt=", "hydra"))]
    for word in [*run.overrides, *typed[len(places) :], *more]:
        words.pop(key := word.partition("=")[0], None)
        words[key] = word
    if init:
        words["init"] = str(init) if places else f"init={shown(str(init))}"
    return [name, *run.own, *words.values()]


def resumed(run: Run) -> list[str]:
    return ["train", *run.own, f"hydra.run.dir={shown(place_of(run))}", "ckpt=auto"]


def onward(run: Run) -> list[str]:
    """The command that trains for as many steps again: from a checkpoint, or from the weights if only they are kept."""
    kept = run.settings.get("checkpoint", {}).get("finished")
    if kept == "weights" or not any(run.folder.glob("checkpoints/*.ckpt")):
        return recipe(run, init=place_of(run))
    return [*resumed(run), longer(run)]


def longer(run: Run) -> str:
    """The override that makes a training twice as long."""
    trainer = run.settings.get("trainer", {})
    unit = "max_steps" if trainer.get("max_steps", -1) > 0 else "max_epochs"
    return f"trainer.{unit}={2 * trainer.get(unit, 0)}"


def of_model(name: str, run: Run, *more: str) -> list[str]:
    """A command such as `sample` with the model of a run or an evaluation."""
    return [name, *run.own, f"ckpt={model_of(run)}", *more]


def enlarged(run: Run) -> list[list[str]]:
    """The command that draws with the run and enlarges by `super`; none if its images are not ENLARGED."""
    data = run.config.get("data") or {}
    fits = (data.get("channels"), data.get("resolution")) == ENLARGED[:2] and not run.config.get("condition")
    return [of_model("sample", run, "then=super")] if fits else []


def model_of(run: Run) -> str:
    """The model of a run or an evaluation, as an override names it."""
    return shown(str(place_of(run)) if run.command == "train" else run.config.get("ckpt"))


def place_of(run: Run) -> Path:
    """The shortest path of a run's folder."""
    return Path(min(os.path.relpath(run.folder), str(run.folder.resolve()), key=len))
