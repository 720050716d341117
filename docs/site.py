"""The pages of the documentation's site, in build/pages: those of docs/ and the ones that are made from the code.

make site     # builds the site from them, in site/

Made here: a page of each group with its choices, the settings of all commands, the library's API, the notebooks,
pictures of the choices (docs/choices.py) and the page of the runs in outputs/gallery (docs/gallery.py). The order of
the pages is that of docs/README.md.
"""

import inspect
import json
import re
import shutil
import types
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pydoc import locate
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import restore
from diffusion.config.build import flat
from diffusion.config.choices import default_choices, files, groups, inner_groups
from diffusion.config.messages import documentation
from diffusion.config.schema import COMMANDS, Settings
from diffusion.errors import shown
from diffusion.extras.web import write_web
from docs import choices, gallery

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("authors", "experiment", "results", "score", "trainer")  # shown as the yaml files that they are
API = (
    "library", "process", "model", "metric", "data", "sampling", "scoring", "training", "checkpoint", "randomness",
    "kinds",
)  # fmt: skip
SOURCE = "https://github.com/diffusion-experiments/diffusion/tree/main"
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")

FRONT = """# diffusion

A laboratory for diffusion models: networks that learn to remove noise from images, and can then draw new ones from pure
noise. Train one on your photographs, change any part of the recipe with one word, and get numbers you can trust.

[Start](docs/hour.md) · [Gallery of runs](gallery.md) · [Pictures of every choice](choices.md) ·
[Playground of points](playground.html)

<iframe class="model" src="draw.html#draw" title="The bundled model draws" loading="lazy"></iframe>

The network of 2 million parameters runs in this page and draws landscapes while you read.

"""


def stage(pages: Path, drawn: Iterable[str] = choices.GROUPS) -> None:
    """Write all pages, with pictures of the choices of these groups, and what they link to; and their order."""
    shutil.rmtree(pages, ignore_errors=True)
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = file.read_text("utf-8")
        for target, _ in LINK.findall(text):
            linked = (file.parent / target).resolve()
            if linked.is_dir() or ".github" in linked.parts:  # the site has neither
                place = linked.relative_to(ROOT).as_posix()
                text = text.replace(f"]({target})", f"]({SOURCE}/{place})")
            elif linked.is_file() and linked.suffix not in (".md", ".ipynb"):
                put(pages / linked.relative_to(ROOT), linked.read_bytes())
        if file == ROOT / "README.md":
            text = re.sub(r"\A# .+\n(?s:.*?)(?=^## )", FRONT, text, flags=re.M)
        put(pages / file.relative_to(ROOT), re.sub(r"(\]\([^)#:\s]+)\.ipynb\)", r"\1.md)", text))
    for file in (ROOT / "docs").glob("*.ipynb"):
        for path, content in notebook(file):
            put(pages / "docs" / path, content)
    put(pages / "gallery.md", gallery.page(pages))
    put(pages / "choices.md", choices.page(drawn))
    for group in groups():
        put(pages / f"reference/{group}.md", group_page(group))
    put(pages / "reference/settings.md", settings_page())
    for name in API:
        put(pages / f"api/{name}.md", f"# diffusion.{name}\n\n::: diffusion.{name}\n")
    put(pages / "site.css", (ROOT / "docs/site.css").read_bytes())
    put(pages / "search.js", "var __index = {items: []}")  # read in a folder, where browsers allow no search
    put(pages / ".order.md", navigation(pages))


def stage_model(pages: Path) -> None:
    """Write the page of the bundled model, which the front page contains, and the playground of the zoo's points."""
    write_web(pages / "draw.html", restore(trained("demo")), pictures_only=True)
    write_web(pages / "playground.html", restore(ROOT / "docs/zoo/points.safetensors"))


