"""The checkpoint that `ckpt=` means in each command: a run's folder and `last` stand for files."""

import shutil
from pathlib import Path

import pytest
import yaml

from diffusion.checkpoint.find import find, trained
from diffusion.checkpoint.pruning import prune
from diffusion.checkpoint.restore import restore
from diffusion.errors import UserError
from diffusion.evaluation.commands import recipe_of


def test_ckpt_can_be_a_run_folder_or_last(two_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(two_steps, f"outputs/x/{name}")
        for file in Path(f"outputs/x/{name}/checkpoints").iterdir():
            file.touch()
    file = Path("outputs/x/a/checkpoints/last.ckpt")
    for ckpt in ("outputs/x/a", "outputs/x/a/checkpoints", str(file)):
        assert trained(ckpt) == file
    assert trained("last") == Path("outputs/x/b/checkpoints/last.ckpt")
    beside = find("last", Path("outputs/x/c"))
    assert beside is not None
    assert beside.path == Path("outputs/x/b/checkpoints/last.ckpt")
    assert find("auto", Path("outputs/x/c")) is None
    with pytest.raises(UserError, match="such as outputs/x/a"):
        trained("outputs/x")


def test_a_missing_checkpoint_gives_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/x").mkdir(parents=True)
    for ckpt in ("last", "outputs/x"):
        with pytest.raises(UserError):
            trained(ckpt)
    for ckpt in ("last", "outputs/x", "nothing.ckpt"):
        with pytest.raises(UserError):
            find(ckpt, Path("outputs/y"))


def test_the_recipe_of_a_run_with_only_weights_is_read_from_the_run(two_steps: Path, tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone.safetensors"
    shutil.copytree(two_steps, run)
    prune(run, weights=True)
    file, config = run / "checkpoints/last.safetensors", run / "config.yaml"
    whole = yaml.safe_load(config.read_text())
    assert recipe_of(restore(file)) == whole
    shutil.copy(file, alone)
    assert "optimizer" not in recipe_of(restore(alone))
    config.write_text(yaml.safe_dump(whole | {"seed": 7}))
    assert recipe_of(restore(file)) == recipe_of(restore(alone))
