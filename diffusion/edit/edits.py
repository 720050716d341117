"""The work of `diffusion edit`: variants of a picture, inverse problems, and interpolation between two noises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import AUTO, choice
from diffusion.config.schema import Edit
from diffusion.console import console, count
from diffusion.data import Split, to_uint8, to_unit
from diffusion.data.conditions import Shape
from diffusion.data.images import Box, Unusable, middle, read, resized
from diffusion.errors import UserError
from diffusion.evaluation.commands import begin, make_drawing, save_images
from diffusion.evaluation.conditions import Given, condition_of
from diffusion.evaluation.drawing import Drawing
from diffusion.pixels import MODES, gif, grid, only_pictures, resolution_of
from diffusion.process.editing import Inpainting, SDEdit
from diffusion.process.operators import Mask, Observation, observe
from diffusion.randomness import Streams

STRENGTH = 0.6  # default for SDEdit
NOISE = 0.02  # default of the noise of observations: 2.5 of 255 grey levels
COLUMNS = 12  # of grid.png, at most
SIDE = 320  # pixels; of a picture in grid.png that is larger than the model's
GREY = 127  # of 0 to 255: mask pixels brighter than this are filled

Paste = Callable[[Tensor], list[Image.Image]]
"""Images of the model, uint8 (n, C, h, w) -> pictures of the user."""
Source = str | Path | Image.Image | np.ndarray | Tensor
"""A file, an image of Pillow, an array uint8 (H, W, C) or (H, W), or a tensor uint8 (C, H, W); a mask may be bool."""


def draw_edits(settings: Edit, folder: Path) -> None:
    """Write images/*.png, grid.png and images.npz; for an interpolation also interpolation.gif.

    A filled picture keeps its own size in images/*.png; images.npz has the images of the network.
    """
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
    masks = (settings.operator or {}).get("_target_") == f"{Mask.__module__}.{Mask.__name__}"
    if settings.operator and masks != (settings.mask is not None):
        raise UserError("operator=mask needs mask=MASK, and the other operators have none; add or remove mask=MASK")
    if (not settings.operator or masks) and (settings.noise_level is not None or settings.observed):
        raise UserError("noise_level and observed are of operators other than a mask; remove them")
    n = settings.n or (1 if large else 8)
    settings, restored, (device,) = begin(settings.model_copy(update={"n": n}))
    only_pictures("edit", restored.shape[0])
    if large:
        drawing, before, paste = *enlarged(settings, restored, large), None
    else:
        drawing, before, paste = edited(make_drawing(settings, restored), settings, restored)
    images = drawing(restored.denoiser, n, device, settings.batch_size, f"drawing {count(n, 'image')}")
    files = paste(images) if paste else None
    shown = reduced(files or [*map(to_pil_image, images)]) if files or large else images
    save_images(folder, images, overview(before, shown), drawing, restored, files)
    if between:
        gif([grid(image[None], large=True) for image in images], folder / "interpolation.gif")


def edited(
    drawing: Drawing, settings: Edit, restored: Restored, image: Source | None = None, mask: Source | None = None
) -> tuple[Drawing, Tensor, Paste | None]:
    """`drawing`, changed to draw the edit of `settings`; the user's pictures, uint8 (m, C, H, W).

    Also, for a filling, the function that pastes what is drawn into the user's picture.

    Raises UserError for settings that do not fit together.

    Args:
        image, mask: pictures in memory, instead of the files of the settings.
    """
    if settings.interpolate is not None:
        first, last = settings.interpolate
        nothing = torch.zeros(0, *restored.shape, dtype=torch.uint8)
        return replace(drawing, between=(first, last), seed=first), nothing, None
    source = image if image is not None else str(settings.image)
    if settings.mask is None and settings.operator is not None:
        observation, before = observation_of(
            settings.operator, source, restored.shape, settings.noise_level, settings.observed, drawing.seed
        )
        return answering(drawing, observation, settings.inpainting), before, None
    picture = read_picture(source, restored.shape)
    if settings.mask is None:
        sampler = SDEdit(drawing.sampler, to_unit(picture), settings.strength or STRENGTH)
        _, level = sampler.begins(restored.denoiser.schedule)
        console.print(f"{count(sampler.steps, 'step')}, from sigma/alpha = {level:.3g}")
        return replace(of_picture(drawing, picture), sampler=sampler), picture[None], None
    white = mask if mask is not None else settings.mask
    fill = read_mask(white, source, restored.shape)
    filled = filling(drawing, picture, fill, settings.inpainting)
    whole, (_, height, width) = upright("image", source, restored.shape), restored.shape
    part = upright("mask", white, (1, height, width)).resize(whole.size).point(lambda value: 255 * (value > GREY))
    box = left, top, right, bottom = middle((0, 0, *whole.size), [height, width])
    if (right - left, bottom - top) != (width, height):
        about = f"{width}x{height} for its middle {right - left}x{bottom - top} pixels"
        console.print(f"the picture keeps its size; what is filled has the network's resolution, {about}")
    paste = partial(pasted, whole=whole, fill=part, box=box)
    grey = torch.tensor([GREY, GREY, GREY, 255], dtype=torch.uint8)[: len(picture)].view(-1, 1, 1).expand_as(picture)
    return filled, reduced([whole, *paste(grey[None])]), paste


def enlarged(settings: Edit, restored: Restored, picture: Source) -> tuple[Drawing, Tensor]:
    """The drawing of a picture of any size, enlarged by the factor of the model's condition; and, for comparison, the
    picture itself, enlarged without the model (bicubic), uint8 (1, C, H, W).

    Raises UserError if the model is not one that enlarges pictures, or the picture is smaller than those it is given.
    """
    channels, height, width = shape = restored.shape
    condition = condition_of(settings.condition, restored.facts, shape)
    if condition is None or condition.factor == 1:
        raise UserError(f"upscale: {settings.ckpt} does not enlarge pictures; choose a model of experiment=superres")
    factor = condition.factor
    image = upright("upscale", picture, (channels, height // factor, width // factor))
    size = image.height * factor, image.width * factor
    given = Given(condition, shape, "the picture", named=condition.own(to_unit(pil_to_tensor(image)[None])))
    drawing = make_drawing(settings, restored, given=given)
    console.print(f"{image.width}x{image.height} to {size[1]}x{size[0]} pixels")
    before = reduced([image.resize(size[::-1], Image.Resampling.BICUBIC)])
    if size == (height, width):
        return drawing, before
    whole = channels, *size
    return replace(drawing, given=replace(given, shape=whole), shape=whole, windows=((height, width), factor)), before


def pasted(images: Tensor, whole: Image.Image, fill: Image.Image, box: Box) -> list[Image.Image]:
    """A picture with each of the fillings, uint8 (n, C, h, w), enlarged to its `box`, where `fill` (L) is 255."""
    pictures = [whole.copy() for _ in images]
    for picture, image in zip(pictures, images, strict=True):
        enlarged = to_pil_image(image).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
        picture.paste(enlarged, box, fill.crop(box))
    return pictures


def filling(drawing: Drawing, picture: Tensor, fill: Tensor, method: Mapping[str, Any]) -> Drawing:
    """`drawing`, changed to fill a picture, uint8 (C, H, W), where `fill`, bool (H, W), is true, and keep the rest."""
    if bool(fill.all()):
        raise UserError("mask: it covers the whole picture, so nothing is kept; use `diffusion sample` instead")
    known = Mask(~fill)
    seen = Observation(known, tuple(picture.shape), known(to_unit(picture))[None])
    return answering(of_picture(drawing, picture), seen, method)


def of_picture(drawing: Drawing, picture: Tensor) -> Drawing:
    """`drawing` with the condition of a picture, uint8 (C, H, W), if it can be computed and the user gives no other."""
    given = drawing.given
    if given is None or given.split is None or given.condition.attached:
        return drawing
    return replace(drawing, given=replace(given, words="the picture", split=Split(picture[None], ["picture"])))


def observation_of(
    operator: Mapping[str, Any], source: Source, shape: Shape, noise: float | None, already: bool, seed: int
) -> tuple[Observation, Tensor]:
    """An observation by a choice of conf/operator; and the pictures to show, uint8 (m, C, H, W).

    Raises UserError for an operator that does not suit the images, or a picture that does not suit the operator.

    Args:
        already: the picture is what the operator made; otherwise the operator is applied, and noise added by the seed.
    """
    made, noise = make(operator, "operator"), NOISE if noise is None else noise
    blank = torch.zeros(shape)
    channels, *size = observe(made, blank, 0, Streams([seed]))[0].shape
    pictures = [] if already else [read_picture(source, shape)]
    if pictures:
        y = observe(made, to_unit(pictures[0]), noise, Streams.of(1, seed, "observation"))
    elif len(size) == 2 and channels in MODES:
        y = to_unit(read_picture(source, (channels, size[0], size[1])))[None]
    else:
        raise UserError(f"observed: what the operator makes is no picture, but {(channels, *size)}; set observed=false")
    if len(size) == 2 and channels in (1, shape[0]):
        pictures.append(F.interpolate(to_uint8(y), shape[1:])[0].expand(shape))
    return Observation(made, shape, y, noise), torch.stack([*pictures, blank.byte()])[:-1]


def answering(drawing: Drawing, observation: Observation, method: Mapping[str, Any]) -> Drawing:
    """`drawing`, changed to draw images with this observation, by a choice of conf/inpainting, or the usual one."""
    node = dict(method)
    if node.pop("from", None) == AUTO:
        node = choice("inpainting", "repaint" if observation.exact else "mmps", **node)
    how: Callable[..., Inpainting] = make(node, "inpainting")
    return replace(drawing, sampler=how(drawing.sampler, observation))


def reduced(pictures: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Pictures of one size as uint8 (n, C, H, W), none of whose sides is longer than `side`."""
    scale = min(1.0, side / max(pictures[0].size))
    return torch.stack([pil_to_tensor(each.resize([max(1, round(scale * s)) for s in each.size])) for each in pictures])


def overview(before: Tensor, images: Tensor) -> Image.Image:
    """One picture: a row with the user's pictures, if any, and the drawn images below it."""
    columns = max(min(len(images), COLUMNS), len(before))
    padding = images.new_full(((columns - len(before)) * bool(len(before)), *images.shape[1:]), 255)
    return grid(torch.cat([before, padding, images]), columns, large=True)


def read_picture(picture: Source, shape: Shape) -> Tensor:
    """The largest centre crop with the proportions of `shape` (C, H, W), downscaled to it, uint8 (C, H, W).

    Raises UserError for a picture that does not exist, cannot be used, or is smaller.
    """
    return window(upright("image", picture, shape), shape)


def read_mask(mask: Source, picture: Source, shape: Shape) -> Tensor:
    """The region of a picture to fill, bool (H, W): where the mask is brighter than grey."""
    of_mask = (1, *shape[1:])
    image, other = upright("mask", mask, of_mask), upright("image", picture, shape)
    if abs(image.width * other.height / (image.height * other.width) - 1) > 0.02:
        raise UserError(
            f"mask: it has {image.width}x{image.height} pixels, and the picture {other.width}x{other.height}; use a "
            "mask with the same proportions, white where the picture is to be filled"
        )
    return window(image, of_mask)[0] > GREY


def upright(name: str, picture: Source, shape: Shape) -> Image.Image:
    """A picture as an image of at least the size of `shape`, in its mode."""
    only_pictures("edit", shape[0])
    if isinstance(picture, Tensor):
        picture = picture.cpu().movedim(0, -1).numpy() if picture.ndim == 3 else picture.cpu().numpy()
    if isinstance(picture, np.ndarray):
        pixels = picture.astype(np.uint8) * 255 if picture.dtype == bool else np.squeeze(picture)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.shape[2:] in ((3,), (4,))):
            raise UserError(
                f"{name}: got {picture.dtype} {picture.shape}; expected uint8 (H, W, C), (H, W), or a tensor (C, H, W)"
            )
        picture = Image.fromarray(pixels)
    file = picture if isinstance(picture, Image.Image) else Path(picture).expanduser()
    if isinstance(file, Path) and not file.is_file():
        raise UserError(f"{name}={file}: no such file; name a picture, such as a PNG or JPEG")
    try:
        opens = file if isinstance(file, Path) else lambda: file
        return read(opens, resolution_of(*shape[1:]), channels=shape[0])  # type: ignore[arg-type]
    except Unusable as error:
        shown = name if isinstance(file, Image.Image) else f"{name}={file}"
        raise UserError(
            f"{shown}: {error}; use an intact picture, such as a PNG or JPEG, of at least {shape[2]}x{shape[1]} pixels"
        ) from error


def window(image: Image.Image, shape: Shape) -> Tensor:
    """The largest centre crop of an image with the proportions of `shape` (C, H, W), scaled to it, uint8."""
    return torch.tensor(resized(image, resolution_of(*shape[1:])))
