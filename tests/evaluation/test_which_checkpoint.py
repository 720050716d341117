"""The checkpoint that `ckpt=` means in each command: a run's folder and `last` stand for files."""

import shutil
from pathlib import Path

import pytest
import yaml

from diffusion.checkpoint import find
from diffusion.checkpoint.pruning import prune
from diffusion.checkpoint.restore import restore
from diffusion.errors import UserError
from diffusion.evaluation.commands import recipe_of


@pytest.fixture
def trained(command, tiny: list[str]) -> None:
    """Two runs, a and then b."""
    for name in ("a", "b"):
        words = [*tiny, "trainer.max_steps=1", "samples.n=0", f"name={name}", f"hydra.run.dir=outputs/x/{name}"]
        assert command("train", words)[0] == 0


MEANT = {
    "outputs/x/a": "outputs/x/a/checkpoints/last.ckpt",
    "outputs/x/a/checkpoints": "outputs/x/a/checkpoints/last.ckpt",
    "last": "outputs/x/b/checkpoints/last.ckpt",
}


def test_ckpt_can_be_a_run_folder_or_last(
    command, trained, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ckpt, file in MEANT.items():
        status, out, err = command("export", [ckpt])
        assert (status, err) == (0, "")
        assert out.splitlines()[-1] == file.replace(".ckpt", ".safetensors")
        status, out, err = command("sample", [f"ckpt={ckpt}", "n=1", "sampler.steps=1", "device=cpu"])
        assert status == 0, err
        assert "1 image of step 1" in out
    more = [*tiny, "ckpt=outputs/x/a", "hydra.run.dir=outputs/x/c", "trainer.max_steps=2", "samples.n=0"]
    assert f"resuming from {MEANT['outputs/x/a']}, step 1\n" in command("train", more)[1]

    def refuse(path: Path, weights: str) -> None:
        raise UserError(f"it is {path}")

    monkeypatch.setattr(find, "restore", refuse)
    for name, words in {"evaluate": [], "study": ["sampler"]}.items():
        assert command(name, [*words, "ckpt=outputs/x/a"])[2] == f"error: it is {MEANT['outputs/x/a']}\n"


def test_a_missing_checkpoint_gives_a_one_line_error(command, tmp_path: Path) -> None:
    (tmp_path / "outputs/x").mkdir(parents=True)
    for ckpt, line in {
        "last": "ckpt=last: no run in outputs has a checkpoint; ",
        "outputs/x": "ckpt=outputs/x: no checkpoint in this folder; ",
    }.items():
        assert command("sample", [f"ckpt={ckpt}"])[2] == f"error: {line}name a run's folder, or a checkpoint\n"


def test_a_run_without_a_checkpoint_is_named_as_such(command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    assert "ckpt=run: this run has not saved a checkpoint;" in command("sample", ["ckpt=run"])[2]
    (tmp_path / "samples/.hydra").mkdir(parents=True)
    (tmp_path / "samples/.hydra/config.yaml").write_text("n: 4")
    assert "ckpt=samples: no checkpoint in this folder;" in command("sample", ["ckpt=samples"])[2]


def test_a_folder_of_runs_as_checkpoint_names_one_of_them(command, trained) -> None:
    line = command("sample", ["ckpt=outputs/x"])[2]
    assert line.endswith("name a run's folder, or a checkpoint, such as outputs/x/a (2 runs here)\n")


def test_ckpt_last_does_not_resume_a_run_with_another_name(command, trained, tiny, tmp_path: Path) -> None:
    words = [*tiny, "ckpt=last", "name=nothinghere", "hydra.run.dir=outputs/x/c"]
    status, _, err = command("train", words)
    assert (status, err) == (
        2,
        f"error: ckpt=last: no finished run named nothinghere in {tmp_path}/outputs/x has a checkpoint; "
        "there are a (name=a), b (name=b); choose one, ckpt=RUN, or remove ckpt\n",
    )
    out = command("train", [*words, "name=a", "trainer.max_steps=2", "samples.n=0"])[1]
    assert f"resuming from {tmp_path}/outputs/x/a/checkpoints/last.ckpt, step 1\n" in out


def test_the_recipe_of_a_run_with_only_weights_is_read_from_the_run(two_steps: Path, tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone.safetensors"
    shutil.copytree(two_steps, run)
    prune(run, weights=True)
    file, config = run / "checkpoints/last.safetensors", run / "config.yaml"
    whole = yaml.safe_load(config.read_text())
    assert recipe_of(restore(file)) == whole
    shutil.copy(file, alone)
    assert "optimizer" not in recipe_of(restore(alone))
    for other in (yaml.safe_dump(whole | {"seed": 7}), "- 1", "["):
        config.write_text(other)
        assert recipe_of(restore(file)) == recipe_of(restore(alone))
