"""Autoguidance within a run: the weights of an early step are kept and guide its last samples."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image
from safetensors.torch import load_file

import diffusion
from diffusion.checkpoint import exported
from diffusion.checkpoint.early import file_of
from diffusion.checkpoint.pruning import prune
from diffusion.errors import UserError
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


def test_an_explicit_worse_model_replaces_the_early_weights(run, tmp_path):
    other = Path(shutil.copy(run / "checkpoints/step-00000005.ckpt", tmp_path))  # without weights of step 3 next to it
    whole, worse = diffusion.load(run, device="cpu"), diffusion.load(other, weights="raw", device="cpu")
    expected = whole.sample(4, guidance=AutoGuidance(scale=3), worse=worse, progress=False)
    assert torch.equal(whole.sample(4, worse=worse, progress=False), expected)
    averaged = diffusion.load(other, device="cpu")
    assert not torch.equal(whole.sample(4, worse=averaged, progress=False), expected)


def test_the_early_weights_remain_after_checkpoints_are_pruned(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    prune(folder, weights=True)
    assert not [*folder.glob("checkpoints/*.ckpt")]
    drawn = diffusion.load(folder, device="cpu").sample(8, progress=False)
    assert torch.equal(drawn, diffusion.load(run, device="cpu").sample(8, progress=False))


def test_pictures_and_scores_during_training_are_not_guided(words, tmp_path):
    for name, more in {"guided": [], "plain": ["guidance=none"]}.items():
        kept = [word for word in words if name == "guided" or not word.startswith("guidance")]
        train([*kept, *more, "samples.every_n_epochs=1", "score.every_n_epochs=1"], tmp_path / name)
    pictures = [sorted((tmp_path / name / "samples").glob("step-*.png")) for name in ("guided", "plain")]
    assert pictures[0]
    assert [file.read_bytes() for file in pictures[0]] == [file.read_bytes() for file in pictures[1]]
    scores = [score for score in read_scores(tmp_path / "guided") if score.source["step"] < 7]
    assert scores
    assert not any("guidance" in score.source for score in scores)


@pytest.mark.parametrize("at", [2, 5])
def test_a_run_resumed_in_another_folder_has_the_early_weights(at, run, words, tmp_path):
    train([*words, f"ckpt={run}/checkpoints/step-0000000{at}.ckpt"], tmp_path / "rest")
    here, there = (load_file(file_of(folder / "checkpoints", 3)) for folder in (tmp_path / "rest", run))
    assert all(torch.equal(here[name], there[name]) for name in there)
    assert picture(tmp_path / "rest/samples/all.png") == picture(run / "samples/all.png")


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


def test_a_fractional_guidance_step_is_converted_to_a_step_number(run, words, tmp_path):
    """40% of 7 steps are 3. The run records this number and keeps it when it is extended."""
    shared = [word for word in words if not word.startswith("guidance")] + ["guidance=early", "guidance.scale=3"]
    train(shared, tmp_path / "run")
    assert picture(tmp_path / "run/samples/all.png") == picture(run / "samples/all.png")
    assert {
        score.source["guidance"]["step"] for score in read_scores(tmp_path / "run") if "guidance" in score.source
    } == {3}
    ours = diffusion.load(tmp_path / "run", device="cpu")
    assert ours.restored.config["guidance"]["step"] == 3
    expected = ours.sample(4, progress=False)
    by_number = AutoGuidance(scale=3), diffusion.load(run / "checkpoints/step-00000003.ckpt", device="cpu")
    assert torch.equal(ours.sample(4, guidance=by_number[0], worse=by_number[1], progress=False), expected)
    assert not torch.equal(ours.sample(4, guidance="early", progress=False), expected)  # with scale 2
    train([*shared, "trainer.max_steps=20", f"ckpt={tmp_path}/run/checkpoints/last.ckpt"], tmp_path / "longer")
    assert file_of(tmp_path / "longer/checkpoints", 3).is_file()


def test_a_fractional_guidance_step_works_for_a_model_trained_without_guidance(words, tmp_path):
    unguided = [word for word in words if not word.startswith("guidance")]
    train([*unguided, "checkpoint.every_n_steps=1"], tmp_path)
    model, early = (diffusion.load(tmp_path / f"checkpoints/step-0000000{i}.ckpt", device="cpu") for i in (5, 2))
    expected = model.sample(4, guidance=AutoGuidance(scale=2), worse=early, progress=False)
    assert torch.equal(model.sample(4, guidance="early", progress=False), expected)


def test_a_run_too_short_for_its_guidance_warns_first_and_samples_without_it(words, tmp_path, capfd):
    train([*words, "guidance.step=7"], tmp_path / "late")
    out = " ".join(capfd.readouterr().out.split())
    said = "guidance.step=7: the run has 7 steps, so its last samples will be drawn without guidance;"
    assert out.index(said) < out.index("run folder:")
    assert not any("guidance" in score.source for score in read_scores(tmp_path / "late"))
    assert "is at step 7, but its run's guidance uses the model of step 7" in drawn_without(tmp_path / "late", capfd)


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


def test_invalid_guidance_steps_and_weights_are_refused(words, run, command, tmp_path):
    with pytest.raises(UserError, match=r"guidance.step=0.4: a fraction is only defined for the model's own run"):
        train([*words, "guidance.step=0.4", f"guidance.ckpt={run}"], tmp_path / "another")
    with pytest.raises(
        UserError, match=r"guidance.step=1.5: expected a whole number of at least 1 or a number above 0"
    ):
        train([*words, "guidance.step=1.5"], tmp_path / "more")
    with pytest.raises(UserError, match=r"guidance.weights=raw: in training it needs guidance.ckpt"):
        train([*words, "guidance.weights=raw"], tmp_path / "raw")
    status, _, err = command("sample", [f"ckpt={run}", "n=1", "guidance.step=99", "device=cpu"])
    assert status == 2
    assert "guidance.step=99" in err
    assert "its checkpoints are of 1, 2, 3, 4, 5, 6, 7" in err


def test_a_full_disk_gives_a_one_line_error(words, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exported, "write", full)
    with pytest.raises(
        UserError, match=r"cannot write .*early/step-00000003.safetensors: No space left .* resume with"
    ):
        train(words, tmp_path / "run")


def picture(file: Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def picture_of(images: torch.Tensor) -> bytes:
    return grid(to_rgb(images)).convert("RGB").tobytes()
