"""Importing torch and Lightning, by a command that has something to do with them."""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

TAKEN = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}  # by Lightning and by us


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within: the first import of torch, and of what follows, without garbage collection and without all metrics.

    These modules make half a million objects that stay. Looking for garbage among them takes a fifth of the time of
    their import, and later pauses training; so these objects are left out of all collections.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        Metrics.install()
        yield
    finally:
        gc.freeze()
        gc.enable()


class Metrics(ModuleType):
    """The package torchmetrics before its `__init__`, which is executed when more is asked for than what is `TAKEN`.

    That imports every metric there is, for text and sound too, and with them transformers, torchvision and scipy.signal
    where they are installed: a third of the time until a run begins.
    """

    @classmethod
    def install(cls) -> None:
        """Make this what `import torchmetrics` finds."""
        spec = find_spec("torchmetrics")
        assert spec is not None
        package = module_from_spec(spec)
        package.__class__ = cls
        # What its own modules, and Lightning, look up in it:
        package.__dict__.update(_logger=logging.getLogger(spec.name), __version__=metadata.version(spec.name))
        sys.modules[spec.name] = package
        import_module("torchmetrics.utilities")  # the others import this, and it imports one of them: it goes first

    def __getattr__(self, name: str) -> Any:
        if name in TAKEN:
            return getattr(import_module(TAKEN[name]), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)
