"""Check settings against their type annotations, with pydantic.

The same rules apply to the settings of a command (`diffusion.config.schema`) and to the arguments of any class or
function named by a `_target_`: a value must have exactly its annotated type ("3" is not a number) and lie within its
annotated range. Errors are reported in one line, with the type in words.
"""

import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import annotated_types as at
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from diffusion.config.choices import choices, is_group
from diffusion.errors import UserError, nearest

PLAIN = (int, float, bool, str, list, tuple, type(None))  # the types of yaml values, apart from mappings
SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
LISTS = (list, Sequence)
UNSET = "???"  # what Hydra composes for a setting that must be set
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Words:
    """Description of an `Annotated` type, in words."""

    words: str


def _only_mappings(value: Any) -> Any:
    if isinstance(value, PLAIN):
        raise ValueError("not an object")
    return value


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("not a number")
    return value


Part = Annotated[Any, BeforeValidator(_only_mappings), Words("a nested object")]
"""An object described by a mapping with `_target_`, which is checked separately."""

Number = Annotated[float, AfterValidator(_not_nan)]

Group = Annotated[dict[str, Any], at.MinLen(1), Words("a choice of its group")]
"""The choice of a group of conf/, such as `model`."""


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Convert `values` to an object of the class `model`. Raises UserError for the first invalid value."""
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(_explain(model, values, first["loc"], first["type"])) from error


def check_arguments(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> None:
    """Raise UserError if a value does not have the type annotated by the class or function `target`.

    Args:
        where: key of the values in the configuration, such as `model`.
    """
    model = _model_of(target)
    try:
        model.model_validate_json(json.dumps({k: v for k, v in values.items() if k in model.model_fields}, default=str))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        found, expected = f"{where}.{name}={shown(values[name])}", describe(_annotation(model.model_fields[name]))
        if expected == describe(Part) and is_group(name):
            choice = "…" if values[name] is None else shown(values[name])
            raise UserError(f"{found}: a choice is required, with its place: {name}@{where}.{name}={choice}") from error
        group = where.partition(".")[0]
        raise UserError(f"{found}: expected {expected}; --help {group} lists values that work") from error


def describe(hint: Any) -> str:
    """A type in words: `a whole number of at least 1 or null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        base, *constraints = arguments
        if words := next((c.words for c in constraints if isinstance(c, Words)), None):
            return words
        return (
            describe(base).replace("a list", "a list" + _bounds(constraints), 1)
            if typing.get_origin(base) in LISTS
            else describe(base) + _bounds(constraints)
        )
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in arguments if not (a is int and float in arguments)))
    if origin is Literal:
        return ", ".join(map(shown, arguments))
    if origin in LISTS:
        return f"a list, each {describe(arguments[0])}"
    if origin is tuple:
        length = "" if arguments[-1] is Ellipsis else f" of {len(arguments)} values"
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
    low = next((c.ge for c in constraints if isinstance(c, at.Ge)), None)
    above = next((c.gt for c in constraints if isinstance(c, at.Gt)), None)
    high = next((c.le for c in constraints if isinstance(c, at.Le)), None)
    below = next((c.lt for c in constraints if isinstance(c, at.Lt)), None)
    least = next((c.min_length for c in constraints if isinstance(c, at.MinLen)), None)
    most = next((c.max_length for c in constraints if isinstance(c, at.MaxLen)), None)
    if least is not None and least == most:
        return f" of {least}"
    if low is not None and high is not None:
        return f" from {low} to {high}"
    words = {"of at least": low if least is None else least, "above": above, "of at most": high, "below": below}
    return " and".join(f" {word} {bound}" for word, bound in words.items() if bound is not None)


def _explain(model: type[BaseModel], values: Mapping[str, Any], place: tuple[int | str, ...], kind: str) -> str:
    """What is wrong at a key of the settings, what was expected, and how to fix it."""
    key, field = "", None
    value: Any = values
    for name in place:
        if not (isinstance(name, str) and isinstance(value, Mapping)):
            break
        key, known = f"{key}.{name}".lstrip("."), model.model_fields
        if name not in known:
            return f"{key}: unknown setting{nearest(name, known)}; --help lists all of them"
        value, field = value.get(name), known[name]
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    assert field is not None
    hint = _annotation(field)
    if kind == "missing" or (value in (None, {}) and is_group(key)):
        return f"{key}={shown(value or None)}: a choice is required; {key} is one of {', '.join(choices(key))}"
    if field.annotation is model:
        return f"{key}={shown(value)}: it has nested settings; remove it, or set one of them"
    if value == UNSET:
        return f"{key} is not set; expected {describe(hint)}"
    default = field.get_default(call_default_factory=True)
    usual = "" if field.is_required() or "${" in str(default) else f"; {key}={shown(default)} is the default"
    parts = () if typing.get_origin(hint) in LISTS else (hint, *typing.get_args(hint))
    literals = [shown(a) for part in parts if typing.get_origin(part) is Literal for a in typing.get_args(part)]
    return f"{key}={shown(value)}: expected {describe(hint)}{nearest(shown(value), literals)}{usual}"


def _annotation(field: FieldInfo) -> Any:
    """A field's type with its constraints."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


@cache
def _model_of(target: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the arguments of a class or function, including those passed on to parent classes."""
    hints: dict[str, Any] = {}
    functions = [target]
    if inspect.isclass(target):
        functions = [parent.__dict__["__init__"] for parent in target.__mro__ if "__init__" in parent.__dict__]
    for function in functions:
        hints = {**_hints(function), **hints}
        try:
            kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        except ValueError:  # a built-in function without a signature, such as torch.tanh
            break
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    fields: dict[str, Any] = {
        name: (_checkable(hint), None) for name, hint in hints.items() if not name.startswith("_")
    }
    return create_model("Arguments", __config__=ConfigDict(strict=True, protected_namespaces=()), **fields)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that only a type checker can resolve
        return {}
    return {name: hint for name, hint in hints.items() if name in inspect.signature(function).parameters}


def _checkable(hint: Any) -> Any:
    """Replace every type in `hint` that yaml cannot express with `Part`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Path, float):
        return str if hint is Path else Number
    if hint is None or hint in SCALARS or origin is Literal:
        return hint
    if origin is Annotated:
        base, *constraints = arguments
        return Annotated[(_checkable(base), *constraints)]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_checkable, arguments))]  # noqa: UP007
    if origin in (list, Sequence, Iterable):
        return list[_checkable(arguments[0])] if arguments else list[Any]  # type: ignore[misc]
    if origin is tuple:
        return tuple[tuple(a if a is Ellipsis else _checkable(a) for a in arguments)]  # type: ignore[misc]
    if origin is Callable or (inspect.isclass(hint) and hint not in (object, *PLAIN)):
        return Part
    return Any
