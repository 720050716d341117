"""Fast import of torch and Lightning, for the commands that need them."""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

TAKEN = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}  # used by Lightning and by us


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
        Metrics.install()
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True)
class Lazy:
    """A function that is imported, with torch, only when it is called.

    It is pickled as its name, so it is also found by the worker processes of a launcher.

    Args:
        name: the full name, such as `diffusion.evaluation.commands.draw_samples`.
    """

    name: str

    def __call__(self, *args: Any) -> Any:
        module, _, function = self.name.rpartition(".")
        with importing():
            imported = getattr(import_module(module), function)
        return imported(*args)


class Metrics(ModuleType):
    """The package torchmetrics with a lazy `__init__`, executed on access to any attribute that is not in `TAKEN`.

    Its `__init__` imports every metric, including those for text and audio, and with them transformers, torchvision and
    scipy.signal, if installed: a third of the time until a run begins.
    """

    @classmethod
    def install(cls) -> None:
        """Make `import torchmetrics` return this module."""
        spec = find_spec("torchmetrics")
        assert spec is not None
        package = module_from_spec(spec)
        package.__class__ = cls
        # Attributes that its own modules and Lightning look up:
        package.__dict__.update(_logger=logging.getLogger(spec.name), __version__=metadata.version(spec.name))
        sys.modules[spec.name] = package
        import_module("torchmetrics.utilities")  # must come first: it and the other modules import each other

    def __getattr__(self, name: str) -> Any:
        if name in TAKEN:
            return getattr(import_module(TAKEN[name]), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)
