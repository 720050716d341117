"""Write a part of your own: a class that works, its yaml file, and a test that passes. Change them as you like.

diffusion new network ring              ring.py, conf/model/ring.yaml and test_ring.py in this folder
diffusion new sampler slow PARTS        the same in the folder PARTS
"""

import ast
import keyword
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from pydantic.alias_generators import to_pascal

from diffusion.base.console import console
from diffusion.base.files import PACKAGE
from diffusion.config.choices import choices
from diffusion.errors import Arguments, UserError, command_line

INSTALLED = PACKAGE / "example"
EXAMPLES = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "docs/example"
"""A folder for each kind; its files are written with the user's name in place of my_KIND, and Name of MyKind."""


def write(kind: str, name: str, folder: Path) -> None:
    """Write a part, and print the commands to try next. Raises UserError for a name that cannot be used."""
    source, part, made = EXAMPLES / kind, f"my_{kind}", to_pascal(name)
    found = sorted(source.rglob("*.*"), key=lambda file: file.name)  # the class comes first
    content = {file: file.read_bytes() for file in found if file.suffix in (".py", ".yaml", ".npz")}
    files = {file: folder / str(file.relative_to(source)).replace(part, name) for file in content}
    (yaml,) = source.rglob("*.yaml")
    trees = [ast.walk(ast.parse(text)) for file, text in content.items() if file.suffix == ".py"]
    used = {node.id for tree in trees for node in tree if isinstance(node, ast.Name)} - {part, to_pascal(part)}
    if not re.fullmatch(r"[a-z]\w*", name, re.ASCII | re.IGNORECASE):
        raise UserError(f"{name}: expected the name of a Python module: letters, digits and _, such as {part}")
    if name in choices(yaml.parent.name):
        raise UserError(f"{name}: {yaml.parent.name}={name} is a choice of the project; choose another name")
    if there := [file for file in files.values() if file.exists()]:
        raise UserError(f"{there[0]} exists, and no file is overwritten; choose another name or folder")
    if {name, made} & {*used, *keyword.kwlist} or find_spec(name):
        raise UserError(f"{name}: Python or the example uses {name} or {made} for something else; choose another name")
    for file, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        text = content[file].replace(part.encode(), name.encode())
        target.write_bytes(text.replace(to_pascal(part).encode(), made.encode()))
    console.print(f"wrote {', '.join(map(str, files.values()))}\ntry next:")
    if folder != Path():
        console.print(f"  cd {shlex.quote(str(folder))}")
    (trial,) = re.findall(r"^#   diffusion train (.*)", files[yaml].read_text("utf-8"), re.MULTILINE)
    console.print(" ", command_line(["train", *trial.split()]))
    console.print(" ", command_line(["train", "--config-dir", "conf", "--help", yaml.parent.name]))
    console.print(f"  python -m pytest test_{name}.py  # pip install pytest")


KINDS = sorted(folder.name for folder in EXAMPLES.iterdir())
main = Arguments("new", __doc__, write)
main.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
main.add_argument("name", metavar="NAME", help="of the file and of the choice; ring has the class Ring")
main.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: this one")
