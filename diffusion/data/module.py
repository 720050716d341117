"""Images in memory as uint8, batches of them in a counted order, flipped and scaled on the device.

Definitions. A split is N square RGB images in one uint8 tensor (N, 3, H, W). In epoch e the training order is the
permutation drawn from (seed, "order", e), and image i is mirrored if bit i of the draw from (seed, "flip", e) is set.
Global batch k is the k-th run of `batch_size` x devices images of that order, and device r takes the r-th run of
`batch_size` within it: the global batches are a function of (seed, epoch, k), never of what ran before.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffusion.console import count
from diffusion.data import duplicates
from diffusion.data.cache import digest
from diffusion.errors import UserError
from diffusion.randomness import generator_for

TILE = re.compile(r" \d+px at \d+,\d+$")  # what a tile's name has behind the photograph's


class Batch(NamedTuple):
    """B images of one split.

    `image`: (B, 3, H, W), uint8 from the loader, float32 in [-1, 1] once on the device. `index`: (B,) int64, on
    the CPU, the images' positions in the loader's split. `flip`: (B,) bool, which of them are mirrored left to right.
    """

    image: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple's method of that name gives way
    flip: Tensor


def to_unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]: x/127.5 - 1."""
    return image.float().div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to the nearest; what lies outside is clamped, never wrapped."""
    return image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Split(Dataset[Batch]):
    """`images`: uint8 (N, 3, H, W). `names`: where each comes from."""

    images: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[Tensor, Tensor]) -> Batch:
        """A whole batch at once, for (index (B,), flip (B,)): one gather instead of B."""
        index, flip = key
        return Batch(self.images[index], index, flip)

    @cached_property
    def sources(self) -> list[str]:
        """What each image is of: the photograph of a tile, as `tiles` names it, else the image itself."""
        return [TILE.sub("", name) for name in self.names]

    def take(self, index: Tensor) -> "Split":
        """The split of the images at `index` (M,), in that order."""
        return Split(self.images[index], [self.names[i] for i in index.tolist()])

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, hence of the files' content and the transform: statistics are kept under it."""
        pixels = hashlib.blake2b(self.images.contiguous().numpy().data, digest_size=16).hexdigest()
        return digest(tuple(self.images.shape), pixels)


class Shuffled(Sampler[tuple[Tensor, Tensor]]):
    """One device's training batches (index (B,), flip (B,)) in the order of `epoch`; the partial last is dropped."""

    def __init__(self, size: int, batch_size: int, flip: bool, seed: int, rank: int, world: int):
        self.size, self.batch_size, self.flip, self.seed = size, batch_size, flip, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.first = 0  # the batch to begin at, when a run is resumed within the epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.size, generator=generator_for(self.seed, "order", self.epoch))
        heads = torch.rand(self.size, generator=generator_for(self.seed, "flip", self.epoch)) < 0.5
        flip = heads & self.flip
        used = len(self) * self.world * self.batch_size
        for index in order[:used].view(len(self), self.world, self.batch_size)[self.first :, self.rank]:
            yield index, flip[index]


