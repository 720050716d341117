"""Build objects from a configuration. Any failure is reported as a one-line UserError."""

import re
from collections.abc import Mapping
from functools import partial
from pydoc import ErrorDuringImport, locate
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import MissingMandatoryValue

from diffusion.config.choices import choices_with, files
from diffusion.config.validation import check_arguments
from diffusion.errors import UserError

EXTRAS = {"lion_pytorch": "optim", "pytorch_optimizer": "optim"}  # package -> extra of this project that has it


def make(node: Mapping[str, Any], where: str, kind: type | None = None, **kwargs: Any) -> Any:
    """Build the object that `node`, a mapping with `_target_`, describes, with `hydra.utils.instantiate`.

    Args:
        where: the node's key in the configuration, such as `model`, for error messages.
        kind: the class of which it must be an object; None: any.
    """
    if kind is not None and "_target_" not in node:
        raise UserError(f"{where}: it names no class; its yaml file needs a line _target_: PACKAGE.CLASS")
    check_node(node, where)
    try:
        made = instantiate(node, _convert_="all", **kwargs)  # plain lists: an optimizer's settings are saved
        if kind is not None and not isinstance(made, kind):
            raise UserError(
                f"{where}: {node['_target_']} gives a {type(made).__name__}; expected a {kind.__name__} "
                f"({kind.__module__}) or a subclass of it"
            )
        return _called_at_once(made, node)
    except MissingMandatoryValue as error:
        key = f"{where}.{error.full_key}"
        raise UserError(f"{key} is not set; pass it on the command line: {key}=…") from error
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {_reason(error, cause, node, where)}") from error


def _called_at_once(made: Any, node: Any) -> Any:
    """Replace Hydra's partial functions with plain ones, in `made` and in the arguments that it stores as attributes.

    At every call, Hydra's partial functions check again whether their target is allowed, which takes a third of a
    millisecond, twice per training step. Their target was already checked when they were made.
    """
    if not isinstance(node, Mapping):
        return made
    if isinstance(made, partial):
        return partial(made.func, *made.args, **made.keywords)
    kept = getattr(made, "__dict__", {})
    for name, child in node.items():
        if isinstance(child, Mapping) and "_target_" in child and name in kept:
            kept[name] = _called_at_once(kept[name], child)
    return made


def check_node(node: Any, where: str) -> None:
    """Raise UserError if a value in the node, or in a nested one, does not have the type annotated by its class."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        check_node(value, f"{where}.{key}")
    if isinstance(target := node.get("_target_"), str):
        try:
            named = locate(target)
        except ErrorDuringImport:
            named = None
        if callable(named):  # else `instantiate` says what is wrong with it
            check_arguments(named, {str(key): value for key, value in node.items() if str(key)[0] != "_"}, where)


def _reason(error: Exception, cause: BaseException, node: Mapping[str, Any], where: str) -> str:
    """Why an object could not be built and, if known, how to fix that."""
    package = next((name for name in EXTRAS if name in str(error)), None)
    if package is not None and isinstance(cause, ImportError):
        return f"{package} is not installed; pip install 'diffusion-experiments[{EXTRAS[package]}]'"
    target = str(node.get("_target_"))
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if unknown and unknown[1] in node:  # otherwise, the class itself passes it to another one
        having = [
            choice
            for choice in choices_with(where, unknown[1])
            if target not in files(where)[choice].read_text("utf-8")
        ]
        use = " or ".join(f"{where}={choice}" for choice in having) + ", or " * bool(having)
        return f"{target.rpartition('.')[2]} has no {unknown[1]}; use {use}~{where}.{unknown[1]}, which removes it"
    return f"cannot build {target}: {' '.join(str(cause).split())}"
