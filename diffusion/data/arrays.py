"""Measurements in files: arrays of numpy, images of 16 bits and of floats; and channels that are given to a network.

Values keep their units and are not resampled. Order and splits are those of `Collection`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, MinLen
from torch import Tensor

from diffusion.base.arrays import array_of
from diffusion.base.files import listed
from diffusion.data.conditions import Condition, Tensors
from diffusion.data.folder import Collection, Item, Source, stamps
from diffusion.data.module import ImageData, Split
from diffusion.errors import UserError, first_line, refusing
from diffusion.kinds.kind import Kind, Shape
from diffusion.kinds.measured import Measured, column, figures_of

GIVEN = "channels"  # the name of the channels of a condition, where they are stored


@dataclass(eq=False, repr=False, kw_only=True)
class MeasuredData(ImageData):
    """Base class of data in units of their own, with NaN where a value is missing.

    Args:
        channels: Number of channels that the network draws: all, but for those of condition=channels.
        names: The names of the channels in the files, in their order; null: 1, 2, …. They are needed for
            condition=channels.
        units: The unit of each channel, for pictures and tables; null: none.
        mean, std: In the diffusion process, a value x of a channel is (x − mean)/(2 std), one number for each channel
            that is drawn; null: the mean and the standard deviation of the training images. Samples have the units of
            the files.
        kind: What the data are made of (`kinds.kind`); null: measurements.
    """

    channels: Annotated[int, Ge(1)] = 1  # type: ignore[assignment]
    kind: Any = None
    names: Annotated[list[str], MinLen(1)] | None = None
    units: list[str] | None = None
    mean: list[float] | None = None
    std: list[Annotated[float, Gt(0)]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.every = self.names or [str(i + 1) for i in range(self.channels)]

    def make_kind(self) -> Kind:
        return self.kind or Measured()  # until they are read

    @property
    def given(self) -> list[str]:
        """The channels of the condition."""
        return self.condition.names if isinstance(self.condition, Channels) else []

    @property
    def drawn(self) -> list[str]:
        """The channels that the network draws. Raises UserError if they are not `channels`."""
        if unknown := [name for name in self.given if name not in self.every]:
            raise UserError(f"condition.names: no channel {unknown[0]!r}; data.names has {', '.join(self.every)}")
        drawn = [name for name in self.every if name not in self.given]
        of_drawn = {"names": drawn, "mean": self.mean, "std": self.std}
        wanted = [(key, own, self.channels) for key, own in of_drawn.items()] + [("units", self.units, len(self.every))]
        for key, own, n in wanted:
            if own is not None and len(own) != n:
                of = f"data.channels={self.channels} are drawn, the others given by the condition"
                raise UserError(f"data.{key}: it is for {len(own)} channels, but {of}; change one of them")
        return drawn

    def divided(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Splits of all channels, as splits of those that are drawn, with the others stored; sets `kind`.

        Raises UserError for a channel without variance.
        """
        drawn, found = self.drawn, dict[str, Split]()
        own, others = ([self.every.index(name) for name in names] for names in (drawn, self.given))
        for name, split in splits.items():
            more = {GIVEN: split.images[:, others].contiguous()} if others else {}
            images = split.images[:, own].contiguous() if others else split.images
            found[name] = replace(split, images=images, stored=more)
        mean, std = figures_of(found["train"].images)
        for name, deviation in zip(drawn, std, strict=True):
            if not deviation > 0 and self.std is None:
                what = f"data: the channel {name} has the same value in all training images, or none"
                raise UserError(f"{what}; leave it out of the files, or set data.std")
        units = [(self.units or [""] * len(self.every))[i] for i in own]
        self.kind = replace(self.kind, mean=self.mean or mean, std=self.std or std, names=drawn, units=units)
        self.missing = any(bool(part.isnan().any()) for split in found.values() for part in split.images.split(256))
        return found


