"""Train an entry under a fixed budget, and say whether it is a new record: the best pictures per second of training.

  diffusion race demo                         the demo's recipe, without the steps that are too many
  diffusion race ENTRY.yaml                   yours: seeds 0, 1 and 2, about 15 minutes each on two cores
  diffusion race ENTRY.yaml --seeds 5         two more; the runs that are complete are kept
  diffusion race ENTRY.yaml --seconds 20      a short try, which is no record

ENTRY.yaml is a recipe as those in conf/experiment, such as the demo with other settings:

  # @package _global_
  defaults: [demo, _self_]
  name: race
  optimizer: {lr: 2.0e-3}
  trainer: {max_steps: 930}

Images, scores and the budget are the same for all entries: 180 reference seconds of training on the bundled photographs
at 32×32, where a reference second is 8 passes of a fixed network, so a slow machine changes little. An entry that
needs more is ended there. Set trainer.max_steps, which schedules need, to what fits: a line says it; the demo makes
about 6 steps in a reference second. Sampler and guidance are free to choose, too; drawing and scoring 500 samples is
not counted. The score is fd_lite0, the distance to the training tiles by one network, lower is better; copies, equal
samples, and samples that other eyes see more clearly do not count. An entry is a record if a test shows that it is
better than the last one.

As CONF/experiment/ENTRY.yaml, it may use choices of your own in CONF, made by `diffusion new`, if you are in the folder
of their Python files. A changed recipe needs a name of its own. The runs are in outputs/race/ENTRY; race.json there has
the verdict (record, not shown, refused or try) and `difference`, its mean score minus that of the holder, with the
one-sided margin of the test, and `more_seeds`, which would show it if they were alike. docs/race.md has the records.

Exit status: 0 if it is a record; 1 if not; 2 for an error that you can fix, with one line on stderr.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusion.base.console import console
from diffusion.base.files import PACKAGE, replace
from diffusion.config.build import flat, validated
from diffusion.config.choices import composed, conf_dir, searching
from diffusion.config.schema import Train
from diffusion.errors import Arguments, UserError, shown
from diffusion.extras.reproduce import run_command
from diffusion.findings.race import LEAST, Race, gate, score_of
from diffusion.runs.folder import Run, is_run

SECONDS, IMAGES = 180, 500
RECORDS = PACKAGE / "pretrained" / "race.json"
PROTOCOL = [  # words of the command line, which replace those of the entry
    "data=landscapes", "data.resolution=32", "data.limit=null", "data.scale=1", "condition=none", "encoder=none",
    "trainer.devices=1", "trainer.max_epochs=-1", "trainer.check_val_every_n_epoch=8",
    "+callbacks.budget._target_=diffusion.training.budget.ReferenceBudget",
    "features=lite0", f"score.n={IMAGES}", "score.split=val", "score.to_train=true", "score.audit=[pixels]",
    "score.baselines=[]", "score.every_n_epochs=null", "samples.every_n_epochs=null",
]  # fmt: skip


def race(entry: str, seeds: int, out: Path, seconds: float) -> None:
    """Train the missing runs of an entry, compare them with the holder's, and write race.json.

    Raises UserError with exit status 1 if the entry is no record.
    """
    if seeds < LEAST:
        raise UserError(f"--seeds {seeds}: a verdict needs at least {LEAST}")
    file = Path(entry)
    bundled = conf_dir() / "experiment" / f"{file.stem}.yaml"
    if not file.is_file():
        file = bundled if bundled.is_file() else file
    elif bundled.is_file() and not bundled.samefile(file):
        raise UserError(f"{entry}: a bundled experiment has this name, and would be trained; rename the file")
    if file.suffix != ".yaml" or not file.is_file():
        raise UserError(f"{entry}: no such recipe; expected a file such as mine.yaml, or a bundled experiment as demo")
    folder = out / file.stem
    conf = file.absolute().parents[1]
    if file.absolute().parent.name != "experiment":
        conf = folder / "conf"
        (conf / "experiment").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, conf / "experiment")
    places = [folder / f"seed-{seed}" for seed in range(seeds)]
    for seed, place in enumerate(places):
        words = [f"experiment={file.stem}", *PROTOCOL, f"+callbacks.budget.seconds={seconds:g}", f"seed={seed}"]
        if is_run(place):
            check_recipe(place, words, conf)
        if not is_run(place) or Run(place).state != "complete":
            run_command("train", [*words, "--config-dir", str(conf), f"hydra.run.dir={shown(place)}", "ckpt=auto"])
    runs = [Run(place) for place in places]
    verdict = judged(runs, json.loads(RECORDS.read_text())[-1])
    if seconds != SECONDS:
        verdict |= {"verdict": "try", "words": f"{verdict['words']} A try of {seconds:g} seconds is no record."}
    if verdict["verdict"] == "record":  # only now, since a look at the test photographs spends them
        for seed, run in enumerate(runs):
            own = [f"ckpt={shown(run.folder)}", f"n={IMAGES}", f"hydra.run.dir={shown(folder / f'test-{seed}')}"]
            run_command("evaluate", [*own, "split=test", "baselines=[]"])
    replace(folder / "race.json", json.dumps({"entry": file.stem, "seconds": seconds} | verdict, indent=2))
    console.print(f"\n{verdict['words']}\n{folder / 'race.json'}")
    if verdict["verdict"] != "record":
        raise UserError(f"{file.stem}: no record", 1)


def check_recipe(place: Path, words: list[str], conf: Path) -> None:
    """Raise UserError if the run at `place` has other settings than these words."""
    with searching([str(conf)]):
        recipe = flat(validated(Train, composed("train", words)).model_dump(mode="json"))
    found = flat(Run(place).config)
    keys = sorted({*recipe, *found} - {"ckpt", "name"})  # which no score depends on
    if key := next((key for key in keys if recipe.get(key) != found.get(key)), None):
        raise UserError(
            f"{place}: it was trained with {key}={found.get(key)}, and the entry has {recipe.get(key)}; give a changed "
            "recipe a name of its own, or delete the folder"
        )


def judged(runs: list[Run], holder: dict[str, Any]) -> dict[str, Any]:
    """What race.json says of the complete runs of an entry beside the holder."""
    each = []
    for run in runs:
        if "further" not in run.referee:
            raise UserError(f"{run.folder}: its samples were not judged; delete the folder, and run the race again")
        used = float(run.metrics["train/reference_seconds"].value[-1])
        each.append({
            "run": str(run.folder), "score": score_of(run), "refused": gate(run), "steps": run.info["steps"],
            "reference_seconds": used,
        })  # fmt: skip
    found = Race([run["score"] for run in each], list(holder["scores"]))
    refused = next((run["refused"] for run in each if run["refused"]), "")
    verdict = "refused" if refused else "record" if found.record else "not shown"
    words = f"Not counted: {refused}" if refused else f"{found} ({holder['name']} holds it)"
    return {
        "verdict": verdict, "words": words, "difference": found.difference, "margin": found.half(),
        "more_seeds": found.more, "holder": holder, "runs": each,
    }  # fmt: skip


main = Arguments("race", __doc__, race)
main.add_argument("entry", metavar="ENTRY", help="a file with a recipe, or the name of a bundled experiment")
main.add_argument("--seeds", type=int, default=LEAST, help=f"how many seeds, from 0 on; default: {LEAST}")
main.add_argument("--out", type=Path, default=Path("outputs/race"), help="default: outputs/race")
main.add_argument(
    "--seconds", type=float, default=SECONDS, help="another budget, to try a recipe; records have the default"
)
