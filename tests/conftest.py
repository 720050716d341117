"""Shared by all tests: no network access, a separate cache, and commands that run in this process."""
# ruff: noqa: E402 - the environment is prepared before anything that reads it is imported

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

# Variables of a terminal, a job or an account that change what a run does or prints.
FOREIGN = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "WANDB_API_KEY", "RANK", "LOCAL_RANK", "WORLD_SIZE")
FOREIGN_PREFIXES = ("SLURM_", "TORCHELASTIC_", "MASTER_")
for name in [*os.environ]:
    if name in FOREIGN or name.startswith(FOREIGN_PREFIXES):
        del os.environ[name]
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["NETRC"] = os.devnull  # no W&B key from there
os.environ["OMP_NUM_THREADS"] = (
    "1"  # tiny operations: more threads only wait for each other, and forks cannot inherit them
)
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# the same examples in every run, however slow the machine is
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Exclude the half a million objects of imported modules and collected tests from garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give them back to it: triton prints what still exists when Python ends."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def quick_composition() -> None:
    """Leave out a quarter of Hydra's composition: for each file, the choices that its defaults might interpolate."""
    from hydra._internal import defaults_list
    from omegaconf import DictConfig

    defaults_list._create_interpolation_map = lambda *_: DictConfig({})  # no file here interpolates them


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests from reading or filling the user's cache."""
    os.environ["DIFFUSION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def thumbnails(_: object, images: Any) -> Any:
    """1280 features of RGB images, as many as those of Lite0, in a millisecond."""
    from torch.nn import functional as F

    return F.pad(F.adaptive_avg_pool2d(images / 255, 8).flatten(1), (0, 1280 - 192))


SHORT: dict[str, Callable[..., Any]] = {
    "diffusion.report.run.run_sections": lambda *_: [],  # figures and the recipe, half of the time of a run
    "diffusion.report.comparison.quantities": lambda shown: [],  # the curves of comparisons of sweeps
    "diffusion.scoring.pipeline.diagnose": lambda *_: [],  # faults of samples
    "diffusion.metric.features.Lite0.features": thumbnails,
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leave out what takes long, but in tests of metrics, reports and reliability, and with the mark `whole_report`.

    As a hook, it is also for the runs of fixtures that several tests share.
    """
    rooms = {"metric", "findings", "report", "reliability"} & set(item.path.parts)
    whole = rooms or item.get_closest_marker("whole_report")
    with pytest.MonkeyPatch.context() as patch:
        for place, short in SHORT.items() if not whole else ():
            if ".".join(place.split(".")[:3]) in sys.modules:
                patch.setattr(place, short)
        return (yield)


@pytest.fixture(autouse=True)
def one_line_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which a UserError has more than one line."""
    from diffusion.errors import UserError

    messages: list[str] = []
    init = UserError.__init__

    def noted(self: UserError, line: str, *more: Any, **named: Any) -> None:
        messages.append(line)
        init(self, line, *more, **named)

    monkeypatch.setattr(UserError, "__init__", noted)
    yield
    assert not [message for message in messages if "\n" in message]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their charts, which take most of their time, for tests of the text."""
    monkeypatch.setattr("diffusion.report.style.Chart.save", lambda self, folder: [folder / self.file])
    monkeypatch.setattr("diffusion.report.style.svg", lambda figure, label: "")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 small images: sky above land, each in different colours."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(40):
        picture = Image.new("RGB", (24, 24), (40 + 5 * i, 120, 250 - 5 * i))
        picture.paste((20 + i, 90 + 3 * i, 30), (0, 8 + i % 9, 24, 24))
        picture.save(folder / f"{i:02d}.png")
    return folder


TINY = (
    "data=folder",
    "data.resolution=8",
    "data.batch_size=4",
    "data.val=8",
    "data.test=8",
    "model=unet_tiny",
    "model.channels=[8,16]",
    "model.attention=[false,true]",
    "model.groups=4",
    "sampler.steps=4",
    "samples.every_n_epochs=null",
    "score.n=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
)


@pytest.fixture(scope="session")
def tiny(photos: Path) -> list[str]:
    """Overrides for a run that takes seconds: 24 training images of 8×8 and a network with a few thousand weights."""
    return [*TINY, f"data.root={photos}"]


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> Path:
    """The folder of a run of two steps, shared by tests that only read it."""
    from tests.support.composing import train

    folder = tmp_path_factory.mktemp("two_steps") / "run"
    train([*tiny, "trainer.max_steps=2", "samples.n=0"], folder)
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> Path:
    """The folder of a run with two classes, the second with twice as many images."""
    from tests.support.composing import train

    root = tmp_path_factory.mktemp("labelled")
    for name, n in {"blue": 12, "red": 24}.items():
        (root / "shelves" / name).mkdir(parents=True)
        for i in range(n):
            picture = Image.new("RGB", (8, 8), (20 + 7 * i, 40, 220) if name == "blue" else (220, 40, 20 + 7 * i))
            picture.paste((255, 250 - i, 240), (0, i % 8, 8, i % 8 + 1 + i // 8))
            picture.save(root / "shelves" / name / f"{i}.png")
    data = [f"data.root={root}/shelves", "data.labels=folders", "seed=3", "samples.n=0"]
    train([*tiny, *data, "ema=none", "optimizer.lr=1e-2", "trainer.max_steps=5"], root / "run")
    return root / "run"


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`command("train", overrides)` -> (exit status, stdout, stderr); runs in this process, in an empty folder."""
    from importlib import import_module

    from composing import launch_here
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from diffusion.__main__ import module_of
    from diffusion.training import jobs

    monkeypatch.chdir(tmp_path)
    # Hydra would compose everything again to read hydra.mode, which no test sets; without it, only -m counts.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    monkeypatch.setattr(jobs, "run_ranks", launch_here)

    def run(name: str, overrides: Sequence[str] = ()) -> tuple[int, str, str]:
        main = import_module(module_of(name)).main
        monkeypatch.setattr(sys, "argv", [f"diffusion.{name}", *overrides])
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        status = 0
        capfd.readouterr()
        try:
            status = main() or 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def ran(command: Command) -> Callable[..., str]:
    """`ran("train", overrides)` -> what a command prints that succeeds."""

    def run(name: str, overrides: Sequence[str] = ()) -> str:
        status, out, err = command(name, overrides)
        assert status == 0, out + err
        return out

    return run


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """`refused("train", overrides)` -> the line of a command that is refused."""

    def run(name: str, overrides: Sequence[str] = ()) -> str:
        status, out, err = command(name, overrides)
        assert (status, err.count("\n"), err[:7]) == (2, 1, "error: "), out + err
        return err

    return run
