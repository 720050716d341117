"""The base LightningDataModule of all data sets: holds the splits in memory and builds their data loaders."""

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated

import torch
from annotated_types import Ge
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from diffusion.console import count, track
from diffusion.data.batches import Batch, Index, InOrder, Split, TrainingBatches, check_splits, hash_of, to_unit
from diffusion.data.store import cache_folder, print_on_rank_0, read_json, write_json
from diffusion.errors import UserError
from diffusion.files import digest
from diffusion.nearest import near_duplicates
from diffusion.pixels import Channels, Resolution, height_width, resolution_of
from diffusion.randomness import generator_for, to_device


class ImageData(LightningDataModule):
    """Base class of all data sets. Subclasses define `load`, which returns the splits "train", "val" and "test".

    It also works without a Trainer: `data.setup(); data.splits["val"].images`. `report` lists files that need
    attention, as {"path", "reason", "action"}. `classes` lists the class names in the order of their indices; a `load`
    that returns labels must set it. Build the Trainer with `use_distributed_sampler=False`: the loaders already divide
    the images among the devices.

    Args:
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH].
        channels: 1 for grey, 3 for RGB, 4 for RGBA (with transparency).
        batch_size: Training images per device in a batch.
        global_batch_size: Training images per optimizer step in diffusion.train, over all devices and all accumulated
            batches; it determines the gradient accumulation. null: one batch on each device, times
            `trainer.accumulate_grad_batches`.
        eval_batch_size: Maximum number of images per device in a validation batch.
        flip: Mirror half of the training images, selected at random in each epoch.
        seed: Seed of the order, of the mirroring, and of any other random choice of the data set.
        num_workers: Worker processes of the data loaders; 0 is the fastest, because the images are in memory.
    """

    def __init__(
        self,
        resolution: Resolution,
        channels: Channels = 3,
        batch_size: Annotated[int, Ge(1)] = 8,
        eval_batch_size: Annotated[int, Ge(1)] = 32,
        flip: bool = True,
        seed: int = 0,
        num_workers: Annotated[int, Ge(0)] = 0,
        global_batch_size: Annotated[int, Ge(1)] | None = None,
    ):
        super().__init__()
        height, width = height_width(resolution)
        self.channels = channels
        self.shape = channels, height, width  # of the images
        self.resolution = resolution_of(height, width)
        self.batch_size, self.eval_batch_size, self.global_batch_size = batch_size, eval_batch_size, global_batch_size
        self.flip, self.seed, self.num_workers = flip, seed, num_workers
        self.splits: dict[str, Split] = {}
        self.classes: list[str] = []
        self.report: list[dict[str, str]] = []
        self.batches_per_epoch: int | None = None  # None: as many full batches as the images fill
        self.batches: int | None = None  # of the whole run, which is one epoch to Lightning; None: batches_per_epoch
        self.seen = 0  # training images used before the run was resumed, over all devices …
        self.done = 0  # … and the batches that this run counts for them

    def load(self) -> dict[str, Split]:
        """Return the splits "train", "val" and "test"; create what is not in the cache yet."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Download, decode and cache what is missing. Lightning calls this in one process per machine, then `setup`."""
        if not self.splits:
            self.report = []
            splits = self.load()
            check_splits(splits, self.shape, self.classes)
            self.report += report_of_duplicates(splits)
            self.splits = splits

    def setup(self, stage: str | None = None) -> None:
        """Load the splits: the same as `prepare_data`, which does nothing if they are loaded."""
        self.prepare_data()

    def state_dict(self) -> dict[str, int]:
        """The position in the data, for a checkpoint that is saved after a batch."""
        assert self.trainer is not None
        size = self.batch_size * self.trainer.world_size
        return {"seen": (self.seen // size + self._batches_done() - self.done) * size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume at that position, even with another batch size or number of devices."""
        self.seen = state_dict["seen"]

    @property
    def keys(self) -> dict[str, str]:
        """A hash of each split's pixels, by split; with labels, also "labels", a hash of the labels and the classes."""
        keys = {name: split.key for name, split in self.splits.items()}
        if self.classes:
            labels = [(name, hash_of(split.labels)) for name, split in self.splits.items() if split.labels is not None]
            keys["labels"] = digest(self.classes, labels)
        return keys

    def class_counts(self, split: str) -> list[int]:
        """The number of images of each class in a split, in the order of `classes`; [] without labels."""
        return self.splits[split].class_counts(len(self.classes))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load the remaining batches of the run. Raises UserError if the images do not fill one batch."""
        train, (rank, devices) = self.splits["train"], self._share()
        per_epoch = self.batches_per_epoch or len(train) // (self.batch_size * devices)
        if per_epoch < 1:
            raise UserError(
                f"the training split has {count(len(train), 'image')}, fewer than a batch of {self.batch_size} on each "
                f"of {count(devices, 'device')}: lower data.batch_size or add images"
            )
        step = self.batch_size * devices * (1 if self.trainer is None else self.trainer.accumulate_grad_batches)
        self.seen -= self.seen % step  # a resumed run with larger steps starts at one of them, not within it
        self.done, first = self._batches_done(), self.seen // (self.batch_size * devices)
        numbers = range(first, first + (self.batches or per_epoch) - self.done)
        batches = TrainingBatches(
            len(train), self.batch_size, per_epoch, numbers, self.done, self.flip, self.seed, rank, devices
        )
        return self._loader(train, batches)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """[the validation split, equally many training images]: their errors differ if the network overfits.

        The training images are the same for every seed. Both loaders index their images from 0, so random draws by
        index are the same for both, and the errors are paired.
        """
        train, val = self.splits["train"], self.splits["val"]
        fixed = torch.randperm(len(train), generator=generator_for("overfit"))[: len(val)]
        return [self._eval_loader("val", val), self._eval_loader("train", train.take(fixed.sort().values))]

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("test", self.splits["test"])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move images, flips and classes. The indices, which seed the noise, stay on the CPU, where they are read.

        (Reading them back from a GPU would make every step wait for the previous one.)
        """
        return batch._replace(
            image=to_device(batch.image, device),
            flip=to_device(batch.flip, device),
            classes=None if batch.classes is None else to_device(batch.classes, device),
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Mirror the images according to `flip` and scale them to float32 [-1, 1], on the device."""
        image = torch.where(batch.flip[:, None, None, None], batch.image.flip(-1), batch.image)
        return batch._replace(image=to_unit(image))

    def _batches_done(self) -> int:
        """The number of batches in the optimizer steps so far."""
        return 0 if self.trainer is None else self.trainer.global_step * self.trainer.accumulate_grad_batches

    def _share(self) -> tuple[int, int]:
        """(rank, world size)."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _eval_loader(self, name: str, split: Split) -> DataLoader[Batch]:
        rank, devices = self._share()
        if len(split) < devices:
            raise UserError(
                f"{count(len(split), 'image')} of the {name} split: too few for {count(devices, 'device')}; set "
                f"data.{name} to at least {devices}" + (", or use fewer devices" if devices > 1 else "")
            )
        return self._loader(split, InOrder(len(split), self.eval_batch_size, rank, devices))

    def _loader(self, split: Split, batches: Sampler[Index]) -> DataLoader[Batch]:
        return DataLoader(
            split,
            batch_size=None,  # each index of the sampler is a whole batch
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def report_of_duplicates(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """Held-out images that are near-duplicates of images in an earlier split, as entries of `ImageData.report`.

    They make scores too good. (But plain skies can be near-duplicates without being from the same photograph.) Their
    number is printed, and the list is cached, so the same splits are compared only once.
    """
    content = [(name, split.key, split.names) for name, split in splits.items()]
    file = cache_folder() / f"duplicates-{digest('duplicates 4', content)}.json"
    found: list[dict[str, str]] | None = read_json(file).get("near-duplicates")
    if found is None:
        found = duplicates_across(splits)
        write_json(file, {"near-duplicates": found})
    if found:
        held_out = count(len({entry["path"] for entry in found}), "held-out image")
        print_on_rank_0(
            f"data: near-duplicates of images in an earlier split make scores look too good: {held_out}, such as "
            f"{found[0]['path']} ({found[0]['reason']}); full list in {file}"
        )
    return found


def duplicates_across(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """An entry for each held-out image and earlier split with a near-duplicate of it; `splits`: train, val, test."""
    order = [*combinations([name for name in splits if len(splits[name])], 2)]
    return [
        {
            "path": splits[second].names[i],
            "reason": f"in {second}: a near-duplicate of {splits[first].names[j]} in {first}",
            "action": "used",
        }
        for first, second in track(order, "comparing splits", len(order), "pair")
        for i, j in enumerate(near_duplicates(splits[second].images, splits[first].images).tolist())
        if j >= 0
    ]
