"""`python -m ranks FOLDER DEED …`: one process of several, which leaves a file and then does its deed.

`python -c "import ranks; ranks.agent(FOLDER, DEED, …)"` starts two of them.
"""

import os
import signal
import sys
import time
from pathlib import Path

from diffusion.errors import Interrupted, UserError
from diffusion.runs.processes import as_rank, run_ranks

DEEDS = {
    "end": lambda: None,
    "mistake": lambda: _raise(UserError("a loss is nan", 3)),
    "bug": lambda: _raise(ZeroDivisionError("by nothing")),
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "wait": lambda: time.sleep(60),
}


def _raise(error: BaseException) -> None:
    raise error


def main(folder: str, *deeds: str) -> None:
    """Do the deed of this rank; a SIGTERM or SIGUSR1 is answered as by training."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda n, _: _raise(Interrupted(n)))
    rank = int(os.environ["RANK"])

    def task() -> None:
        place = Path(folder)
        (place / f"began{rank}").write_text(str(os.getpid()))
        try:
            DEEDS[deeds[rank]]()
        except Interrupted as stop:
            (place / f"stopped{rank}").write_text(str(stop.number))
            raise

    as_rank("train", task)


def agent(folder: str, *deeds: str) -> None:
    """Launch them, and exit as a command does."""
    try:
        run_ranks(len(deeds), Path(folder), "ranks", deeds)
    except Interrupted as stop:
        sys.exit(stop.status)
    except UserError as error:
        sys.exit(error.status)


if __name__ == "__main__":
    main(*sys.argv[1:])
