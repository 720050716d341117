"""Fast import of torch and Lightning, for the commands that need them."""

import logging
import sys
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any


class _Few(ModuleType):
    """The package torchmetrics without its `__init__`, which is executed when one of its other metrics is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in ("Metric", "MetricCollection"):  # used by Lightning and by us
            return getattr(import_module(f"torchmetrics.{'metric' if name == 'Metric' else 'collections'}"), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        return getattr(self, name)


def few_metrics() -> None:
    """Import torchmetrics, before Lightning does, without its metrics for text and audio.

    With them it imports transformers, torchvision and scipy.signal, if installed: 3 of 5 s until a run begins.
    """
    if "torchmetrics" in sys.modules:
        return
    spec = find_spec("torchmetrics")
    assert spec is not None
    package = module_from_spec(spec)
    package.__class__ = _Few
    # Attributes that its own modules and Lightning look up:
    package.__dict__.update(_logger=logging.getLogger(spec.name), __version__=metadata.version(spec.name))
    sys.modules[spec.name] = package
    import_module("torchmetrics.utilities")  # must come first: it and the other modules import each other


def lazy(name: str) -> partial[Any]:
    """The function `package.module.name`, (settings, folder) -> result, as a task that is imported when called."""
    return partial(_call, name)


def _call(name: str, settings: Any, folder: Path, words: list[str]) -> Any:
    few_metrics()
    module, _, function = name.rpartition(".")
    return getattr(import_module(module), function)(settings, folder)
