"""Order, flips and sharing out are functions of (seed, epoch, position), and what comes out has the right values."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from diffusion.data import Batch, ImageData, Split, to_uint8, to_unit
from diffusion.data.order import InOrder, Shuffled
from diffusion.errors import UserError


def images(n: int, offset: int = 0) -> Split:
    """Image i is (i + offset) on its left half and 0 on its right."""
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


def drawn(epoch: int = 0, rank: int = 0, world: int = 1, **options: int) -> list[tuple[Tensor, Tensor]]:
    sampler = Shuffled(**{"size": 50, "batch_size": 8, "flip": True, "seed": 0, **options}, rank=rank, world=world)
    sampler.set_epoch(epoch)
    return list(sampler)


def shuffled(**options: int) -> list[tuple[list[int], list[bool]]]:
    return [(index.tolist(), flip.tolist()) for index, flip in drawn(**options)]


def test_unit_and_uint8_are_inverse_and_never_wrap() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)
    assert to_unit(levels).min() == -1
    assert to_unit(levels).max() == 1
    assert to_uint8(torch.tensor([-1.04, 1.008, 0.0])).tolist() == [0, 255, 128]


def test_order_and_flips_depend_on_seed_and_epoch_alone() -> None:
    assert shuffled(epoch=3) == shuffled(epoch=3)
    orders = [[index for index, _ in shuffled(**options)] for options in ({}, {"epoch": 1}, {"seed": 1})]
    assert orders[1] != orders[0] != orders[2]
    flips = [bool(flip[index == 7]) for epoch in range(200) for index, flip in drawn(epoch=epoch) if 7 in index]
    assert 60 < sum(flips) < 140  # image 7 is mirrored in half of the epochs
    assert not any(any(flip) for _, flip in shuffled(flip=False))


def test_an_epoch_has_each_image_at_most_once_and_whole_batches_only() -> None:
    epoch = shuffled()
    assert [len(index) for index, _ in epoch] == [8] * 6
    assert len({i for index, _ in epoch for i in index}) == 48


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_are_the_same_on_any_number_of_devices(world: int) -> None:
    many = [drawn(epoch=2, batch_size=8 // world, rank=rank, world=world) for rank in range(world)]
    for (index, flip), parts in zip(drawn(epoch=2), zip(*many, strict=True), strict=True):
        assert torch.equal(index, torch.cat([part[0] for part in parts]))
        assert torch.equal(flip, torch.cat([part[1] for part in parts]))


@pytest.mark.parametrize(("size", "world"), [(37, 1), (37, 2), (37, 3), (5, 4), (64, 4)])
def test_evaluation_counts_each_image_once_in_as_many_batches_on_each_device(size: int, world: int) -> None:
    shares = [list(InOrder(torch.arange(size), 8, rank, world)) for rank in range(world)]
    given = torch.cat([index for share in shares for index, _ in share])
    assert given.sort().values.tolist() == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert all(1 <= len(index) <= 8 for share in shares for index, _ in share)
    assert not any(flip.any() for share in shares for _, flip in share)


def test_loaders_give_uint8_and_the_device_side_flips_and_scales() -> None:
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
    lit, dark = to_unit(batch.index.to(torch.uint8)), torch.tensor(-1.0)
    for image, value, flip in zip(ready.image, lit, batch.flip, strict=True):
        left, right = (dark, value) if flip else (value, dark)
        assert (image[..., :2] == left).all()
        assert (image[..., 2:] == right).all()


def test_validation_is_the_split_and_as_many_fixed_training_images_paired_by_index() -> None:
    data = toy(eval_batch_size=3)
    val, fit = data.val_dataloader()
    for loader in (val, fit):
        assert [i for batch in loader for i in batch.index.tolist()] == list(range(7))
    train = [tuple(image.flatten().tolist()) for image in data.splits["train"].images]
    shown = [train.index(tuple(image.flatten().tolist())) for batch in fit for image in batch.image]
    assert len(set(shown)) == 7
    assert max(shown) > 7  # not merely the first ones
    again = torch.cat([batch.image for batch in toy(batch_size=2, seed=1).val_dataloader()[1]])
    assert torch.equal(again, torch.cat([batch.image for batch in fit]))
    assert sum(len(batch.index) for batch in toy().test_dataloader()) == 5


def test_indices_stay_on_the_cpu_when_images_move() -> None:
    data = toy()
    moved = data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("meta"), 0)
    assert moved.image.device.type == moved.flip.device.type == "meta"
    assert moved.index.device.type == "cpu"


def test_workers_give_what_the_main_process_gives() -> None:
    plain, workers = toy().train_dataloader(), toy(num_workers=1).train_dataloader()
    for epoch in (0, 1):
        plain.sampler.set_epoch(epoch)
        workers.sampler.set_epoch(epoch)
        for a, b in zip(plain, workers, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_key_follows_every_pixel() -> None:
    split = images(5)
    assert split.key == images(5).key
    assert split.key != images(5, offset=1).key
    assert split.key != Split(split.images.view(5, 3, 2, 8), split.names).key
    changed = split.images.clone()
    changed[4, 2, 3, 3] += 1
    assert split.key != Split(changed, split.names).key
    assert toy().key == toy().key


def test_one_line_for_too_few_images_and_senseless_sizes() -> None:
    with pytest.raises(UserError, match=r"24 images, fewer than a batch of 25: lower data\.batch_size"):
        toy(batch_size=25)
    with pytest.raises(UserError, match=r"data\.batch_size=0"):
        toy(batch_size=0)
    empty = toy()
    empty.splits["test"] = images(0)
    with pytest.raises(UserError, match="0 images of the test split"):
        empty.test_dataloader()


class Recorder(pl.LightningModule):
    """Notes which images it was given; stops by raising when told to."""

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[list[int], list[bool]]] = []
        self.stop_after = stop_after

    def training_step(self, batch: Batch) -> Tensor:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        assert batch.image.dtype == torch.float32
        self.seen.append((batch.index.tolist(), batch.flip.tolist()))
        return self.weight * batch.image.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, stop_after: int | None = None, ckpt: Path | None = None) -> list[tuple[list[int], list[bool]]]:
    keep = pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[keep],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    module = Recorder(stop_after)
    try:
        trainer.fit(module, Toy(4, batch_size=5), ckpt_path=ckpt, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert stop_after is not None
    return module.seen


@pytest.mark.parametrize("step", [2, 4, 7])  # within the first epoch, at the end of one, within the second
def test_a_resumed_run_sees_the_images_that_the_uninterrupted_one_sees(tmp_path: Path, step: int) -> None:
    whole = fit(tmp_path / "whole")
    assert len(whole) == 12
    assert whole[:4] == shuffled_toy(0)
    assert whole[8:] == shuffled_toy(2)
    first = fit(tmp_path / "cut", stop_after=step)
    rest = fit(tmp_path / "rest", ckpt=tmp_path / "cut" / f"step={step}.ckpt")
    assert first + rest == whole


def shuffled_toy(epoch: int) -> list[tuple[list[int], list[bool]]]:
    return shuffled(epoch=epoch, size=24, batch_size=5)
