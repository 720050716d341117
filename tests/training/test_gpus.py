"""Runs and jobs on several GPUs, as far as a machine without one can tell."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry

from diffusion.config.schema import Trainer
from diffusion.errors import Interrupted, NotFinite, UserError
from diffusion.runs import jobs
from diffusion.runs.record import RunRecord
from diffusion.training import gpus, processes, worker, worse

NOW = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Waiting:
    """A process group whose destruction waits for a process that is dead, as NCCL's does."""

    def __init__(self, monkeypatch):
        self.registered: list[tuple[object, ...]] = []
        monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(processes.dist, "barrier", lambda: None)
        monkeypatch.setattr(processes.dist, "destroy_process_group", threading.Event().wait)
        monkeypatch.setattr(processes, "CLOSING", 0.1)
        monkeypatch.setattr(processes, "GRACE", 0.1)
        monkeypatch.setattr(processes.atexit, "register", lambda *words: self.registered.append(words))


class OneDevice:
    num_devices = 1
    is_global_zero = True


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(10), 138), (NotFinite("nan"), 3), (RuntimeError("a bug"), 1), (None, 0)]
)
def test_a_group_that_waits_for_a_dead_process_is_left(error, status, monkeypatch, tmp_path):
    waiting = Waiting(monkeypatch)
    began = time.monotonic()
    with (
        nullcontext() if error is None else pytest.raises(type(error)),
        processes.together(OneDevice(), tmp_path, None),  # type: ignore[arg-type]
    ):
        if error is not None:
            raise error
    assert time.monotonic() - began < 5
    assert waiting.registered == [(processes.end_now, status)]


def test_a_process_that_left_its_group_ends_without_further_exit_handlers():
    program = """
        import atexit, threading
        from diffusion.training import processes
        atexit.register(threading.Event().wait)  # as Lightning does: it would destroy the group again
        processes.dist.is_initialized = lambda: True
        processes.dist.destroy_process_group = threading.Event().wait
        processes.leave_group(0.1, 138)
        print("saved", end="")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (138, "saved")


def test_the_first_process_reports_a_lost_one_that_it_waits_for(tmp_path):
    """NCCL raises nothing: the process waits in a kernel that never ends."""
    program = f"""
        import subprocess, time
        from pathlib import Path
        from diffusion.runs.record import RunRecord
        from diffusion.training import processes
        processes.GRACE = 0.1
        folder = Path({str(tmp_path)!r})
        RunRecord.begin(folder)
        followers = processes.Followers()
        followers.folder = folder
        followers.processes.append(subprocess.Popen(["sh", "-c", "kill -9 $$"]))
        followers._watch()
        print("not reached")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "killed by SIGKILL (out of memory?); to resume: python -m diffusion.train" in line
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["state"] == RunRecord(tmp_path).state == "failed"
    assert "killed by SIGKILL" in content["reason"]


def test_a_process_of_a_run_ends_after_the_first_one_was_killed():
    """It may wait in a kernel, with the memory of its GPU."""
    program = """
        import os, subprocess, time
        from diffusion.runs import jobs
        from diffusion.training import worker
        dead = subprocess.Popen(["true"])
        dead.wait()
        os.environ |= {jobs.LAUNCHER: str(dead.pid), "LOCAL_RANK": "1"}
        worker.GRACE = 0.1
        worker.follow = lambda folder: time.sleep(60)
        worker.main(["folder"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_processes_of_a_run_know_the_one_that_started_them(monkeypatch):
    """And not the sweep that started that one."""
    monkeypatch.setenv(jobs.LAUNCHER, "1")
    given: list[Any] = []
    process = SimpleNamespace(poll=lambda: None, pid=os.getpid())
    monkeypatch.setattr(processes.subprocess, "Popen", lambda command, env: given.append(env) or process)
    cluster = SimpleNamespace(main_address="localhost", main_port=1, node_rank=lambda: 0)
    trainer = SimpleNamespace(strategy=SimpleNamespace(cluster_environment=cluster), world_size=2, num_devices=2)
    followers = processes.Followers()
    followers.ended.set()
    followers.start(["folder"], trainer)
    assert [(env[jobs.LAUNCHER], env["LOCAL_RANK"]) for env in given] == [(str(os.getpid()), "1")]


def test_the_documented_time_after_which_nccl_ends_a_run():
    assert processes.Replicas()._timeout == timedelta(minutes=30)


def test_the_weaker_model_is_gathered_on_the_device(monkeypatch, tmp_path):
    """After training, Lightning has moved the module to the CPU, but NCCL gathers only shards on GPUs."""
    moved: list[str] = []
    strategy = SimpleNamespace(root_device="cuda:0")
    module = SimpleNamespace(trainer=SimpleNamespace(global_step=9, strategy=strategy), denoiser=None, to=moved.append)
    monkeypatch.setattr(worse, "step_of", lambda drawing: 5)

    def whole(trainer, denoiser):
        raise LookupError(f"gathered after {moved}")

    monkeypatch.setattr(worse, "whole", whole)
    with pytest.raises(LookupError, match=r"gathered after \['cuda:0'\]"):
        worse.with_worse(None, SimpleNamespace(waits=True), tmp_path, module)


def test_torchrun_processes_wait_for_days_while_the_first_one_prepares_the_images(monkeypatch):
    first = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(first.port))
    assert processes._store().timeout >= timedelta(days=1)


def test_ddp_does_not_move_the_indices_of_a_batch_to_the_gpu():
    """Torch's wrapper moves a batch to `device_ids`, with all of its tensors."""
    strategy = StrategyRegistry.get("ddp")
    assert isinstance(strategy, processes.Replicas)
    strategy.parallel_devices = [torch.device("cuda", 0)]
    assert strategy.determine_ddp_device_ids() is None
    assert strategy._ddp_kwargs == {"gradient_as_bucket_view": True}


