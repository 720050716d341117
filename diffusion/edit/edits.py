"""The work of `diffusion.edit`: variants of a picture, inpainting, and interpolation between two noises."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.find import opened
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import searched
from diffusion.config.quoting import command_line, hydra_value
from diffusion.config.schema import Edit, Sample
from diffusion.console import console, count, log_to, quiet_libraries
from diffusion.data import to_unit
from diffusion.edit.inputs import known_part, read_mask, read_picture
from diffusion.errors import UserError
from diffusion.evaluation.commands import labels_of, make_drawing, save_images
from diffusion.evaluation.devices import choose_device
from diffusion.evaluation.drawing import Drawing, source_of
from diffusion.evaluation.inherited import completed_by
from diffusion.files import replace as replace_file
from diffusion.process.editing import SDEdit
from diffusion.process.inpainting import Inpainting
from diffusion.report.images import enlarged, gif, grid, in_turn, save_png
from diffusion.runs.folder import recorded_overrides

STRENGTH = 0.6  # default for SDEdit
COLUMNS = 12  # of grid.png, at most


@dataclass(frozen=True)
class Edits:
    """A planned edit: how to draw, how many images, and the user's pictures shown `before` them, uint8 (m, C, H, W)."""

    drawing: Drawing
    n: int
    before: Tensor
    about: str


def edits(settings: Edit, restored: Restored) -> Edits:
    """Plan the edit of `settings`, completed by the run's. Raises UserError for settings that do not fit together."""
    check(settings)
    drawing = make_drawing(settings, restored, labels_of(settings))
    if settings.interpolate is not None:
        first, last = settings.interpolate
        drawing = replace(drawing, between=(first, last), seed=first)
        nothing = torch.zeros(0, *restored.shape, dtype=torch.uint8)
        return Edits(drawing, settings.frames, nothing, f"from the noise of seed {first} to that of seed {last}")
    assert settings.image is not None
    picture = read_picture(settings.image, restored.shape)
    if settings.mask is None:
        edited = SDEdit(settings.strength or STRENGTH)(drawing.sampler, to_unit(picture))
        _, level = edited.begins(restored.denoiser.schedule)
        about = f"{edited.steps} of {count(drawing.sampler.steps, 'step')}, from sigma/alpha = {level:.3g}"
        return Edits(replace(drawing, sampler=edited), settings.n, picture[None], about)
    fill = read_mask(settings.mask, restored.shape, settings.image)
    filled = filling(drawing, picture, fill, make(settings.inpainting, "inpainting"))
    about = f"filling {float(fill.float().mean()):.0%} of the picture"
    return Edits(filled, settings.n, torch.stack([picture, known_part(picture, fill)]), about)


def check(settings: Edit) -> None:
    """Raise UserError for settings that exclude each other, or without a picture and without seeds."""
    between = settings.interpolate
    if (settings.image is None) == (between is None):
        raise UserError("set either image=PICTURE, or interpolate=[SEED,SEED] to draw between two noises")
    if between is not None and not (settings.mask is settings.strength is settings.labels is None):
        raise UserError("interpolate has neither mask, strength nor labels (only label=CLASS); remove them")
    if settings.mask is not None and settings.strength is not None:
        raise UserError("mask and strength cannot be combined: remove one of them")


def filling(drawing: Drawing, picture: Tensor, fill: Tensor, method: Inpainting) -> Drawing:
    """`drawing`, changed to fill a picture, uint8 (C, H, W), where `fill`, bool (H, W), is true, and keep the rest.

    Raises UserError if everything is to be filled.
    """
    if bool(fill.all()):
        raise UserError("mask: it covers the whole picture, so nothing is kept; use diffusion.sample instead")
    return replace(drawing, sampler=method(drawing.sampler, to_unit(picture), ~fill))


def draw_edits(settings: Edit, folder: Path) -> None:
    """Write images/*.png, grid.png, images.npz and edit.json; for an interpolation also interpolation.gif."""
    quiet_libraries()
    log_to(folder / "edit.log")
    check(settings)  # before the model is loaded
    if settings.interpolate is not None and settings.seed not in (None, settings.interpolate[0]):
        raise UserError("seed: an interpolation has two, interpolate=[A,B]; remove it")
    device = choose_device(settings.device)
    restored = opened(settings.ckpt, settings.weights)
    settings = completed_by(settings, restored)
    made = edits(settings, restored)
    console.print(made.about)
    drawing, n, denoiser = made.drawing, made.n, restored.denoiser.to(device)
    drawing.print_cost(denoiser, n, settings.batch_size, device)
    images = drawing(denoiser, n, device, settings.batch_size, f"drawing {count(n, 'image')}")
    save_images(folder, images, drawing.seed, drawing.conditions(denoiser, n))
    if drawing.between:
        gif([enlarged(grid(image[None])) for image in images], folder / "interpolation.gif")
    save_png(overview(made, images, settings), folder / "grid.png")
    record = recorded(settings, made, restored, command_line("edit", exact_words(folder, made, restored)))
    replace_file(folder / "edit.json", json.dumps(record, indent=1, ensure_ascii=False))
    console.print(f"{count(n, 'image')} of step {restored.step} ({restored.weights} weights) in {folder}")
    more = ", interpolation.gif" if drawing.between else ""
    console.print(f"  images/, grid.png, images.npz (uint8, N×H×W×C), edit.json{more}")


def recorded(settings: Edit | Sample, made: Edits, restored: Restored, command: str) -> dict[str, Any]:
    """The record of how the images were drawn, with the command that reproduces them."""
    method = {"inpainting": dict(settings.inpainting)} if isinstance(settings, Edit) and settings.mask else {}
    return {
        "command": command,
        "what": made.about,
        "n": made.n,
        "network evaluations of an image": made.drawing.evaluations(restored.denoiser.schedule),
        "seed": made.drawing.seed,
        **method,
        **source_of(settings.sampler, settings.guidance, settings.precision),
        **restored.source,
    }


def overview(made: Edits, images: Tensor, settings: Edit) -> Any:
    """One picture: a row with the user's pictures, if any, and the drawn images below it."""
    m, shown, columns = len(made.before), images, min(len(images), COLUMNS)
    if settings.labels:
        shown, columns = in_turn(images, len(settings.labels), least=m)
    columns = max(columns, m)
    padding = images.new_full(((columns - m) * bool(m), *images.shape[1:]), 255)
    return grid(torch.cat([made.before, padding, shown]), columns, large=True)


def exact_words(folder: Path, made: Edits, restored: Restored) -> list[str]:
    """The overrides that reproduce the images: those of the command line, with the actual seed and checkpoint file."""
    pinned = {"ckpt": restored.path, "seed": made.drawing.seed}
    given = [word for word in recorded_overrides(folder) if word.partition("=")[0] not in pinned]
    return [*(f"{key}={hydra_value(value)}" for key, value in pinned.items()), *given, *search_words()]


def search_words(shown: Callable[[Path], str] = str) -> list[str]:
    """The override that adds the user's own folders of choices, if there are any; `shown` turns a folder into text."""
    own = [hydra_value(shown(folder)) for folder in searched()[1:]]
    return [f"hydra.searchpath=[{','.join(own)}]"] if own else []
