"""Check this installation: a line for each part, as in a report of an error. Exit status: 2 if one is unusable.

With --try, also try its GPU or else its CPU, for some minutes: train 20 steps in float32, bfloat16, compiled, and on
two GPUs; resume bit for bit; draw the images of the CPU within rounding; score samples; measure speed and memory. One
page for a report of an error says what passed, failed, or is not possible here. Exit status: 1 if a check failed.
"""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement

from diffusion.base.console import console
from diffusion.base.files import PACKAGE, cache_dir, code_version
from diffusion.errors import Arguments, UserError, first_line, pip_install

OK, NOTE, BAD, GB = "ok", "note", "bad", 1e9


def check(page: Path | None) -> None:
    """Print each part with its verdict; try the device for the page. Raises UserError for what fails."""
    lines = [*packages(), *machine()]
    for verdict, part, found in lines:
        console.print(f"{verdict:<6}{part:<19}{found}", style={NOTE: "yellow", BAD: "red"}.get(verdict))
    if bad := [part for verdict, part, _ in lines if verdict == BAD]:
        raise UserError(f"not usable: {', '.join(bad)}")
    if page:
        from diffusion.extras.checks import attempt  # imports torch

        attempt(page, lines)


def packages() -> Iterator[tuple[str, str, str]]:
    """(verdict, part, what was found) for Python, this program, and the packages that it needs or can use."""
    about = metadata("diffusion-experiments")
    yield OK, "Python", f"{platform.python_version()} on {platform.platform()}"  # pip refuses an older one
    yield OK, "diffusion", f"{code_version()} in {PACKAGE}"
    missing: dict[str, list[str]] = {extra: [] for extra in about.get_all("Provides-Extra", [])}
    for each in map(Requirement, about.get_all("Requires-Dist", [])):
        extra = next((name for name in missing if each.marker and each.marker.evaluate({"extra": name})), "")
        try:
            found = version(each.name)
        except PackageNotFoundError:
            found = "missing"
        good = found != "missing" and each.specifier.contains(found, prereleases=True)
        if extra:
            missing[extra] += [] if good else [f"{each.name} {found}"]
        elif not good or each.name in ("torch", "lightning", "hydra-core"):
            yield OK if good else BAD, each.name, f"{found}, needed: {each.specifier}"
    for extra in sorted(missing.keys() - {"dev", "bench"}):
        found = f"not usable: {', '.join(missing[extra])}; {pip_install(extra)}" if missing[extra] else "installed"
        yield NOTE if missing[extra] else OK, f"extra {extra}", found


def machine() -> Iterator[tuple[str, str, str]]:
    """(verdict, part, what was found) for the devices and folders."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    yield OK, "CPU", f"{os.cpu_count()} cores, {memory:.0f} GB of memory"
    try:
        import torch
    except Exception as error:
        yield BAD, "import of torch", first_line(error)
        return
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"{gpu.name} with {gpu.total_memory / GB:.0f} GB" for gpu in gpus]
    names += ["Apple's MPS"] if torch.backends.mps.is_available() else []
    yield OK, "GPU", ", ".join(names) or "none: training is slow, except for small images as in experiment=demo"
    for part, folder in (("cache", cache_dir()), ("outputs", Path("outputs"))):
        place = folder.resolve() if folder.exists() else Path.cwd()
        free, writable = shutil.disk_usage(place).free / GB, os.access(place, os.W_OK)
        verdict = BAD if not writable else NOTE if free < 5 else OK
        yield verdict, part, f"{place}; {free:.1f} GB free" + "; not writable" * (not writable)


main = Arguments("doctor", __doc__, check)
about, default = "try the device, and write this page; default: doctor.md", Path("doctor.md")
main.add_argument("--try", dest="page", metavar="PAGE", type=Path, nargs="?", const=default, help=about)
