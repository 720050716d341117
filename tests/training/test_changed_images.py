"""A run notices changed images, and never reads the output of a command."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from diffusion.data import Folder


@pytest.fixture
def own_photos(photos, tmp_path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "own"))


def replace_one(folder: Path) -> None:
    """Put another image under an old name, in any split."""
    Image.new("RGB", (24, 24), (1, 2, 3)).save(folder / "05.png")


def test_resuming_in_the_same_folder_with_changed_images_is_refused(command, tiny, own_photos, tmp_path):
    words = [*tiny[:-1], f"data.root={own_photos}", "samples.n=0"]
    assert command("train", [*words, "trainer.max_steps=2", "hydra.run.dir=run"])[0] == 0
    status, out, err = command("train", ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=4"])
    assert status == 0, out + err
    replace_one(own_photos)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "checkpoints/last.ckpt")}
    status, out, err = command("train", ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=6"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert "are not those it was trained with; restore them, or continue with these images, and all settings" in line
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    status, out, err = command(
        "train", [*words, "trainer.max_steps=6", "hydra.run.dir=other", "ckpt=run/checkpoints/last.ckpt"]
    )
    assert status == 0, out + err
    assert "held-out images may have been training images" in out


def test_a_run_without_its_configuration_is_not_resumed_with_defaults(command, tiny, tmp_path):
    words = [*tiny, "samples.n=0", "hydra.run.dir=run"]
    assert command("train", [*words, "trainer.max_steps=1"])[0] == 0
    (tmp_path / "run/config.yaml").unlink()
    status, out, err = command("train", ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=2"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert "config.yaml: missing; without it, a run in this folder would resume with other settings" in line


def test_evaluation_warns_if_the_data_of_the_run_have_changed(command, tiny, own_photos):
    words = [*tiny[:-1], f"data.root={own_photos}", "samples.n=0", "trainer.max_steps=1", "hydra.run.dir=run"]
    assert command("train", words)[0] == 0
    ask = ["ckpt=run/checkpoints/last.ckpt", "n=4", "features=lite0", "baselines=[]", "sampler.steps=2", "device=cpu"]
    status, out, err = command("evaluate", ask)
    assert status == 0, out + err
    assert "have changed since the model was trained" not in out
    replace_one(own_photos)
    status, out, err = command("evaluate", ask)
    assert status == 0, out + err
    assert out.count("have changed since the model was trained") == 1
    status, out, err = command("evaluate", [*ask, "data.batch_size=5"])
    assert status == 0, out + err
    assert out.count("have changed since the model was trained") == 1


def test_evaluation_warns_if_its_settings_divide_the_images_of_the_run_otherwise(command, tiny, photos):
    words = [*tiny[:-1], f"data.root={photos}", "samples.n=0", "trainer.max_steps=1", "hydra.run.dir=run"]
    assert command("train", words)[0] == 0
    ask = ["ckpt=run/checkpoints/last.ckpt", "n=4", "features=lite0", "baselines=[]", "sampler.steps=2", "device=cpu"]
    said = "the images of train and val are not those of the training, which had data.val=8: held-out images may have"
    status, out, err = command("evaluate", [*ask, "data.val=12", "data.eval_batch_size=3"])
    assert status == 0, out + err
    assert out.replace("\n", " ").count(said) == 1
    status, out, err = command("evaluate", [*ask, "data.random_crop=true"])  # other pixels, the same division
    assert status == 0, out + err
    assert "held-out images may have" not in out


def test_outputs_of_commands_are_not_read_as_training_images(photos, tmp_path):
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    for name, mark in (("outputs/demo/1", "run.json"), ("outputs/samples/1", ".hydra/config.yaml")):
        folder = root / name
        (folder / mark).parent.mkdir(parents=True)
        (folder / mark).write_text("{}")
        (folder / "samples").mkdir()
        Image.new("RGB", (24, 24)).save(folder / "samples/final.png")
    data = Folder(root=str(root), resolution=8, val=4, test=4, batch_size=1)
    data.prepare_data()
    assert sum(len(split) for split in data.splits.values()) == len(list(photos.iterdir()))
    reasons = {entry["path"]: entry["reason"] for entry in data.report}
    assert reasons["outputs/demo/1"] == reasons["outputs/samples/1"] == "written by a command of diffusion"
    inside = Folder(root=str(root / "outputs/demo/1/samples"), resolution=8, val=0, test=0, batch_size=1)
    inside.prepare_data()
    assert len(inside.splits["train"]) == 1  # named explicitly, it is read


def test_deeply_nested_folders_are_supported(photos, tmp_path, command):
    folders = [tmp_path / "0"]
    folders += [folders[0] / "/".join(["d"] * k) for k in range(1, 1200)]
    for folder in folders:
        folder.mkdir()
    shutil.copy(photos / "00.png", folders[-1])
    data = Folder(root=str(folders[0]), resolution=8, val=0, test=0, batch_size=1)
    data.prepare_data()
    assert len(data.splits["train"]) == 1
    status, out, err = command("status", [str(folders[0])])
    assert status == 0, out + err
    for folder in reversed(folders):  # pytest removes a few levels at a time
        shutil.rmtree(folder)


def test_an_evaluation_with_the_same_images_under_another_name_warns_of_held_out_ones(
    command, tiny, own_photos, tmp_path, monkeypatch
):
    """Another spelling of the folder is the same data; a moved copy may be."""
    monkeypatch.chdir(tmp_path)
    words = [*tiny[:-1], "data.root=own", "samples.n=0", "trainer.max_steps=1", "hydra.run.dir=run"]
    assert command("train", words)[0] == 0
    shutil.copytree(own_photos, tmp_path / "copy")
    (tmp_path / "copy/05.png").unlink()
    quick = ["ckpt=run", "features=lite0", "n=4", "baselines=[]", "sampler.steps=2", "device=cpu"]
    warned = "warning: the images of"
    for root, more, said in (
        ("own", [], ""),
        (str(own_photos), [], ""),
        (str(own_photos), ["data.seed=1"], warned),
        ("copy", [], "if this folder is a copy of it, held-out images may have been training images"),
    ):
        status, out, err = command("evaluate", [*quick, f"data.root={root}", *more])
        assert status == 0, out + err
        found = " ".join(out.split())
        assert (said in found) if said else ("held-out images may" not in found), (root, more)