@dataclass(eq=False, repr=False, kw_only=True)
class Arrays(MeasuredData, Collection):
    """Measurements in files. All have the same channels and the same type of numbers.

    Arrays of any type become float32. Images without any value are left out, as files that cannot be read. What a file
    contains, and how larger arrays are cut, is said by the kind. All parts of a file are in the same split, unless
    there is only one.

    Args:
        channels: null: as many as the first file has.
        root: A folder of files, nested or not, or one file: .npy and .npz with an array (C, H, W), (N, C, H, W) or
            (H, W); .tar of .npy files; .png, grey or of colours; .tif of one channel with 8, 16 or 32 bits or floats,
            whose pages are the channels. In an .npz, the array is arr_0, images, image or the only one.
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH]. Larger arrays are cropped to their centre.
        tiles: Always null.
    """

    root: str | Path
    channels: Annotated[int, Ge(1)] | None = 1  # type: ignore[assignment]
    tiles: None = None
    types: dict[str, str] = field(default_factory=dict, init=False)  # type of numbers -> a file with it

    def __post_init__(self) -> None:
        if self.channels is None:
            files = self.files()
            name = next(iter(files), "")
            with refusing(f"data.root: {name}"):
                self.names = self.names or self.make_kind().channels_in(files[name])
            self.channels = len(self.names)
        super().__post_init__()

    def files(self) -> dict[str, Path]:
        root = Path(self.root).expanduser()
        return {root.name: root} if root.is_file() else listed(root)

    @property
    def stored_shape(self) -> Shape:
        return len(self.every), *self.shape[1:]

    @property
    def advice_if_few(self) -> str:
        return ""

    def load(self) -> dict[str, Split]:
        self.drawn  # noqa: B018  (refuses names before any work)
        return self.divided(super().load())

    def source(self) -> Source:
        root, files = Path(self.root).expanduser(), self.files()

        def items() -> Iterator[Item]:
            for name, file in files.items():
                with refusing(f"data.root: {name}"):
                    yield from starmap(Item, self.kind.pieces(name, file))

        return Source(root, (os.fspath(root.resolve()), stamps(files), self.kind.name), items)

    def photographs(self, every: Split) -> list[str]:
        """The source of each example; of the parts of a single one, their own names."""
        if len({*every.sources}) == 1:
            every.names[:] = [name.replace(" from ", " ") for name in every.names]
            return every.names
        return every.sources

    def _images(self, content: str, item: Item) -> list[tuple[str, np.ndarray | str]]:
        try:
            array = np.asarray(item.read())
        except UserError:
            raise
        except Exception as error:
            return [("", f"can't be read: {first_line(error)}")]
        shape = self.stored_shape
        where, array = f"data.root: {item.name}", array[None] if array.ndim == len(shape) - 1 else array
        found = "×".join(map(str, array.shape))
        if array.dtype.kind not in "fiu" or array.ndim != len(shape) or len(array) != shape[0]:
            wanted = "×".join(map(str, shape)) + " real numbers (data.names, data.channels, data.resolution)"
            raise UserError(f"{where}: {found} of type {array.dtype}; expected {wanted} in each file")
        if any(own < side for own, side in zip(array.shape[1:], shape[1:], strict=True)):
            raise UserError(f"{where}: {found} is smaller than data.resolution; lower it: nothing is resampled")
        self.types.setdefault("float" if array.dtype.kind == "f" else array.dtype.name, item.name)
        if len(self.types) > 1:
            (one, first), (other, second) = sorted(self.types.items())[:2]
            raise UserError(
                f"data.root: {first} has values of type {one}, {second} of {other}, which may mean other units; "
                "convert one of them"
            )
        return [(ending, usable(part)) for ending, part in self.kind.cut(array, shape)]


def usable(array: np.ndarray) -> np.ndarray | str:
    """The values as float32, or why they cannot be used."""
    values = np.ascontiguousarray(array, dtype=np.float32)
    if np.isnan(values).all():
        return "no value: all are NaN"
    return "infinite values; NaN are missing ones" if np.isinf(values).any() else values


@dataclass(eq=False)
class Channels(Condition):
    """Channels of measurements that are given, from which the network draws the others, as for downscaling.

    (CorrDiff, Mardani et al. 2023, draws fine fields of the weather from coarse ones on the same grid.) They are
    standardised as those that are drawn; a missing value is replaced by the mean.

    Args:
        names: Those of `data.names` that are given.
    """

    names: Annotated[list[str], MinLen(1)]
    attached = True

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        return {GIVEN: (len(self.names), *shape[1:])}

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        return self.own(stored[GIVEN])

    def read(self, source: str, size: Shape, kind: Kind) -> Tensor:
        """Channels in their units."""
        return array_of(Path(source).expanduser(), size)

    def own(self, values: Tensor) -> dict[str, Tensor]:
        """The tensors of a call for channels (m, c, H, W) in their units."""
        mean, std = (column(self.figures[key], values) for key in ("mean", "std"))
        return {GIVEN: ((values.float() - mean) / (2 * std)).nan_to_num(0.0)}

    def attach(self, data: ImageData) -> None:
        if not isinstance(data, MeasuredData):
            raise UserError("condition=channels: only data=arrays and data=fields have channels with names")
        if not self.figures:
            mean, std = figures_of(data.splits["train"].stored[GIVEN])
            self.figures = {"mean": mean, "std": [each if each > 0 else 1.0 for each in std]}
