"""Make the runs of the gallery of the site in outputs/gallery: `make gallery`, about 12 minutes on one CPU core.

Those that are there already are not made again. `page` makes the site's page of those that are there.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from diffusion.report.page import NAME

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs/gallery"
PHOTOS = ROOT / "diffusion/data/landscapes/photos"
PICTURES = ("samples/final.png", "figures/*.png", "*.png", "*/samples/final.png", "*/*.png")  # the first is shown


class Shown(NamedTuple):
    """A run: its folder, what its page shows, and the command. `{photos}`: of one photographer."""

    name: str
    title: str
    about: str
    command: str


GALLERY = (
    Shown("demo", "The demo, cut short", "Its recipe, with landscapes of 32×32 pixels, after 300 of 2100 steps.",
          "train experiment=demo trainer.max_steps=300 score=quick score.n=200"),
    Shown("memoire", "The memoir, cut short", "Its recipe after 60 of 65,250 steps, which are far too few.",
          "train experiment=memoire trainer.max_epochs=null trainer.max_steps=60 sampler=ddim sampler.steps=25 "
          "samples.n=4 score=off"),
    Shown("points", "A sweep", "Two schedules, three seeds each, on points whose best denoiser is known; "
          "500 of 2000 steps.",
          "train -m experiment=points schedule=linear,cosine seed=0,1,2 trainer.max_steps=500"),
    Shown("study", "A study of samplers", "The scores of two samplers with 10 and 25 network evaluations, by only 64 "
          "samples each.",
          "study sampler ckpt=demo samplers=[ddim,dpm_2m] nfe=[10,25] n=64"),
    Shown("finetune", "A fine-tuning", "The demo after 60 more steps on the photographs of one photographer.",
          "finetune demo {photos} trainer.max_steps=60 score=quick score.n=200"),
)  # fmt: skip


def main() -> None:
    """Run what is not there; a run that was stopped is begun again."""
    (RUNS / "photographs").mkdir(parents=True, exist_ok=True)
    for line in (PHOTOS.parent / "CREDITS.csv").read_text("utf-8").splitlines():
        if "Aitzol Berasategi" in line:
            shutil.copy(PHOTOS / line.partition(",")[0], RUNS / "photographs")
    for run in GALLERY:
        if not (RUNS / run.name / NAME).is_file():
            shutil.rmtree(RUNS / run.name, ignore_errors=True)
            given = run.command.format(photos=RUNS / "photographs").split()
            place = f"hydra.{'sweep' if '-m' in given else 'run'}.dir={RUNS / run.name}"
            subprocess.run([sys.executable, "-m", "diffusion", *given, place], cwd=ROOT, check=True)


def page(pages: Path, runs: Path = RUNS) -> str:
    """The page of the runs that are there, whose pages and thumbnails it copies to `pages`/gallery."""
    return "# Gallery of runs\n\n" + "\n".join(_entries(pages, runs))


def _entries(pages: Path, runs: Path) -> Iterator[str]:
    missing = [run for run in GALLERY if not (runs / run.name / NAME).is_file()]
    for run in GALLERY:
        if run not in missing:
            for file in (runs / run.name).rglob(NAME):
                copy = pages / "gallery" / file.relative_to(runs)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
            yield f"## {run.title}\n\n{run.about} [The page of the run](gallery/{run.name}/{NAME})\n"
            if found := [file for each in PICTURES for file in sorted((runs / run.name).glob(each))]:
                small = Image.open(found[0]).convert("RGB")
                small.thumbnail((640, 480))
                small.save(pages / f"gallery/{run.name}.webp")
                yield f"![{run.title}](gallery/{run.name}.webp)\n"
            yield f"```bash\ndiffusion {run.command.format(photos='PHOTOS')}\n```\n"
    if missing:
        yield f"Not here yet: {', '.join(run.title.lower() for run in missing)}. `make gallery site` makes them.\n"


if __name__ == "__main__":
    main()
