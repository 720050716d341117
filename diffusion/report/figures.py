"""The memoir's figures, each a function from data to a matplotlib `Figure`.

noising   Fig. 1    x_t = √ᾱ_t x0 + √(1 − ᾱ_t) ε at chosen times, one ε throughout
beta      Fig. 2    β_t, or log-SNR where a schedule does not preserve variance and has no β_t
samples   Fig. 8    samples from the same noise as training proceeds
mse       Fig. 9    denoising MSE on validation and on training images
signal    Fig. 10   √ᾱ_t and √(1 − ᾱ_t)
bins                the MSE by time, at several epochs
gap                 the MSE on held-out images less that on training images, by log-SNR, at several epochs
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image
from torch import Tensor

from diffusion.errors import UserError
from diffusion.randomness import generator_for
from diffusion.report import style
from diffusion.report.images import tiles
from diffusion.runs.metrics import Metrics, bin_names

PEAK = 20  # times the median β_t, beyond which a linear axis would show a spike alone
FAR = 5  # times as much noise as signal, beyond which a linear axis would hide the signal

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`alpha, sigma = schedule(t)` for t (B,) float64 in [0, 1]; a table also has an int `steps`."""


def _log_labels(ax: Axes) -> None:
    """Plain numbers (0.02, 0.05, 0.1) on a logarithmic y axis."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _log_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic y axis around low … high, with powers of ten as plain numbers."""
    ax.set_yscale("log")
    ax.set_ylim(low / 2, 2 * high)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _preserving(alpha: Tensor, sigma: Tensor) -> bool:
    """Whether alpha² + sigma² = 1 at all times."""
    return bool(torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-6))


def _steps(schedule: Schedule) -> int:
    """The T of a table; a continuous schedule is drawn as its T = 1000 table."""
    return int(getattr(schedule, "steps", 1000))


def _table(schedule: Schedule, steps: int) -> tuple[Tensor, Tensor]:
    """alpha_t, sigma_t at t = 0, 1/T, …, 1: two (T + 1,) float64."""
    with torch.no_grad():
        alpha, sigma = schedule(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return alpha.detach().cpu().double(), sigma.detach().cpu().double()


@style.styled
def noising(images: Tensor, schedule: Schedule, times: Sequence[int] | None = None, seed: int = 0) -> Figure:
    """Fig. 1: a row per image of `images` (N, 3, H, W) uint8, a column per time of `times` in 0 … T (else 11).

    x_t = alpha_t x0 + sigma_t ε with x0 in [−1, 1] and one ε per image for all times, clamped to [−1, 1] to be shown.
    """
    steps = _steps(schedule)
    times = np.linspace(0, steps, 11).round().astype(int).tolist() if times is None else list(times)
    x0 = images.detach().cpu().double() / 127.5 - 1
    eps = torch.randn(x0.shape, generator=generator_for("figure", "noising", seed), dtype=torch.float64)
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64) / steps)
    x = alpha.view(-1, 1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1, 1) * eps  # (times, N, 3, H, W)
    shown = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 0, 3, 4, 2).numpy()
    return style.picture_rows([list(row) for row in shown], [f"{t:,}" for t in times], "$t$ =")


@style.styled
def beta(schedule: Schedule, others: Mapping[str, Schedule] | None = None) -> Figure:
    """Fig. 2: β_t = 1 − ᾱ_t / ᾱ_{t−1}, ᾱ_t = alpha_t², at t = 1 … T; `others` (name -> schedule) lightly behind.

    β_t is the variance of noise that a step adds where alpha² + sigma² = 1; its axis is logarithmic where it ends in a
    spike. A schedule of which that does not hold is
    drawn by its log-SNR λ_t = log(alpha_t² / sigma_t²), which every schedule has and which falls without end to where
    alpha = 0.
    """
    figure, ax = style.axes()
    steps = _steps(schedule)
    preserving = _preserving(*_table(schedule, steps))

    def values(of: Schedule) -> Tensor:
        alpha, sigma = _table(of, steps)
        if preserving:
            return -torch.expm1(2 * (alpha[1:].log() - alpha[:-1].log()))
        return 2 * (alpha[1:].log() - sigma[1:].log())

    t, own = np.arange(1, steps + 1), values(schedule)
    for (name, other), dashes in zip((others or {}).items(), ["--", ":", "-."] * 9, strict=False):
        ax.plot(t, values(other), color=style.GREY, linestyle=dashes, linewidth=1.0, label=name)
    ax.plot(t, own, color=style.BLUE, label="this run")
    if others:
        ax.legend(loc="upper left" if preserving else "upper right")
    ax.set_xlim(0, steps)
    # The others may leave the picture; the run's own curve is its subject.
    if preserving and float(own.max()) > PEAK * float(own.median()):
        _log_axis(ax, float(own.min()), float(own.max()))
    elif preserving:
        ax.set_ylim(0, 1.05 * float(own.max()))
    ax.set_xlabel("time $t$")
    ax.set_ylabel(r"noise added per step, $\beta_t$" if preserving else r"log-SNR, $\log(\alpha_t^2/\sigma_t^2)$")
    style.count_axis(ax)
    return figure


