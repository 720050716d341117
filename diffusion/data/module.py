"""The LightningDataModule that every data set is: splits of images in memory, and the loaders of their batches."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from diffusion.console import count
from diffusion.data import duplicates
from diffusion.data.batches import Batch, Split, to_unit
from diffusion.data.cache import digest
from diffusion.data.order import InOrder, Shuffled, TrainLoader
from diffusion.errors import UserError
from diffusion.randomness import generator_for


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
