"""hydra/launcher=ray: the jobs of a sweep on a local cluster of two nodes. Needs the extra `ray`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

from diffusion.checkpoint import storage

pytestmark = [pytest.mark.doors, pytest.mark.timeout(300)]
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 10**8}
Sweep = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def sweep(cluster: Cluster, tiny: list[str], tmp_path: Path) -> Sweep:
    """Starts a sweep in a folder and with a variable that the nodes do not have."""

    def start(*words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "diffusion.train", "-m", *tiny, "trainer.max_epochs=-1", "samples.n=0"]
        command += ["hydra.sweep.dir=sweep", "hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]
        own: dict[str, Any] = {"cwd": tmp_path, "env": os.environ | {"ONLY_HERE": "shell"}, "start_new_session": True}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *words], **own, **pipes)

    return start


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads((tmp_path / f"sweep/{i}/run.json").read_text()) for i in range(2)]


def wait_for_checkpoints(running: "subprocess.Popen[str]", tmp_path: Path) -> None:
    while not all((tmp_path / f"sweep/{i}/checkpoints/last.ckpt").exists() for i in range(2)):
        assert running.poll() is None, running.stdout and running.stdout.read()
        time.sleep(0.05)


def test_an_address_without_a_cluster_is_refused_in_one_line(command, tiny, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # in this process, whose clusters have no token
    status, _, said = command("train", ["-m", *tiny, "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1"])
    assert (status, said.count("\n")) == (2, 1)
    assert "ray start --head" in said


def test_a_cluster_with_a_token_takes_the_jobs(tiny, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"} | {"RAY_AUTH_TOKEN": "0" * 64}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": tmp_path}
    with subprocess.Popen([*start, "--num-cpus=1"], env=own | {"RAY_AUTH_MODE": "token"}, **pipes) as cluster:
        try:
            assert any("runtime started" in line for line in cluster.stdout or [])
            words = ["hydra/launcher=ray", f"hydra.launcher.address=127.0.0.1:{port}"]
            command = [sys.executable, "-m", "diffusion.train", "-m", *tiny, *words, "hydra.sweep.dir=sweep"]
            job = subprocess.run([*command, "trainer.max_steps=1", "samples.n=0"], env=own, **pipes)
        finally:
            cluster.terminate()
    assert job.returncode == 0, job.stdout


def test_a_job_of_a_killed_node_runs_again_and_resumes(cluster, sweep, tmp_path):
    running = sweep("trainer.max_steps=200", "seed=0,1")
    wait_for_checkpoints(running, tmp_path)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    said, _ = running.communicate()
    assert running.returncode == 0, said
    assert [(record["state"], record["steps"]) for record in records(tmp_path)] == [("complete", 200)] * 2, said
    assert sorted(record["earlier"] > 0 for record in records(tmp_path)) == [False, True], said


def test_jobs_fail_alone_and_have_their_own_gpus_and_the_variables_of_the_command(sweep, tmp_path):
    running = sweep("trainer.max_steps=2", "optimizer._target_=doubles.telling,doubles.good")
    said, _ = running.communicate()
    assert running.returncode == 2, said
    failed, good = records(tmp_path)
    assert (failed["state"], good["state"]) == ("failed", "complete"), said
    assert "GPU 0, ONLY_HERE=shell" in failed["reason"], said


def test_jobs_save_and_end_with_their_sweep(sweep, tmp_path):
    running = sweep("trainer.max_steps=100000", "seed=0,1")
    wait_for_checkpoints(running, tmp_path)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate()
    assert running.returncode == 130, said
    for i, record in enumerate(records(tmp_path)):
        assert record["state"] == "interrupted", said
        assert storage.load(tmp_path / f"sweep/{i}/checkpoints/last.ckpt")["global_step"] == record["steps"], said
