"""Check settings against their type annotations, with pydantic, and build objects from them.

The same rules apply to the settings of a command (`diffusion.config.schema`) and to the arguments of a class or
function: a value must have exactly its annotated type ("3" is not a number) and lie within its annotated range.

A mapping with `_target_` is a call of the class or function of that name. Its other values are the arguments, of which
the nested objects are built first. With `_partial_: true` it is that function with these arguments set. Beside a
configuration, which is what was asked for, stand its facts, which follow from the data and the run (`recipe.facts`).

A configuration in a file is untrusted: it must neither run code nor read the environment. It is read as plain data,
without interpolation, and each part may only name classes that the choices of its group name, in conf/ or in a folder
that the user passes to the current command (`--config-dir`, see `choices.searching`).
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from diffusion.config.choices import choices, groups, inner_groups, nodes
from diffusion.errors import UserError, nearest, refusing, shown

UNSET = "???"  # what Hydra composes for a setting that must be set
OBJECT = ("needs_python_object", "callable_type")  # pydantic's errors where yaml needs a nested object
NESTED = "Input should be a nested object"
Model = TypeVar("Model", bound=BaseModel)
PARTS = ("model", "schedule", "prediction", "data")  # required of a file, to sample and score
OPTIONAL_PARTS = ("sampler", "guidance", "condition", "encoder", "features", "metrics")  # may be missing
RENAMED = {  # classes of version 1.0, as runs and yaml files of users name them -> their names now
    "diffusion.process.consistency.Consistency": "diffusion.process.consistency.ConsistencyTuning",
    "diffusion.process.flow_map.FlowMap": "diffusion.process.flow_map.FlowMapTraining",
}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times faster


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def validated(model: type[Model], values: Mapping[str, Any], where: str = "") -> Model:
    """Convert `values`, with the key `where`, to an object of the class `model`. Raises UserError for a wrong one."""
    if unset := [key for key, value in flat(values).items() if value == UNSET]:
        key = f"{where}.{unset[0]}".lstrip(".")
        raise UserError(f"{key} is not set; pass it on the command line: {key}=…")
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(_explained(model, values, error, where)) from error


def check_arguments(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> None:
    """Raise UserError for an argument that the class or function does not have, or not with this type.

    Nested objects, which are mappings with `_target_`, are not compared with their annotations.
    """
    model = _model_of(target)
    parts = [key for key, value in values.items() if '"_target_":' in json.dumps(value, default=str)]
    validated(model, {key: values[key] for key in values if key not in parts or key not in model.model_fields}, where)


def _explained(model: type[BaseModel], values: Mapping[str, Any], error: ValidationError, where: str) -> str:
    """What is wrong with the first invalid value, what was expected, and how to fix it."""
    errors, path = error.errors(), list[str]()
    value: Any = values
    inner: Any = model
    while _is_model(inner) and isinstance(value, Mapping):
        path.append(name := str(errors[0]["loc"][len(path)]))
        key = ".".join([*filter(None, [where]), *path])
        if name not in inner.model_fields:
            if not where and name in groups() and isinstance(value[name], Mapping):
                return f"{name}: its file in {name}/ must begin with the line `# @package _global_`"
            near = nearest(name, inner.model_fields)
            if where in groups():
                return f"{key}: the chosen {where} has no such setting{near}; --help {where}, or remove it with ~{key}"
            help_of = "" if where.startswith("hydra") else f"; --help {where or 'lists all of them'}"
            return f"{key}: unknown setting{near}{help_of}"
        value, field = value.get(name), inner.model_fields[name]
        inner = field.annotation
    found = f"{key}={shown(value)}"
    if value in (None, {}) and key in groups():
        return f"{key}=null: a choice is required; {key} is one of {', '.join(choices(key))}"
    if _is_model(inner):
        return f"{found}: it has nested settings; set one of them, such as {key}.{next(iter(inner.model_fields))}=…"
    of_types = [each for each in errors if each["loc"][: len(path)] == tuple(path)]  # of a union
    messages = [NESTED if each["type"] in OBJECT else each["msg"] for each in of_types]
    if not isinstance(value, Mapping) and name not in groups():  # then none was meant
        messages = [each for each in messages if each != NESTED] or messages
    expected = " or ".join(dict.fromkeys(messages)).replace("valid number", "number")
    expected = expected.replace("or Input should be ", "or ")
    if NESTED in messages and name in groups():
        return f"{found}: {expected}; choose it with its place: {name}@{key}={shown(value)}"
    if where:
        group = where.partition(".")[0]
        return f"{found}: {expected}" + (f"; --help {group} lists values that work" if group in groups() else "")
    default = "" if field.is_required() else shown(field.default)
    return f"{found}: {expected}" + (f"; {key}={default} is the default" if default and "${" not in default else "")


def _is_model(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, BaseModel)


@cache
def _model_of(target: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the arguments of a class or function, including those passed on to parent classes."""
    parents = inspect.getmro(target) if inspect.isclass(target) else ()
    fields: dict[str, Any] = {}
    extra: Literal["allow", "forbid"] = "allow"
    for function in [vars(parent)["__init__"] for parent in parents if "__init__" in vars(parent)] or [target]:
        try:
            hints = get_type_hints(function, include_extras=True)
            parameters = inspect.signature(function).parameters.values()
        except (ValueError, TypeError, NameError):  # a built-in function, or an annotation for type checkers only
            break
        named = [p.name for p in parameters if p.kind < p.VAR_KEYWORD and p.name != "self" and p.name[0] != "_"]
        fields = {name: (hints.get(name, Any), None) for name in named} | fields
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            extra = "forbid"
            break
    config = ConfigDict(strict=True, protected_namespaces=(), extra=extra, arbitrary_types_allowed=True)
    return create_model("Arguments", __config__=config, **fields)


