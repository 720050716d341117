"""Order, mirroring and shares depend on (seed, epoch, position) only, and a resumed run continues exactly."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion.data import ImageData, Split, to_uint8, to_unit
from diffusion.data.module import TrainingBatches, in_order
from diffusion.errors import UserError

Seen = list[tuple[list[int], list[bool], int, int]]
"""(index, flip, epoch, number) of each batch"""


def images(n: int) -> Split:
    """Image i has the value i in its left half and 0 in its right half, and the label i mod 3."""
    pixels = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
    pixels[..., :2] = torch.arange(n).view(-1, 1, 1, 1)
    return Split(pixels, [str(i) for i in range(n)], torch.arange(n) % 3)


class Toy(ImageData):
    def load(self) -> dict[str, Split]:
        self.classes = ["a", "b", "c"]
        return {name: images(n) for name, n in (("train", 24), ("val", 7), ("test", 5))}


def toy(**options: int) -> Toy:
    data = Toy(4, **options)
    data.setup()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, global_step=0, accumulate_grad_batches=1, strategy=strategy
    )
    return data


def drawn(epoch: int = 0, size: int = 50, batch_size: int = 8, **options: int) -> list[tuple[Tensor, Tensor, int, int]]:
    """The batches of one epoch on one device."""
    devices = options.pop("devices", 1)
    per_epoch = size // (batch_size * devices)
    numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    return list(TrainingBatches(size, (per_epoch, devices, batch_size), numbers, **options))


def plain(sampler: Any) -> Seen:
    return [(index.tolist(), flip.tolist(), epoch, number) for index, flip, epoch, number in sampler]


def test_to_unit_and_to_uint8_are_inverse_and_values_are_clamped() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)
    assert to_unit(levels)[[0, -1]].tolist() == [-1, 1]
    assert to_uint8(torch.tensor([-1.04, 1.008, 0.0])).tolist() == [0, 255, 128]


def test_order_and_flips_depend_only_on_seed_and_epoch() -> None:
    assert plain(drawn(epoch=3)) == plain(drawn(epoch=3))
    orders = [[index for index, *_ in plain(drawn(**options))] for options in ({}, {"epoch": 1}, {"seed": 1})]
    assert orders[1] != orders[0] != orders[2]
    flips = [bool(flip[index == 7]) for epoch in range(60) for index, flip, *_ in drawn(epoch=epoch) if 7 in index]
    assert 15 < sum(flips) < 45  # image 7 is mirrored in about half of the epochs
    assert not any(flip.any() for _, flip, *_ in drawn(flip=False))


def test_an_epoch_uses_each_image_at_most_once_in_full_batches() -> None:
    epoch = plain(drawn(epoch=2))
    assert [len(index) for index, *_ in epoch] == [8] * 6
    assert len({i for index, *_ in epoch for i in index}) == 48
    assert [(e, number) for *_, e, number in epoch] == [(2, i) for i in range(6)]


def test_global_batches_are_the_same_on_any_number_of_devices() -> None:
    parts = [drawn(epoch=2, batch_size=4, rank=rank, devices=2) for rank in range(2)]
    for (index, flip, *place), shares in zip(drawn(epoch=2), zip(*parts, strict=True), strict=True):
        assert torch.equal(index, torch.cat([share[0] for share in shares]))
        assert torch.equal(flip, torch.cat([share[1] for share in shares]))
        assert all(list(share[2:]) == place for share in shares)


@pytest.mark.parametrize(("size", "devices"), [(37, 1), (37, 3), (5, 4)])
def test_evaluation_uses_each_image_once_in_equally_many_batches_per_device(size: int, devices: int) -> None:
    shares = [in_order(size, 8, rank, devices) for rank in range(devices)]
    given = torch.cat([index for share in shares for index, *_ in share])
    assert given.sort().values.tolist() == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert all(1 <= len(index) <= 8 and not flip.any() for share in shares for index, flip, *_ in share)


def test_loaders_return_uint8_and_classes_and_images_are_flipped_and_scaled_on_the_device() -> None:
    data = toy()
    batch, *_ = data.train_dataloader()
    assert (batch.image.dtype, batch.image.shape, batch.index.dtype) == (torch.uint8, (8, 3, 4, 4), torch.int64)
    assert torch.equal(batch.classes, batch.index % 3)
    assert 0 < batch.flip.sum() < 8
    ready = data.on_after_batch_transfer(batch, 0)
    bright, dark = to_unit(batch.index.to(torch.uint8)), torch.tensor(-1.0)
    for image, value, flip in zip(ready.image, bright, batch.flip, strict=True):
        left, right = (dark, value) if flip else (value, dark)
        assert (image[..., :2] == left).all()
        assert (image[..., 2:] == right).all()
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.image.device.type == moved.flip.device.type == moved.classes.device.type == "meta"
    assert moved.index.device.type == "cpu"


def test_validation_pairs_the_split_with_as_many_fixed_training_images() -> None:
    data = toy(eval_batch_size=3)
    val, fit = data.val_dataloader()
    for loader in (val, fit):
        assert [i for batch in loader for i in batch.index.tolist()] == list(range(7))
    shown = torch.cat([batch.image[:, 0, 0, 0] for batch in fit])
    assert len(set(shown.tolist())) == 7
    assert shown.max() > 7  # not simply the first images
    again = torch.cat([batch.image[:, 0, 0, 0] for batch in toy(batch_size=2, seed=1).val_dataloader()[1]])
    assert torch.equal(again, shown)
    data.unused = data.splits["train"].take(torch.arange(9, 4, -1))
    assert sorted(len(loader.dataset) for loader in data.val_dataloader()) == [5, 7, 7]


def test_keys_depend_on_every_pixel_and_label() -> None:
    split, changed = images(5), images(5)
    changed.images[4, 2, 3, 3] += 1
    keys = {split.key, changed.key, Split(split.images.view(5, 3, 2, 8), split.names).key}
    assert len(keys) == 3
    assert Split(split.images, split.names).key == split.key  # labels do not change the images
    data, other = toy(), toy()
    assert data.keys == other.keys
    taken = split.take(torch.tensor([4, 0]))
    assert (taken.names, taken.labels.tolist(), taken.images[:, 0, 0, 0].tolist()) == (["4", "0"], [1, 0], [4, 0])
    other.splits["val"] = Split(other.splits["val"].images, other.splits["val"].names, torch.zeros(7).long())
    assert {name for name in data.keys if data.keys[name] != other.keys[name]} == {"labels"}


def replaced(**changes: Any) -> Any:
    """A `load` whose validation split has these changes."""

    def load(self: Toy) -> dict[str, Split]:
        self.classes = ["a", "b", "c"]
        split = images(7)
        val = {"images": split.images, "names": split.names, "labels": split.labels} | changes
        return {"train": images(24), "val": Split(**val), "test": images(5)}

    return load


REFUSED = {
    "floats": replaced(images=torch.zeros(7, 3, 4, 4)),
    "another shape": replaced(images=torch.zeros(7, 1, 4, 4, dtype=torch.uint8)),
    "no labels": replaced(labels=None),
    "an unknown class": replaced(labels=torch.full((7,), 3)),
    "no test split": lambda self: dict([*replaced()(self).items()][:2]),
    "a class without images": lambda self: replaced()(self) | {"train": images(24).take(torch.arange(0, 24, 3))},
}


@pytest.mark.parametrize("name", REFUSED)
def test_splits_that_do_not_fit_the_data_set_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(Toy, "load", REFUSED[name])
    with pytest.raises(UserError):
        toy()


def run(data: Toy, step: int = 0, **trainer: int) -> Seen:
    """The batches of a run of `data.batches` batches, whose checkpoint of `step` steps it resumes from."""
    vars(data.trainer).update({"global_step": step, **trainer})
    return [(b.index.tolist(), b.flip.tolist(), b.epoch, b.number) for b in data.train_dataloader()]


def expected(number: int, batch_size: int, first: int = 0) -> Seen:
    """Batches first, first + 1, … of the toy's order."""
    return plain(TrainingBatches(24, (24 // batch_size, 1, batch_size), range(first, first + number)))


def saved(data: Toy, step: int) -> dict[str, int]:
    """The position in a checkpoint that is saved after a step."""
    data.trainer.global_step = step
    return data.state_dict()


def resumed(state: dict[str, int], **options: int) -> Toy:
    data = toy(**options)
    data.batches = 12
    data.load_state_dict(state)
    return data


@pytest.mark.parametrize("step", [2, 4])  # in an epoch, at its end
def test_a_resumed_run_continues_exactly(step: int) -> None:
    first = resumed({"seen": 0}, batch_size=5)
    assert run(first) == expected(12, 5)
    assert run(resumed(saved(first, step), batch_size=5), step) == expected(12 - step, 5, step)


def test_a_run_resumed_on_another_number_of_devices_continues_exactly() -> None:
    """After 8 batches of 4 images on one device, each of two devices has half of the others, and vice versa."""
    whole, one = expected(12, 4), resumed({"seen": 0}, batch_size=4)
    run(one)
    position = saved(one, 8)
    shares = [run(resumed(position, batch_size=2), 8, global_rank=rank, world_size=2) for rank in range(2)]
    assert [[*a[0], *b[0]] for a, b in zip(*shares, strict=True)] == [index for index, *_ in whole[8:]]
    two = resumed({"seen": 0}, batch_size=2)
    run(two, world_size=2)
    assert run(resumed(saved(two, 8), batch_size=4), 8) == whole[8:]


def test_a_run_resumed_with_another_batch_size_continues_at_the_same_image() -> None:
    """After 3 batches of 5, the run has 12 − 3 batches left, starting with the batch of image 15 of the epoch."""
    first = resumed({"seen": 0}, batch_size=5)
    run(first)
    second = resumed(saved(first, 3), batch_size=3)
    rest = run(second, 3)
    assert rest == expected(9, 3, first=5)
    third = resumed(saved(second, 8), batch_size=3)
    assert run(third, 8) == rest[5:]  # its checkpoints also contain the position
