"""The note on a large error of the first step."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffusion.evaluation import drawing
from diffusion.evaluation.drawing import Drawing, note_first_step
from diffusion.evaluation.drawn import Drawn
from diffusion.process import grid
from diffusion.process.denoiser import Denoiser, clip
from diffusion.process.editing import SDEdit
from diffusion.process.inpainting import RePaint
from diffusion.process.prediction import Eps, Prediction, V
from diffusion.process.sampler import DPMSolver, ReverseDiffusion, Sampler
from diffusion.process.schedule import Schedule, cosine, linear, scaled_linear

CPU = torch.device("cpu")
NOTE = (
    "note: without a threshold, an error of the predicted eps is multiplied by 20,000 in the first step of DPMSolver, "
    "which can saturate pixels; threshold@sampler.threshold=clip limits it\n"
)
TWO = DPMSolver(2, grid.log_snr)


class Nothing(torch.nn.Module):
    """Predicts 0."""

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.fixture(autouse=True)
def nothing_printed() -> Iterator[None]:
    drawing.print_new.cache_clear()
    yield
    drawing.print_new.cache_clear()


def noted(
    capsys: pytest.CaptureFixture[str], sampler: Sampler, prediction: Prediction, schedule: Schedule, rank: int = 0
) -> str:
    draw = Drawing(sampler, (1, 2, 2), seed=0)
    draw(Denoiser(Nothing(), schedule, prediction), 4, CPU, batch_size=1, share=(rank, 2))
    return capsys.readouterr().out


def test_a_large_error_of_the_first_step_is_noted_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clipped, other = DPMSolver(2, grid.log_snr, clip), ReverseDiffusion(2, grid.log_snr)
    for sampler, prediction, schedule in (
        (TWO, V(), cosine()), (clipped, Eps(), cosine()), (other, Eps(), cosine()), (TWO, Eps(), scaled_linear()),
    ):  # fmt: skip
        assert noted(capsys, sampler, prediction, schedule) == ""
    assert noted(capsys, TWO, Eps(), cosine(), rank=1) == ""
    assert noted(capsys, TWO, Eps(), cosine()) == NOTE
    assert noted(capsys, TWO, Eps(), cosine()) == ""
    assert "by 160 in" in noted(capsys, TWO, Eps(), linear())


def test_samples_drawn_into_a_file_have_the_note(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    draw, denoiser = Drawing(TWO, (1, 2, 2), seed=0), Denoiser(Nothing(), cosine(), Eps())
    drawn = draw.begin(tmp_path / "drawn.bin", denoiser, 2, 1, {})
    assert isinstance(drawn, Drawn)
    draw.into(drawn, denoiser, CPU)
    assert capsys.readouterr().out.endswith(NOTE)


def test_an_edit_starts_at_a_lower_noise_level(capsys: pytest.CaptureFixture[str]) -> None:
    denoiser, picture = Denoiser(Nothing(), cosine(), Eps()), torch.zeros(1, 2, 2)
    note_first_step(denoiser, SDEdit(0.5)(DPMSolver(10, grid.log_snr), picture))
    note_first_step(denoiser, RePaint()(DPMSolver(2, threshold=clip), picture, torch.eye(2).bool()))
    assert capsys.readouterr().out == ""
    note_first_step(denoiser, SDEdit(1.0)(DPMSolver(10, grid.log_snr), picture))
    assert capsys.readouterr().out == NOTE
