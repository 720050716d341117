"""The base of all data sets: images in memory as uint8 tensors, their order, and batches of them.

The order in which a run sees the images is a function of (seed, batch number), independent of earlier batches. Epoch e
is a permutation of the images drawn from (seed, "order", e), of n global batches of `batch_size` × devices images; the
rest is left out. Global batch k of a run is batch k mod n of epoch ⌊k/n⌋, and device r gets its r-th part.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffusion.base.console import console, count, track
from diffusion.base.files import cache_dir, digest, tensor_digest
from diffusion.base.images import Entry, Label, cached
from diffusion.base.nearest import near_duplicates
from diffusion.base.pixels import Channels, Resolution
from diffusion.errors import UserError
from diffusion.kinds.kind import Kind
from diffusion.kinds.pixels import Pixels
from diffusion.randomness import Streams, generator_for, seeds_for

PLACE = re.compile(r" (\d+)px at (\d+),(\d+)$| from \d+$")  # after the name of the photograph or series of a part
Index = tuple[Tensor, Tensor, int, int]  # index (B,), flip (B,), the epoch, the position of the batch in the epoch


class Batch(NamedTuple):
    """B images of one split, as they are stored from the loader, and x, float32 (B, c, *size), on the device.

    `index` (B,) int64 are their positions in the loader's split, on the CPU; `flip` (B,) bool says which are mirrored
    left to right; `number` is the position of the batch in its epoch; `classes` (B,) int64 are the class indices, None
    without labels; `stored` is that of their split.
    """

    image: Tensor
    index: Tensor  # type: ignore[assignment]  # this hides the tuple's method of that name
    flip: Tensor
    epoch: int = 0
    number: int = 0
    classes: Tensor | None = None
    stored: Mapping[str, Tensor] = {}


def place(left: int, top: int, side: int) -> str:
    """The ending of the name of a tile, in pixels of its photograph; `PLACE` matches it."""
    return f" {side}px at {left},{top}"


@dataclass(frozen=True)
class Split(Dataset[Batch]):
    """Examples of one size and kind, (N, C, *size); each has a name: where it comes from."""

    images: Tensor
    names: list[str]
    labels: Tensor | None = None  # int64 (N,), indices into `ImageData.classes`
    stored: Mapping[str, Tensor] = field(default_factory=dict)  # of a condition: uint8 (N, c, h, w), float (N, d)
    latents: Tensor | None = None  # float16 (N, V, m, h, w), of which batches are made; V = 2: also of mirror images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Index) -> Batch:
        """Return a whole batch: one indexing operation for B images."""
        index, flip, epoch, number = key
        classes = None if self.labels is None else self.labels[index]
        stored = {name: rows[index] for name, rows in self.stored.items()}
        if self.latents is not None:  # those of a mirror image are stored beside its own
            return Batch(self.latents[index, flip.long()], index, flip & False, epoch, number, classes, stored)
        return Batch(self.images[index], index, flip, epoch, number, classes, stored)

    @cached_property
    def sources(self) -> list[str]:
        """The source of each image: the photograph of a tile (see `tiles`), otherwise the image's own name."""
        return [PLACE.sub("", name) for name in self.names]

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, which depend on the files and on the resizing. Statistics are cached under it."""
        return digest(tuple(self.images.shape), digest(self.images.contiguous().numpy().data))

    def take(self, index: Tensor) -> "Split":
        """The images at the positions `index` (M,), in that order. A contiguous range is not copied."""
        rows: Tensor | slice = index
        if len(index) and torch.equal(index, torch.arange(int(index[0]), int(index[0]) + len(index))):
            rows = slice(int(index[0]), int(index[0]) + len(index))
        labels = None if self.labels is None else self.labels[rows]
        stored = {name: each[rows] for name, each in self.stored.items()}
        latents = None if self.latents is None else self.latents[rows]
        return Split(self.images[rows], [self.names[i] for i in index.tolist()], labels, stored, latents)


def labelled(images: Split, labels: Sequence[Label]) -> tuple[Split, list[str]]:
    """`images` with the class indices of their labels, and the names of the classes, sorted by label."""
    classes = sorted({*labels})  # all of one kind
    index = {label: i for i, label in enumerate(classes)}
    names = [str(label[1] if isinstance(label, tuple) else label) for label in classes]
    return replace(images, labels=torch.tensor([index[label] for label in labels])), names


@dataclass(eq=False)
class TrainingBatches(Sampler[Index]):
    """One device's batches of a whole run."""

    size: int  # images in the split
    shape: tuple[int, int, int]  # batches in an epoch, devices, and images per device in a batch
    numbers: range  # of the batches; they do not begin with 0 if the run is resumed
    done: int = 0  # before the run was resumed; not those before `numbers` if the global batch size has changed
    flip: bool = True  # mirror half of the images
    seed: int = 0
    rank: int = 0

    def __len__(self) -> int:
        """The number of batches, including those before resuming, because Lightning counts them too."""
        return self.done + len(self.numbers)

    def __iter__(self) -> Iterator[Index]:
        per_epoch = self.shape[0]
        for epoch, in_epoch in groupby(self.numbers, lambda k: k // per_epoch):
            order = torch.randperm(self.size, generator=generator_for(self.seed, "order", epoch))
            heads = torch.rand(self.size, generator=generator_for(self.seed, "flip", epoch)) < 0.5
            batches = order[: math.prod(self.shape)].view(self.shape)[:, self.rank]
            for k in in_epoch:
                index = batches[k % per_epoch]
                yield index, heads[index] & self.flip, epoch, k % per_epoch


def in_order(size: int, batch_size: int, rank: int, devices: int) -> list[Index]:
    """One device's batches of `size` images, without mirroring: each image once, and as many batches on each device.

    Batch sizes differ by at most one image, no batch is padded, and no device waits for one that another has not.
    """
    per_device = -(-size // (batch_size * devices))
    shares = torch.arange(size).tensor_split(per_device * devices)[rank::devices]
    return [(index, torch.zeros(len(index), dtype=torch.bool), 0, i) for i, index in enumerate(shares)]


@dataclass(eq=False, repr=False)
class ImageData(LightningDataModule):
    """Base class of all data sets. Subclasses define `load`, which returns the splits "train", "val" and "test".

    It also works without a Trainer: `data.setup(); data.splits["val"].images`. Build the Trainer with
    `use_distributed_sampler=False`: the loaders already divide the images among the devices.

    Args:
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH].
        channels: 1 for grey, 3 for RGB, 4 for RGBA (with transparency).
        batch_size: Training images per device in a batch.
        global_batch_size: Training images per optimizer step in `diffusion train`, over all devices and all accumulated
            batches; it determines the gradient accumulation. null: one batch on each device, times
            `trainer.accumulate_grad_batches`.
        eval_batch_size: Maximum number of images per device in a validation batch.
        flip: Mirror half of the training images, selected at random in each epoch.
        seed: Seed of the order, of the mirroring, and of any other random choice of the data set.
        scale: Factor of the values, which lie in [−1, 1], in the diffusion process; for images whose standard deviation
            is far from 0.5. Samples have the contrast of the images.
    """

    origin: ClassVar[str] = "Images of the model's author; their origin and licence are not stated."
    """For the card of a model: Markdown with `{SETTING}`."""
    licences: ClassVar[tuple[Path, ...]] = ()
    """Files to publish with a model."""

    trainer: Trainer = field(init=False)  # set by `Trainer.fit`
    resolution: Resolution
    channels: Channels = 3
    batch_size: Annotated[int, Ge(1)] = 8
    eval_batch_size: Annotated[int, Ge(1)] = 32
    flip: bool = True
    seed: int = 0
    global_batch_size: Annotated[int, Ge(1)] | None = None
    scale: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        super().__init__()
        self.kind: Kind = self.make_kind()  # a `load` may set another
        self.shape: tuple[int, ...] = (self.channels, *self.kind.size(self.resolution))  # of the images
        self.splits: dict[str, Split] = {}
        self.missing = False  # whether values are NaN, which training and scores leave out
        self.classes: list[str] = []  # their names, by index; a `load` that returns labels must set them
        self.unused: Split | None = None  # images of the training photographs that are in no split
        self.report: list[Entry] = []  # files that need attention
        self.condition: Any = None  # a `conditions.Condition`, set before `setup`
        self.truth: Any = None  # the distribution of x, if it is known: a `Mixture` or a `Gaussian` of `process`
        self.batches_per_epoch: int | None = None  # None: as many full batches as the images fill
        self.batches: int | None = None  # of the whole run, which is one epoch to Lightning; None: batches_per_epoch
        self.seen = 0  # training images used before the run was resumed, over all devices …
        self.done = 0  # … and the batches that this run counts for them

    def make_kind(self) -> Kind:
        """What the images are, as far as it is known before they are read."""
        return Pixels()

    def load(self) -> dict[str, Split]:
        """Return the splits "train", "val" and "test"; create what is not in the cache yet."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load the splits, unless they are loaded. Raises UserError if they do not fit the settings."""
        if self.splits:
            return
        self.splits = self.load()
        for name in ("train", "val", "test"):
            if (split := self.splits.get(name)) is None:
                raise UserError(f"data: `load` returned no split {name!r}; return all three, maybe without images")
            kind, counts = (split.images.dtype, *split.images.shape[1:]), self.class_counts(name)
            dtype = self.kind.dtype
            if kind != (dtype, *self.shape) or len(counts) != len(self.classes):
                raise UserError(
                    f"data: `load` returned other images for {name} than {dtype} (N, *{self.shape}), as given by "
                    f"data.channels and data.resolution, or other labels than of {len(self.classes)} `classes`"
                )
            if name == "train" and 0 in counts:
                which = f"the class {self.classes[counts.index(0)]!r} ({counts.count(0)} in all)"
                raise UserError(f"data: {which} has no training image; add images, or lower data.val or data.test")
        if self.condition is not None:
            self.condition.attach(self)
        if self.truth is None:  # else the images are independent draws
            self.report = [*self.report, *duplicates(self.splits, self.kind)]

    def state_dict(self) -> dict[str, int]:
        """The position in the data, for a checkpoint that is saved after a batch."""
        trainer, size = self.trainer, self.batch_size * self.trainer.world_size
        done = trainer.global_step * trainer.accumulate_grad_batches  # by this run and those before
        return {"seen": (self.seen // size + done - self.done) * size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume at that position, even with another batch size or number of devices."""
        self.seen = state_dict["seen"]

    @property
    def keys(self) -> dict[str, str]:
        """A hash of each split's pixels, by split; also "labels", of labels and classes, and "condition", if any."""
        keys = {name: split.key for name, split in self.splits.items()}
        if self.classes:
            labels = [(name, digest(np.asarray(split.labels).data)) for name, split in self.splits.items()]
            keys["labels"] = digest(self.classes, labels)
        if any(split.stored for split in self.splits.values()):
            keys["condition"] = digest([(name, tensor_digest(split.stored)) for name, split in self.splits.items()])
        return keys

    def class_counts(self, split: str) -> list[int]:
        """The number of images of each class in a split, in the order of `classes`; [] without labels."""
        labels = self.splits[split].labels
        return [] if labels is None else torch.bincount(labels, minlength=len(self.classes)).tolist()

    def train_dataloader(self) -> DataLoader[Batch]:
        train, trainer = self.splits["train"], self.trainer
        size = self.batch_size * trainer.world_size
        per_epoch = self.batches_per_epoch or len(train) // size
        # A resumed run with larger steps starts at one of them, not within it.
        self.seen -= self.seen % (size * trainer.accumulate_grad_batches)
        self.done, first = trainer.global_step * trainer.accumulate_grad_batches, self.seen // size
        numbers = range(first, first + (self.batches or per_epoch) - self.done)
        shape = per_epoch, trainer.world_size, self.batch_size
        return self._loader(
            train, TrainingBatches(len(train), shape, numbers, self.done, self.flip, self.seed, trainer.global_rank)
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """[the validation split, equally many training images]: their errors differ if the network overfits.

        Then at most as many `unused` images, if there are any and nothing is stored for them, for a condition or as
        latents. They are the same for every seed. All are indexed from 0, so they get the same random draws.
        """
        train, val, trainer = self.splits["train"], self.splits["val"], self.trainer
        if len(val) < trainer.world_size:
            raise UserError(f"{count(len(val), 'validation image')}: too few for the devices; raise data.val")
        only = self.unused is None or train.stored or train.latents is not None
        seen = [train] if only or self.unused is None else [train, self.unused]
        fixed = [torch.randperm(len(x), generator=generator_for("overfit"))[: len(val)].sort().values for x in seen]
        share = self.eval_batch_size, trainer.global_rank, trainer.world_size
        loaded = [val, *(x.take(index) for x, index in zip(seen, fixed, strict=True))]
        return [self._loader(x, in_order(len(x), *share)) for x in loaded]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move all but the indices. The indices stay on the CPU, where they are read as seeds of the noise."""
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(index=batch.index)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Mirror the images, and pictures stored for them, by `flip`; turn images into x, on the device.

        Latents are another draw in each epoch of the training, and the same in each validation, for every seed.
        """

        def mirrored(image: Tensor) -> Tensor:
            flip = batch.flip.view(-1, *[1] * (image.ndim - 1))
            return torch.where(flip, image.flip(-1), image)

        def streams() -> Streams:
            seed = self.seed if self.trainer.training else 0
            return Streams(seeds_for(seed, "latent", batch.epoch, last=batch.index.tolist()), batch.image.device)

        stored = {name: mirrored(rows) if rows.ndim > 2 else rows for name, rows in batch.stored.items()}
        return batch._replace(image=self.kind.batch(mirrored(batch.image), streams), stored=stored)

    def _loader(self, split: Split, batches: Sampler[Index] | list[Index]) -> DataLoader[Batch]:
        """A loader for which each index is a whole batch. The images are in memory, so it needs no workers."""
        pin = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(split, batch_size=None, sampler=batches, pin_memory=pin)


def duplicates(splits: Mapping[str, Split], kind: Kind) -> list[Entry]:
    """Held-out images that are near-duplicates of images in an earlier split, as entries of `ImageData.report`."""
    pairs = [pair for pair in combinations(splits, 2) if all(len(splits[name]) for name in pair)]

    def search() -> list[Entry]:
        return [
            {
                "path": splits[second].names[i],
                "reason": f"in {second}: a near-duplicate of {splits[first].names[j]} in {first}",
                "action": "used",
            }
            for first, second in track(pairs, "comparing splits", len(pairs), "pair")
            for i, j in enumerate(
                near_duplicates(*(kind.compared(splits[name].images) for name in (second, first))).tolist()
            )
            if j >= 0
        ]

    content = [(name, split.key, split.names) for name, split in splits.items()]
    file = cache_dir("images") / f"duplicates-{digest('duplicates 6', content)}.json"
    found: list[Entry] = cached(file, search) if pairs else []
    if found:
        held_out = count(len({entry["path"] for entry in found}), "held-out image")
        example = f"{found[0]['path']} ({found[0]['reason']})"
        console.print(f"data: near-duplicates make scores look too good: {held_out}, such as {example}; all in {file}")
    return found
