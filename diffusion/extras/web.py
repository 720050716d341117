"""A model in a page: the network, from which the browser draws samples without a server, and samples of its run.

It is for other people: the charts and scores of the run are folded, and it has no settings, commands or paths.

The network is an ONNX graph that onnxruntime-web runs. The page contains no code for schedules or predictions: a table
with one row per step has all the values of them that a DDIM step (eta = 0) needs:
    y = network(c_in x_t, label),   x̂0 = clamp(p x_t + q y),   ε̂ = (x_t − α_t x̂0)/σ_t,   x_s = α_s x̂0 + σ_s ε̂.
For a flow map, rows end with the features of the way from t to s, and only the last x̂0 is clamped.

A network of points is so small that the page computes it itself, beside the best denoiser: a playground.
"""

import base64
import gzip
import io
import math
import warnings
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.base.files import replace
from diffusion.base.pixels import LIMIT
from diffusion.checkpoint.find import run_folder
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.errors import UserError, first_line, imported
from diffusion.model import MLP
from diffusion.process import grid as grids
from diffusion.process.denoiser import Denoiser
from diffusion.process.grid import Grid
from diffusion.process.inputs import way_features
from diffusion.process.sampler import Evaluator
from diffusion.report import images
from diffusion.report.page import ASSETS, Block, Section, document, rendered
from diffusion.report.run import NOTES, Blocks, training
from diffusion.report.scores import score_table
from diffusion.runs.folder import Run, is_run

STEPS, OF_MAPS = (5, 10, 25, 50, 100), (1, 2, 4, 8)  # choices on the page
TIMES = 120  # of a playground, whose numbers of steps are the divisors of this number


def write_web(file: Path, model: Restored, pictures_only: bool = False) -> Path:
    """Write the page of a model, with samples and charts if the checkpoint is in a run's folder; returns the path.

    With `pictures_only`, it has no charts and scores.

    Raises UserError for a network that the page cannot compute, and if an exporter that it needs is not installed.
    """
    if model.facts.condition is not None:
        raise UserError("condition: a page draws without one, which its network needs; use diffusion sample")
    model.kind.require("export --format web")
    points = model.kind.plane
    section, parts = playground(model) if points else drawing(model)
    folder, sections = run_folder(model.path), [section]
    title = f"Model {folder.name if is_run(folder) else model.path.stem}"
    if is_run(folder) and (run := Run(folder)).info:  # the bundled model has no record
        title = f"Model {run.name}"
        if not points:
            sections[:0] = [Section("", [images.gallery(run, "Samples of this network.")])]
        if not pictures_only:
            scores: Blocks = [score_table(run.scores), NOTES] if run.scores else []
            sections += [Section("Training", training(run), folded=True), Section("Scores", scores, folded=True)]
    replace(file, document(title, sections, **parts))
    return file


def drawing(model: Restored) -> tuple[Section, dict[str, Any]]:
    """The section that draws pictures, and what `document` needs for it."""
    values = {
        "shape": list(model.shape),
        "classes": [*model.labels],
        "unlabelled": model.label_dropout > 0,  # whether it has learned to draw without a class
        "tables": tables(model.denoiser, model.config, model.facts.ends),
        "chosen": "1" if model.facts.ends else "25",
        "step": model.step,
        "weights": model.weights,
        "guided": bool(model.config.get("guidance")),  # which the page lacks
    }
    contents = {
        "network": gzip.compress(network_onnx(model.denoiser.network, model.shape, model.facts.ends), mtime=0),
        "machine": (ASSETS / "vendor/ort-wasm-simd-threaded.wasm.gz").read_bytes(),
        "runtime": gzip.compress((ASSETS / "vendor/ort.wasm.bundle.min.mjs").read_bytes(), mtime=0),
    }
    parts = {"scripts": ("random.js", "draw.js"), "model": contents}
    return Section("Draw", [Block(html=rendered("draw.html", **values))]), parts