@style.styled
def signal(schedule: Schedule) -> Figure:
    """Fig. 10: the share of signal √ᾱ_t = alpha_t and of noise √(1 − ᾱ_t) = sigma_t, at t = 0 … T.

    Where alpha² + sigma² is not 1 the two are labelled α_t and σ_t, because the memoir's symbols do not hold; where
    sigma grows far beyond alpha the axis is logarithmic.
    """
    figure, ax = style.axes()
    steps = _steps(schedule)
    alpha, sigma = _table(schedule, steps)
    names = (
        (r"signal $\sqrt{\bar\alpha_t}$", r"noise $\sqrt{1-\bar\alpha_t}$")
        if _preserving(alpha, sigma)
        else (r"signal $\alpha_t$", r"noise $\sigma_t$")
    )
    t = np.arange(steps + 1)
    ax.plot(t, alpha, color=style.BLUE, label=names[0])
    ax.plot(t, sigma, color=style.VERMILION, linestyle="--", label=names[1])
    ax.set_xlim(0, steps)
    if float(sigma.max()) > FAR * float(alpha.max()):
        _log_axis(ax, min(float(sigma[1]), float(alpha.min())), float(sigma.max()))
    else:
        ax.set_ylim(0, 1.05 * max(1.0, float(sigma.max())))
    ax.set_xlabel("time $t$")
    ax.set_ylabel("factor of $x_0$ and of $\\varepsilon$ in $x_t$")
    ax.legend(loc="center right" if ax.get_yscale() == "linear" else "lower right")
    style.count_axis(ax)
    return figure


@style.styled
def samples_over_training(grids: Sequence[tuple[int, Path]], rows: int = 4, columns: int = 8) -> Figure:
    """Fig. 8: the first `rows` images of each grid, a column per training step, all from the same noise.

    `grids` are (step, PNG file written by `images.save_png(images.grid(…))`) in order; of more than `columns` the
    first, the last and evenly spread ones between them are shown. A PNG of unknown layout is shown whole.
    """
    chosen = [grids[i] for i in np.unique(np.linspace(0, len(grids) - 1, columns).round().astype(int))]
    pictures = []
    for _, path in chosen:
        try:
            with Image.open(path) as picture:
                pictures.append(tiles(picture)[:rows])
        except OSError as error:
            raise UserError(f"{path}: not a readable picture; delete it, or write it again by sampling") from error
    depth = min(len(column) for column in pictures)
    by_row = [[column[i] for column in pictures] for i in range(depth)]
    return style.picture_rows(by_row, [f"{step:,}" for step, _ in chosen], "step")


@style.styled
def mse(metrics: Metrics, steps_per_epoch: float | None = None) -> Figure:
    """Fig. 9: denoising MSE over training on validation images and on as many training images; their gap is shaded.

    Lines for the weights that are validated, dashes for the raw ones where those are an average, the objective of each
    training batch (the MSE where it is the simple loss of ε, else in its own units) lightly behind. With
    `steps_per_epoch` a second axis counts epochs.
    """
    figure, ax = style.axes((style.TEXT_WIDTH, 3.2))
    if "train/loss" in metrics:
        loss = metrics["train/loss"]
        ax.plot(loss.step, loss.value, color=style.LIGHT, linewidth=0.6, label="the objective, per batch", zorder=1)
    curves = [
        ("val/mse", style.BLUE, "-", "validation images"),
        ("fit/mse", style.VERMILION, "-", "training images"),
        ("val/mse_raw", style.BLUE, (0, (3, 1.5)), "validation, raw weights"),
        ("fit/mse_raw", style.VERMILION, (0, (3, 1.5)), "training, raw weights"),
    ]
    for name, colour, dashes, label in curves:
        if name in metrics:
            _, step, value = metrics[name]
            raw = name.endswith("_raw")
            ax.plot(
                step,
                value,
                color=colour,
                linestyle=dashes,
                linewidth=0.9 if raw else 1.7,
                marker="o" if len(step) <= 12 else "",
                markersize=2 if raw else 3,
                label=label,
                zorder=2 if raw else 3,
            )
    if "val/mse" in metrics and "fit/mse" in metrics:
        step, of_val, of_fit = np.intersect1d(metrics["val/mse"].step, metrics["fit/mse"].step, return_indices=True)
        val, fit = metrics["val/mse"].value[of_val], metrics["fit/mse"].value[of_fit]
        ax.fill_between(step, fit, val, color=style.BLUE, alpha=0.15, linewidth=0, label="gap", zorder=1)
    ax.set_yscale("log")
    _log_labels(ax)
    ax.set_xlim(left=0)
    ax.set_xlabel("training step")
    ax.set_ylabel(r"denoising MSE,  $\|\varepsilon-\varepsilon_\theta(x_t,t)\|^2/d$")
    style.count_axis(ax)
    if steps_per_epoch:
        per = float(steps_per_epoch)
        top = ax.secondary_xaxis("top", functions=(lambda x: np.divide(x, per), lambda x: np.multiply(x, per)))
        top.set_xlabel("epoch")
        top.spines["top"].set_visible(True)
        top.xaxis.set_major_formatter(FuncFormatter(style.thousands))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the curves, wherever they run
    return figure


