"""Samples on disk: any split of the work gives the same images, and a killed command goes on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.evaluation.drawing import Drawing, most_of
from diffusion.evaluation.drawn import Drawn, batches_of, kept
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Eps
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear

CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """A network with one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x * self.weight


def denoiser(weight: float = 0.3) -> Denoiser:
    return Denoiser(Small(weight), linear(), Eps())


def drawing(seed: int = 0) -> Drawing:
    return Drawing(DDIM(3), (3, 4, 4), seed)


def begun(folder: Path, n: int = 11, weight: float = 0.3, seed: int = 0, steps: int = 3) -> Drawn:
    return drawing(seed).begin(folder, denoiser(weight), n, 3, {"sampler": {"steps": steps}})


@pytest.mark.parametrize("n", [1, 3, 7, 65])
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_each_batch_belongs_to_exactly_one_process(n: int, processes: int) -> None:
    shares = [batches_of(n, 3, (rank, processes)) for rank in range(processes)]
    assert sorted((b for share in shares for b in share), key=lambda b: b.start) == batches_of(n, 3)
    assert [i for b in batches_of(n, 3) for i in b] == [*range(n)]
    assert most_of(n, 3, processes) == max(sum(map(len, share)) for share in shares)


@pytest.mark.parametrize("processes", [1, 3])
def test_images_do_not_depend_on_the_number_of_processes(processes: int, tmp_path: Path) -> None:
    drawn = begun(tmp_path)
    for rank in reversed(range(processes)):
        drawing().into(drawn, denoiser(), CPU, share=(rank, processes))
    assert torch.equal(drawn.images(), drawing()(denoiser(), 11, CPU, 3))
    assert drawn.seconds() > 0
    drawn.remove()
    assert not [*tmp_path.iterdir()]


def test_a_killed_command_resumes_without_redrawing_complete_batches(tmp_path: Path) -> None:
    def stop(first: int, k: int, *_: object) -> None:
        if (first, k) == (6, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawing().into(begun(tmp_path), denoiser(), CPU, watch=stop)
    again, seen = begun(tmp_path), set()
    assert again.missing() == [range(6, 9), range(9, 11)]
    assert kept(tmp_path, again).startswith("6 of 11 images are kept")
    drawing().into(again, denoiser(), CPU, watch=lambda first, *_: seen.add(first))
    assert seen == {6, 9}
    assert torch.equal(again.images(), drawing()(denoiser(), 11, CPU, 3))


def test_a_full_disk_leaves_no_batch_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    drawn = begun(tmp_path)
    with pytest.raises(UserError):
        drawn.put(range(3), torch.ones(3, 3, 4, 4, dtype=torch.uint8), 1.0)
    assert range(3) in drawn.missing()


@pytest.mark.parametrize("change", [{"seed": 1}, {"weight": 0.4}, {"steps": 4}, {"n": 12}])
def test_images_drawn_in_another_way_are_not_used(change: dict[str, float], tmp_path: Path) -> None:
    drawing().into(begun(tmp_path), denoiser(), CPU)
    assert not begun(tmp_path).missing()
    other = begun(tmp_path, **change)  # type: ignore[arg-type]
    assert other.missing() == batches_of(other.n, 3)
