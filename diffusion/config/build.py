"""Build objects from a configuration: a mapping with `_target_` is a call of the class or function of that name.

Its other values are the arguments, of which the nested objects are built first. With `_partial_: true` it is that
function with these arguments set. Any failure is a one-line UserError.

Beside a configuration, which is what was asked for, stand its facts: arguments of the network that follow from the data
and from other settings, and `guidance_step`, the step whose weights guide the run's own samples.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pydoc import ErrorDuringImport, locate
from typing import Any

from diffusion.config.validation import check_arguments
from diffusion.errors import UserError, nearest

Facts = Mapping[str, int]
ARGUMENTS = ("in_channels", "out_channels", "classes", "augment", "coordinates")  # of a network that may be facts


def make(node: Mapping[str, Any], where: str, kind: type | None = None, **more: Any) -> Any:
    """Build the object that `node` describes.

    Args:
        where: the node's key in the configuration, such as `model`, for error messages.
        kind: the class of which it must be an object; None: any.
        more: further arguments, which are not written in the configuration.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where}: it names no class; its yaml file needs a line _target_: PACKAGE.CLASS")
    check_node(node, where)
    made = _made(node, where, more)
    if kind is not None and not isinstance(made, kind):
        raise UserError(f"{where}: {node['_target_']} gives a {type(made).__name__}; expected a {kind.__name__}")
    return made


def model_of(config: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The node of a network in a configuration, with the arguments that are facts. Both may be a stranger's."""
    return {**config["model"], **{key: facts[key] for key in ARGUMENTS if isinstance(facts.get(key), int)}}


def check_node(node: Any, where: str) -> None:
    """Raise UserError if the classes in a node do not exist, or a value does not have its annotated type."""
    if isinstance(node, list):
        for value in node:
            check_node(value, where)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            check_node(value, f"{where}.{key}")
            if str(key).startswith("_") and key not in ("_target_", "_partial_"):
                raise UserError(f"{where}.{key}: only _target_ and _partial_ can begin with _; remove it")
        if "_target_" in node:
            check_arguments(_named(node["_target_"], where), _arguments(node), where)


def _named(target: Any, where: str) -> Callable[..., Any]:
    """The class or function with this full name."""
    parent, _, name = str(target).rpartition(".")
    try:
        found = locate(str(target))
    except ErrorDuringImport as error:
        raise UserError(f"{where}: {target} cannot be imported ({error.value})") from error
    if not callable(found):
        holder = locate(parent) if parent else None
        hint = f"; install its package, or see --help {where.partition('.')[0]}" if holder is None else ""
        near = nearest(name, dir(holder))
        raise UserError(f"{where}: {target} is no class or function that can be imported{hint or near}")
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
    return {str(key): value for key, value in node.items() if not str(key).startswith("_")}
