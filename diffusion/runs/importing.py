"""Fast import of torch and Lightning, for the commands that need them."""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Context for the first import of torch and its dependents, without garbage collection and unused metrics.

    These modules create half a million permanent objects. Searching them for garbage takes a fifth of their import time
    and later pauses training, so they are excluded from all collections.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        with_few_metrics()
        yield
    finally:
        gc.freeze()
        gc.enable()


def lazy(name: str) -> partial[Any]:
    """The function `package.module.name`, (settings, folder) -> result, as a task that is imported when called."""
    return partial(_call, name)


def _call(name: str, settings: Any, folder: Path, words: list[str]) -> Any:
    module, _, function = name.rpartition(".")
    with importing():
        imported = getattr(import_module(module), function)
    return imported(settings, folder)


class _Few(ModuleType):
    """The package torchmetrics without its `__init__`, which is executed when one of its other metrics is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in ("Metric", "MetricCollection"):  # used by Lightning and by us
            return getattr(import_module(f"torchmetrics.{'metric' if name == 'Metric' else 'collections'}"), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        return getattr(self, name)


def with_few_metrics() -> None:
    """Import torchmetrics without its metrics for text and audio.

    With them it imports transformers, torchvision and scipy.signal, if installed: 3.5 of 5.6 s until a run begins.
    """
    spec = find_spec("torchmetrics")
    assert spec is not None
    package = module_from_spec(spec)
    package.__class__ = _Few
    # Attributes that its own modules and Lightning look up:
    package.__dict__.update(_logger=logging.getLogger(spec.name), __version__=metadata.version(spec.name))
    sys.modules[spec.name] = package
    import_module("torchmetrics.utilities")  # must come first: it and the other modules import each other
