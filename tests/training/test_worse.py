"""Autoguidance within a run: the weights of an early step are kept and guide its last samples."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image
from safetensors.torch import load_file

import diffusion
from diffusion.checkpoint.early import file_of
from diffusion.pixels import to_rgb
from diffusion.process.guidance import AutoGuidance
from diffusion.report.images import grid
from diffusion.runs.folder import read_scores

GUIDED = ["guidance=auto", "guidance.step=3", "guidance.scale=3", "trainer.max_steps=7", "samples.n=4"]


@pytest.fixture(scope="module")
def words(tiny) -> list[str]:
    return [*tiny, "score.n=8", "score.baselines=[]", "features=lite0", "checkpoint.keep=9", *GUIDED]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("worse") / "run"
    train([*words, "checkpoint.every_n_steps=1"], folder)
    return folder


def test_the_averaged_weights_of_the_guidance_step_are_kept(run):
    kept = load_file(file_of(run / "checkpoints", 3))
    saved = diffusion.load(run / "checkpoints/step-00000003.ckpt", device="cpu").denoiser.network.state_dict()
    assert kept.keys() == saved.keys()
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_the_early_weights_guide_the_final_samples_and_later_commands(run, command, tmp_path):
    whole = diffusion.load(run, device="cpu")
    early = diffusion.load(run / "checkpoints/step-00000003.ckpt", device="cpu")
    expected = whole.sample(8, worse=early, progress=False)
    assert not torch.equal(expected, whole.sample(8, guidance="none", progress=False))
    assert torch.equal(whole.sample(8, progress=False), expected)
    assert picture(run / "samples/all.png") == picture_of(expected)
    assert {score.source["guidance"]["step"] for score in read_scores(run) if score.what == "samples"} == {3}
    of_sixth = run / "checkpoints/step-00000006.ckpt"  # 40% of 6 steps are 2, and of the run's 7 are 3
    with_early = diffusion.load(of_sixth, device="cpu").sample(8, worse=early, progress=False)
    cases = {"own": (run, [], expected), "early": (of_sixth, ["guidance=early", "guidance.scale=3"], with_early)}
    for name, (model, chosen, images) in cases.items():
        words = [f"ckpt={model}", "n=8", "device=cpu", f"hydra.run.dir={name}", *chosen]
        status, out, err = command("sample", words)
        assert status == 0, out + err
        drawn = torch.from_numpy(np.load(tmp_path / name / "images.npz")["images"])
        assert torch.equal(drawn.permute(0, 3, 1, 2), images)


def test_a_run_resumed_past_the_guidance_step_takes_the_weights_from_a_checkpoint(words, tmp_path):
    """The first run was not guided, so only its checkpoint of step 3 has them."""
    unguided = [word for word in words if not word.startswith("guidance")]
    train([*unguided, "checkpoint.every_n_steps=1"], tmp_path / "first")
    train([*words, "trainer.max_steps=8", f"ckpt={tmp_path}/first/checkpoints/last.ckpt"], tmp_path / "rest")
    kept = load_file(file_of(tmp_path / "rest/checkpoints", 3))
    early = diffusion.load(tmp_path / "first/checkpoints/step-00000003.ckpt", device="cpu")
    saved = early.denoiser.network.state_dict()
    assert kept.keys() == saved.keys()
    assert all(torch.equal(kept[name], saved[name]) for name in kept)
    expected = diffusion.load(tmp_path / "rest", device="cpu").sample(8, worse=early, progress=False)
    assert picture(tmp_path / "rest/samples/all.png") == picture_of(expected)


def test_a_run_that_ends_before_the_guidance_step_samples_without_guidance(words, tmp_path, capsys):
    stop = "callbacks.stop={_target_: lightning.pytorch.callbacks.Timer, duration: {seconds: 0}, interval: step}"
    train([*words, f"+{stop}"], tmp_path / "short")
    assert (
        "guidance.step=3: the run ended before this step; its samples are drawn without guidance"
        in capsys.readouterr().out
    )
    assert not any("guidance" in score.source for score in read_scores(tmp_path / "short"))


def test_checkpoints_without_the_early_weights_are_sampled_without_guidance(run, tmp_path, command, capfd):
    alone = shutil.copy(run / "checkpoints/last.ckpt", tmp_path)
    assert "has no weights of step 3 in its folder, but its run's guidance uses them" in drawn_without(
        Path(alone), capfd
    )
    early = run / "checkpoints/step-00000002.ckpt"
    assert "is at step 2, but its run's guidance uses the model of step 3" in drawn_without(early, capfd)
    words = [f"ckpt={alone}", "n=8", "device=cpu", "hydra.run.dir=drawn"]
    status, out, err = command("sample", words)
    assert status == 0, out + err
    assert "its samples are drawn without guidance" in " ".join(out.split())
    status, _, err = command("sample", [*words, "guidance.scale=2"])  # requests guidance
    assert status == 2
    assert "contains no weights of this step" in err


def test_inpainting_does_not_use_the_guidance_of_the_run(run, tmp_path, command, capfd):
    """Unless guidance is requested. Variants of an image are guided, like samples."""
    model = diffusion.load(run, device="cpu")
    image, mask = model.sample(1, progress=False)[0], torch.zeros(model.restored.shape[1:], dtype=torch.bool)
    mask[4:] = True
    capfd.readouterr()
    filled = model.inpaint(image, mask, n=2, progress=False)
    said = "fills part of a picture, where guidance by step 3 is too strong (guidance=early turns it on)"
    assert said in " ".join(capfd.readouterr().out.split())
    assert torch.equal(filled, model.inpaint(image, mask, n=2, guidance="none", progress=False))
    worse = diffusion.load(run / "checkpoints/step-00000003.ckpt", device="cpu")
    guided = {"guidance": AutoGuidance(scale=3), "worse": worse}
    assert not torch.equal(filled, model.inpaint(image, mask, n=2, **guided, progress=False))
    assert torch.equal(model.edit(image, n=2, progress=False), model.edit(image, n=2, **guided, progress=False))
    for name, pixels in (("image", image), ("mask", mask.expand(3, -1, -1) * 255)):
        Image.fromarray(pixels.permute(1, 2, 0).byte().numpy()).save(tmp_path / f"{name}.png")
    words = [f"ckpt={run}", f"image={tmp_path}/image.png", "n=2", "device=cpu", "hydra.run.dir=edited"]
    for more, shown in (([f"mask={tmp_path}/mask.png"], True), ([], False)):
        status, out, err = command("edit", [*words, *more])
        assert status == 0, out + err
        assert (said in " ".join(out.split())) == shown


def drawn_without(file: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Check that the model is sampled without its run's guidance, and return the printed output."""
    model = diffusion.load(file, device="cpu")
    capfd.readouterr()
    drawn = model.sample(8, progress=False)
    said = " ".join(capfd.readouterr().out.split())
    assert torch.equal(drawn, model.sample(8, guidance="none", progress=False))
    return said


def picture(file: Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def picture_of(images: torch.Tensor) -> bytes:
    return grid(to_rgb(images)).convert("RGB").tobytes()
