"""Commands that compute nothing import no torch."""

import os
import shutil
import subprocess
import sys


def python(code: str, **options) -> str:
    """The output of a new Python."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_without_computation_do_not_import_torch(tmp_path, two_steps) -> None:
    shutil.copytree(two_steps, tmp_path / "run")
    code = (
        "import sys, diffusion.__main__\n"
        "for words in (['train', '--help'], ['status', '.'], ['compare', '--help']):\n"
        "    sys.argv = ['diffusion', *words]\n"
        "    try: diffusion.__main__.main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'scipy', 'matplotlib', 'lightning'} & set(sys.modules)))"
    )
    assert python(code, cwd=tmp_path).endswith("[]\n")


def test_the_thread_spin_count_is_set_before_torch_unless_the_user_sets_it() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = "import os, sys, diffusion; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    for given, turns in (({}, "4000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)):
        assert python(code, env=own | given) == f"{turns} False\n"


def test_importing_changes_no_warnings_no_argparse_and_no_strategy() -> None:
    code = (
        "import sys, warnings\n"
        "from argparse import ArgumentParser\n"
        "from lightning.pytorch.strategies import StrategyRegistry\n"
        "asked = []\n"
        "for name in ('filterwarnings', 'simplefilter'):\n"
        "    setattr(warnings, name, lambda *_, **__: asked.append(sys._getframe(1).f_globals['__name__']))\n"
        "before = {**vars(ArgumentParser)}, {**StrategyRegistry}\n"
        "import diffusion.library, diffusion.training.run, diffusion.runs.command\n"
        "assert before == ({**vars(ArgumentParser)}, {**StrategyRegistry})\n"
        "print([name for name in asked if name.startswith('diffusion')])"
    )
    assert python(code) == "[]\n"