def test_a_run_ignores_variables_of_processes_that_it_has_not_started(command, monkeypatch):
    """Some clusters set RANK or MASTER_PORT for every container."""
    for name in jobs.RENDEZVOUS:
        monkeypatch.setenv(name, "1")
    assert command("train", ["--help"])[0] == 0
    assert not {*jobs.RENDEZVOUS} & {*os.environ}


def test_a_process_that_does_not_see_the_folder_of_its_run_says_so(tmp_path):
    with pytest.raises(UserError, match="not visible on this machine"):
        worker.follow(tmp_path / "run")


def test_a_job_is_saved_before_submitit_requeues_it(monkeypatch):
    """submitit's handler of SIGUSR2 ends the process, and SLURM then kills the rest of the job."""
    ended: list[int | None] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: ended.append(os.waitid(os.P_PID, job.pid, NOW) and job.pid))
    saving = "import signal, time; signal.signal(15, lambda *_: (time.sleep(0.5), exit())); print(); time.sleep(60)"
    try:
        with subprocess.Popen([sys.executable, "-uc", saving], stdout=subprocess.PIPE) as job:
            assert job.stdout is not None
            job.stdout.readline()
            with jobs.relaying_signals() as (_, processes):
                processes.append(job)
                os.kill(os.getpid(), signal.SIGUSR2)
            assert (ended, job.wait()) == ([job.pid], 0)
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def four_gpus(monkeypatch, tmp_path):
    """A machine with four GPUs; the result takes one or more for a job, and returns those it sees."""
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpus, "TAKEN", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def take(visible: str = "", **settings: object) -> str:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        gpus.take(Trainer(**settings))  # type: ignore[arg-type]
        return gpus.os.environ["CUDA_VISIBLE_DEVICES"]

    yield take
    for held in gpus.TAKEN:
        held.close()


def test_parallel_jobs_use_different_gpus(four_gpus, capfd):
    assert [four_gpus(devices=1), four_gpus(devices=2)] == ["0", "1,2"]
    gpus.TAKEN.pop(0).close()  # the first job ends
    assert [four_gpus(devices=1), four_gpus(devices=1, accelerator="gpu")] == ["0", "3"]
    assert capfd.readouterr().out == ""
    assert four_gpus(devices=1) in {"0", "1", "2", "3"}
    assert "other jobs use the GPUs 0,1,2,3: this one shares" in capfd.readouterr().out


def test_a_job_takes_only_gpus_that_are_visible_to_its_sweep(four_gpus):
    assert [four_gpus("2,3", devices=1), four_gpus("2,3", devices=1)] == ["2", "3"]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_job_on_a_machine_without_a_gpu_takes_none(four_gpus, monkeypatch, capfd, visible):
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 0)
    assert [four_gpus(visible, devices=1) for _ in range(2)] == [visible, visible]
    assert capfd.readouterr().out == ""


def test_a_job_that_takes_all_gpus_leaves_none_to_others(four_gpus, capfd):
    assert four_gpus(devices=4) == "0,1,2,3"
    assert four_gpus(devices=1) in {"0", "1", "2", "3"}
    assert "this one shares" in capfd.readouterr().out


def test_mig_devices_have_a_slash_in_their_names(four_gpus):
    assert [four_gpus("MIG-GPU-a/1/0,MIG-GPU-a/2/0", devices=1) for _ in range(2)] == ["MIG-GPU-a/1/0", "MIG-GPU-a/2/0"]


@pytest.mark.parametrize("settings", [{"devices": 5}, {"devices": "auto"}, {"devices": [1]}, {"accelerator": "cpu"}])
def test_a_job_that_names_its_devices_or_too_many_sees_all_gpus(four_gpus, settings):
    assert four_gpus(**settings) == ""
