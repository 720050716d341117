"""Schedules, predictions and samplers that exist in diffusers, too: convert ours to its scheduler_config.json and back.

These are a `Discrete` table of T = 1000 rows with `Eps`, `V` or `X0`, sampled by `Ancestral` (`DDPMScheduler`) or
`DDIM` (`DDIMScheduler`) on the grids `uniform` ("trailing"), `leading` or `linspace`. The number of steps and DDIM's η
are not in the file: they are arguments of diffusers' pipeline.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from diffusion.checkpoint.fields import Fields
from diffusion.errors import UserError
from diffusion.process import denoiser as thresholds
from diffusion.process import grid, schedule, variance
from diffusion.process.prediction import X0, Eps, Prediction, V
from diffusion.process.sampler import DDIM, Ancestral, Sampler
from diffusion.process.schedule import Discrete, Schedule

STEPS = 1000  # the T for which a network's time label 1000·t − 1 is diffusers' timestep
DDPM_NAME, DDIM_NAME = "DDPMScheduler", "DDIMScheduler"
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": STEPS, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
    "trained_betas": None, "rescale_betas_zero_snr": False, "prediction_type": "epsilon", "clip_sample": True,
    "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
    "timestep_spacing": "leading", "steps_offset": 0,
}  # fmt: skip
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    DDPM_NAME: {"variance_type": "fixed_small"},
    DDIM_NAME: {"set_alpha_to_one": True},
}
UNLIMITED = 1e6  # a `sample_max_value` that is never reached
PREDICTIONS: dict[type[Prediction], str] = {Eps: "epsilon", V: "v_prediction", X0: "sample"}
SPACINGS: dict[Any, str] = {grid.uniform: "trailing", grid.leading: "leading", grid.linspace: "linspace"}
VARIANCES: dict[Any, str] = {
    variance.fixed_small: "fixed_small",
    variance.fixed_large: "fixed_large",
    variance.learned_range: "learned_range",
}
NAMED: dict[str, Callable[..., Discrete]] = {"linear": schedule.linear, "scaled_linear": schedule.scaled_linear}


def scheduler_config(table: Schedule, prediction: Prediction, sampler: Sampler, learned: bool) -> dict[str, Any]:
    """diffusers' scheduler_config.json.

    Args:
        learned: whether the network has output channels for a variance.

    Raises UserError for a part that does not exist in diffusers, or works differently there.
    """
    if type(table) is not Discrete:
        raise UserError(
            f"schedule: diffusers has no counterpart of the continuous {type(table).__name__}; only tables such as "
            "schedule=linear or cosine are exported"
        )
    if table.steps != STEPS:
        raise UserError(
            f"schedule.steps={table.steps}: the network's time input matches diffusers' only for {STEPS} steps"
        )
    if type(prediction) not in PREDICTIONS:
        raise UserError(
            f"prediction: diffusers has no counterpart of {type(prediction).__name__} on a table; it has eps, v and x0"
        )
    return {
        **DEFAULTS,
        **_betas(table),
        **_sampling(sampler, learned),
        "prediction_type": PREDICTIONS[type(prediction)],
    }


def _betas(table: Discrete) -> dict[str, Any]:
    """The name and the end points of the β table if diffusers computes the same one, otherwise the table itself."""
    betas = table.betas()
    first, last = (float(f"{float(betas[i]):.12g}") for i in (0, -1))
    for name, known in NAMED.items():
        if first < last < 1 and torch.allclose(known(STEPS, first, last).lambdas[1:], table.lambdas[1:], rtol=1e-12):
            return {"beta_schedule": name, "beta_start": first, "beta_end": last}
    if torch.equal(schedule.cosine(STEPS).lambdas, table.lambdas):
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"trained_betas": betas.tolist(), "beta_start": first, "beta_end": last}


def _sampling(sampler: Sampler, learned: bool) -> dict[str, Any]:
    """The settings in the scheduler's file that describe the sampler."""
    spacing = SPACINGS.get(_function(sampler.grid)[0])
    if type(sampler) not in (DDIM, Ancestral) or spacing is None or (type(sampler) is DDIM and spacing == "linspace"):
        raise UserError(
            f"sampler: diffusers has no counterpart of {type(sampler).__name__} on the grid "
            f"{getattr(_function(sampler.grid)[0], '__name__', '?')}; choose --sampler ddim or --sampler ancestral"
        )
    if spacing == "trailing" and STEPS % sampler.steps:
        raise UserError(
            f"sampler.steps={sampler.steps}: diffusers rounds the times differently for a number that does not "
            f"divide {STEPS}; choose --sampler ddim or --sampler ancestral"
        )
    if spacing == "linspace" and sampler.steps == 1:
        raise UserError(
            "sampler.steps=1: on the grid linspace, diffusers' only step begins at t = 0; choose more steps"
        )
    found: dict[str, Any] = {"timestep_spacing": spacing, **_threshold(sampler)}
    if isinstance(sampler, DDIM):
        return {"_class_name": DDIM_NAME, **OWN_DEFAULTS[DDIM_NAME], **found}
    assert isinstance(sampler, Ancestral)
    kind = VARIANCES.get(_function(sampler.variance)[0])
    if kind is None:
        raise UserError(
            "sampler.variance: diffusers has no counterpart; it has fixed_small, fixed_large, learned_range"
        )
    if spacing == "trailing" and sampler.steps < STEPS and kind != "fixed_small":
        raise UserError(
            f"sampler: with {sampler.steps} steps and the variance {kind}, diffusers adds noise in the last one; "
            "choose --sampler ancestral, which takes all steps, or the grid leading"
        )
    if (kind == "learned_range") != learned:
        raise UserError(
            f"sampler.variance: diffusers' ancestral sampler uses learned_range if and only if the network learns "
            f"a variance; here it is {kind} with {'' if learned else 'no '}channels for one; choose --sampler ddim"
        )
    return {"_class_name": DDPM_NAME, "variance_type": kind, **found}


