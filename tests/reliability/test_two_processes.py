"""T10. Two processes equal one: the same global batch yields the same numbers, and each image is scored once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from composing import train
from torch import Tensor

from diffusion.runs.metrics import Metrics, read_metrics
from diffusion.training import processes
from diffusion.training.processes import Followers, lost_process

pytestmark = pytest.mark.reliability

ACCUMULATING = ["data.batch_size=2", "trainer.devices=2", "trainer.accumulate_grad_batches=2"]
LAYOUTS = {  # a global batch of 8, divided in different ways
    "one": ["data.batch_size=8"],
    "two": ["data.batch_size=4", "trainer.devices=2"],
    "two, accumulating": ACCUMULATING,
    "two, of a whole": ["data.global_batch_size=8", "data.batch_size=2", "trainer.devices=2"],
    "two, as fits": ["data.global_batch_size=8", "data.batch_size=auto", "trainer.devices=2"],
    "sharded": [*ACCUMULATING, "trainer.strategy=fsdp2"],
}
COMMON = (
    "trainer.max_steps=10",
    "trainer.max_epochs=4",
    "trainer.precision=64-true",
    "trainer.gradient_clip_val=0.1",
    "ema.decay=0.9",
    "model.dropout=0.2",
    "data.flip=true",
    "augmentation=edm",
    "augmentation.probability=0.5",
)


def states(tmp_path: Path, name: str, overrides: list[str]) -> tuple[dict[str, Tensor], Metrics]:
    """A run's raw weights, averaged weights and Adam moments, and its metrics.csv."""
    folder = tmp_path / name
    train(overrides, folder)
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"
    contents = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert contents["global_step"] == 10
    flat = {f"{kind} {name}": v for kind in ("state_dict", "current_model_state") for name, v in contents[kind].items()}
    for i, moments in contents["optimizer_states"][0]["state"].items():
        flat |= {f"{name} {i}": v for name, v in moments.items()}
    return flat, read_metrics(folder / "metrics.csv")


