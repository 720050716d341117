"""torch's agent as used here: one reported error, one signal for all, and no process that is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion.errors import ProcessLost, UserError
from diffusion.runs.processes import run_ranks

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(100)]


@pytest.mark.parametrize(
    ("deeds", "status", "said"),
    [
        (("wait", "mistake"), 3, "a loss is nan"),
        (("bug", "wait"), 1, "process 0 of the run: ZeroDivisionError: by nothing"),
        (("wait", "die"), 1, "process 1 of the run: killed by SIGKILL (out of memory?)"),
    ],
)
def test_the_first_failure_ends_all_and_is_the_one_reported(tmp_path, capfd, deeds, status, said):
    with pytest.raises(UserError) as caught:
        run_ranks(2, tmp_path, "ranks", deeds)
    assert (caught.value.status, str(caught.value)) == (status, said)
    assert isinstance(caught.value, ProcessLost) is (status == 1)
    assert ("Traceback" in capfd.readouterr().err) is (deeds[0] == "bug")
    for rank in (0, 1):
        assert gone(tmp_path, rank)


def test_processes_that_end_well_leave_nothing_behind(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    run_ranks(2, tmp_path, "ranks", ("end", "end"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["began0", "began1"]
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_to_the_agent_reaches_all_and_none_outlives_it(tmp_path, number):
    code = f"import ranks; ranks.agent({str(tmp_path)!r}, 'wait', 'wait')"
    agent = subprocess.Popen([sys.executable, "-c", code])
    while len(list(tmp_path.glob("began*"))) < 2:
        assert agent.poll() is None
        time.sleep(0.02)
    os.kill(agent.pid, number)
    status = agent.wait()
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    received = signal.SIGTERM if number == signal.SIGKILL else number
    for rank in (0, 1):
        while not gone(tmp_path, rank):
            time.sleep(0.02)
        assert (tmp_path / f"stopped{rank}").read_text() == str(int(received))


def gone(folder: Path, rank: int) -> bool:
    """Whether the process of a rank has ended."""
    try:
        os.kill(int((folder / f"began{rank}").read_text()), 0)
    except ProcessLookupError:
        return True
    return False
