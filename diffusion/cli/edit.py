"""Draw variants of a picture, fill or enlarge it, undo an operator, or draw images between two noises.

diffusion edit ckpt=RUN image=PICTURE strength=0.6                  SDEdit: noise the picture, then denoise it
diffusion edit ckpt=RUN image=PICTURE mask=MASK                     fill it where the mask is white
diffusion edit ckpt=… image=… mask=… inpainting=split_gibbs sampler=dpm_2m_sde    with another method
diffusion edit ckpt=RUN image=PICTURE operator=downsampling         enlarge it; also blur, grey
diffusion edit ckpt=RUN interpolate=[0,1] n=12                      interpolate between two seeds
diffusion edit ckpt=SUPER upscale=PICTURE                           enlarge a picture of any size
"""

from pathlib import Path

from diffusion.config.schema import Edit
from diffusion.errors import UserError
from diffusion.runs.command import Command
from diffusion.runs.launch import Launch


def edit(settings: Edit, launch: Launch) -> None:
    """Write images/*.png, grid.png and images.npz; for an interpolation also interpolation.gif.

    A filled picture keeps its own size in images/*.png; images.npz has the images of the network.
    """
    from torchvision.transforms.functional import to_pil_image

    from diffusion.base.console import console, count
    from diffusion.base.pixels import gif, grid, reduced
    from diffusion.library.files import save_images
    from diffusion.library.opening import edit_of, opened_model
    from diffusion.process.editing import SDEdit
    from diffusion.sampling.edits import kept, overview
    from diffusion.sampling.request import Request

    check(settings)
    folder, n = launch.folder, settings.n or (1 if settings.upscale else 8)
    settings, model, (device,) = opened_model(settings.model_copy(update={"n": n}), launch.changes)
    model.kind.require("edit")
    drawing, before, paste, size = edit_of(settings).of(model.restored, Request.of(settings))
    if isinstance(drawing.sampler, SDEdit):
        _, level = drawing.sampler.begins(model.denoiser.schedule)
        console.print(f"{count(drawing.sampler.steps, 'step')}, from sigma/alpha = {level:.3g}")
    images = drawing(model.denoiser, n, device, settings.batch_size, f"drawing {count(n, 'image')}")
    images = kept(images, size)
    files = paste(images) if paste else None
    shown = drawing.kind.pictures(images)
    if files or size:
        shown = reduced(files or [*map(to_pil_image, shown)])
    picture = drawing.kind.legend(overview(shown[:0] if before is None else before, shown))
    like = Path(settings.upscale or settings.image or "").suffix
    save_images(folder, images, picture, drawing, model.restored, files, like=like)
    if settings.interpolate:
        gif([grid(image[None], large=True) for image in shown], folder / "interpolation.gif")


def check(settings: Edit) -> None:
    """Raise UserError for settings that do not fit together."""
    from diffusion.library.opening import MASK

    between, large = settings.interpolate, settings.upscale
    if [settings.image, between, large].count(None) != 2:
        raise UserError(
            "add image=PICTURE to edit it, upscale=PICTURE to enlarge it, or interpolate=[0,1] for images between two "
            "seeds; one of them"
        )
    undo = settings.mask or settings.operator
    if large and (undo or settings.strength):
        raise UserError("upscale has no mask, operator or strength; remove them")
    if between and (undo or settings.strength or settings.labels or settings.seed not in (None, between[0])):
        raise UserError("interpolate has no mask, operator, strength, labels or seed (only label=CLASS); remove them")
    if undo and settings.strength is not None:
        raise UserError("mask and operator cannot be combined with strength: remove it")
    masks = (settings.operator or {}).get("_target_") == MASK
    if settings.operator and masks != (settings.mask is not None):
        raise UserError("operator=mask needs mask=MASK, and the other operators have none; add or remove mask=MASK")
    if (not settings.operator or masks) and (settings.noise_level is not None or settings.observed):
        raise UserError("noise_level and observed are of operators other than a mask; remove them")


main = Command("edit", Edit, __doc__, "diffusion.cli.edit.edit")
