"""Changes of a drawing: variants of a picture, inverse problems, enlargements. `Edited` is what they give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from diffusion.base.console import console
from diffusion.config.build import make
from diffusion.data import Split, to_unit
from diffusion.data.arrays import array_of
from diffusion.data.conditions import Condition, Shape
from diffusion.data.encoder import Latents
from diffusion.data.images import Box, Unusable, read, resized
from diffusion.data.values import Values
from diffusion.errors import UserError
from diffusion.pixels import MODES, grid, only_pictures, resolution_of
from diffusion.process.editing import Inpainting, SDEdit
from diffusion.process.operators import Mask, Nonlinear, Observation, observe
from diffusion.randomness import Streams
from diffusion.sampling.drawing import Drawing
from diffusion.sampling.given import Given

STRENGTH = 0.6  # default for SDEdit
NOISE = 0.02  # default of the noise of observations: 2.5 of 255 grey levels
COLUMNS = 12  # of grid.png, at most
SIDE = 320  # pixels; of a picture in grid.png that is larger than the model's
GREY = 127  # of 0 to 255: mask pixels brighter than this are filled

Node = Mapping[str, Any]
Paste = Callable[[Tensor], list[Image.Image]]
"""Images of the model, uint8 (n, C, h, w) -> pictures of the user."""
Source = str | Path | Image.Image | np.ndarray | Tensor
"""A file, an image of Pillow, an array uint8 (H, W, C) or (H, W), or a tensor uint8 (C, H, W); a mask may be bool.
Measurements: a file of the kinds of data=arrays, or floats (C, H, W)."""
PIXELS = Values()


class Edited(NamedTuple):
    """A drawing, changed; the user's pictures to show, uint8 (m, C, H, W); what to do with the images that it draws."""

    drawing: Drawing
    before: Tensor | None = None
    paste: Paste | None = None  # into the user's picture
    size: tuple[int, int] | None = None  # (height, width) to keep from the top left corner; None: all


def varied(drawing: Drawing, picture: Source, strength: float = STRENGTH) -> Edited:
    """`drawing`, changed to draw variants of a picture by SDEdit."""
    only_pictures("edit", drawing.shape)
    values, pixels = drawing.values, opened(picture, drawing.shape, drawing.values)
    sampler = SDEdit(drawing.sampler, values.inside(pixels[None])[0].nan_to_num(), strength)  # the mean if missing
    return Edited(replace(of_picture(drawing, pixels), sampler=sampler), values.pictures(pixels[None]))


def filled(drawing: Drawing, picture: Source, mask: Source, method: Node) -> Edited:
    """`drawing`, changed to fill a picture where its mask is white, by a method of conf/inpainting.

    Of measurements, values that are missing are filled, too.
    """
    only_pictures("edit", drawing.shape)
    if drawing.values.dtype != torch.uint8:
        array, shape = opened(picture, drawing.shape, drawing.values), (1, *drawing.shape[1:])
        here = Mask(~((read_picture(mask, shape, "mask") > GREY) | array.isnan()))
        y = here(drawing.values.inside(array[None]).nan_to_num())
        before = drawing.values.pictures(torch.stack([array, array.masked_fill(~here.known, torch.nan)]))
        return Edited(answering(drawing, Observation(here, drawing.shape, y), method), before)
    pixels, fill, paste = opening(picture, mask, drawing.shape)
    if bool(fill.all()):
        raise UserError("mask: it covers all that the network sees, so nothing is kept; use a smaller one, or `sample`")
    if isinstance(drawing.values, Latents):  # known latents are computed without the pixels to be filled
        colour = pixels[:, ~fill].float().mean(dim=1).to(torch.uint8)[:, None]
        pixels = torch.where(fill, colour[..., None], pixels)
    y = drawing.values.inside(pixels[None])
    factor = fill.shape[0] // y.shape[2]
    known = Mask(~(F.max_pool2d(fill[None].float(), factor)[0] > 0))  # a latent that touches such a pixel is not known
    if not bool(known.known.any()):
        raise UserError(
            "mask: it touches all latents of the picture, so nothing is kept; use a smaller one, or `sample`"
        )
    seen = Observation(known, tuple(y.shape[1:]), known(y))
    grey = torch.tensor([GREY, GREY, GREY, 255], dtype=torch.uint8)[: len(pixels)].view(-1, 1, 1).expand_as(pixels)
    before = reduced([upright("image", picture, drawing.shape), *paste(grey[None])])
    return Edited(answering(of_picture(drawing, pixels), seen, method), before, paste)


