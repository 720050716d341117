"""T9, T10 under launchers with their own workers: each job has its configuration, folder and processes.

The launchers come with the extra `sweep`, which dev includes.
"""

import json
import os
import subprocess
import sys

import pytest
import yaml
from composing import train

pytestmark = pytest.mark.reliability


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_two_process_jobs_have_separate_configs_and_folders_and_fail_alone(tiny, tmp_path, launcher, figure):
    overrides = ["-m", *tiny, "samples.n=0", "trainer.max_steps=3", "data.batch_size=2", "trainer.devices=2"]
    overrides += [f"hydra/launcher={launcher}", "hydra.sweep.dir=outputs/sweep"]
    overrides += ["optimizer._target_=deaths.kill,deaths.good"]
    command = [sys.executable, "-m", "diffusion.train", *overrides]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "45671"}  # as left in the shell; no two jobs may use it
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | address, text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["sweep"]
    assert sorted(path.parent.name for path in tmp_path.glob("outputs/sweep/*/run.json")) == ["0", "1"]
    for i, (name, state) in enumerate({"kill": "failed", "good": "complete"}.items()):
        folder = tmp_path / f"outputs/sweep/{i}"
        record = json.loads((folder / "run.json").read_text())
        assert record["state"] == state, done.stderr
        assert record["devices"] == 2
        assert record["total_steps"] == 3
        assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["_target_"] == f"deaths.{name}"
        assert (folder / "checkpoints/last.ckpt").is_file() is (state == "complete")
    figure(f"{launcher}: jobs of two processes, one of two killed", "the other complete")


def test_an_evaluation_sweep_runs_under_joblib(tiny, tmp_path):
    train([*tiny, "trainer.max_steps=1", "samples.n=0"], tmp_path / "run")
    overrides = ["-m", f"ckpt={tmp_path / 'run'}", "seed=0,1", "n=8", "baselines=[]", "hydra/launcher=joblib"]
    command = [sys.executable, "-m", "diffusion.evaluate", *overrides, "hydra.sweep.dir=sweep"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for i in range(2):
        scores = json.loads((tmp_path / f"sweep/{i}/scores.json").read_text())
        assert {score["seed"] for score in scores} == {i}, scores
    assert "fd_lite0" in (tmp_path / "sweep/compare.md").read_text()
    assert "compare.md" in done.stdout
