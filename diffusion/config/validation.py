"""Check settings against their type annotations, with pydantic.

The same rules apply to the settings of a command (`diffusion.config.schema`) and to the arguments of any class or
function named by a `_target_`: a value must have exactly its annotated type ("3" is not a number) and lie within its
annotated range. Errors are reported in one line, with the type in words.
"""

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import annotated_types as at
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from diffusion.config.choices import choices, choices_with, is_group
from diffusion.errors import UserError, nearest

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
LISTS = (list, Sequence, Iterable)
PLAIN = (*SCALARS, list, tuple)  # the types of yaml values, apart from mappings
UNSET = "???"  # what Hydra composes for a setting that must be set
BOUNDS = {"ge": "of at least", "min_length": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Words:
    """Description of an `Annotated` type, in words."""

    words: str


def _only_mappings(value: Any) -> Any:
    if isinstance(value, PLAIN):
        raise ValueError("not an object")
    return value


Part = Annotated[Any, BeforeValidator(_only_mappings), Words("a nested object")]
"""An object described by a mapping with `_target_`, which is checked separately."""

Group = Annotated[dict[str, Any], at.MinLen(1), Words("a choice of its group")]
"""The choice of a group of conf/, such as `model`."""


def validated(model: type[Model], values: Mapping[str, Any], where: str = "") -> Model:
    """Convert `values` to an object of the class `model`. Raises UserError for the first invalid value.

    Args:
        where: key of the values in the configuration, such as `model`.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(_explained(model, values, error.errors()[0]["loc"], where)) from error


def check_arguments(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> None:
    """Raise UserError for an argument that the class or function does not have, or not with this type."""
    validated(_model_of(target), values, where)


def describe(hint: Any) -> str:
    """A type in words: `a whole number of at least 1 or null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if words := next((c.words for c in arguments if isinstance(c, Words)), None):
            return words
        listed, _, each = describe(arguments[0]).partition(",")  # the bounds of a list are those of its length
        return listed + _bounds(arguments[1:]) + ("," + each if each else "")
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in arguments if not (a is int and float in arguments)))
    if origin is Literal:
        return " | ".join(map(shown, arguments))
    if origin in (*LISTS, tuple):
        length = f" of {len(arguments)} values" if origin is tuple and arguments[-1] is not Ellipsis else ""
        return f"a list{length}, each {describe(arguments[0])}"
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        return "nested settings"
    return SCALARS.get(hint, "anything")


def shown(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(shown, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(constraints: Iterable[Any]) -> str:
    found = {name: getattr(c, name) for c in constraints for name in BOUNDS if getattr(c, name, None) is not None}
    return " and".join(f" {BOUNDS[name]} {bound}" for name, bound in found.items())


def _explained(model: type[BaseModel], values: Mapping[str, Any], place: tuple[int | str, ...], where: str) -> str:
    """What is wrong at a place of the values, what was expected, and how to fix it."""
    key, group, inner = where, where.partition(".")[0], model
    value: Any = values
    field: FieldInfo
    for name in map(str, place):
        key = f"{key}.{name}".lstrip(".")
        if name not in inner.model_fields:
            return f"{key}: {_unknown(name, inner, where)}"
        value, field = value.get(name), inner.model_fields[name]
        if not isinstance(value, Mapping) or not _is_model(field.annotation):
            break
        inner = field.annotation  # type: ignore[assignment]
    hint = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    found, expected = f"{key}={shown(value)}", describe(hint)
    if value == UNSET:
        return f"{key} is not set; expected {expected}"
    if where:
        if expected == describe(Part) and is_group(name):
            choice = "…" if value is None else shown(value)
            return f"{found}: a choice is required, with its place: {name}@{key}={choice}"
        return f"{found}: expected {expected}; --help {group} lists values that work"
    if value in (None, {}) and is_group(key):
        return f"{key}=null: a choice is required; {key} is one of {', '.join(choices(key))}"
    if _is_model(field.annotation):
        return f"{found}: it has nested settings; remove it, or set one of them"
    default = field.get_default(call_default_factory=True)
    usual = "" if field.is_required() or "${" in str(default) else f"; {key}={shown(default)} is the default"
    literals = [shown(a) for part in (hint, *typing.get_args(hint)) for a in _literals(part)]
    return f"{found}: expected {expected}{nearest(shown(value), literals)}{usual}"


def _unknown(name: str, model: type[BaseModel], where: str) -> str:
    """Why there is no setting of this name: another choice of its group may have it."""
    if having := choices_with(where, name) if is_group(where) else []:
        choose = " or ".join(f"{where}={choice}" for choice in having)
        return f"the chosen {where} has no such setting; use {choose}, or remove it with ~{where}.{name}"
    return f"unknown setting{nearest(name, model.model_fields)}; --help {where or 'lists all of them'}"


def _is_model(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, BaseModel)


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


@cache
def _model_of(target: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the arguments of a class or function, including those passed on to parent classes."""
    functions = [target]
    if inspect.isclass(target):
        functions = [parent.__dict__["__init__"] for parent in target.__mro__ if "__init__" in parent.__dict__]
    hints: dict[str, Any] = {}
    open_ended = True  # whether there may be further arguments
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters
        except ValueError:  # a built-in function without a signature, such as torch.tanh
            break
        annotated = _hints(function)
        hints = {
            name: annotated.get(name, Any)
            for name, p in parameters.items()
            if p.kind < p.VAR_KEYWORD and name != "self"
        } | hints
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not open_ended:
            break
    fields: dict[str, Any] = {n: (_checkable(hint), None) for n, hint in hints.items() if not n.startswith("_")}
    config = ConfigDict(strict=True, protected_namespaces=(), extra="allow" if open_ended else "forbid")
    return create_model("Arguments", __config__=config, **fields)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that only a type checker can resolve
        return {}


def _checkable(hint: Any) -> Any:
    """Replace every type in `hint` that yaml cannot express with `Part`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Path:
        return str
    if hint is None or hint in SCALARS or origin is Literal:
        return hint
    if origin is Annotated:
        return Annotated[(_checkable(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_checkable, arguments))]  # noqa: UP007
    if origin in LISTS:
        return list[_checkable(arguments[0])] if arguments else list[Any]  # type: ignore[misc]
    if origin is tuple:
        return tuple[tuple(a if a is Ellipsis else _checkable(a) for a in arguments)]  # type: ignore[misc]
    if origin is Callable or (inspect.isclass(hint) and hint not in (object, *PLAIN)):
        return Part
    return Any