def put(path: Path, content: str | bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def navigation(pages: Path) -> str:
    """The pages in the order of docs/README.md, below its headings, as nested lists; then the generated ones."""
    sections = {"Start": [ROOT / "README.md", ROOT / "docs/README.md"]}
    for title, rows in re.findall(
        r"^## (.+)\n((?:[^#\n].*\n|\n)*)", (ROOT / "docs/README.md").read_text("utf-8"), re.M
    ):
        linked = [(ROOT / "docs" / target).resolve() for target, _ in LINK.findall(rows)]
        before = {page for listed in sections.values() for page in listed}
        sections[title] = [*sections.get(title, ()), *(page for page in dict.fromkeys(linked) if page not in before)]
    found = {
        title: [page.relative_to(ROOT).with_suffix(".md") for page in listed] for title, listed in sections.items()
    }
    found["Start"] += [Path("gallery.md"), Path("choices.md")]
    found["Settings"] = [Path("reference/settings.md"), *(Path(f"reference/{group}.md") for group in groups())]
    found["Python"] = [Path(f"api/{name}.md") for name in API]
    lines = list[str]()
    for title, listed in found.items():
        lines.append(f"- {title}")
        for page in listed:
            name = re.search(r"^# (.+)$", (pages / page).read_text("utf-8"), re.M)[1]
            lines.append(f"    - [{name}]({page.as_posix()})")
    return "\n".join(lines) + "\n"


def notebook(file: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook as a page of Markdown, and its pictures: (path, content)."""
    lines = list[str]()
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        lines.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{file.stem}-{len(lines)}.png"
                yield picture, b64decode(data["image/png"])
                lines.append(f"![output of the cell above]({picture})")
            else:
                lines.append("```text\n" + "".join(output.get("text") or data["text/plain"]).rstrip() + "\n```")
    yield f"{file.stem}.md", "\n\n".join(lines) + "\n"


def group_page(group: str) -> str:
    """The choices of a group, with what each setting is and accepts."""
    used = [f"`diffusion {name.replace('_', ' ')}`" for name in COMMANDS if group in default_choices(name)]
    inside = [other for other in groups() if group in inner_groups(other)]
    key = f"{group}@{inside[0]}.{group}" if inside else group
    about = ""
    for names, what in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", (ROOT / "README.md").read_text("utf-8"), re.M):
        if (each := re.findall(r"`(\w+)`", names)) and group in each:
            clauses = what.split("; ")
            about = clauses[each.index(group)] if len(clauses) == len(each) else what
            about = LINK.sub(r"](../\1\2)", f"{about[:1].upper()}{about[1:]}.")
    default = default_choices("train").get(group)
    text = f"# {group}\n\n{about}\n\n`{key}=CHOICE`"
    text += f", a group of {', '.join(used)}" if used else f", inside {', '.join(inside)}" if inside else ""
    text += f". In a training, the default is `{default}`.\n" if default else ".\n"
    for name, file in files(group).items():
        written = file.read_text("utf-8")
        head = re.match(r"(#.*\n)*", written)[0]
        comment = re.sub(r"(?m)^# ?(@package.*\n)?", "", head)
        text += f"\n## {name}\n\n{prose(comment)}\n"
        if group in PRESETS:
            text += f"\n```yaml\n{written.removeprefix(head).strip()}\n```\n"
            continue
        for target, rows in documented(group, *read(group, name)):
            text += f"\n`{target}`\n" + (f"\n{table(rows)}" if rows else "")
    return text


def documented(group: str, text: str, node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """What each part of a choice calls, and its settings: (KEY=DEFAULT, what it is, what it accepts)."""
    parts = {key: value for key, value in node.items() if isinstance(value, dict) and "_target_" in value}
    if target := node.get("_target_"):
        hints, about = arguments(locate(target)), dict[str, str]()
        for keys, meaning in re.findall(r"^ {4}(\w[\w, ]*): ((?:.|\n {5,})+)", documentation(target), re.M):
            about |= dict.fromkeys(keys.split(", "), meaning)
        about |= dict(re.findall(r"^ *(\w+): .* # (.+)$", text, re.M))
        inner = dict(re.findall(r"^  - /\w+@(\w+): ([\w.]+)", text, re.M)) if not prefix else {}
        values = flat({key: value for key, value in node.items() if key[0] != "_" and key not in {**parts, **inner}})
        rows = [
            (f"{group}.{prefix}{key}={shown(value)}", about.get(key, ""), accepts(hints.get(key, Any)))
            for key, value in values.items()
        ]
        more = [(f"{key}@{group}.{key}={value}", "", f"[{key}]({key}.md)") for key, value in inner.items()]
        yield target, rows + more
    for key, value in parts.items():
        yield from documented(group, text, value, f"{prefix}{key}.")


def read(group: str, name: str) -> tuple[str, dict[str, Any]]:
    """The text and the settings of a choice's yaml file, after those that it includes."""
    own = files(group)[name].read_text("utf-8")
    text, settings = "", dict[str, Any]()
    for other in re.findall(r"^  - ([a-z]\w+)$", own, re.M):
        before, theirs = read(group, other)
        text, settings = text + before, settings | theirs
    settings |= yaml.safe_load(own) or {}
    return text + own, {key: value for key, value in settings.items() if key != "defaults"}


def arguments(target: Any) -> dict[str, Any]:
    """The types of the arguments of a class or function."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (AttributeError, NameError, TypeError):
        return {}


def settings_page() -> str:
    """The settings of every command outside of groups."""
    text = "# All settings\n\n`KEY=VALUE` on the command line. The settings of a group are on its own page.\n"
    for command, schema in COMMANDS.items():
        text += f"\n## diffusion {command.replace('_', ' ')}\n\n{inspect.cleandoc(schema.__doc__ or '')}\n\n"
        text += table(fields(schema))
    return text


def fields(schema: type[Settings], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The settings of a schema: (KEY=DEFAULT, what it is, what it accepts)."""
    for key, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from fields(field.annotation, f"{prefix}{key}.")
        elif prefix + key not in groups():
            default = "" if field.is_required() or "${" in str(field.default) else shown(field.default)
            kind = accepts(Annotated[field.annotation, *field.metadata, ...])
            yield f"{prefix}{key}={default}", field.description or "", kind


def accepts(hint: Any) -> str:
    """A type and its range in words: Annotated[int, Ge(1)] is "int ≥ 1"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        limits = [
            f"{sign} {getattr(each, name)}" for each in inner[1:] for name, sign in signs.items() if hasattr(each, name)
        ]
        return " ".join([accepts(inner[0]), ", ".join(limits)]).strip()
    if origin is Literal:
        return ", ".join(f"`{shown(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(accepts, inner)))
    if origin is Callable or origin is type(Callable):
        return "a function"
    if origin:
        return f"list of {accepts(inner[0])}" if inner and origin is not dict else "names and values"
    return {type(None): "null", Any: ""}.get(hint, getattr(hint, "__name__", ""))


def table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Settings as a Markdown table."""
    lines = [("setting and default", "what it is, and accepts"), ("---", "---")]
    for key, about, kind in rows:
        lines.append((f"`{key}`", " ".join([*prose(about).split(), f"({kind})"]).removesuffix("()")))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def prose(text: str) -> str:
    """A comment of a file as Markdown: lines that begin with spaces are code."""
    text = re.sub(r"(?m)^ {2,}", "    ", text.strip())
    return re.sub(r"(`[^`]*`|^ {4}.*$)|([*<_])", lambda at: at[1] or f"\\{at[2]}", text, flags=re.M)


if __name__ == "__main__":
    stage(ROOT / "build/pages")
    stage_model(ROOT / "build/pages")
