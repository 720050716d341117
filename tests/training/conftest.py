"""A sweep whose jobs train nothing, and a device on which nothing may wait.

The device, `away:0`, keeps its tensors' data on the CPU and rejects the operations that CUDA rejects.
An operation that mixes devices raises an error. Operations that would make the CPU wait for a GPU are recorded: reads,
blocking copies, and shapes that depend on values. The data of a non-blocking copy arrive on a wait for the device or
for an event recorded after the copy; until then they are NaN.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from diffusion.errors import UserError
from diffusion.library import model
from diffusion.runs.folder import read_yaml
from diffusion.runs.record import CONFIG, RunRecord
from diffusion.sampling import parallel
from diffusion.training import jobs


@pytest.fixture
def started(command: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders of jobs that are started; they complete at once, and their learning rate is the score.

    A negative one is refused.
    """
    names: list[str] = []

    def start(processes: int, folder: Path, *_: Any) -> None:
        names.append(folder.name)
        rate = read_yaml(folder / CONFIG)["optimizer"]["lr"]
        if rate < 0:
            raise UserError("a negative learning rate")
        RunRecord.join(folder).finish("complete", result=rate)

    monkeypatch.setattr(jobs, "run_ranks", start)
    return names


aten = torch.ops.aten
NAME = "away"
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
SHAPED_BY_VALUES = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.bincount.default}
make_tensor = torch.tensor


class Device:
    """The state of the device. `waits` has a line for each time the CPU would have waited."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.coming: list[tuple[torch.Tensor, torch.Tensor]] = []  # (target, data) of non-blocking copies
        self.float64, self.present = True, False
        self.name = torch.device("privateuseone", 0)  # renamed to away:0 later

    def wait(self, what: str) -> None:
        """Note it with the innermost line of the stack outside torch and this file."""
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename:
            frame = frame.f_back
        self.waits.append(f"{what} at {frame.f_code.co_filename}:{frame.f_lineno}")

    def arrive(self, count: int | None = None) -> None:
        """Complete the first `count` copies; None: all."""
        for target, value in self.coming[:count]:
            target.copy_(value)
        del self.coming[:count]


DEVICE = Device()


class Away(torch.Tensor):
    """A tensor on the device; `held` has its data."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Away":
        if held.dtype == torch.float64 and not DEVICE.float64:
            raise TypeError("the device has no float64")
        with torch.inference_mode(False):
            out = torch.Tensor._make_wrapper_subclass(
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                layout=held.layout, device=DEVICE.name, requires_grad=False,
            )  # fmt: skip
        out.held = held
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copy: torch.Tensor = Away(self.held.detach().clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if is_parameter else copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:  # for checkpoints
        return self.held.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        return make_tensor(data, dtype=dtype or self.dtype).to(self.device)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an aten operation with an argument on the device, or one that creates a tensor there."""
    if func in (aten._to_copy.default, aten.copy_.default):
        return copied(func, args, kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return func.decompose(*args, **kwargs)  # arrives undecomposed in inference mode
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    indices = [x for x in tree_flatten(args[1])[0] if x is not None] if func in INDEXING else []
    if any(isinstance(x, Away) for x in tensors) and any(x.dim() and not isinstance(x, Away) for x in tensors):
        raise RuntimeError(f"expected all tensors on one device, but found {NAME}:0 and cpu ({func})")
    if func is aten._local_scalar_dense.default:
        DEVICE.wait("read")
        return func(args[0].held)
    if func in SHAPED_BY_VALUES or any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        DEVICE.wait(f"shape of {func}")
    plain = tree_map_only(Away, lambda x: x.held, kwargs)
    if plain.get("device") is not None:
        plain |= {"device": torch.device("cpu"), "pin_memory": None}
    out = tree_map_only(torch.Tensor, Away, func(*tree_map_only(Away, lambda x: x.held, args), **plain))
    aliased = any(argument.alias_info for argument in func._schema.arguments)
    return return_and_correct_aliasing(func, args, kwargs, out) if aliased else out


def copied(func: Any, args: Any, kwargs: Any) -> Any:
    """Copy a tensor, with or without a change of device."""
    source, blocking = args[func is aten.copy_.default], not kwargs.get("non_blocking", False)
    leaves = isinstance(source, Away)
    if func is aten.copy_.default:
        blocking &= not (len(args) > 2 and args[2])
        arrives = isinstance(args[0], Away)
    else:
        arrives = leaves if kwargs.get("device") is None else torch.device(kwargs["device"]).type == NAME
    if leaves != arrives and blocking:
        DEVICE.wait("download" if leaves else "upload")
    plain = kwargs if kwargs.get("device") is None else kwargs | {"device": torch.device("cpu")}
    out = func(*tree_map_only(Away, lambda x: x.held, args), **plain)
    if leaves and not arrives and not blocking:
        DEVICE.coming.append((out, out.clone()))
        out.fill_(torch.nan if out.is_floating_point() else 0)
    if func is aten.copy_.default:
        return args[0]
    return Away(out) if arrives else out


def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """Replaces torch.tensor, which does not dispatch to the device."""
    away = device is not None and torch.device(device).type == NAME
    return make_tensor(data, **kwargs).to(device) if away else make_tensor(data, device=device, **kwargs)


class Event:
    """An event: waiting for it completes the copies that were pending when it was recorded."""

    def record(self) -> None:
        self.count = len(DEVICE.coming)

    def synchronize(self) -> None:
        DEVICE.arrive(self.count)


class Backend(backend_registration._DummyBackendModule):
    """torch.away"""

    Event = Event

    def synchronize(self, device: Any = None) -> None:
        DEVICE.wait("synchronize")
        DEVICE.arrive()

    def manual_seed(self, seed: int) -> None: ...

    def get_rng_state(self) -> torch.Tensor:
        return torch.empty(0)  # the CPU's generator draws its numbers

    def set_rng_state(self, state: torch.Tensor) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return DEVICE.present  # False in other tests


class Machine(Accelerator):
    """A Lightning accelerator with one such device."""

    setup_device = teardown = lambda self, *_: None
    get_device_stats = lambda self, device: {}  # noqa: E731
    parse_devices = staticmethod(lambda devices: devices)
    get_parallel_devices = staticmethod(lambda devices: [DEVICE.name])
    auto_device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: DEVICE.present)
    name = staticmethod(lambda: NAME)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Register the device before the first test, if any test uses it.

    torch counts devices at the first gradient of a process, and allows one device implemented in Python.
    """
    if any("away" in getattr(item, "fixturenames", ()) for item in session.items):
        backend_registration._setup_privateuseone_for_python_backend(NAME, Backend(), Hook())


@pytest.fixture(scope="session")
def machine() -> Iterator[None]:
    """Register the device's operations and its name for Lightning."""
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
    AcceleratorRegistry.register(NAME, Machine)
    StrategyRegistry.register(NAME, SingleDeviceStrategy, device=DEVICE.name, accelerator=Machine())
    yield
    library._destroy()
    AcceleratorRegistry.remove(NAME)
    StrategyRegistry.remove(NAME)


@pytest.fixture
def away(machine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The device, for training with `trainer.accelerator=away trainer.strategy=away` and for commands."""
    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch.func, "jvp", torch.autograd.functional.jvp)  # the other needs a device written in C++
    for module in (model, parallel):
        monkeypatch.setattr(module, "choose_device", lambda name: DEVICE.name)
    DEVICE.__init__()  # type: ignore[misc]
    DEVICE.present = True
    yield DEVICE
    DEVICE.present = False
