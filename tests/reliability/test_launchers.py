"""Sweeps in parallel: each job has its configuration, folder and processes, and saves if its sweep is stopped.

The launchers come with the extra `sweep`, which dev includes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from threading import Timer
from types import SimpleNamespace

import pytest
import yaml
from composing import settings
from joblib.externals.loky.process_executor import TerminatedWorkerError

from diffusion.base.files import lock
from diffusion.checkpoint import storage
from diffusion.config.messages import explain
from diffusion.errors import Interrupted
from diffusion.runs.launch import Launch
from diffusion.runs.record import LOCK
from diffusion.training import jobs

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]
SWEEP = [sys.executable, "-m", "diffusion.train", "-m", "samples.n=0", "hydra.sweep.dir=sweep"]


@pytest.mark.parametrize(("launcher", "devices"), [("joblib", 2), ("submitit_local", 1)])
def test_parallel_jobs_have_separate_configs_and_folders_and_fail_alone(tiny, tmp_path, launcher, devices):
    words = [*tiny, "trainer.max_steps=2", "data.batch_size=2", f"trainer.devices={devices}"]
    words += [f"hydra/launcher={launcher}", "optimizer._target_=doubles.kill,doubles.good"]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "45671"}  # as left in the shell; no two jobs may use it
    run = {"cwd": tmp_path, "env": os.environ | address, "text": True, "capture_output": True, "check": False}
    done = subprocess.run([*SWEEP, *words], **run)  # type: ignore[call-overload]
    assert done.returncode != 0
    for i, (name, state) in enumerate({"kill": "failed", "good": "complete"}.items()):
        folder = tmp_path / f"sweep/{i}"
        record = json.loads((folder / "run.json").read_text())
        assert (record["state"], record["devices"]) == (state, devices), done.stderr
        assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["_target_"] == f"doubles.{name}"
        assert (folder / "checkpoints/last.ckpt").is_file() is (state == "complete")


def test_a_killed_worker_of_joblib_is_said_in_one_line():
    known = explain(TerminatedWorkerError("a worker\nwas terminated"), "train")
    assert known is not None
    assert (known.status, str(known).count("\n")) == (1, 0)
    assert "hydra.sweep.dir=SWEEP" in str(known)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_parallel_jobs_save_and_end_with_their_sweep(tiny, tmp_path, number):
    """Ctrl-C reaches the sweep and joblib's workers, but not their jobs; kill -9 only the sweep."""
    words = [*tiny, "trainer.max_epochs=-1", "trainer.max_steps=100000", "seed=0,1,2"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    log = (tmp_path / "log").open("w+")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as if the tests run in the background
    sweep = subprocess.Popen([*SWEEP, *words], cwd=tmp_path, start_new_session=True, stdout=log, stderr=log)
    folders = [tmp_path / f"sweep/{i}" for i in range(2)]
    while not all((folder / "metrics.csv").exists() for folder in folders):
        assert sweep.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    (os.kill if number == signal.SIGKILL else os.killpg)(sweep.pid, number)
    assert sweep.wait() == (-9 if number == signal.SIGKILL else 130), (tmp_path / "log").read_text()
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        while record["state"] == "running":
            time.sleep(0.1)
            record = json.loads((folder / "run.json").read_text())
        assert record["state"] == "interrupted", (tmp_path / "log").read_text()
        assert storage.load(folder / "checkpoints/last.ckpt")["global_step"] == record["steps"] > 0
    assert not (tmp_path / "sweep/2/checkpoints").exists()


def test_a_job_saves_before_submitit_requeues_it(tmp_path, monkeypatch, capsys):
    """Its handler of SIGUSR2 ends the process."""

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGUSR2)

    called = []
    monkeypatch.setattr(jobs, "claimed", stopped)
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        with pytest.raises(Interrupted):
            jobs.start(settings([]), Launch(tmp_path / "0", job=True))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert called == [signal.SIGUSR2]
    assert f"the whole sweep: rerun the same command with hydra.sweep.dir={tmp_path}" in capsys.readouterr().out


def test_a_job_that_slurm_runs_again_waits_for_the_lock_of_a_lost_machine(tmp_path, monkeypatch):
    """A file server releases it late."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held = lock(tmp_path / LOCK)
    assert held is not None
    Timer(3, held.close).start()
    Launch(tmp_path).claim()


def test_workers_of_joblib_use_different_gpus(monkeypatch):
    used = []
    monkeypatch.setattr(jobs, "end_with_parent", lambda number: None)
    for i in (1, 2, 3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
        worker = SimpleNamespace(name=f"LokyProcess-{i}")
        monkeypatch.setattr(jobs.multiprocessing, "current_process", lambda worker=worker: worker)
        jobs.prepare_worker(2)
        jobs.prepare_worker.cache_clear()
        used.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert used == ["6,7", "4,5", "6,7"]
