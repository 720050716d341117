"""Sampling in mixed precision: only the network's products are rounded, and every score records it."""

import json

import pytest
import torch
from torch import Tensor, nn

import diffusion
from diffusion.errors import UserError
from diffusion.evaluation import drawing
from diffusion.process.denoiser import Denoiser, MixedPrecision
from diffusion.process.guidance import AutoGuidance
from diffusion.process.prediction import V
from diffusion.process.schedule import cosine

MIXED = [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)]


class OneLayer(nn.Module):
    """A convolution, which records the dtypes of its input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.seen += [x.dtype, y.dtype]
        return y


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-9)])
def test_products_are_rounded_and_images_are_not(dtype, rounding):
    denoiser = Denoiser(OneLayer(), cosine(), V())
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        exact, rounded = denoiser(x, t), MixedPrecision(denoiser, dtype)(x, t)
    assert denoiser.network.seen == [torch.float32, torch.float32, torch.float32, dtype]
    for one, other in zip(exact[:2], rounded[:2], strict=True):
        assert other.dtype == torch.float32
        assert 0 < float((one - other).abs().max()) < 2 * rounding
    alpha, sigma = (each.float().view(2, 1, 1, 1) for each in denoiser.schedule(t.double()))
    assert torch.allclose(alpha * rounded.x0 + sigma * rounded.eps, x, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [(None, torch.float32), *MIXED])
@pytest.mark.parametrize("guided", [False, True])
def test_the_model_and_its_worse_model_compute_in_the_precision(two_steps, precision, dtype, guided):
    model, worse = (diffusion.load(two_steps, device="cpu") for _ in range(2))
    seen = []
    for each in (model, worse):
        each.denoiser.network.stem.register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    model.sample(
        1, "ddim", steps=2, precision=precision, **({"guidance": AutoGuidance(2), "worse": worse} if guided else {})
    )
    assert seen == [dtype] * (4 if guided else 2)


def test_an_unknown_precision_is_refused(two_steps):
    with pytest.raises(UserError, match="expected one of bf16-mixed, 16-mixed"):
        diffusion.load(two_steps).sample(1, precision="bf16")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sample", ["n=2"]),
        ("edit", ["n=2", "interpolate=[1,2]"]),
        ("evaluate", ["n=4", "baselines=[]"]),
        ("study", ["sampler", "n=4", "baselines=[]", "samplers=[ddim]", "nfe=[2]"]),
        ("study", ["guidance", "n=4", "baselines=[]", "guidance=auto", "scales=[2]", "steps=2"]),
    ],
)
def test_every_command_draws_in_the_precision_and_scores_record_it(
    command, two_steps, tmp_path, monkeypatch, name, words
):
    used = []

    def mixed(denoise, dtype):
        used.append(dtype)
        return MixedPrecision(denoise, dtype)

    monkeypatch.setattr(drawing, "MixedPrecision", mixed)
    if "guidance=auto" in words:
        words = [*words, f"guidance.ckpt={two_steps}"]
    for precision in ("null", "bf16-mixed"):
        folder = tmp_path / precision
        found = command(name, [*words, f"ckpt={two_steps}", f"precision={precision}", f"hydra.run.dir={folder}"])
        assert found[0] == 0, found[1] + found[2]
        assert {*used} == (set() if precision == "null" else {torch.bfloat16})
        if (folder / "scores.json").is_file():
            recorded = {score.get("precision") for score in json.loads((folder / "scores.json").read_text())}
            assert recorded == {None if precision == "null" else precision}


def test_a_run_draws_all_its_samples_in_the_precision(command, tiny, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(drawing.Drawing, "in_precision", lambda self, denoise: used.append(self.precision) or denoise)
    words = [*tiny, "trainer.max_steps=2", "samples.n=2", "samples.every_n_epochs=1", "score.n=4"]
    words += ["score.every_n_epochs=1", "score.baselines=[untrained]", "samples.precision=bf16-mixed"]
    status, out, err = command("train", [*words, "hydra.run.dir=run"])
    assert status == 0, out + err
    assert len(used) > 4  # the forecast, the pictures, and the scores during training and at its end
    assert {*used} == {"bf16-mixed"}
    recorded = json.loads((tmp_path / "run/scores.json").read_text())
    assert {score["what"] for score in recorded} == {"samples", "untrained"}
    assert {score.get("precision") for score in recorded} == {"bf16-mixed"}


def test_scores_of_two_precisions_are_not_mixed(command, two_steps, tmp_path, capfd):
    from diffusion import compare

    for precision in ("null", "bf16-mixed"):
        found = command("evaluate", [f"ckpt={two_steps}", "n=4", f"precision={precision}", "hydra.run.dir=both"])
        assert found[0] == 0, found[1] + found[2]
    assert compare.main([str(tmp_path / "both")]) == 2
    assert "precision is float32 and bf16-mixed" in capfd.readouterr().err
