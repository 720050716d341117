"""Conditions: what a network is given of an image besides the noisy image, its time and its class; conf/condition.

A condition gives each example named tensors: pictures (c, *size) of any resolution, and vectors (d,). They are computed
from the example, or stored with those of each split. `Condition.prepared` turns them into inputs of the denoiser, in
training, validation, drawing and editing alike.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor

from diffusion.base.files import cache_dir, composed, digest, read_table
from diffusion.base.images import RESIZE, Made, Unusable, in_threads, read, resized, stored
from diffusion.base.pixels import MODES, Channels, grey, resolution_of, to_uint8, to_unit
from diffusion.data.folder import Folder, Source
from diffusion.data.hub import Hub
from diffusion.data.module import PLACE, ImageData
from diffusion.errors import UserError, given_as, nearest, refusing
from diffusion.kinds.kind import Kind, Shape
from diffusion.kinds.pixels import Pixels
from diffusion.randomness import Streams

Tensors = Mapping[str, Tensor]
"""Tensors of B examples by name: pictures (B, c, *size) and vectors (B, d)."""


class Condition:
    """Base class: condition(x0 (B, C, *size), stored) -> pictures (B, c, *size') and vectors (B, d), by name.

    x0 is what the process sees, with 0 for a missing value, and `stored` what `attach` has stored for these examples,
    of which 8-bit pictures are in [−1, 1]. Most conditions need only x0.
    """

    attached = False  # whether `attach` stores something, so that an example alone does not have the condition
    figures: Mapping[str, list[float]] = {}
    """Figures of the training examples that the condition needs to draw; checkpoints contain them."""
    factor = 1  # how much larger the examples are than the pictures of the condition, which a network then enlarges
    task = ""  # a kind of data may refuse it, see `Kind.refused`

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        raise NotImplementedError

    def attach(self, data: ImageData) -> None:
        """Complete `data.splits`, which have just been read, and set `figures` if they are not set."""

    def noised(self, named: dict[str, Tensor], streams: Streams, training: bool = False) -> dict[str, Tensor]:
        """What the network gets instead of the tensors of a call, in training or in drawing; by default the same."""
        return named

    def named(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        """The tensors of a call, from pictures as they are stored."""
        return self(x0, {name: to_unit(rows) if rows.ndim > 2 else rows for name, rows in stored.items()})

    def prepared(self, x0: Tensor, stored: Tensors, streams: Streams, kept: Tensor | None = None) -> dict[str, Tensor]:
        """The denoiser's inputs for training or validation; see `inputs`."""
        return self.inputs(self.named(x0, stored), streams, tuple(x0.shape[2:]), kept, training=True)

    def inputs(
        self, named: dict[str, Tensor], streams: Streams, size: tuple[int, ...], kept: Tensor | None = None,
        training: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The denoiser's inputs for the tensors of a call, `noised`: see the function `inputs`."""
        return inputs(self.noised(named, streams, training), size, kept)

    def read(self, source: str, size: Shape, kind: Kind) -> Tensor:
        """What a user gives instead of the condition of held-out examples: pictures (m, c, *size) in [−1, 1]."""
        return to_unit(Pixels().read_all(source, size))

    def own(self, values: Tensor) -> dict[str, Tensor]:
        """The tensors of a call for what a user gives: what `read` returns, or numbers (m, d)."""
        (name,) = self.shapes((3, 64, 64))
        return {name: values}

    def shown(self, picture: Tensor, size: tuple[int, ...], kind: Kind) -> Tensor:
        """A picture (m, c, *size') of a call to be looked at beside examples of this size and kind, uint8."""
        picture = picture if picture.shape[1] in (1, 3, 4) else picture.mean(dim=1, keepdim=True)
        return to_uint8(fitted(picture, size))

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors of a call, without B, for examples of `shape` (C, *size)."""
        return {name: tuple(rows.shape[1:]) for name, rows in self(torch.zeros(1, *shape), {}).items()}

    def widths(self, shape: Shape) -> dict[str, int]:
        """The channels of `inputs`, for examples of `shape` (C, *size), and `centred` for the denoiser."""
        named = {name: torch.zeros(1, *each) for name, each in self.shapes(shape).items()}
        return {name: rows.shape[1] for name, rows in self.inputs(named, Streams([0]), shape[1:]).items()}


def inputs(named: Tensors, size: tuple[int, ...], kept: Tensor | None = None) -> dict[str, Tensor]:
    """The denoiser's inputs for these tensors: `picture` (B, P, *size) and `vector` (B, V), or one of them.

    Pictures are resized to `size`: averaged to a smaller one, bicubic or linear to a larger one. A last channel of each
    is 1. Where `kept` (B,) is false, both are 0 as a whole: an example without its condition, for guidance.
    """
    pictures = [rows for rows in named.values() if rows.ndim > 2]
    parts = {
        "picture": [rows if rows.shape[2:] == size else resized_to(rows, size) for rows in pictures],
        "vector": [rows for rows in named.values() if rows.ndim == 2],
    }
    found: dict[str, Tensor] = {}
    for name, rows in parts.items():
        if rows:
            joined = torch.cat([*rows, torch.ones_like(rows[0][:, :1])], dim=1)
            found[name] = joined if kept is None else joined * kept.view(-1, *[1] * (joined.ndim - 1)).to(joined)
    return found


def resized_to(picture: Tensor, size: tuple[int, ...]) -> Tensor:
    """A picture (B, c, *size'), averaged or interpolated to `size`."""
    larger = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(size)]
    return F.interpolate(picture, size, mode="area" if picture.shape[2] > size[0] else larger)


def fitted(picture: Tensor, size: tuple[int, ...]) -> Tensor:
    """A picture (B, c, *size') with repeated values, or averaged, in another `size`, to be looked at."""
    enlarged = F.interpolate(picture, size) if picture.shape[2] < size[0] else picture
    return enlarged if enlarged.shape[2:] == size else resized_to(enlarged, size)


@dataclass(eq=False)
class Lowres(Condition):
    """The example, averaged over squares of pixels: for networks that enlarge pictures, and cascades of them.

    The network learns the difference of the image to the small picture, enlarged (see `Denoiser`). As in a cascade the
    small picture is itself drawn, the network is trained on √(1 − s²) x + s ε with s uniform up to
    `noise`, and is told s (conditioning augmentation; Ho et al. 2022, "Cascaded Diffusion Models", section 4). At s = 1
    nothing would be left of x.

    Args:
        factor: Side of the squares, in pixels.
        noise: The largest s in training; 0: none.
        level: The s of the pictures that samples are drawn from, at most `noise`.
    """

    factor: Annotated[int, Ge(2)] = 2
    noise: Annotated[float, Ge(0), Lt(1)] = 0.5
    level: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        if self.level > self.noise:
            raise UserError(f"condition.level={self.level:g}: expected at most condition.noise={self.noise:g}")

    def widths(self, shape: Shape) -> dict[str, int]:
        return {**super().widths(shape), "centred": True}

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        if any(side % self.factor for side in x0.shape[2:]):
            size = "×".join(map(str, x0.shape[2:]))
            raise UserError(f"condition.factor={self.factor}: it does not divide images of {size} pixels")
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[x0.ndim - 2]
        return {"lowres": pool(x0, self.factor)}

    def read(self, source: str, size: Shape, kind: Kind) -> Tensor:
        """Examples of a smaller size, in the units of the data."""
        return kind.filled(kind.inside(kind.read_all(source, size)))

    def shown(self, picture: Tensor, size: tuple[int, ...], kind: Kind) -> Tensor:
        return kind.pictures(kind.outside(fitted(picture, size)))

    def noised(self, named: dict[str, Tensor], streams: Streams, training: bool = False) -> dict[str, Tensor]:
        if not self.noise:
            return named
        x = named["lowres"]
        s = self.noise * streams.uniform() if training else torch.full((len(x),), self.level, device=x.device)
        level = s.to(x).view(-1, *[1] * (x.ndim - 1))
        noisy = (1 - level**2).sqrt() * x + level * streams.normal_like(x)
        return {"lowres": noisy, "level": level.view(-1, 1)}


class Grey(Condition):
    """The luma of the image: for networks that colour pictures."""

    task = "condition=grey"

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        return {"grey": grey(x0)}


class Mask(Condition):
    """The bright parts of the image as 1 and the dark ones as −1, such as sky and land, for drawing from a sketch.

    The image is blurred over 1/16 of its sides. The threshold is Otsu's: the variance between the parts is largest.
    """

    task = "condition=mask"

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        side = 2 * (min(x0.shape[2:]) // 32) + 1
        luma = F.avg_pool2d(grey(x0), side, 1, side // 2, count_include_pad=False).clamp(-1, 1)
        values = (255 * (luma + 1)).round().long()  # integers: exact sums on all devices
        ordered = values.flatten(1).sort(dim=1).values
        n, below = ordered.shape[1], ordered.cumsum(dim=1)[:, :-1]
        k = torch.arange(1, n, device=x0.device)
        difference = (ordered.sum(dim=1, keepdim=True) * k - below * n).float() / n
        best = (difference**2 / (k * (n - k)).float()).argmax(dim=1, keepdim=True)
        return {"mask": 2 * (values > ordered.gather(1, best)[:, :, None, None]).to(x0) - 1}


@dataclass(eq=False)
class Edges(Condition):
    """Lines where the luma changes, 1 on −1: the length of its gradient (central differences).

    Args:
        strength: Change of luma per pixel, as a fraction of its range, whose line is white; a smaller one shows more.
    """

    task = "condition=edges"
    strength: Annotated[float, Ge(0.01), Le(1)] = 0.25

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        padded = F.pad(grey(x0), (1, 1, 1, 1), mode="replicate")
        across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        return {"edges": (torch.hypot(across, down) / (2 * self.strength)).clamp(max=2) - 1}


@dataclass(eq=False)
class Pairs(Condition):
    """A second picture of each image with the same name, cropped, tiled and mirrored as the image.

    Args:
        root: A folder with the pictures. Endings of names may differ: a.png belongs to a.jpg.
        column: Instead, the column of the pictures in the data set of data=hub.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
    """

    root: str | Path | None = None
    column: str | None = None
    channels: Channels = 3
    attached = True

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        return {"pair": stored["pair"]}

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        return {"pair": (self.channels, *shape[1:])}

    def attach(self, data: ImageData) -> None:
        source, shape = self.source(data), (self.channels, *data.shape[1:])
        names = [name for split in data.splits.values() for name in split.names]
        cache = cache_dir("images") / f"pairs-{digest('pairs 1', RESIZE, shape, names, source.key)}"
        pairs, *_ = stored(cache, shape, partial(self.cut, source, names, shape))
        for name, part in zip(data.splits, pairs.split([len(split) for split in data.splits.values()]), strict=True):
            data.splits[name] = replace(data.splits[name], stored={"pair": part})

    def source(self, data: ImageData) -> Source:
        """The pictures. Raises UserError if it is not clear which."""
        if (self.root is None) == (self.column is None):
            raise UserError("condition=pairs: set condition.root=FOLDER or, with data=hub, condition.column=NAME")
        if self.root is not None:
            with given_as("condition.root", "data.root"):
                return Folder(root=self.root, resolution=1).source()._replace(setting="condition.root")
        if not isinstance(data, Hub) or data.streaming:
            raise UserError(
                "condition.column: only data=hub has columns, without data.streaming; or set condition.root"
            )
        return replace(data, image_column=self.column, label_column=None).source()

    def cut(self, source: Source, names: list[str], shape: Shape) -> Iterator[Made]:
        """The picture of each image, cut in the same way. Raises UserError if one is missing or cannot be used."""
        items = [*source.items()]
        known = {stem(item.name): item for item in items} | {item.name: item for item in items}
        files = [PLACE.sub("", name) for name in names]
        found = [known.get(file) or known.get(stem(file)) for file in files]
        if missing := sorted({file for file, item in zip(files, found, strict=True) if item is None}):
            raise UserError(
                f"{source.place}: no picture for {missing[0]!r} ({len(missing)} missing in all); a pair has the same "
                "name, whatever its ending; add it, or remove the image",
                key=source.setting,
            )

        def made(i: int) -> Made:
            place, resolution = PLACE.search(names[i]), resolution_of(*shape[1:])
            try:
                picture = read(found[i].open, resolution, mode=MODES[self.channels])  # type: ignore[union-attr]
                side, left, top = map(int, place.groups()) if place else (0, 0, 0)
                if max(left + side - picture.width, top + side - picture.height) > 1:
                    raise Unusable(f"{picture.width}x{picture.height} pixels, but a tile of the image is {place}")
            except Unusable as error:
                line = f"{source.place}: {files[i]}: {error}; give a pair of the size of the image"
                raise UserError(line, key=source.setting) from error
            box = (left, top, left + side, top + side) if side else None
            return names[i], resized(picture, resolution, box), None

        return in_threads(made, range(len(names)), "reading pairs")


def stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


@dataclass(eq=False)
class Columns(Condition):
    """Numbers from a table, by the names of the images; a tile has those of its photograph, unless it has its own.

    The network is given (value − mean)/std of each, with the figures of the training images.

    Args:
        table: A CSV file with a column `file`, the path of an image relative to data.root.
        columns: The names of the columns of numbers.
    """

    table: str | Path
    columns: Annotated[list[str], MinLen(1)]
    attached = True

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        return self.own(stored["numbers"])

    def own(self, values: Tensor) -> dict[str, Tensor]:
        figures = zip(values.unbind(1), self.figures["mean"], self.figures["std"], strict=True)  # a copy would wait
        return {"numbers": torch.stack([(column - mean) / std for column, mean, std in figures], dim=1)}

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        return {"numbers": (len(self.columns),)}

    def attach(self, data: ImageData) -> None:
        rows = self.rows()
        for name, split in data.splits.items():
            keys = [own if own in rows else photo for own, photo in zip(split.names, split.sources, strict=True)]
            if missing := [key for key in keys if key not in rows]:
                raise UserError(
                    f"condition.table={self.table}: no row for {missing[0]!r} ({len({*missing})} missing in {name}); "
                    "the column `file` has paths relative to data.root; add rows, or remove the images"
                )
            values = torch.tensor([rows[key] for key in keys]).view(-1, len(self.columns))
            data.splits[name] = replace(split, stored={"numbers": values})
        of_training = data.splits["train"].stored["numbers"].double()
        std = of_training.std(dim=0, correction=0)
        mine = {"mean": of_training.mean(dim=0), "std": torch.where(std > 0, std, 1)}  # 1: all values are the same
        self.figures = self.figures or {key: each.tolist() for key, each in mine.items()}

    def rows(self) -> dict[str, list[float]]:
        """The numbers of each file. Raises UserError for a table without them."""
        where, found = f"condition.table={self.table}", dict[str, list[float]]()
        with refusing(where, "; expected a CSV file with the column file and those of condition.columns"):
            for row in read_table(Path(self.table).expanduser()):
                if missing := [column for column in ("file", *self.columns) if column not in row]:
                    near = nearest(missing[0], row)
                    raise UserError(f"{where}: no column {missing[0]!r}{near}; its columns: {', '.join(row)}")
                file = PurePosixPath(composed(str(row["file"]).strip())).as_posix()
                found[file] = []
                for column in self.columns:
                    try:
                        found[file].append(float(row[column]))
                    except (TypeError, ValueError):
                        found[file].append(math.nan)
                    if not math.isfinite(found[file][-1]):
                        raise UserError(f"{where}: {column} of {file} is {row[column]!r}; expected a number")
        return found