def solved(
    drawing: Drawing, picture: Source, operator: Node, method: Node, noise: float | None = None, observed: bool = False
) -> Edited:
    """`drawing`, changed to draw images of which a linear operator makes what is observed; see `observation_of`."""
    only_pictures("edit", drawing.shape)
    seen, before = observation_of(operator, picture, drawing.shape, noise, observed, drawing.seed, drawing.values)
    return Edited(answering(drawing, seen, method), before)


def enlarged(picture: Source, condition: Condition | None, shape: Shape, draw: Callable[..., Drawing]) -> Edited:
    """The drawing of a picture of any size, enlarged by the factor of a model's condition.

    For comparison, `before` is the picture enlarged without the model (bicubic). One that is smaller than those that
    the model is given is continued by its reflection. Raises UserError if the model does not enlarge pictures.

    Args:
        shape: (C, H, W) of the model's images.
        draw: makes the drawing of the model, from the condition `given`.
    """
    if condition is None or condition.factor == 1:
        raise UserError("upscale: the model does not enlarge pictures; choose one of experiment=superres")
    (channels, height, width), factor = shape, condition.factor
    image = upright("upscale", picture, (channels, 1, 1))
    size = image.height * factor, image.width * factor
    pixels = pil_to_tensor(image).numpy()
    missing = [(0, max(0, side // factor - own)) for side, own in zip(shape[1:], pixels.shape[1:], strict=True)]
    padded = torch.from_numpy(np.pad(pixels, [(0, 0), *missing], "reflect"))
    given = Given(condition, shape, "the picture", named=condition.own(to_unit(padded[None])))
    drawing = draw(given=given)
    console.print(f"{image.width}x{image.height} to {size[1]}x{size[0]} pixels")
    whole = channels, max(height, size[0]), max(width, size[1])
    if whole != shape:
        windows = (height, width), factor
        drawing = replace(drawing, given=replace(given, shape=whole), shape=whole, windows=windows)
    return Edited(drawing, reduced([image.resize(size[::-1], Image.Resampling.BICUBIC)]), size=size)


def opening(picture: Source, mask: Source, shape: Shape) -> tuple[Tensor, Tensor, Paste]:
    """What the network sees of a picture to be filled, uint8 (C, H, W); where it fills it, bool (H, W); how to paste.

    It sees a window with the proportions of its images around the bright part of the mask, twice as large as that if
    the picture has the room, and at least as large as its images. Raises UserError if no window holds that part.
    """
    (_, height, width), whole = shape, upright("image", picture, shape)
    fill = upright("mask", mask, (1, height, width))
    if abs(fill.width * whole.height / (fill.height * whole.width) - 1) > 0.02:
        raise UserError(
            f"mask: it has {fill.width}x{fill.height} pixels, and the picture {whole.width}x{whole.height}; use a "
            "mask with the same proportions, white where the picture is to be filled"
        )
    fill = fill.resize(whole.size).point(lambda value: 255 * (value > GREY))
    left, top, right, bottom = fill.getbbox() or (0, 0, 0, 0)
    if right == 0:
        raise UserError("mask: nothing in it is brighter than grey; make it white where the picture is to be filled")
    largest = min(whole.width / width, whole.height / height)
    scale = min(largest, max(1.0, 2 * (right - left) / width, 2 * (bottom - top) / height))
    across, along = round(scale * width), round(scale * height)
    if right - left > across or bottom - top > along:
        raise UserError(
            f"mask: its {right - left}x{bottom - top} pixels are more than the largest window of the network, "
            f"{across}x{along} of {whole.width}x{whole.height}; fill one part after the other"
        )
    x = min(max(0, (left + right - across) // 2), whole.width - across)
    y = min(max(0, (top + bottom - along) // 2), whole.height - along)
    box = x, y, x + across, y + along
    if whole.size != (width, height):
        console.print(f"filling in a window of {across}x{along} pixels at ({x}, {y}), by a network of {width}x{height}")
    touched = fill.resize((width, height), Image.Resampling.BOX, box)  # no pixel to be filled is taken for a known one
    seen = torch.tensor(resized(whole, resolution_of(height, width), box))
    paste = partial(pasted, whole=whole, fill=fill, box=box, blur=(scale - 1) / 2)
    return seen, torch.tensor(np.asarray(touched)) > 0, paste


def pasted(images: Tensor, whole: Image.Image, fill: Image.Image, box: Box, blur: float) -> list[Image.Image]:
    """A picture with each of the fillings, uint8 (n, C, h, w), enlarged to its `box`, where `fill` (L) is 255.

    Along the edge, a filling continues in the colours K around it: with the indicator m of the known pixels, blurred by
    G (a deviation of `blur` pixels), it is w K + (1 − w) filling, where K = G(m whole)/G(m) and w = min(1, 2 G(m)).
    """
    part, mask = whole.crop(box), fill.crop(box)
    blurred = ImageFilter.GaussianBlur(blur)
    known = ImageChops.invert(mask)
    m = np.atleast_3d(np.asarray(known.filter(blurred))) / 255
    kept = Image.composite(part, Image.new(part.mode, part.size), known).filter(blurred)
    weight = np.minimum(1, 2 * m)
    colours = np.atleast_3d(np.asarray(kept)) * (weight / np.maximum(m, 1e-9))
    pictures = [whole.copy() for _ in images]
    for picture, image in zip(pictures, images, strict=True):
        enlarged = np.atleast_3d(np.asarray(to_pil_image(image).resize(part.size, Image.Resampling.BICUBIC)))
        smooth = np.rint(colours + (1 - weight) * enlarged).astype(np.uint8)
        picture.paste(Image.fromarray(smooth.squeeze(2) if smooth.shape[2] == 1 else smooth), box, mask)
    return pictures


def of_picture(drawing: Drawing, picture: Tensor) -> Drawing:
    """`drawing` with the condition of a picture, uint8 (C, H, W), if it can be computed and the user gives no other."""
    given = drawing.given
    if given is None or given.split is None or given.condition.attached:
        return drawing
    return replace(drawing, given=replace(given, words="the picture", split=Split(picture[None], ["picture"])))


def observation_of(
    operator: Node, source: Source, shape: Shape, noise: float | None, already: bool, seed: int, values: Values = PIXELS
) -> tuple[Observation, Tensor]:
    """An observation by a choice of conf/operator; and the pictures to show, uint8 (m, C, H, W).

    The operator is applied to pixels in [−1, 1], which latents are decoded to, or to standardised measurements.

    Raises UserError for an operator that does not suit the images, or a picture that does not suit the operator.

    Args:
        already: the picture is what the operator made; otherwise the operator is applied, and noise added by the seed.
    """
    made, noise = make(operator, "operator"), NOISE if noise is None else noise
    own = PIXELS if isinstance(values, Latents) else values
    channels, *size = observe(made, torch.zeros(shape), 0, Streams([seed]))[0].shape
    images = [] if already else [opened(source, shape, own)]
    if images:
        y = observe(made, own.inside(images[0][None])[0], noise, Streams.of(1, seed, "observation"))
    elif len(size) == 2 and (channels == shape[0] or (own.dtype == torch.uint8 and channels in MODES)):
        y = own.inside(opened(source, (channels, size[0], size[1]), own)[None])
    else:
        raise UserError(f"observed: what the operator makes is no picture, but {(channels, *size)}; set observed=false")
    if y.isnan().any():
        raise UserError("image: some of its values are missing; fill them first, with mask=MASK")
    if len(size) == 2 and channels in (1, shape[0]):
        images.append(F.interpolate(own.outside(y), shape[1:])[0].expand(shape))
    shown = own.pictures(torch.stack([*images, torch.zeros(shape, dtype=own.dtype)])[:-1])
    seen = Nonlinear(lambda x: made(values.decoded(x))) if isinstance(values, Latents) else made
    return Observation(seen, values.shape(shape), y, noise), shown


def answering(drawing: Drawing, observation: Observation, method: Node) -> Drawing:
    """`drawing`, changed to draw images with this observation, by a method of conf/inpainting."""
    how: Callable[..., Inpainting] = make(method, "inpainting")
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


def opened(picture: Source, shape: Shape, values: Values) -> Tensor:
    """A picture, see `read_picture`; or measurements in their units, float32 of exactly this `shape` (C, H, W)."""
    if values.dtype == torch.uint8:
        return read_picture(picture, shape)
    if isinstance(picture, str | Path):
        found = array_of(Path(picture).expanduser(), shape, "image")
    else:
        found = torch.as_tensor(np.asarray(picture), dtype=torch.float32)[None]
    if found.shape != (1, *shape):
        raise UserError(f"image: got {'×'.join(map(str, found.shape))} numbers; expected one array of {shape}")
    return found[0]


def read_picture(picture: Source, shape: Shape, name: str = "image") -> Tensor:
    """The largest centre crop with the proportions of `shape` (C, H, W), downscaled to it, uint8 (C, H, W).

    Raises UserError for a picture that does not exist, cannot be used, or is smaller.
    """
    return torch.tensor(resized(upright(name, picture, shape), resolution_of(*shape[1:])))


def upright(name: str, picture: Source, shape: Shape) -> Image.Image:
    """A picture as an image of at least the size of `shape`, in its mode."""
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
        return read(opens, resolution_of(*shape[1:]), mode=MODES[shape[0]])
    except Unusable as error:
        shown = name if isinstance(file, Image.Image) else f"{name}={file}"
        raise UserError(
            f"{shown}: {error}; use an intact picture, such as a PNG or JPEG, of at least {shape[2]}x{shape[1]} pixels"
        ) from error
