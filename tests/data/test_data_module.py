"""Order, mirroring and shares depend on (seed, epoch, position) only, and a resumed run continues exactly."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from diffusion.config.build import make
from diffusion.data import Batch, ImageData, Split, to_uint8, to_unit
from diffusion.data.order import InOrder, TrainingBatches
from diffusion.errors import UserError

Seen = list[tuple[list[int], list[bool], int, int]]
"""(index, flip, epoch, number) of each batch"""


def images(n: int, offset: int = 0) -> Split:
    """Image i has the value i + offset in its left half and 0 in its right half."""
    pixels = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
    pixels[..., :2] = (torch.arange(n) + offset).view(-1, 1, 1, 1)
    return Split(pixels, [str(i) for i in range(n)])


class Toy(ImageData):
    sizes = (24, 7, 5)

    def load(self) -> dict[str, Split]:
        return {name: images(n) for name, n in zip(("train", "val", "test"), self.sizes, strict=True)}


def toy(**options: int) -> Toy:
    data = Toy(4, **options)
    data.prepare_data()
    data.setup()
    return data


def drawn(epoch: int = 0, size: int = 50, batch_size: int = 8, **options: int) -> list[tuple[Tensor, Tensor, int, int]]:
    """The batches of one epoch on one device."""
    per_epoch = size // (batch_size * options.get("devices", 1))
    sampler = TrainingBatches(size, batch_size, per_epoch, per_epoch, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def plain(sampler: Any) -> Seen:
    return [(index.tolist(), flip.tolist(), epoch, number) for index, flip, epoch, number in sampler]


def test_to_unit_and_to_uint8_are_inverse_and_values_are_clamped() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)
    assert to_unit(levels).min() == -1
    assert to_unit(levels).max() == 1
    assert to_uint8(torch.tensor([-1.04, 1.008, 0.0])).tolist() == [0, 255, 128]


def test_order_and_flips_depend_only_on_seed_and_epoch() -> None:
    assert plain(drawn(epoch=3)) == plain(drawn(epoch=3))
    orders = [[index for index, *_ in plain(drawn(**options))] for options in ({}, {"epoch": 1}, {"seed": 1})]
    assert orders[1] != orders[0] != orders[2]
    flips = [bool(flip[index == 7]) for epoch in range(200) for index, flip, *_ in drawn(epoch=epoch) if 7 in index]
    assert 60 < sum(flips) < 140  # image 7 is mirrored in about half of the epochs
    assert not any(flip.any() for _, flip, *_ in drawn(flip=False))


def test_an_epoch_uses_each_image_at_most_once_in_full_batches() -> None:
    epoch = plain(drawn(epoch=2))
    assert [len(index) for index, *_ in epoch] == [8] * 6
    assert len({i for index, *_ in epoch for i in index}) == 48
    assert [(e, number) for *_, e, number in epoch] == [(2, i) for i in range(6)]


@pytest.mark.parametrize("length", [6, 4, 14, 100])
def test_dividing_a_run_into_parts_does_not_change_its_batches(length: int) -> None:
    epochs = [batch for epoch in range(20) for batch in plain(drawn(epoch=epoch))]
    sampler = TrainingBatches(50, 8, per_epoch=6, length=length)
    run: Seen = []
    for part in range(3):
        sampler.set_epoch(part)
        run += plain(sampler)
    assert len(run) == 3 * len(sampler) == 3 * length
    assert run[:120] == epochs[: 3 * length]


@pytest.mark.parametrize("devices", [2, 4])
def test_global_batches_are_the_same_on_any_number_of_devices(devices: int) -> None:
    parts = [drawn(epoch=2, batch_size=8 // devices, rank=rank, devices=devices) for rank in range(devices)]
    for (index, flip, *place), shares in zip(drawn(epoch=2), zip(*parts, strict=True), strict=True):
        assert torch.equal(index, torch.cat([share[0] for share in shares]))
        assert torch.equal(flip, torch.cat([share[1] for share in shares]))
        assert all(list(share[2:]) == place for share in shares)


@pytest.mark.parametrize(("size", "devices"), [(37, 1), (37, 2), (37, 3), (5, 4), (64, 4)])
def test_evaluation_uses_each_image_once_in_equally_many_batches_per_device(size: int, devices: int) -> None:
    shares = [list(InOrder(torch.arange(size), 8, rank, devices)) for rank in range(devices)]
    given = torch.cat([index for share in shares for index, *_ in share])
    assert given.sort().values.tolist() == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert all(1 <= len(index) <= 8 for share in shares for index, *_ in share)
    assert not any(flip.any() for share in shares for _, flip, *_ in share)


def test_loaders_return_uint8_and_images_are_flipped_and_scaled_on_the_device() -> None:
    data = toy()
    loader = data.train_dataloader()
    assert len(loader) == 3
    batch = next(iter(loader))
    assert batch.image.dtype == torch.uint8
    assert batch.image.shape == (8, 3, 4, 4)
    assert batch.index.dtype == torch.int64
    assert 0 < batch.flip.sum() < 8
    ready = data.on_after_batch_transfer(batch, 0)
    assert isinstance(ready, Batch)
    bright, dark = to_unit(batch.index.to(torch.uint8)), torch.tensor(-1.0)
    for image, value, flip in zip(ready.image, bright, batch.flip, strict=True):
        left, right = (dark, value) if flip else (value, dark)
        assert (image[..., :2] == left).all()
        assert (image[..., 2:] == right).all()


def test_validation_pairs_the_split_with_as_many_fixed_training_images() -> None:
    data = toy(eval_batch_size=3)
    val, fit = data.val_dataloader()
    for loader in (val, fit):
        assert [i for batch in loader for i in batch.index.tolist()] == list(range(7))
    train = [tuple(image.flatten().tolist()) for image in data.splits["train"].images]
    shown = [train.index(tuple(image.flatten().tolist())) for batch in fit for image in batch.image]
    assert len(set(shown)) == 7
    assert max(shown) > 7  # not simply the first images
    again = torch.cat([batch.image for batch in toy(batch_size=2, seed=1).val_dataloader()[1]])
    assert torch.equal(again, torch.cat([batch.image for batch in fit]))
    assert sum(len(batch.index) for batch in toy().test_dataloader()) == 5


def test_indices_stay_on_the_cpu_when_images_are_transferred() -> None:
    data = toy()
    moved = data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("meta"), 0)
    assert moved.image.device.type == moved.flip.device.type == "meta"
    assert moved.index.device.type == "cpu"


def test_workers_give_the_same_batches_as_the_main_process() -> None:
    plain, workers = toy().train_dataloader(), toy(num_workers=1).train_dataloader()
    for epoch in (0, 1):
        plain.sampler.set_epoch(epoch)
        workers.sampler.set_epoch(epoch)
        for a, b in zip(plain, workers, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
            assert a[3:] == b[3:]


def test_the_split_key_depends_on_every_pixel() -> None:
    split = images(5)
    assert split.key == images(5).key
    assert split.key != images(5, offset=1).key
    assert split.key != Split(split.images.view(5, 3, 2, 8), split.names).key
    changed = split.images.clone()
    changed[4, 2, 3, 3] += 1
    assert split.key != Split(changed, split.names).key
    assert toy().keys == toy().keys


def test_too_few_images_and_invalid_sizes_give_a_one_line_error() -> None:
    with pytest.raises(UserError, match=r"24 images, fewer than a batch of 25: lower data\.batch_size"):
        toy(batch_size=25).train_dataloader()
    for wrong in ("batch_size", "eval_batch_size", "resolution"):
        with pytest.raises(UserError, match=rf"data\.{wrong}=0: expected a whole number of at least 1"):
            make({"_target_": "diffusion.data.ImageData", "resolution": 4, wrong: 0}, "data")
    with pytest.raises(UserError, match=r"data\.num_workers=-1: expected a whole number of at least 0"):
        make({"_target_": "diffusion.data.ImageData", "resolution": 4, "num_workers": -1}, "data")
    empty = toy()
    empty.splits["test"] = images(0)
    with pytest.raises(UserError, match="0 images of the test split"):
        empty.test_dataloader()


class Recorder(pl.LightningModule):
    """Writes the batches that it receives to a file in `folder`."""

    def __init__(self, folder: Path, stop_after: int | None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: Seen = []
        self.folder, self.stop_after = folder, stop_after

    def write(self) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save(self.seen, self.folder / f"seen {self.global_rank}")

    def on_fit_start(self) -> None:
        self.write()

    def training_step(self, batch: Batch) -> Tensor:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        assert batch.image.dtype == torch.float32
        self.seen.append((batch.index.tolist(), batch.flip.tolist(), batch.epoch, batch.number))
        self.write()
        return self.weight * batch.image.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    resumed: Path | None = None,
    stop_after: int | None = None,
    devices: int = 1,
    batches: int | None = None,
    **options: int,
) -> Seen:
    """The global batches of three epochs by Lightning's Trainer, with a checkpoint after each batch.

    Args:
        batches: if given, Lightning treats a run of that many batches as one epoch, as in diffusion.train.
    """
    data = Toy(4, **{"batch_size": 5, **options})
    data.batches = batches
    trainer = pl.Trainer(
        max_epochs=3 if batches is None else 1,
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp_fork",
        logger=False,
        callbacks=[pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    try:
        with mock.patch.dict(os.environ):  # Lightning leaves the address of its processes there
            trainer.fit(Recorder(folder, stop_after), data, ckpt_path=resumed, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert stop_after is not None
    shares = zip(*(torch.load(folder / f"seen {rank}") for rank in range(devices)), strict=True)
    return [
        ([i for index, *_ in share for i in index], [f for _, flip, *_ in share for f in flip], *share[0][2:])
        for share in shares
    ]


def in_order(number: int, batch_size: int, first: int = 0) -> Seen:
    """Global batches first, first + 1, … of the toy's order."""
    return plain(TrainingBatches(24, batch_size, 24 // batch_size, first + number))[first:]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batches", [None, 12], ids=["three epochs", "one run"])
@pytest.mark.parametrize("step", [2, 4, 7, 12])  # in an epoch, at its end, in the second one, at the end of the run
def test_a_resumed_run_continues_exactly(tmp_path: Path, step: int, batches: int | None, workers: int) -> None:
    whole = fit(tmp_path / "whole", batches=batches, num_workers=workers)
    assert whole == in_order(12, 5)
    first = fit(tmp_path / "first", stop_after=step, batches=batches, num_workers=workers)
    ckpt = tmp_path / f"first/step={step}.ckpt"
    assert first + fit(tmp_path / "rest", ckpt, batches=batches, num_workers=workers) == whole


@pytest.mark.reliability  # torch cannot fork after use of another device, as in test_device
@pytest.mark.parametrize("batches", [None, 18], ids=["three epochs", "one run"])
@pytest.mark.parametrize(("before", "after"), [((4, 1), (2, 2)), ((2, 2), (4, 1))], ids=["one to two", "two to one"])
def test_a_run_resumed_on_another_number_of_devices_continues_exactly(
    tmp_path: Path, before: tuple[int, int], after: tuple[int, int], batches: int | None
) -> None:
    whole = fit(tmp_path / "whole", batch_size=before[0], devices=before[1], batches=batches)
    assert whole == in_order(18, 4)
    for step in (3, 6, 8):
        ckpt = tmp_path / f"whole/step={step}.ckpt"
        rest = fit(tmp_path / f"from {step}", ckpt, batch_size=after[0], devices=after[1], batches=batches)
        assert rest == whole[step:]


@pytest.mark.parametrize(("batch_size", "first"), [(3, 5), (8, 1)])
def test_a_run_resumed_with_another_batch_size_continues_at_the_same_image(
    tmp_path: Path, batch_size: int, first: int
) -> None:
    """After 3 batches of 5, the run has 12 − 3 batches left, starting with the batch of image 15 of the epoch."""
    fit(tmp_path / "first", stop_after=3, batches=12)
    rest = fit(tmp_path / "rest", tmp_path / "first/step=3.ckpt", batches=12, batch_size=batch_size)
    assert rest == in_order(9, batch_size, first)
    again = fit(tmp_path / "again", tmp_path / "rest/step=8.ckpt", batches=12, batch_size=batch_size)
    assert again == rest[5:]  # its checkpoints also contain the position


def test_epochs_of_one_run_follow_each_other_without_a_repeated_batch() -> None:
    run = in_order(24, 5)
    assert [(epoch, number) for *_, epoch, number in run] == [divmod(k, 4) for k in range(24)]
    assert all(a[0] != b[0] for a, b in pairwise(run))
