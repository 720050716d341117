"""`diffusion edit`: variants of a picture, inverse problems, enlargements and interpolations, as files."""

from dataclasses import replace
from pathlib import Path

from torchvision.transforms.functional import to_pil_image

from diffusion.base.console import console, count
from diffusion.base.pixels import gif, grid, reduced
from diffusion.config.schema import Edit
from diffusion.errors import UserError
from diffusion.kinds.kind import Source
from diffusion.library import Model
from diffusion.process.editing import SDEdit
from diffusion.runs.launch import Launch
from diffusion.sampling.edits import STRENGTH, Edited, filled, kept, overview, solved, varied
from diffusion.tasks.opening import MASK, opened_model, options_of
from diffusion.tasks.sample import save_images


def draw_edits(settings: Edit, launch: Launch) -> None:
    """Write images/*.png, grid.png and images.npz; for an interpolation also interpolation.gif.

    A filled picture keeps its own size in images/*.png; images.npz has the images of the network.
    """
    check(settings)
    folder, n = launch.folder, settings.n or (1 if settings.upscale else 8)
    settings, model, (device,) = opened_model(settings.model_copy(update={"n": n}), launch.changes)
    model.kind.require("edit")
    drawing, before, paste, size = edited(model, settings)
    images = drawing(model.denoiser, n, device, settings.batch_size, f"drawing {count(n, 'image')}")
    images = kept(images, size)
    files = paste(images) if paste else None
    kind = drawing.kind
    shown = kind.pictures(images)
    if files or size:
        shown = reduced(files or [*map(to_pil_image, shown)])
    picture = kind.legend(overview(shown[:0] if before is None else before, shown))
    like = Path(settings.upscale or settings.image or "").suffix
    save_images(folder, images, picture, drawing, model.restored, files, like=like)
    if settings.interpolate:
        gif([grid(image[None], large=True) for image in shown], folder / "interpolation.gif")


def check(settings: Edit) -> None:
    """Raise UserError for settings that do not fit together."""
    between, large = settings.interpolate, settings.upscale
    if [settings.image, between, large].count(None) != 2:
        raise UserError(
            "add image=PICTURE to edit it, upscale=PICTURE to enlarge it, or interpolate=[0,1] for images between two "
            "seeds; one of them"
        )
    undo = settings.mask or settings.operator
    if large and (undo or settings.strength or settings.given):
        raise UserError("upscale has no mask, operator, strength or given; remove them")
    if between and (undo or settings.strength or settings.labels or settings.seed not in (None, between[0])):
        raise UserError("interpolate has no mask, operator, strength, labels or seed (only label=CLASS); remove them")
    if undo and settings.strength is not None:
        raise UserError("mask and operator cannot be combined with strength: remove it")
    masks = (settings.operator or {}).get("_target_") == MASK
    if settings.operator and masks != (settings.mask is not None):
        raise UserError("operator=mask needs mask=MASK, and the other operators have none; add or remove mask=MASK")
    if (not settings.operator or masks) and (settings.noise_level is not None or settings.observed):
        raise UserError("noise_level and observed are of operators other than a mask; remove them")


def edited(model: Model, settings: Edit, image: Source | None = None, mask: Source | None = None) -> Edited:
    """The edit of these settings; with an image and a mask in memory, instead of those in files."""
    options = options_of(settings)
    if settings.upscale is not None:
        return model.enlarged(settings.upscale, **{key: value for key, value in options.items() if key != "given"})
    if settings.interpolate is not None:
        first, last = settings.interpolate
        return Edited(replace(model.drawing(**options | {"seed": first}), between=(first, last)))
    drawing, source = model.drawing(**options), settings.image if image is None else image
    assert source is not None
    if settings.mask is not None:
        return filled(drawing, source, settings.mask if mask is None else mask, settings.inpainting or {})
    if settings.operator is not None:
        how = settings.operator, settings.inpainting or {}, settings.noise_level, settings.observed
        return solved(drawing, source, *how)
    made = varied(drawing, source, settings.strength or STRENGTH)
    assert isinstance(made.drawing.sampler, SDEdit)
    _, level = made.drawing.sampler.begins(model.denoiser.schedule)
    console.print(f"{count(made.drawing.sampler.steps, 'step')}, from sigma/alpha = {level:.3g}")
    return made