class InOrder(Sampler[tuple[Tensor, Tensor]]):
    """One device's share of `index` (M,), unflipped: every image once, and as many batches on each device.

    The images are cut into equal runs (to within one image) rather than padded, so that a mean or an FID over
    several devices counts each image once, and no device waits for a batch that another does not have.
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int, world: int):
        per_device = -(-len(index) // (batch_size * world))
        self.batches = index.tensor_split(per_device * world)[rank::world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self.batches:
            yield index, torch.zeros(len(index), dtype=torch.bool)


class TrainLoader(DataLoader[Batch]):
    """A loader that Lightning resumes at the next batch: its state is the epoch and how many batches it has given."""

    sampler: Shuffled
    given = 0
    resume: tuple[int, int] | None = None  # (epoch, batches given) of the run that is resumed

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing is drawn before Lightning has set the epoch.
        epoch, given = self.resume or (0, 0)
        self.given = self.sampler.first = given if epoch == self.sampler.epoch else 0
        self.resume = None
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume = state["epoch"], state["given"]


class ImageData(LightningDataModule):
    """The base of all data sets; a subclass says in `load` how its splits "train", "val" and "test" are made.

    Works without a Trainer too: `data.prepare_data(); data.setup(); data.splits["val"].images`.

    resolution: side of the square images, in pixels.
    batch_size: training images per device and step; the global batch is this times the devices. A last partial
        batch of an epoch is dropped, in training only.
    eval_batch_size: the most images per device in a validation or test batch.
    flip: mirror half of the training images, at random, anew in each epoch.
    seed: of the order, the flips, and whatever choice a subclass makes.
    num_workers: processes that gather batches; 0 is the fastest, as the images lie in memory.

    `report` lists {"path", "reason", "action"} of what is worth a look; "used" are held-out near-duplicates of images
    in an earlier split.

    Build the Trainer with `use_distributed_sampler=False`: the loaders share the images out among the devices.
    `UserError` when the training split is smaller than a global batch.
    """

    channels = 3

    def __init__(
        self,
        resolution: int,
        batch_size: int = 8,
        eval_batch_size: int = 32,
        flip: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__()
        sizes = {"resolution": resolution, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, size in sizes.items():
            if not (isinstance(size, int) and size >= 1):
                raise UserError(f"data.{name}={size!r}: expected a whole number of at least 1; set data.{name}=64")
        if num_workers < 0:
            raise UserError(
                f"data.num_workers={num_workers}: expected a number of processes; data.num_workers=0 is best"
            )
        self.resolution = resolution
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.flip = flip
        self.seed = seed
        self.num_workers = num_workers
        self.splits: dict[str, Split] = {}
        self.report: list[dict[str, str]] = []

    def load(self) -> dict[str, Split]:
        """The splits "train", "val" and "test"; the first call makes what is not cached yet."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Downloads, decodes and caches what is missing: in one process per machine, before the others `setup`."""
        if not self.splits:
            self.report = []
            splits = self.load()
            self.report += duplicates.tell(splits)
            self.splits = splits

    def setup(self, stage: str | None = None) -> None:
        self.prepare_data()
        images, devices = len(self.splits["train"]), self._share()[1]
        if images < self.batch_size * devices:
            wanted = f"a batch of {self.batch_size}" + (f" on each of {devices} devices" if devices > 1 else "")
            raise UserError(
                f"the training split has {count(images, 'image')}, fewer than {wanted}: lower data.batch_size or "
                "add images"
            )

    @property
    def key(self) -> str:
        """A hash of all splits' pixels."""
        return digest(*((name, split.key) for name, split in sorted(self.splits.items())))

    def train_dataloader(self) -> TrainLoader:
        train = self.splits["train"]
        sampler = Shuffled(len(train), self.batch_size, self.flip, self.seed, *self._share())
        return TrainLoader(train, sampler=sampler, **self._options())

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """[the validation split, as many fixed training images]: a gap between the two is over-fitting.

        They are the same for every seed. Both count their images from 0, so that what is drawn by index is the same for
        either: they are paired.
        """
        train, val = self.splits["train"], self.splits["val"]
        fixed = torch.randperm(len(train), generator=generator_for("overfit"))[: len(val)]
        return [self._eval_loader("val", val), self._eval_loader("train", train.take(fixed.sort().values))]

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("test", self.splits["test"])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Images and flips move; the indices, which seed the noise, are read on the CPU and stay there.

        (Reading them back from a GPU would make every step wait for the one before.)
        """
        return batch._replace(
            image=batch.image.to(device, non_blocking=True), flip=batch.flip.to(device, non_blocking=True)
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: mirrors the images that are to be, and scales them to float32 [-1, 1]."""
        image = torch.where(batch.flip[:, None, None, None], batch.image.flip(-1), batch.image)
        return batch._replace(image=to_unit(image))

    def _share(self) -> tuple[int, int]:
        """(rank of this device, number of devices)."""
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _eval_loader(self, name: str, split: Split) -> DataLoader[Batch]:
        rank, world = self._share()
        if len(split) < world:
            raise UserError(
                f"{count(len(split), 'image')} of the {name} split: too few for {count(world, 'device')}; give the "
                f"split at least as many (data.{name}=…), or use fewer devices"
            )
        sampler = InOrder(torch.arange(len(split)), self.eval_batch_size, rank, world)
        return DataLoader(split, sampler=sampler, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": None,  # the samplers give whole batches
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
