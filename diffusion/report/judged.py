"""The figures of samples that the referee has judged: their worst faults, and their statistics beside real ones."""

from pathlib import Path

from diffusion.base.pixels import framed, save_png
from diffusion.findings.faults import SHOWN, Judged
from diffusion.metric.faults import WORST
from diffusion.report import figures


def draw_judged(found: Judged | None, folder: Path) -> None:
    """Draw the figures, as far as there are some, into figures/ of the folder."""
    if found and found.quantities:
        figures.measurements(*found.standardised, found.quantities).save(folder)
    if found and (faults := found.faults[:SHOWN]):
        worst, places = ([each for fault in faults for each in fault[key]] for key in ("worst", "place"))
        save_png(framed(found.samples[worst], WORST, places), folder / "figures/faults.png")
        figures.spectrum(found.samples, found.real).save(folder)
