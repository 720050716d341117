"""Parts of an evaluation: its cost, baselines, steps of samples, and the source of a score."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import diffusion
from diffusion.base import files
from diffusion.base.files import code_version
from diffusion.data import Split
from diffusion.errors import UserError
from diffusion.kinds.pixels import Pixels
from diffusion.metric.features import FeatureExtractor
from diffusion.process import grid
from diffusion.process.denoiser import Denoiser, Estimate, MixedPrecision
from diffusion.process.guidance import AutoGuidance, ClassifierFree
from diffusion.process.prediction import V
from diffusion.process.sampler import DDIM, Heun
from diffusion.process.schedule import VP, cosine, linear
from diffusion.sampling.drawing import FRAMES, Frames, described, evaluations
from diffusion.scoring import pipeline
from diffusion.scoring.pipeline import Scorer


@pytest.mark.parametrize("kind", [ClassifierFree, AutoGuidance])
def test_guidance_adds_one_evaluation_per_step_inside_its_interval(kind) -> None:
    sampler = DDIM(10, grid=grid.karras)
    alpha, sigma = VP()(sampler.grid(VP(), 10)[:-1])
    inside = int(((sigma / alpha > 0.3) & (sigma / alpha <= 3)).sum())
    assert 0 < inside < 10
    assert evaluations(sampler, VP()) == evaluations(sampler, VP(), kind(1.0)) == 10
    assert evaluations(sampler, VP(), kind(2.0)) == 20
    assert evaluations(sampler, VP(), kind(2.0, 0.3, 3.0)) == 10 + inside
    assert evaluations(Heun(4), VP()) == 7


def test_products_are_rounded_and_images_are_not() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Module()
    network.forward = lambda x, label: layer(x)
    denoiser = Denoiser(network, cosine(), V())
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        exact, rounded = denoiser(x, t), MixedPrecision(denoiser, torch.bfloat16)(x, t)
    assert rounded.x0.dtype == torch.float32
    assert 0 < float((exact.x0 - rounded.x0).abs().max()) < 2**-6
    alpha, sigma = (each.float().view(2, 1, 1, 1) for each in denoiser.schedule(t.double()))
    assert torch.allclose(alpha * rounded.x0 + sigma * rounded.eps, x, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 101])
def test_at_most_25_steps_are_kept_including_the_first_and_last(steps: int, tmp_path: Path) -> None:
    frames, x = Frames(DDIM(steps=steps), linear(), Pixels()), torch.zeros(9, 3, 2, 2)
    for first in (0, 9):
        for k in range(1, steps + 1):
            frames.watch(first, k, x + k / steps - first, Estimate(x, x, x))  # a second batch, of black images
    kept = list(frames.steps)
    assert all(int(images.max()) > 0 for images in frames.steps.values())
    assert (len(kept), kept[0], kept[-1]) == (min(steps, FRAMES), 1, steps)
    if steps == 101:
        frames.save_gif(tmp_path / "trajectory.gif")
        assert Image.open(tmp_path / "trajectory.gif").width == 8 * (2 + 16 * 2) - 2


class Features(FeatureExtractor):
    """The mean colour, without weights."""

    name, num_features, resize = "mine", 3, "none"

    def __init__(self) -> None:
        super().__init__()
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))


def scorer(split: str, splits: dict[str, Any]) -> Scorer:
    """A scorer without metrics."""
    data: Any = SimpleNamespace(splits=splits, shape=(3, 4, 4), channels=3, kind=Pixels())
    return Scorer(data, split, Features(), [], Path(), Path())


@pytest.mark.parametrize(("reference", "others"), [("val", 1), ("train", 2)])
def test_the_real_baseline_never_uses_the_reference_split(monkeypatch, reference: str, others: int) -> None:
    numbered = ((1, "train"), (2, "val"), (3, "test"))
    splits = {name: Split(torch.full((9, 3, 4, 4), i), [*"abcdefghi"]) for i, name in numbered}
    seen: list[Tensor] = []
    monkeypatch.setattr(pipeline, "features_of", lambda images, *_: (seen.append(images), ""))
    monkeypatch.setattr(pipeline, "score", lambda *_, **__: {})
    monkeypatch.setattr(Scorer, "reference", SimpleNamespace(name=reference, parts=()))
    assert scorer(reference, splits).baselines(["real"], 5) == []
    assert seen[0].unique().tolist() == [others]
    assert len(seen[0]) == 5


def test_too_few_images_are_refused_and_few_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    few, enough = {"train": range(9), "val": range(2)}, {"train": range(900), "val": range(250)}
    for split, splits, n, baselines in (("train", few, 5, ["split_half"]), ("val", few, 5, []), ("train", few, 3, [])):
        with pytest.raises(UserError):
            scorer(split, splits).check(n, baselines)
    scorer("val", enough).check(5, ["split_half"])
    assert capsys.readouterr().out == ""
    scorer("val", {**enough, "val": range(199)}).check(5, [])
    assert capsys.readouterr().out


def test_code_version_includes_the_commit_and_marks_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "diffusion")

    def version() -> str:
        code_version.cache_clear()
        return code_version()

    assert version() == diffusion.__version__  # installed from a wheel
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:12]
    assert version() == f"{diffusion.__version__} {commit}"
    (tmp_path / "file").write_text("two")
    assert version() == f"{diffusion.__version__} {commit}+"
    code_version.cache_clear()


def test_the_source_includes_nested_sampler_settings() -> None:
    inner = {"_target_": "a.karras", "_partial_": True, "rho": 7.0, "sigma_max": float("inf")}
    made = described({"_target_": "a.DDIM", "steps": 9, "grid": inner})
    assert json.loads(json.dumps(made)) == {
        "name": "DDIM", "steps": 9, "grid": {"name": "karras", "rho": 7.0, "sigma_max": "inf"},
    }  # fmt: skip