def playground(model: Restored) -> tuple[Section, dict[str, Any]]:
    """The section that follows the learned and the exact field of points, and what `document` needs for it."""
    network, schedule = model.denoiser.network, model.denoiser.schedule
    if type(network) is not MLP or model.facts.ends:
        kind = "a flow map" if model.facts.ends else type(network).__name__
        raise UserError(f"web: a page of points computes only model=mlp, and no flow map, but this model is {kind}")
    truth = make(model.config["data"], "data").truth
    state = {name: value.float().cpu() for name, value in network.state_dict().items()}
    numbers = torch.cat([value.flatten() for value in state.values()]).numpy().astype("<f4").tobytes()
    columns = truth.widths, truth.weights.log(), truth.groups
    values = {
        "limit": LIMIT,
        "classes": [*model.labels],
        "table": rows(model.denoiser, grids.flow(schedule, TIMES))[1:],
        "components": torch.column_stack([truth.means, *columns]).tolist(),  # (K, 5)
        "lengths": [(name, value.numel()) for name, value in state.items()],
        "numbers": base64.b64encode(numbers).decode(),
    }
    unlabelled = model.label_dropout > 0 or not model.labels
    html = rendered("points.html", values=values, unlabelled=unlabelled)
    return Section("", [Block(html=html)]), {"scripts": ("random.js", "points.js")}


def tables(denoiser: Denoiser, config: dict[str, Any], ends: int = 0) -> dict[str, list[list[float]]]:
    """Number of steps -> `rows` on the grid of the run's sampler.

    Numbers of steps that do not fit the schedule are left out.
    """
    grid: Grid = make(config["sampler"], "sampler").grid if config.get("sampler") else grids.uniform
    found: dict[str, list[list[float]]] = {}
    for steps in OF_MAPS if ends else STEPS:
        with suppress(UserError):
            found[str(steps)] = rows(denoiser, grid(denoiser.schedule, steps), ends)
    return found


def rows(denoiser: Denoiser, t: Tensor, ends: int = 0) -> list[list[float]]:
    """Rows (c_in, label, p, q, α_t, σ_t, α_s, σ_s), one per step of the grid t; for a flow map, `ends` features follow.

    A row that contains only √(α² + σ²), the factor of the initial noise, precedes the steps.
    """
    times = Evaluator(denoiser, torch.device("cpu")).times(t)
    solution, _ = denoiser.prediction.solve(denoiser.schedule, t[:-1])
    columns = [*denoiser.prediction.inputs(denoiser.schedule, t[:-1]), *solution]
    ways = way_features(-denoiser.schedule.flow_time(t).diff(), ends).tolist()
    network = torch.stack([column.expand(len(t) - 1).double() for column in columns], dim=1).tolist()
    found = [[math.hypot(times[0].alpha, times[0].sigma)]]
    for row, (now, after), way in zip(network, pairwise(times), ways, strict=True):
        found.append([*row, now.alpha, now.sigma, after.alpha, after.sigma, *way])
    return found


def network_onnx(network: nn.Module, shape: tuple[int, ...], ends: int = 0) -> bytes:
    """The network for one image of `shape` (C, H, W) as ONNX: x, label, classes and augment, if it has them, -> y."""
    imported("onnxscript", "--format web", "web")
    inputs = {"x": torch.zeros(1, *shape), "label": torch.zeros(1)}
    if getattr(network, "classes", 0):
        inputs["classes"] = torch.zeros(1, dtype=torch.int64)
    if ends:
        inputs["augment"] = torch.zeros(1, ends)
    content = io.BytesIO()
    network.register_forward_hook(lambda _, __, y: y[:, : shape[0]])  # without the channels of a learned variance
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own code
        try:
            program: Any = torch.onnx.export(
                network.float(), kwargs=inputs, dynamo=True,
                input_names=[*inputs], output_names=["y"], verbose=False,
            )  # fmt: skip
        except Exception as error:  # the exporter raises many types
            raise UserError(f"{type(network).__name__} cannot be exported to ONNX ({first_line(error)})") from error
    program.optimize()
    program.save(content)
    return content.getvalue()
