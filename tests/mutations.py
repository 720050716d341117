"""Mutation testing: plant faults in a copy of the program, one at a time; the tests must catch each.

    python tests/mutations.py [mathematics | reliability] [-k WORD]

The faults come from tests/faults/*.py, or from one of these files; -k selects faults whose description begins with
WORD. The tests must first pass on a copy without faults. Prints a table with the test that caught each fault; exits
with 1 if a fault survives, or if tests fail on the copy without faults.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
import torch
from faults.fault import Fault

ROOT = Path(__file__).resolve().parent.parent
PARTS = sorted(file.stem for file in (ROOT / "tests/faults").glob("*.py") if file.stem != "fault")
FORK = multiprocessing.get_context("fork")


def copy(target: Path, fault: Fault | None) -> None:
    """Copy everything the tests need, and plant the fault."""
    for name in ("diffusion", "conf", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    if fault is not None:
        for path in (target / "diffusion").rglob("*.py"):
            path.write_text(path.read_text("utf-8").replace(fault.sound, fault.faulty), encoding="utf-8")


def places(fault: Fault) -> int:
    """The number of occurrences of the sound text."""
    return sum(path.read_text("utf-8").count(fault.sound) for path in (ROOT / "diffusion").rglob("*.py"))


def judge(folder: Path, tests: str) -> None:
    """Run the tests on the copy and exit with pytest's status; called in a child process."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)  # for the processes that the tests start
    status = pytest.main(["-x", "--tb=line", "-p", "no:cacheprovider", "--basetemp=temporary", f"tests/{tests}"])
    if folder not in Path(sys.modules["diffusion"].__file__ or "").parents:
        raise RuntimeError("the tests imported another diffusion than the copy")
    sys.stdout.flush()
    os._exit(status)


def check(fault: Fault | None, tests: str) -> tuple[int | None, str, float]:
    """pytest's status on a copy with the fault (None: no fault), the test that failed, and the seconds it took."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder, fault)
        process = FORK.Process(target=judge, args=(folder, tests))
        process.start()
        process.join()
        output = (folder / "output").read_text(errors="replace")
    objected = re.search(r"^FAILED \S*?::(.*?)(?: - |$)", output, re.M)
    return process.exitcode, objected[1] if objected else output[-200:], time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant faults, and see the tests catch each.")
    parser.add_argument("part", nargs="?", choices=PARTS, help="whose faults; default: all")
    parser.add_argument("-k", metavar="WORD", default="", help="only faults whose description begins so")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # forked processes must not inherit a pool of threads
    survived = 0
    for part in [chosen.part] if chosen.part else PARTS:
        faults = [fault for fault in import_module(f"faults.{part}").FAULTS if fault.what.startswith(chosen.k)]
        survived += plant(faults)
    return 1 if survived else 0


def plant(faults: list[Fault]) -> int:
    """Print the outcome of each fault; return the number of unexpected outcomes."""
    if astray := [fault for fault in faults if places(fault) != 1]:
        for fault in astray:
            print(f"{fault.what}: {fault.sound!r} occurs {places(fault)} times")
        return len(astray)
    plan: list[tuple[Fault | None, str]] = [(None, tests) for tests in sorted({fault.tests for fault in faults})]
    plan += [(fault, fault.tests) for fault in faults]
    wrong = 0
    with ProcessPoolExecutor(os.cpu_count(), FORK) as pool:  # workers of multiprocessing.Pool cannot have children
        results = pool.map(check, *zip(*plan, strict=True))
        for (fault, tests), (status, said, seconds) in zip(plan, results, strict=True):
            wrong += status != (fault is not None)  # pytest's status is 1 if a test failed
            verdict = (
                ("SURVIVED" if fault else "passes") if status == 0 else said if status == 1 else f"{status}: {said}"
            )
            print(f"{fault.what if fault else 'no fault: ' + tests:60} {verdict:70} {seconds:5.1f} s", flush=True)
    print(f"{len(faults)} faults, {wrong} not as they should be")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
