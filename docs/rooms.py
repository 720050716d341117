"""The rooms of `diffusion/` and their imports, as the diagram in architecture.md.

python docs/rooms.py     # rewrites the diagram

The imports are read from the source: imports inside functions count, too, those for type checkers do not.
"""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "diffusion"
BASE = ("errors", "randomness", "base")  # every room may import these; not drawn
PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def modules() -> dict[str, Path]:
    """Every module of the package and its file."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    known = modules()
    found: dict[str, set[str]] = {}
    for module, file in known.items():
        found[module] = set()
        for name in imported_names(file):
            while name and name not in known:
                name = name.rpartition(".")[0]
            found[module] |= {name} - {"", module}
    return found


@cache
def imported_names(file: Path) -> set[str]:
    """The dotted names that a file imports from anywhere."""
    names = set()
    tree = ast.parse(file.read_text("utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module: str) -> str:
    """The folder of a module, such as `process`; for a top-level module, such as `errors`, its own name."""
    return ([*module.split("."), ""])[1]


@cache
def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that its files import."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, others in imports().items():
        found[room(module)] |= {room(other) for other in others} - {room(module)}
    return found


def picture() -> str:
    """The rooms as a Mermaid flowchart, with arrows from each room to the rooms that it imports.

    A direct arrow is left out if the room is also reached through another one.
    """
    commands = {name for name in arrows() if (PACKAGE / f"{name}.py").exists()} - {*BASE, "library"}
    graph: dict[str, set[str]] = defaultdict(set)
    for start, ends in arrows().items():
        if start not in BASE and start:
            graph["commands" if start in commands else start] |= ends - set(BASE) - {"", "__main__"}

    def reachable(start: str) -> set[str]:
        return graph[start].union(*map(reachable, graph[start]))

    lines = ["flowchart TD"]
    for start in sorted(graph):
        through = set().union(*map(reachable, graph[start])) if graph[start] else set()
        lines += [f"    {start} --> {end}" for end in sorted(graph[start] - through)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    page = DOCS / "architecture.md"
    page.write_text(PICTURE.sub(lambda _: picture(), page.read_text("utf-8")), encoding="utf-8")