def _threshold(sampler: Sampler) -> dict[str, Any]:
    if sampler.threshold is None:
        return {"clip_sample": False}
    function, settings = _function(sampler.threshold)
    if function is thresholds.clip:
        return {"clip_sample": True, "clip_sample_range": float(settings["limit"])}
    if function is thresholds.dynamic:
        return {
            "clip_sample": False,
            "thresholding": True,
            "dynamic_thresholding_ratio": float(settings["quantile"]),
            "sample_max_value": UNLIMITED,
        }
    raise UserError("sampler.threshold: diffusers has no counterpart; it has clip, dynamic or none")


def _function(chosen: Any) -> tuple[Any, dict[str, Any]]:
    """The function of a part (possibly a partial), and its settings including defaults."""
    function = getattr(chosen, "func", chosen)
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return function, {**defaults, **getattr(chosen, "keywords", {})}


def with_defaults(theirs: Fields) -> Fields:
    """The fields of scheduler_config.json, with the defaults of its class for missing keys."""
    own = OWN_DEFAULTS.get(str(theirs.values.get("_class_name")), {})
    return Fields({**DEFAULTS, **own, **theirs.values}, theirs.where)


def part_nodes(theirs: Fields) -> dict[str, dict[str, Any]]:
    """The nodes `schedule`, `prediction` and `sampler` of our configuration that a scheduler_config.json describes.

    Args:
        theirs: the fields of scheduler_config.json, with the defaults of its class.

    Raises UserError for settings without a counterpart.
    """
    name = theirs.one_of("_class_name", [DDPM_NAME, DDIM_NAME])
    theirs.one_of("num_train_timesteps", [STEPS])
    predictions = {word: kind for kind, word in PREDICTIONS.items()}
    prediction = predictions[theirs.one_of("prediction_type", [*predictions])]
    return {
        "schedule": _schedule_node(theirs),
        "prediction": {"_target_": f"diffusion.process.prediction.{prediction.__name__}"},
        "sampler": _sampler_node(theirs, name),
    }


def _schedule_node(theirs: Fields) -> dict[str, Any]:
    place = "diffusion.process.schedule"
    if theirs.values.get("trained_betas") is not None:
        betas = theirs.values["trained_betas"]
        if not isinstance(betas, list) or len(betas) != STEPS or not all(_is_beta(beta) for beta in betas):
            theirs.refuse("trained_betas", f"{STEPS} numbers between 0 and 1")
        node: dict[str, Any] = {"_target_": f"{place}.table", "betas": [*map(float, betas)], "steps": None}
    else:
        known = theirs.one_of("beta_schedule", [*NAMED, "squaredcos_cap_v2"])
        if known in NAMED:
            ends = {
                ours: theirs.number(key, 1e-12, 0.999) for ours, key in (("first", "beta_start"), ("last", "beta_end"))
            }
            node = {"_target_": f"{place}.{known}", "steps": STEPS, **ends}
        else:
            node = {"_target_": f"{place}.cosine", "steps": STEPS, "offset": 0.008, "largest": 0.999}
    if theirs.flag("rescale_betas_zero_snr"):
        node = {"_target_": f"{place}.zero_terminal_snr", "table": node}
    return node


def _is_beta(value: Any) -> bool:
    return type(value) is float and 0 < value < 1


def _sampler_node(theirs: Fields, name: str) -> dict[str, Any]:
    spacings = {word: function.__name__ for function, word in SPACINGS.items()}
    known = [*spacings] if name == DDPM_NAME else [word for word in spacings if word != "linspace"]
    spacing = spacings[theirs.one_of("timestep_spacing", known)]
    if spacing == "leading":
        theirs.one_of("steps_offset", [0])
    node: dict[str, Any] = {
        "grid": {"_target_": f"diffusion.process.grid.{spacing}", "_partial_": True},
        "threshold": _threshold_node(theirs),
    }
    if name == DDIM_NAME:
        theirs.one_of("set_alpha_to_one", [True])
        return {"_target_": "diffusion.process.sampler.DDIM", "steps": 50, "eta": 0.0, **node}
    kinds = {word: function.__name__ for function, word in VARIANCES.items()}
    kinds["fixed_small_log"] = "fixed_small"  # the same, computed via the logarithm
    kind = kinds[theirs.one_of("variance_type", [*kinds])]
    node["variance"] = {"_target_": f"diffusion.process.variance.{kind}", "_partial_": True}
    return {"_target_": "diffusion.process.sampler.Ancestral", "steps": STEPS, **node}


def _threshold_node(theirs: Fields) -> dict[str, Any] | None:
    place = {"_target_": "diffusion.process.denoiser.clip", "_partial_": True}
    if not theirs.flag("thresholding"):
        return {**place, "limit": theirs.number("clip_sample_range", 1e-6, 1e6)} if theirs.flag("clip_sample") else None
    if theirs.number("sample_max_value", 1) == 1:
        return {**place, "limit": 1.0}
    theirs.number("sample_max_value", UNLIMITED)
    quantile = theirs.number("dynamic_thresholding_ratio", 1e-6, 1)
    return {**place, "_target_": "diffusion.process.denoiser.dynamic", "quantile": quantile}
