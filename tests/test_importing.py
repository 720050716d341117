"""Commands that compute nothing import no torch."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

from diffusion.base.files import PACKAGE


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


def run_by_importing(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that importing it runs: not the bodies of functions, nor `if __name__ == "__main__"`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and "__main__" in ast.dump(node)
        ):
            continue
        yield node
        yield from run_by_importing(node)


def test_importing_changes_no_warnings_no_argparse_and_no_strategy() -> None:
    changing = re.compile(r"(.*\.)?(filterwarnings|simplefilter|setattr|StrategyRegistry\.\w+)")
    theirs = re.compile(r"(warnings|argparse|ArgumentParser|StrategyRegistry)\b.")
    for text, file in ((file.read_text("utf-8"), file) for file in PACKAGE.rglob("*.py")):
        if not re.search("filter|setattr|StrategyRegistry|warnings|argparse|ArgumentParser", text):
            continue  # quicker
        for node in run_by_importing(ast.parse(text)):
            if isinstance(node, ast.Call):
                assert not changing.fullmatch(ast.unparse(node.func)), f"{file}:{node.lineno}"
            for target in node.targets if isinstance(node, ast.Assign) else ():
                assert not theirs.match(ast.unparse(target)), f"{file}:{node.lineno}"
