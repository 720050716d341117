"""Draw images from a trained model.

diffusion sample ckpt=RUN                                             36 images with the run's sampler
diffusion sample ckpt=… n=64 sampler=ddim sampler.steps=50 seed=0     another sampler
diffusion sample ckpt=… n=8 trajectory=true                           also save the denoising steps
diffusion sample ckpt=… then=[SUPER,SUPER2]                           enlarge the images by other models
"""

from typing import TYPE_CHECKING

from diffusion.config.schema import Sample
from diffusion.runs.command import Command
from diffusion.runs.launch import Launch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

GRID = 1024  # maximum number of images in a grid
CONDITIONS = "conditions.png"  # the pictures that the images of a grid were drawn from


def sample(asked: Sample, launch: Launch) -> None:
    """Write n images to images/*.png, grid.png, images.npz; with `trajectory` also trajectory.gif.

    With `then`, they are those of its last model; grid-1.png, … show those of the models before.
    """
    from diffusion.base.pixels import grid, in_turn, save_png
    from diffusion.library.cascade import enlargement, enlarging
    from diffusion.library.files import save_images
    from diffusion.library.opening import opened_model
    from diffusion.sampling.drawing import Frames
    from diffusion.sampling.parallel import draw_samples, remove
    from diffusion.sampling.request import Request

    folder, changes = launch.folder, launch.changes
    first = [each for each in changes if not (asked.then and each.part == "condition")]  # which is for the others
    settings, model, devices = opened_model(asked, first)
    drawing, drawn = Request.of(settings).drawing(model.restored), list["Tensor"]()
    stages = [(settings, model, drawing), *enlarging(asked, changes, model, drawing.seed)]
    for settings, model, drawing in stages:
        if drawn:
            drawing = enlargement(drawing, drawn[-1])
        source = drawing.source(settings.sampler, settings.guidance)
        how = settings.n, settings.batch_size, model.denoiser, devices, folder
        drawn.append(draw_samples(drawing, source, *how))
    images, kind, n = drawn[-1], drawing.kind, settings.n
    if settings.trajectory:
        frames, few = Frames(drawing.sampler, model.denoiser.schedule, kind), min(n, kind.filmed)
        drawing(model.denoiser, few, devices[0], few, "sampling the trajectory", frames.watch)
        frames.save_gif(folder / "trajectory.gif")

    def arranged(shown: "Tensor") -> "Image.Image":
        shown, columns = in_turn(shown, len(settings.labels)) if settings.labels else (shown, None)
        return grid(shown, columns, large=True)

    def picture(images: "Tensor") -> "Image.Image":
        return kind.legend(arranged(kind.pictures(images[:GRID])))

    if (conditions := drawing.pictures(min(n, GRID))) is not None:
        save_png(arranged(conditions), folder / CONDITIONS)
    for k, others in enumerate(drawn[:-1], start=1):
        save_png(picture(others), folder / f"grid-{k}.png")
    named = ", enlarged by ".join(map(str, [asked.ckpt, *asked.then])) if asked.then else ""
    save_images(folder, images, picture(images), drawing, model.restored, named=named)
    remove(folder)


main = Command("sample", Sample, __doc__, "diffusion.cli.sample.sample")
