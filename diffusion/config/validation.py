"""Check settings against their type annotations, with pydantic.

The same rules apply to the settings of a command (`diffusion.config.schema`) and to the arguments of any class or
function named by a `_target_`: a value must have exactly its annotated type ("3" is not a number) and lie within its
annotated range.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from diffusion.config.choices import choices, groups
from diffusion.errors import UserError, nearest, shown

UNSET = "???"  # what Hydra composes for a setting that must be set
PARTS = ("needs_python_object", "callable_type")  # pydantic's errors where yaml needs a nested object
NESTED = "Input should be a nested object"
Model = TypeVar("Model", bound=BaseModel)


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def validated(model: type[Model], values: Mapping[str, Any], where: str = "") -> Model:
    """Convert `values` to an object of the class `model`. Raises UserError for an invalid value, or one that is unset.

    Args:
        where: key of the values in the configuration, such as `model`.
    """
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
            near = nearest(name, inner.model_fields)
            if where in groups():
                return f"{key}: the chosen {where} has no such setting{near}; --help {where}, or remove it with ~{key}"
            return f"{key}: unknown setting{near}; --help {where or 'lists all of them'}"
        value, field = value.get(name), inner.model_fields[name]
        inner = field.annotation
    found = f"{key}={shown(value)}"
    if value in (None, {}) and key in groups():
        return f"{key}=null: a choice is required; {key} is one of {', '.join(choices(key))}"
    if _is_model(inner):
        return f"{found}: it has nested settings; set one of them, such as {key}.{next(iter(inner.model_fields))}=…"
    of_types = [each for each in errors if each["loc"][: len(path)] == tuple(path)]  # of a union
    messages = [NESTED if each["type"] in PARTS else each["msg"] for each in of_types]
    expected = " or ".join(dict.fromkeys(messages)).replace("or Input should be ", "or ")
    if NESTED in messages and name in groups():
        return f"{found}: {expected}; choose it with its place: {name}@{key}={shown(value)}"
    if where:
        return f"{found}: {expected}; --help {where.partition('.')[0]} lists values that work"
    default = "" if field.is_required() else shown(field.default)
    return f"{found}: {expected}" + f"; {key}={default} is the default" * (default != "" and "${" not in default)


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