def make(node: Mapping[str, Any] | None, where: str, kind: type | None = None, **more: Any) -> Any:
    """Build the object of the class `kind` that `node`, at the key `where`, describes, with `more` arguments."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where}: it names no class; its yaml file needs a line _target_: PACKAGE.CLASS")
    check_node(node, where)
    made = _made(node, where, more)
    if kind is not None and not isinstance(made, kind):
        raise UserError(f"{where}: {node['_target_']} gives a {type(made).__name__}; expected a {kind.__name__}")
    return made


def check_node(node: Any, where: str) -> None:
    """Raise UserError if the classes in a node do not exist, or a value does not have its annotated type."""
    for key, call in _calls(node, where):
        check_arguments(_named(call["_target_"], key), _arguments(call), key)


def _calls(node: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every call in a node, at any depth, with its key."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _calls(value, f"{where}.{key}")
        if "_target_" in node:
            yield where, node
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _calls(value, where)


def _named(target: Any, where: str) -> Callable[..., Any]:
    """The class or function with this full name."""
    target = RENAMED.get(str(target), str(target))
    parent, _, name = target.rpartition(".")
    try:
        found = locate(target)
    except ErrorDuringImport as error:
        raise UserError(f"{where}: {target} cannot be imported ({error.value})") from error
    if not callable(found):
        holder = locate(parent) if parent else None
        hint = nearest(name, dir(holder)) if holder else f"; install its package, or see --help {where.split('.')[0]}"
        raise UserError(f"{where}: {target} is no class or function that can be imported{hint}")
    return found


def _made(node: Any, where: str, more: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_made(value, where, {}) for value in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: _made(value, f"{where}.{key}", {}) for key, value in _arguments(node).items()} | dict(more)
    if "_target_" not in node:
        return arguments
    target = _named(node["_target_"], where)
    if node.get("_partial_"):
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except UserError as error:  # the mathematics does not know the names of its settings
        if str(error).startswith(where.partition(".")[0]):
            raise
        raise UserError(f"{where}: {error}") from error
    except Exception as error:
        raise UserError(f"{where}: cannot build {node['_target_']}: {' '.join(str(error).split())}") from error


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if key not in ("_target_", "_partial_")}


def plain_yaml(text: str | bytes) -> dict[str, Any]:
    """The mapping in a yaml text, as plain data, with today's names of renamed classes.

    Raises ValueError, TypeError or YAMLError for anything else.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, LOADER)):
        raise ValueError("it has aliases, which can expand endlessly")
    if not isinstance(values := yaml.load(text, LOADER), dict):
        raise ValueError("it is empty, or no mapping")
    for _, call in _calls(values):
        call["_target_"] = RENAMED.get(call["_target_"], call["_target_"])  # type: ignore[index]
    return values


def plain_config(text: Any, where: Path | str) -> dict[str, Any]:
    """Parse a file's configuration as plain data.

    Raises UserError if it cannot be read or contains an interpolation `${…}`: `diffusion train` resolves these before
    it writes a configuration.
    """
    with refusing(f"{where}: its configuration can't be read"):
        if "${" in json.dumps(config := plain_yaml(text), default=str):
            raise ValueError("it has interpolations ${…}")
    return config


def check_targets(node: Any, part: str, where: Path | str, trusted: Any = None) -> None:
    """Raise UserError if a part of a file's configuration names a class that no choice of its group names.

    The classes in `trusted`, a node given by the user, are also allowed.
    """
    known = [trusted, *(each for group in (part, *inner_groups(part)) for each in nodes(group))]
    allowed = {str(call["_target_"]) for _, call in _calls(known)}
    for _, call in _calls(node):
        if (target := str(call["_target_"])) not in allowed:
            raise UserError(
                f"{where}: its {part} names {target}; a file may use only classes named in conf/{part}; if you trust "
                f"it, pass --config-dir CONF (diffusion.load: config_dir=CONF), where CONF/{part}/NAME.yaml names it"
            )