def test_two_processes_give_the_same_training_as_one(tiny, tmp_path, figure):
    common = [*tiny, *COMMON]
    common += ["data.val=7"]  # which two processes cannot share equally
    runs = {name: states(tmp_path, name, [*common, *layout]) for name, layout in LAYOUTS.items()}
    whole, log = runs.pop("one")
    worst = max(float((state[key] - whole[key]).abs().max()) for state, _ in runs.values() for key in whole)
    assert worst <= 1e-12
    two = runs["two"][1]
    assert two.keys() == log.keys()
    for name, series in log.items():  # rank 0 logs for both: the loss of all images, each counted once
        assert list(two[name].step) == list(series.step), name
        assert list(two[name].value) == pytest.approx(list(series.value), rel=1e-5, abs=1e-7, nan_ok=True), name
    figure("two processes against one, 10 steps in float64, largest difference", f"{worst:.1e}")
    assert not dist.is_initialized()
    assert not {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR"} & os.environ.keys()


def test_a_run_resumes_with_another_number_of_devices(tiny, tmp_path, figure, capfd):
    common = [*tiny, *COMMON, "+optimizer.fused=true"]  # whose layouts must match: shards are not in channels_last
    common += ["checkpoint.every_n_steps=4", "checkpoint.keep=9"]  # 3 steps per epoch: step 4 is in the second one
    runs, worst = {}, 0.0
    for first, then in (("one", "two"), ("two", "one"), ("one", "sharded"), ("sharded", "one")):
        if first not in runs:
            runs[first], _ = states(tmp_path, first, [*common, *LAYOUTS[first]])
        ckpt = tmp_path / first / "checkpoints/step-00000004.ckpt"
        resumed, _ = states(tmp_path, f"{first}, then {then}", [*common, *LAYOUTS[then], f"ckpt={ckpt}"])
        said = capfd.readouterr().out.replace("\n", "")
        assert f"resuming from {ckpt}, step 4" in said
        assert "from here on" not in said
        worst = max(worst, *(float((resumed[key] - value).abs().max()) for key, value in runs[first].items()))
    assert worst <= 1e-12
    figure("resumed with another number of processes, largest difference", f"{worst:.1e}")


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def test_torchrun_starts_a_single_run(tiny, tmp_path):
    """All processes use the folder and configuration of rank 0."""
    command = [*TORCHRUN, "--standalone", "-m", "diffusion.train", *tiny, "trainer.max_steps=2", "name=run"]
    done = subprocess.run([*command, "trainer.devices=2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("outputs/run/*/run.json")
    assert json.loads(record.read_text())["devices"] == 2
    assert [path.name for path in record.parent.parent.iterdir()] == [record.parent.name]


@pytest.mark.timeout(150)  # the second one would wait for days
@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["optimizer.lrr=3"], 1)])
def test_torchruns_other_processes_end_if_the_first_one_starts_no_run(tmp_path, words, status):
    command = [*TORCHRUN, "--standalone", "-m", "diffusion.train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


@pytest.mark.timeout(150)  # they would wait for half an hour
def test_an_unresponsive_torchrun_process_ends_the_run(tiny, tmp_path):
    """No machine sees another machine's processes, so only the timeout of the process group shows that one is dead.

    Here it is 15 seconds; a busy machine needs some of them to start both.
    """
    limit = [f"+trainer.strategy.{word}" for word in ("timeout._target_=datetime.timedelta", "timeout.seconds=15")]
    strategy = ["trainer.strategy=null", "+trainer.strategy._target_=lightning.pytorch.strategies.DDPStrategy", *limit]
    endless = ["trainer.max_epochs=-1", "trainer.max_steps=1000000", "data.batch_size=2", "hydra.run.dir=run"]
    command = [*TORCHRUN, "--standalone", "-m", "diffusion.train", *tiny, "trainer.devices=2", *endless, *strategy]
    log = (tmp_path / "log").open("w+")
    agent = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        while not (tmp_path / "run/metrics.csv").exists():
            assert agent.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        children = map(int, Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split())
        (second,) = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(second, signal.SIGSTOP)
        while "error: " not in (said := (tmp_path / "log").read_text()):
            assert agent.poll() is None, said
            time.sleep(0.05)
        os.kill(second, signal.SIGKILL)  # torchrun would wait for it
        assert agent.wait(60) == 1
    finally:
        agent.kill()
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(
        "another process of the run has not answered(?: for 15 s)?: it may be stopped; to resume: python -m", line
    )
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "failed"


def test_fewer_trainer_devices_than_torchrun_processes_are_refused(command, tiny, monkeypatch):
    """Each of the two processes would be a separate run."""
    there = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "release", lambda: None)  # there is no torchrun
    status, _, err = command("train", [*tiny, "trainer.max_steps=2"])
    assert status == 2
    assert "set trainer.devices=2" in err


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("kill -9 $$", "was killed by SIGKILL"),
        ("exit 2", "of the run ended with status 2: its error is above"),
        ("exit 0", "or its machine, has died"),
    ],
)
def test_the_exit_of_a_disconnected_process_is_awaited_and_reported(last, said):
    followers = Followers()
    followers.processes.append(subprocess.Popen(["sh", "-c", f"sleep 0.3; {last}"]))
    try:
        assert said in lost_process(RuntimeError("Connection closed by peer [::1]:1"), followers)
        assert lost_process(ValueError("Connection closed by peer"), followers) is None
    finally:
        followers.end(patience=1)


TIMED_OUT = """
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch
import torch.distributed as dist

from diffusion.training import processes
from diffusion.training.processes import Followers, lost_process

store, limit = dist.HashStore(), timedelta(seconds=1)
with ThreadPoolExecutor() as pool:  # two groups of one process connect as two processes do
    first, unresponsive = pool.map(lambda rank: dist.ProcessGroupGloo(store, rank, 2, 60 * limit), range(2))
options = dist.AllreduceOptions()
options.timeout = limit
works = [first.allreduce([torch.ones(1000)], options) for _ in range(3)]
for wait in (*(work.wait for work in works), lambda: dist.ProcessGroupGloo(dist.HashStore(), 0, 2, limit)):
    try:
        wait()
    except RuntimeError as error:
        print(lost_process(error, Followers()))
"""


def test_every_gloo_message_after_a_timeout_is_reported():
    """Of several operations under way, the first timeout ends the others with another message; any may be raised.

    The last message is that of a process that does not even connect.
    """
    done = subprocess.run([sys.executable, "-c", TIMED_OUT], capture_output=True, text=True, check=True)
    what = "another process of the run has not answered"
    *operations, connecting = done.stdout.splitlines()
    assert len(operations) == 3
    assert {*operations} == {f"{what} for 1 s: it may be stopped", f"{what}: it may be stopped"}
    assert connecting == f"{what}: it may be stopped"
