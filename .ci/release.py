"""The checks of a release, before and after it is built; `make release` runs both.

python .ci/release.py check   # nothing is uncommitted, and CHANGELOG.md has a section for the version
python .ci/release.py try     # dist/*.whl works in a bare environment; writes that section to dist/NOTES.md
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIED = (["sample", "ckpt=demo", "n=4"], ["train", "experiment=debug"])


def notes(changes: str, version: str) -> str:
    """The section of a version in the text of CHANGELOG.md, without its heading."""
    section = re.search(rf"^## \[{re.escape(version)}\].*\n((?:(?!## ).*\n)*)", changes, re.MULTILINE)
    if not section or not section[1].strip():
        sys.exit(f"error: CHANGELOG.md: no text below `## [{version}] - DATE`; rename [Unreleased], and commit it")
    return section[1].strip() + "\n"


def check(version: str) -> None:
    """Refuse uncommitted changes and a tag of another version."""
    if changed := subprocess.check_output(["git", "status", "--porcelain"], cwd=ROOT, text=True):
        sys.exit(f"error: uncommitted changes: commit them first\n{changed}")
    tag = os.environ.get("GITHUB_REF_NAME") if os.environ.get("GITHUB_REF_TYPE") == "tag" else f"v{version}"
    if tag != f"v{version}":
        sys.exit(f"error: the tag is {tag}, but the version in pyproject.toml is {version}")


def try_wheel(version: str) -> None:
    """Install the wheel, with what it needs and nothing else, far from the repository, and use it."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/venv", with_pip=True)
        programs = f"{folder}/venv/bin"
        subprocess.run([f"{programs}/pip", "install", "--quiet", wheel], check=True)
        others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        bare = {"cwd": folder, "env": others | {"DIFFUSION_CACHE": f"{folder}/cache"}}
        # the name of the package, by which `uvx` and `pipx run` start the program
        found = subprocess.check_output([f"{programs}/diffusion-experiments", "--version"], text=True, **bare).strip()
        if found != version:
            sys.exit(f"error: the program says that it is {found}, pyproject.toml {version}")
        for words in TRIED:
            print("+ diffusion", *words, flush=True)
            subprocess.run([f"{programs}/diffusion", *words], check=True, **bare)


def main() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    about = notes((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
    if sys.argv[1:] == ["check"]:
        check(version)
    else:
        try_wheel(version)
        (ROOT / "dist/NOTES.md").write_text(about, "utf-8")


if __name__ == "__main__":
    main()
