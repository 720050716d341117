"""Samples on disk: any split of the work gives the same images, and a killed command goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import Affine

from diffusion.base.pixels import saturated
from diffusion.data import Landscapes
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import AutoGuidance
from diffusion.process.prediction import Eps
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear
from diffusion.sampling.drawing import Drawing, batches_of, seconds_of
from diffusion.sampling.parallel import Task, draw, remove

CPU = torch.device("cpu")


def denoiser(weight: float = 0.3) -> Denoiser:
    return Denoiser(Affine(weight), linear(), Eps())


def drawing(seed: int = 0) -> Drawing:
    return Drawing(DDIM(3), (3, 4, 4), seed)


def folder_of(folder: Path, n: int = 11, weight: float = 0.3, seed: int = 0, steps: int = 3) -> Path:
    made = drawing(seed)
    return made.files(folder, denoiser(weight), n, 3, made.source({"_target_": "DDIM", "steps": steps}, None))


@pytest.mark.parametrize("n", [1, 3, 7, 65])
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_each_batch_belongs_to_exactly_one_process(n: int, processes: int) -> None:
    shares = [batches_of(n, 3, (rank, processes)) for rank in range(processes)]
    assert sorted((b for share in shares for b in share), key=lambda b: b.start) == batches_of(n, 3)
    assert [i for b in batches_of(n, 3) for i in b] == [*range(n)]


@pytest.mark.parametrize("processes", [1, 3])
def test_images_do_not_depend_on_the_number_of_processes(processes: int, tmp_path: Path) -> None:
    task = Task(drawing(), 11, 3, folder_of(tmp_path), "sampling")
    for rank in reversed(range(processes)):
        drawing()(denoiser(), 11, CPU, 3, share=(rank, processes), files=task.files)
    assert torch.equal(task(denoiser(), CPU), drawing()(denoiser(), 11, CPU, 3))
    assert seconds_of(task.files) > 0
    remove(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_killed_command_resumes_without_redrawing_complete_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, streams, begun = Task(drawing(), 11, 3, folder_of(tmp_path), "sampling"), Drawing.streams, []

    def stopping(self: Drawing, batch: range, *more: object) -> object:
        begun.append(batch.start)
        if begun == [0, 3, 6]:
            raise KeyboardInterrupt
        return streams(self, batch, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Drawing, "streams", stopping)
    with pytest.raises(KeyboardInterrupt):
        draw([task], denoiser(), [CPU], tmp_path)
    assert f"hydra.run.dir={tmp_path} draws the rest" in capsys.readouterr().out
    draw([task], denoiser(), [CPU], tmp_path)
    assert begun == [0, 3, 6, 6, 9]
    assert torch.equal(task(denoiser(), CPU), drawing()(denoiser(), 11, CPU, 3))


def test_images_drawn_in_another_way_are_not_used(tmp_path: Path) -> None:
    changes: list[dict[str, float]] = [{}, {"seed": 1}, {"weight": 0.4}, {"steps": 4}, {"n": 12}]
    assert len({folder_of(tmp_path, **change) for change in changes}) == len(changes)  # type: ignore[arg-type]


def test_black_samples_are_noticed_and_neither_photographs_nor_drawings_are_called_so() -> None:
    data = Landscapes(32)
    data.setup()
    assert max(saturated(split.images).float().mean() for split in data.splits.values()) < 0.02  # snow and night
    black = torch.randint(9, (20, 3, 32, 32), dtype=torch.uint8)
    black[:, :, ::9, ::9] = 90
    stroke = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    stroke[..., 14:17] = 255
    assert saturated(torch.cat([black, 255 - black])).all()
    assert not saturated(stroke).any()
    half, guided = torch.cat([black, stroke]), replace(drawing(), guidance=AutoGuidance(2.0))
    words = guided.saturation(half)
    assert "20 of 40 images" in words
    assert "guidance.scale=2" in words
    assert "guidance" not in drawing().saturation(half)
    few = torch.cat([stroke, black[:2]])
    assert guided.saturation(few) == guided.saturation(half, real=half) == ""
