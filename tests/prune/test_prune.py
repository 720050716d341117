"""Files that complete runs do not need are listed, and removed on request; nothing else is touched."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from rich.filesize import decimal

from diffusion.checkpoint import find, restore, storage
from diffusion.checkpoint.storage import snapshot
from diffusion.cli import export, prune
from diffusion.errors import UserError


def run(folder: Path, state: str, best: bool = True) -> Path:
    """A run's folder with small checkpoints; last.ckpt and best.ckpt are hard links to two of them."""
    inside = folder / "checkpoints"
    inside.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"state": state, "command": ["diffusion", "train"]}))
    for step in (1, 2, 3):
        contents = {"config": "", "state_dict": {"w": torch.full((1000,), step)}, "global_step": step, "epoch": 0}
        storage.save(contents, storage.numbered(inside, step))
    os.link(storage.numbered(inside, 3), inside / "last.ckpt")
    if best:
        os.link(storage.numbered(inside, 1), inside / "best.ckpt")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "checkpoints").iterdir())


def test_prune_keeps_the_best_of_complete_runs_and_deletes_only_with_yes(tmp_path, capsys):
    done, scoreless = run(tmp_path / "a/done", "complete"), run(tmp_path / "scoreless", "complete", best=False)
    others = [run(tmp_path / state, state) for state in ("failed", "interrupted", "running")]
    before = {folder: names(folder) for folder in (done, scoreless, *others)}
    assert prune.main([str(tmp_path)]) == 0
    assert {folder: names(folder) for folder in before} == before
    freed = sum(storage.numbered(done / "checkpoints", step).stat().st_size for step in (2, 3))
    assert find.freed(find.superfluous(done, weights=False)) == freed
    assert prune.main([str(tmp_path), "--yes"]) == 0
    assert f"2 complete runs: {decimal(2 * freed)} freed" in capsys.readouterr().out
    assert (names(done), names(scoreless)) == (["best.ckpt"], ["last.ckpt"])
    assert all(names(folder) == before[folder] for folder in others)
    assert prune.main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == "no complete run has checkpoints that can be removed\n"


@pytest.mark.parametrize("weights", [False, True])
def test_no_checkpoint_is_deleted_if_what_stays_cannot_be_read(tmp_path, capsys, weights):
    broken = run(tmp_path / "broken", "complete")
    kept = broken / "checkpoints" / ("last.ckpt" if weights else "best.ckpt")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    before = names(broken)
    assert prune.main([str(tmp_path), "--yes", *["--weights"] * weights]) == 0
    assert names(broken) == before
    assert "skipped" in capsys.readouterr().out


def test_no_checkpoint_is_deleted_if_its_weights_would_replace_others(two_steps, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(two_steps, raw)
    assert export.main([str(raw), "--weights", "raw"]) == 0
    before = names(raw)
    assert prune.main([str(tmp_path), "--weights", "--yes"]) == 0
    assert names(raw) == before


@pytest.mark.parametrize("weights", [False, True])
def test_the_kept_files_can_be_sampled_and_not_trained_further(refused, tiny, two_steps, tmp_path, weights):
    folder = tmp_path / "run"
    shutil.copytree(two_steps, folder)
    snapshot(folder / "checkpoints", 1).parent.mkdir()
    snapshot(folder / "checkpoints", 1).write_bytes(b"x")
    before = restore.restore(find.of_run(folder)).denoiser.network.state_dict()
    assert prune.main([str(tmp_path), "--yes", *["--weights"] * weights]) == 0
    assert names(folder) == (["averages", "last.safetensors"] if weights else ["averages", "best.ckpt"])
    assert snapshot(folder / "checkpoints", 1).exists() is not weights
    there, gone = ("last.safetensors", "best.ckpt") if weights else ("best.ckpt", "last.ckpt")
    with pytest.raises(UserError, match=f"{gone}: no such file; its run has kept {there}"):
        find.of_run(folder / "checkpoints" / gone)
    path = folder / "checkpoints/last.ckpt" if weights else folder  # of which the weights were kept
    kept = restore.restore(find.of_run(path)).denoiser.network.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in before.items())
    if weights:
        refused("train", [*tiny, "trainer.max_steps=3", f"hydra.run.dir={folder}", "ckpt=auto"])
