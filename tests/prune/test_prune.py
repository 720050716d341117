"""Files that complete runs do not need are listed, and removed on request; nothing else is touched."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from diffusion import export
from diffusion.checkpoint import find, pruning, restore, storage
from diffusion.files import lock
from diffusion.prune import __main__ as prune


def run(folder: Path, state: str, best: bool = True) -> Path:
    """A run's folder with checkpoints of 1000 bytes; last.ckpt and best.ckpt are hard links to two of them."""
    inside = folder / "checkpoints"
    inside.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"state": state}))
    for step in (1, 2, 3):
        storage.numbered(inside, step).write_bytes(bytes(1000))
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
    out = capsys.readouterr().out
    assert {folder: names(folder) for folder in before} == before
    assert "2 runs: 4.0 kB can be freed" in out  # steps 2 and 3; 1 and 2: best.ckpt and last.ckpt are links
    assert "skipped: 1 failed, 1 interrupted, 1 running" in out
    assert prune.main([str(tmp_path), "--yes"]) == 0
    assert "2 runs: 4.0 kB freed" in capsys.readouterr().out
    assert names(done) == ["best.ckpt"]
    assert names(scoreless) == ["last.ckpt"]
    assert all(names(folder) == before[folder] for folder in others)
    assert prune.main([str(tmp_path), "--yes"]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert prune.main([str(tmp_path)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_folder_locked_by_a_process_is_not_pruned(tmp_path, capsys):
    done = run(tmp_path / "done", "complete")
    held = lock(done / ".lock")
    assert held is not None
    with held:
        assert prune.main([str(tmp_path), "--yes"]) == 0
    assert "skipped: a run is alive there" in capsys.readouterr().out
    assert len(names(done)) == 5


def test_no_checkpoint_is_deleted_if_its_weights_are_unreadable(tmp_path, capsys):
    done = run(tmp_path / "done", "complete")
    assert prune.main([str(tmp_path), "--weights", "--yes"]) == 0
    assert "not a readable checkpoint" in capsys.readouterr().out
    assert len(names(done)) == 5


def test_exported_raw_weights_are_not_replaced(two_steps, tmp_path, capsys):
    shutil.copytree(two_steps, tmp_path / "run")
    before = names(tmp_path / "run")
    assert export.main([str(tmp_path / "run"), "--weights", "raw"]) == 0
    assert prune.main([str(tmp_path), "--weights", "--yes"]) in (0, 1)
    assert "last.safetensors: it holds raw weights, which this would replace" in "".join(capsys.readouterr())
    assert names(tmp_path / "run") == sorted([*before, "last.safetensors"])


@pytest.mark.parametrize("finished", ["all", "best", "weights"])
def test_the_kept_files_of_a_finished_run_can_be_sampled(command, tiny, tmp_path, finished):
    words = [*tiny, "samples.n=0", "checkpoint.keep=1", "hydra.run.dir=run", f"checkpoint.finished={finished}"]
    status, out, err = command("train", words)
    assert status == 0, out + err
    folder, kept = tmp_path / "run", {"best": ["best.ckpt"], "weights": ["last.safetensors"]}
    all_of_one = ["best.ckpt", "last.ckpt", "step-00000012.ckpt"]
    assert names(folder) == kept.get(finished, all_of_one)
    if finished == "all":
        trained = restore.restore(find.of_run(folder)).denoiser.network.state_dict()
        size = pruning.freed(pruning.superfluous(folder, weights=True))
        assert prune.main([str(tmp_path), "--weights", "--yes"]) == 0
        assert names(folder) == ["last.safetensors"]
        assert (folder / "checkpoints/last.safetensors").stat().st_size < size / 2
        left = restore.restore(find.of_run(folder)).denoiser.network.state_dict()
        assert all(torch.equal(value, left[name]) for name, value in trained.items())
    status, out, err = command("sample", ["ckpt=run", "n=1", "sampler.steps=2"])
    assert status == 0, out + err
    assert ("it has no last.ckpt; this is best.ckpt" in " ".join(out.split())) == (finished == "best")
    if finished == "weights":
        status, out, err = command("train", [*words, "ckpt=auto", "trainer.max_epochs=3"])
        assert status == 2, out + err
        assert "run were kept, and training cannot resume from them" in err
        status, out, err = command("train", words)
        assert status == 2
        assert "would overwrite" in err
