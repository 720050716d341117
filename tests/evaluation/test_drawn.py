"""Samples are written to disk as they are drawn: memory does not grow with them, and a killed command resumes."""

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.evaluation.drawing import Drawing, most_of
from diffusion.evaluation.drawn import Drawn, batches_of
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Eps
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear

CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """A network with one weight."""

    def __init__(self, weight: float = 0.3) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x * self.weight


def denoiser(weight: float = 0.3) -> Denoiser:
    return Denoiser(Small(weight), linear(), Eps())


def drawing(seed: int = 0) -> Drawing:
    return Drawing(DDIM(3), (3, 4, 4), seed)


def begun(folder: Path, n: int = 11, batch_size: int = 3, weight: float = 0.3, seed: int = 0, steps: int = 3) -> Drawn:
    return drawing(seed).begin(folder / "drawn.bin", denoiser(weight), n, batch_size, {"sampler": {"steps": steps}})


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_each_batch_of_a_single_device_is_assigned_to_exactly_one_device(n: int, devices: int) -> None:
    shares = [batches_of(n, 3, (rank, devices)) for rank in range(devices)]
    assert sorted((b for share in shares for b in share), key=lambda b: b.start) == batches_of(n, 3)
    assert [i for b in batches_of(n, 3) for i in b] == [*range(n)]
    assert most_of(n, 3, devices) == max(sum(map(len, share)) for share in shares)


@pytest.mark.parametrize("devices", [1, 2, 3, 7])
def test_images_do_not_depend_on_the_number_of_devices(devices: int, tmp_path: Path) -> None:
    drawn = begun(tmp_path)
    for rank in reversed(range(devices)):
        drawing().into(drawn, denoiser(), CPU, share=(rank, devices))
    expected = drawing()(denoiser(), 11, CPU, 3)
    assert torch.equal(drawn.images(), expected)
    drawn.remove()
    assert not [*tmp_path.iterdir()]


def test_a_killed_command_resumes_without_redrawing_complete_batches(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def stop(first: int, k: int, *_: object) -> None:
        if (first, k) == (6, 2):
            raise Killed

    with pytest.raises(Killed):
        drawing().into(begun(tmp_path), denoiser(), CPU, watch=stop)
    again, seen = begun(tmp_path), []
    assert again.missing() == [range(6, 9), range(9, 11)]
    assert again.resume_hint().startswith(f"6 of 11 images are kept in {tmp_path}/drawn.bin; the same command with ")
    with pytest.raises(UserError, match="5 of 11 images are missing"):
        again.images()
    drawing().into(again, denoiser(), CPU, watch=lambda first, *_: seen.append(first))
    assert sorted(set(seen)) == [6, 9]
    assert torch.equal(again.images(), drawing()(denoiser(), 11, CPU, 3))


def test_a_batch_counts_only_after_its_pixels_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = begun(tmp_path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"drawn\.bin can't be written \(No space left on device\); free 532 bytes"):
        drawn.put(range(3), torch.ones(3, 3, 4, 4, dtype=torch.uint8))
    assert range(3) in drawn.missing()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed is 0, now 1"),
        ({"steps": 4}, "sampler is {'steps': 3}, now {'steps': 4}"),
        ({"n": 12}, "n is 11, now 12"),
        ({"batch_size": 4}, "batch_size is 3, now 4"),
        ({"weight": 0.4}, "weights is '"),
    ],
)
def test_a_partial_file_with_other_settings_is_refused(change: dict[str, float], what: str, tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(UserError) as error:
        begun(tmp_path, **change)  # type: ignore[arg-type]
    assert f"drawn.bin: contains part of another command's images: their {what}" in str(error.value)
    begun(tmp_path)


def test_other_images_are_discarded_on_request_and_the_same_are_kept(tmp_path: Path, capsys) -> None:
    drawing().into(begun(tmp_path), denoiser(), CPU, share=(0, 2))
    for seed, missing in ((0, 5), (1, 11)):
        drawn = drawing(seed).begin(tmp_path / "drawn.bin", denoiser(), 11, 3, {"sampler": {"steps": 3}}, discard=True)
        assert sum(map(len, drawn.missing())) == missing
        assert ("contains part of other images; removed" in capsys.readouterr().out) == (seed == 1)


@pytest.mark.parametrize("break_", [lambda f: f.with_suffix(".json").unlink(), lambda f: f.write_bytes(b"short")])
def test_a_damaged_file_is_started_again(break_: Callable[[Path], None], tmp_path: Path) -> None:
    drawn = begun(tmp_path)
    drawing().into(drawn, denoiser(), CPU)
    break_(drawn.file)
    assert sum(map(len, begun(tmp_path).missing())) == 11


def test_at_most_two_batches_are_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not measured: the images of a batch are freed before the second next batch is drawn."""
    held: list[weakref.ref[Tensor]] = []
    most = 0
    put = Drawn.put

    def counted(self: Drawn, batch: range, images: Tensor) -> None:
        nonlocal most
        put(self, batch, images)
        held.append(weakref.ref(images))
        most = max(most, sum(ref() is not None for ref in held))

    monkeypatch.setattr(Drawn, "put", counted)
    drawn = begun(tmp_path, n=90)
    drawing().into(drawn, denoiser(), CPU)
    assert (len(held), most <= 2) == (30, True)