@style.styled
def bins(metrics: Metrics, curves: int = 5) -> Figure:
    """The validation MSE by time: one point per bin of t (deciles of [0, 1]), one curve per epoch, early to late.

    Of more than `curves` validations the first, the last and ones evenly spread in log(step) are shown.
    """
    figure, ax = style.axes()
    names = bin_names(metrics)
    steps = metrics[names[0]].step
    shared = [i for i, step in enumerate(steps) if all(step in metrics[name].step for name in names)]
    picks = np.unique(np.geomspace(1, len(shared), min(curves, len(shared))).round().astype(int)) - 1
    centres = (np.arange(len(names)) + 0.5) / len(names)
    for pick, colour in zip(picks, style.sequence(len(picks)), strict=True):
        step = steps[shared[pick]]
        at = [metrics[name].value[np.flatnonzero(metrics[name].step == step)[-1]] for name in names]
        ax.plot(centres, at, color=colour, marker="o", markersize=3, linewidth=1.3, label=f"step {step:,}")
    ax.set_yscale("log")
    _log_labels(ax)
    ax.set_xlim(0, 1)
    ax.set_xlabel("time $t/T$")
    ax.set_ylabel("denoising MSE")
    ax.legend(loc="best")
    return figure


@style.styled
def gap(metrics: Metrics, schedule: Schedule | None = None, curves: int = 4) -> Figure:
    """The generalisation gap by log-SNR with 95% intervals: held-out less training MSE, paired; early to late.

    A point per decile of t, at its middle; of the weights that are validated, and, where those are an average, the raw
    ones of the last step dashed. Without a schedule the axis is t. Of more than `curves` validations the first, the
    last and ones evenly spread in log(step) are shown.
    """
    figure, ax = style.axes((style.TEXT_WIDTH, 3.0))
    names = sorted(
        (n for n in metrics if re.fullmatch(r"gap/mse_bin\d+", n)), key=lambda n: int(n[len("gap/mse_bin") :])
    )
    t = (np.array([int(name[len("gap/mse_bin") :]) for name in names]) + 0.5) / 10
    x = t
    if schedule is not None:
        with torch.no_grad():
            alpha, sigma = schedule(torch.as_tensor(t, dtype=torch.float64))
        x = 2 * (alpha.log() - sigma.log()).cpu().numpy()
    steps = metrics[names[0]].step
    picks = np.unique(np.geomspace(1, len(steps), min(curves, len(steps))).round().astype(int)) - 1
    ax.axhline(0, color=style.INK, linewidth=0.8)

    def curve(step: int, suffix: str, **look: Any) -> None:
        """One validation's gap; a bin that was not logged then is left out."""
        mean = np.array([_value(metrics, name + suffix, step) for name in names])
        half = np.array([_value(metrics, name.replace("mse", "half") + suffix, step) for name in names])
        there = np.isfinite(mean)
        ax.errorbar(x[there], mean[there], yerr=half[there], capsize=2, elinewidth=0.8, markersize=3, **look)

    for pick, colour in zip(picks, style.sequence(len(picks)), strict=True):
        curve(int(steps[pick]), "", color=colour, marker="o", linewidth=1.3, label=f"step {steps[pick]:,}")
    if f"{names[0]}_raw" in metrics:
        look = {"color": style.VERMILION, "marker": "", "linestyle": (0, (3, 1.5)), "linewidth": 0.9}
        curve(int(steps[-1]), "_raw", label="the last, raw weights", **look)
    ax.set_xlabel(
        "time $t/T$" if schedule is None else r"log-SNR  $\log(\alpha_t^2/\sigma_t^2)$: noise left, image right"
    )
    ax.set_ylabel("held-out MSE − training MSE")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _value(metrics: Metrics, name: str, step: int) -> float:
    """What was logged at a step, NaN for nothing."""
    if name not in metrics:
        return float("nan")
    at = metrics[name].value[metrics[name].step == step]
    return float(at[-1]) if at.size else float("nan")
