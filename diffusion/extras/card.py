"""The model card of a model: README.md of its repository on the Hub, made of the facts of its run."""

import json
import shutil
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml

from diffusion.base.files import VERSION, replace
from diffusion.checkpoint.find import run_folder
from diffusion.checkpoint.restore import Restored, network_hash
from diffusion.config.build import OPTIONAL_PARTS, PARTS
from diffusion.data import ImageData
from diffusion.doors import hub
from diffusion.errors import command_line
from diffusion.findings.compare import from_default
from diffusion.findings.scores import BASELINES, describe
from diffusion.report.page import Section, Table, escaped, picture, shell
from diffusion.report.run import Blocks, facts
from diffusion.report.tables import NOTES, protocol_blocks, score_table
from diffusion.runs import again
from diffusion.runs.folder import Run, is_run

SAMPLES = "samples.png"
LICENCES = "licences"  # a folder of the repository
WEIGHTS = {"ema": "averages over the training (ema)", "raw": "those of the last step (raw)"}
UNKNOWN = "The licence of the weights is not stated."
TASK = "unconditional-image-generation"


def write_card(folder: Path, address: str, model: Restored, how: str | None = None, licence: str = UNKNOWN) -> None:
    """Write README.md into the folder of a repository, and the licences of the data that it names.

    The scores are those of exactly these weights. Paths in the user's home begin with ~.

    Args:
        address: of the model, as `ckpt` names it.
        how: the call by which diffusers draws the same images, if it can.
        licence: of the weights, as a sentence.
    """
    run = Run(place) if is_run(place := run_folder(model.path)) else None
    own = {None, network_hash(model.denoiser.network)}  # the baselines have no network
    scores = [score for score in run.scores if score.source.get("network_hash") in own] if run else []
    measured = [score for score in scores if score.what not in BASELINES]
    found = locate(model.config["data"]["_target_"])
    data = found if isinstance(found, type) and issubclass(found, ImageData) else ImageData
    for file in data.licences:
        (folder / LICENCES).mkdir(exist_ok=True)
        shutil.copy(file, folder / LICENCES)
    drawn = model.kind.described(model.shape)
    size = sum(weight.numel() for weight in model.denoiser.network.parameters())
    about = (
        f"{type(model.denoiser.network).__name__} of {size / 1e6:.2f} million parameters that draws "
        f"{drawn}, after {model.step:,} steps of training; made with "
        f"diffusion-experiments {VERSION}. Its weights are {WEIGHTS.get(model.weights, model.weights)}."
    )
    if run and run.config.get("trainer"):
        recipe: Blocks = [shell(command_line(again.recipe(run)))] if run.info else []
        rows = [[f"`{key}`", *pair] for key, pair in from_default(run).items()]
        recipe += [Table(("setting", "this run", "default"), rows)] if rows else []
    else:
        rows = [[part, describe(model.config[part])] for part in (*PARTS, *OPTIONAL_PARTS) if model.config.get(part)]
        recipe = [Table(("part", "settings"), rows)]
    tuned = [f"diffusion finetune {address} PHOTOS"] if model.kind.allows("finetune") else []
    use = [
        shell(f"diffusion sample ckpt={address} n=64", *tuned),
        f'```python\nimport diffusion\n\nimages = diffusion.load("{address}").sample(16)\n```',
        f"```python\nfrom diffusers import DiffusionPipeline\n\n{how}\n```" if how else None,
    ]
    licences = f"See the folder [{LICENCES}](./{LICENCES})."
    sections = [
        Section("", [escaped(about), picture(SAMPLES, "Samples")]),
        Section("Use", use),
        Section("Recipe", recipe),
        Section("Facts", [facts(run) if run else None]),
        Section("Scores", [score_table(scores), NOTES, *protocol_blocks(scores)] if measured else []),
        Section("Data", [data.origin.format(**model.config["data"]), licences if data.licences else None]),
        Section("Licence", [licence]),
    ]
    front: dict[str, Any] = {"tags": [hub.TAG, "diffusion"], "pipeline_tag": TASK}
    front |= {"library_name": "diffusers"} if how else {}
    title = f"# {escaped(address.removeprefix(hub.SCHEME))}"
    body = "\n\n".join(filter(None, [title, *(section.markdown for section in sections)]))
    text = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{body}\n"
    replace(folder / "README.md", homeless(text))


def homeless(content: Any) -> Any:
    """A text, or plain values, in which paths in the user's home begin with ~."""
    home = f"{Path.home()}/"
    if isinstance(content, str):
        return content.replace(home, "~/") if len(home) > 2 else content
    return json.loads(homeless(json.dumps(content)))
