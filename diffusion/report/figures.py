"""The figures of a run: each function maps data to a matplotlib `Figure`. Figure numbers are those of the memoir."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from diffusion.metric.record import Score
from diffusion.pixels import to_rgb
from diffusion.randomness import Streams, generator_for
from diffusion.report import style
from diffusion.report.formatting import BASELINES, number, value_text
from diffusion.report.images import opened, spread, tiles
from diffusion.report.style import curve, of_step, readable, stepped
from diffusion.runs.metrics import Metrics, Series, bins_of

PEAK = 20  # times the median β_t; a higher peak would dwarf everything else on a linear axis
FAR = 5  # noise relative to signal; with more noise, a linear axis would hide the signal
RAW = (0, (3, 1.5))  # dash pattern for raw weights
POINTS = 1500  # most points of a curve, about the pixel columns of a screen
LISTED = 5  # curves in a legend
FEW = 12  # points that are marked
DRAWS = 20_000  # training times drawn for their density
ERRORS = {
    "val/mse": (style.BLUE, "validation images"),
    "fit/mse": (style.VERMILION, "training images"),
    "val/mse_raw": (style.BLUE, "validation, raw weights"),
    "fit/mse_raw": (style.VERMILION, "training, raw weights"),
}

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`alpha, sigma = schedule(t)` for t (B,) float64 in [0, 1]. A discrete schedule also has an int `steps`."""


@style.styled
def noising(images: Tensor, schedule: Schedule, times: Sequence[int] | None = None, seed: int = 0) -> Figure:
    """Fig. 1: a row per image of `images` (N, C, H, W) uint8, a column per time of `times` in 0 … T.

    x_t = alpha_t x0 + sigma_t ε with x0 in [−1, 1] and one ε per image; x_t is clamped to [−1, 1] for display. By
    default, there are 11 evenly spaced times.
    """
    steps = _steps(schedule)
    times = np.linspace(0, steps, 11).round().astype(int).tolist() if times is None else list(times)
    x0 = images.detach().cpu().double() / 127.5 - 1
    eps = torch.randn(x0.shape, generator=generator_for("figure", "noising", seed), dtype=torch.float64)
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64) / steps)
    x = alpha.view(-1, 1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1, 1) * eps  # (times, N, C, H, W)
    shown = to_rgb(((x.clamp(-1, 1) + 1) * 127.5).round().byte()).permute(1, 0, 3, 4, 2).numpy()
    return style.picture_rows([list(row) for row in shown], [f"{t:,}" for t in times], "$t$ =")


@style.styled
def beta(schedule: Schedule) -> Figure:
    """Fig. 2: β_t = 1 − ᾱ_t / ᾱ_{t−1}, ᾱ_t = alpha_t², at t = 1 … T; on a logarithmic axis if it has a high peak.

    If alpha² + sigma² = 1, β_t is the variance of the noise added by a step. For any other schedule, the log-SNR is
    drawn.
    """
    alpha, _ = _table(schedule)
    if not preserving(schedule):
        return log_snr(schedule)
    figure, ax = _by_time(len(alpha) - 1, r"noise added per step, $\beta_t$")
    values = -torch.expm1(2 * (alpha[1:].log() - alpha[:-1].log()))
    curve(ax, np.arange(1, len(alpha)), values, "variance added", "t =", color=style.BLUE)
    if float(values.max()) > PEAK * float(values.median()):
        _log_axis(ax, float(values.min()), float(values.max()))
    else:
        ax.set_ylim(0, 1.05 * float(values.max()))
    return figure


@style.styled
def log_snr(schedule: Schedule) -> Figure:
    """The log-SNR λ_t = log(alpha_t² / sigma_t²) at t = 1 … T; it is −∞ where alpha = 0."""
    alpha, sigma = _table(schedule)
    figure, ax = _by_time(len(alpha) - 1, r"log-SNR, $\log(\alpha_t^2/\sigma_t^2)$")
    values = 2 * (alpha[1:].log() - sigma[1:].log())
    curve(ax, np.arange(1, len(alpha)), values, "log-SNR", "t =", color=style.BLUE)
    return figure


@style.styled
def signal(schedule: Schedule) -> Figure:
    """Fig. 10: the factors of signal √ᾱ_t = alpha_t and of noise √(1 − ᾱ_t) = sigma_t, at t = 0 … T.

    If alpha² + sigma² is not 1, the memoir's symbols do not apply, and the labels are α_t and σ_t. If sigma grows far
    beyond alpha, the axis is logarithmic.
    """
    alpha, sigma = _table(schedule)
    figure, ax = _by_time(len(alpha) - 1, "factor of $x_0$ and of $\\varepsilon$ in $x_t$")
    names = (r"signal $\alpha_t$", r"noise $\sigma_t$")
    if preserving(schedule):
        names = (r"signal $\sqrt{\bar\alpha_t}$", r"noise $\sqrt{1-\bar\alpha_t}$")
    looks: Any = ({"color": style.BLUE}, {"color": style.VERMILION, "linestyle": "--"})
    for values, name, look in zip((alpha, sigma), names, looks, strict=True):
        curve(ax, np.arange(len(alpha)), values, name.partition(" ")[0], "t =", label=name, **look)
    if float(sigma.max()) > FAR * float(alpha.max()):
        _log_axis(ax, min(float(sigma[1]), float(alpha.min())), float(sigma.max()))
    else:
        ax.set_ylim(0, 1.05 * max(1.0, float(sigma.max())))
    ax.legend(loc="center right" if ax.get_yscale() == "linear" else "lower right")
    return figure


@style.styled
def times(schedule: Schedule, objective: Any, prediction: Any) -> Figure:
    """The density of the times drawn in training and the weight of the loss, by t / T, relative to their maxima.

    The weight is the factor of ‖y − y_θ‖² at t, without the importance weights of the times. (The network's own error
    and a learned weight are not known here.)
    """
    figure, ax = style.axes()
    with torch.no_grad():
        drawn, _ = objective.timesteps(schedule, Streams(list(range(DRAWS))))
        density, edges = np.histogram(drawn.double().numpy(), bins=50, range=(0, 1), density=True)
        middle = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
        curves = {"density of training times": density}
        if hasattr(objective, "weighting") and prediction is not None:
            curves["weight of the loss"] = objective.weighting(schedule, prediction, middle).numpy()
    for (name, values), colour in zip(curves.items(), (style.BLUE, style.VERMILION), strict=False):
        curve(ax, middle, values / np.nanmax(values), name, "t/T =", color=colour, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="time $t/T$", ylabel="relative to the maximum")
    ax.legend(loc="best")
    return figure


@style.styled
def samples_over_training(grids: Sequence[tuple[int, Path]], rows: int = 4, columns: int = 8) -> Figure:
    """Fig. 8: the first `rows` images of each grid, a column per training step, all from the same noise.

    `grids` are (step, PNG file of an `images.grid`) in order. If there are more than `columns`, the first, the last and
    evenly spaced ones in between are shown. A PNG of unknown layout is shown as one image.
    """
    chosen = [grids[i] for i in spread(len(grids), columns)]
    pictures = [tiles(opened(path))[:rows] for _, path in chosen]
    by_row = list(zip(*pictures, strict=False))  # as many rows as the smallest grid has
    return style.picture_rows(by_row, [f"{step:,}" for step, _ in chosen], "step")


@style.styled
def copies(samples: Tensor, nearest: Tensor, ratios: Sequence[float]) -> Figure:
    """Samples, uint8 (k, C, H, W), above their nearest training images, each with the ratio r of the copy audit."""
    rows = [list(to_rgb(images).permute(0, 2, 3, 1).numpy()) for images in (samples, nearest)]
    return style.picture_rows(rows, [f"{ratio:.2f}" for ratio in ratios], "$r$ =")


@style.styled
def trajectory(steps: Tensor, times: Sequence[float], schedule: Schedule) -> Figure:
    """Denoising steps, uint8 (S, N, C, H, W): a row per image, a column per step.

    Below each column are the time t, in 0 … T (from `times` (S,) in [0, 1]), and the noise level σ_t / α_t.
    """
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64))
    levels = (sigma / alpha).tolist()
    texts = [f"{number(t * _steps(schedule))}\n{number(level)}" for t, level in zip(times, levels, strict=True)]
    rows = [list(row) for row in to_rgb(steps).permute(1, 0, 3, 4, 2).numpy()]
    return style.picture_rows(rows, texts, "$t$ =\n$\\sigma_t/\\alpha_t$ =")


@style.styled
def mse(metrics: Metrics, epoch_lengths: Sequence[tuple[int, int]] = ()) -> Figure:
    """Fig. 9: denoising MSE over training, on equally many validation and training images; the gap is shaded.

    Solid lines are for the validated weights; if those are an average, dashed lines are for the raw weights. The
    objective of each training batch is light grey (for the simple loss of ε it is the MSE, otherwise it has its own
    units; where it is not positive, it is left out). With `epoch_lengths`, (step, steps per epoch from that step on), a
    second axis counts epochs.
    """
    figure, ax = style.axes((style.COLUMN[0], 3.3))
    if "train/loss" in metrics and (metrics["train/loss"].value > 0).all():
        look: Any = {"color": style.LIGHT, "linewidth": 0.6, "zorder": 1}
        curve(ax, *_thinned(metrics["train/loss"]), "objective of a batch", label="objective, per batch", **look)
    thick: Any = {"linestyle": "-", "linewidth": 1.7, "markersize": 3, "zorder": 3}
    thin: Any = {"linestyle": RAW, "linewidth": 0.9, "markersize": 2, "zorder": 2}
    for name, (colour, label) in ERRORS.items():
        if name in metrics:
            marker = "o" if len(metrics[name].step) <= FEW else ""
            look = {"color": colour, "label": label, "marker": marker} | (thin if "raw" in name else thick)
            curve(ax, *metrics[name], label, **look)
    if "val/mse" in metrics and "fit/mse" in metrics:
        step, of_val, of_fit = np.intersect1d(metrics["val/mse"].step, metrics["fit/mse"].step, return_indices=True)
        val, fit = metrics["val/mse"].value[of_val], metrics["fit/mse"].value[of_fit]
        ax.fill_between(step, fit, val, color=style.BLUE, alpha=0.15, linewidth=0, label="gap", zorder=1)
    style.log_mse(ax)
    ax.set(xlabel="training step", ylabel=r"denoising MSE,  $\|\varepsilon-\varepsilon_\theta(x_t,t)\|^2/d$")
    ax.set_xlim(left=0)
    style.count_axis(ax)
    stepped(ax)
    if epoch_lengths:
        starts, lengths = np.array(epoch_lengths, dtype=float).T
        steps = np.array([0, *starts[1:], 1e12])  # the first length applies from step 0, the last one without end
        epochs = np.cumsum([0, *np.diff(steps) / lengths])
        functions = (lambda x: np.interp(x, steps, epochs), lambda y: np.interp(y, epochs, steps))
        top = ax.secondary_xaxis("top", functions=functions)
        top.set_xlabel("epoch")
        top.spines["top"].set_visible(True)
        top.xaxis.set_major_formatter(style.THOUSANDS)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@style.styled
def others(metrics: Metrics, names: Sequence[str]) -> Figure:
    """Small charts of other quantities by training step, two in a row."""
    rows = -(-len(names) // 2)
    figure = Figure((style.COLUMN[0], 0.3 + 1.15 * rows), layout="constrained")
    for i, name in enumerate(names):
        ax = figure.add_subplot(rows, 2, i + 1)
        look: Any = {"color": style.BLUE, "linewidth": 1.1, "markersize": 2}
        curve(ax, *_thinned(metrics[name]), name, marker="o" if len(metrics[name].step) <= FEW else "", **look)
        ax.set_title(style.plain(name), fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        ax.xaxis.set_major_formatter(style.THOUSANDS)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
        ax.ticklabel_format(axis="y", useOffset=False)
    return figure


@style.styled
def bins(metrics: Metrics, curves: int = 24) -> Figure:
    """The validation MSE by time: a point per bin of t (tenths of [0, 1]), a curve per validation, early to late.

    If there are more than `curves` validations, the first, the last and log-spaced ones in between are shown.
    """
    figure, ax = style.axes()
    names = bins_of(metrics, "val/mse")
    series, centres = [metrics[name] for name in names], centres_of(names)
    found = _over_training([int(step) for step in series[0].step if all(step in each.step for each in series)], curves)
    named = {found[i][0] for i in spread(len(found), LISTED)}
    for step, colour in found:
        values = [each.at(step) for each in series]
        look: Any = {"color": colour, "marker": "o", "markersize": 2.5, "linewidth": 1.2}
        label = f"step {step:,}" if step in named else None
        of_step(curve(ax, centres, values, f"step {step:,}", "t/T ≈", label=label, **look), step)
    style.log_mse(ax)
    ax.set(xlim=(0, 1), xlabel="time $t/T$", ylabel="denoising MSE")
    ax.legend(loc="best")
    return figure


@style.styled
def gap(metrics: Metrics, schedule: Schedule | None = None, curves: int = 4) -> Figure:
    """The generalisation gap by log-SNR with 95% intervals: held-out minus training MSE, paired, early to late.

    There is a point per tenth of t, at its middle. The curves are for the validated weights; if those are an average, a
    dashed curve shows the last validation of the raw weights. Without a schedule, the axis is t. If there are more than
    `curves` validations, the first, the last and log-spaced ones in between are shown.
    """
    figure, ax = style.axes((style.COLUMN[0], 3.3))
    names = bins_of(metrics, "gap/mse")
    x = centres_of(names)
    if schedule is not None:
        with torch.no_grad():
            alpha, sigma = schedule(torch.as_tensor(x, dtype=torch.float64))
        x = 2 * (alpha.log() - sigma.log()).cpu().numpy()
    ax.axhline(0, color=style.INK, linewidth=0.8)

    def draw(step: int, suffix: str, label: str, **look: Any) -> None:
        """The gap at a step. Bins that were not logged at that step are left out."""
        columns = [(name + suffix, name.replace("mse", "half") + suffix) for name in names]
        mean, half = np.array([[metrics[n].at(step) if n in metrics else np.nan for n in pair] for pair in columns]).T
        there = np.isfinite(mean)
        look |= {"capsize": 2, "elinewidth": 0.8, "markersize": 3, "label": label}
        drawn = ax.errorbar(x[there], mean[there], half[there], **look)
        readable(drawn.lines[0], label, "t/T =" if schedule is None else "log-SNR")

    steps = [int(step) for step in metrics[names[0]].step]
    for step, colour in _over_training(steps, curves):
        draw(step, "", f"step {step:,}", color=colour, marker="o", linewidth=1.3)
    if f"{names[0]}_raw" in metrics:
        draw(steps[-1], "_raw", "last step, raw weights", color=style.VERMILION, linestyle=RAW, linewidth=0.9)
    snr = r"log-SNR  $\log(\alpha_t^2/\sigma_t^2)$ (left: noise, right: image)"
    ax.set(xlabel="time $t/T$" if schedule is None else snr, ylabel="held-out MSE − training MSE")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@style.styled
def scores(rows: Mapping[str, Mapping[str, Score]]) -> Figure:
    """A small chart per metric, with a point and its 95% interval for the samples and for each baseline.

    Args:
        rows: metric -> what was scored -> its score.
    """
    roles = [*dict.fromkeys(what for found in rows.values() for what in found)]
    names = [style.plain(BASELINES.get(role, role)) for role in roles]
    across, down = min(2, len(rows)), -(-len(rows) // 2)
    figure = Figure((style.COLUMN[0], 0.2 + down * (0.55 + 0.16 * len(roles))), layout="constrained")
    for i, (metric, found) in enumerate(rows.items()):
        ax = figure.add_subplot(down, across, i + 1)
        for y, role in enumerate(roles):
            if (score := found.get(role)) is None:  # values that are not finite are left out
                continue
            low, high = score.interval or (score.value, score.value)
            colour = style.GREY if role in BASELINES else style.BLUE
            spans = [[max(0.0, score.value - low)], [max(0.0, high - score.value)]]
            drawn = ax.errorbar([score.value], [y], xerr=spans, fmt="o", color=colour, markersize=4, capsize=2)
            readable(drawn.lines[0], "", texts=[f"{BASELINES.get(role, role)}\n{value_text(score)}"])
        better = {True: " (higher is better)", False: " (lower is better)", None: ""}
        ax.set_title(style.plain(metric) + better[next(iter(found.values())).higher_is_better], fontsize=8)
        ax.set_yticks(range(len(roles)), names if i % across == 0 else [])
        ax.set_ylim(len(roles) - 0.5, -0.5)
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    return figure


def _thinned(series: Series) -> tuple[Any, Any]:
    """The steps and values of at most `POINTS` points of a series."""
    kept = spread(len(series.step), POINTS)
    return series.step[kept], series.value[kept]


def centres_of(names: Sequence[str]) -> Any:
    """The middle of each bin of t, from its name: 0.05 for val/mse_bin0. (Bins are tenths of [0, 1].)"""
    return (np.array([int(name.rpartition("bin")[2]) for name in names]) + 0.5) / 10


def _steps(schedule: Schedule) -> int:
    """T of a discrete schedule; a continuous one is drawn with T = 1000."""
    return int(getattr(schedule, "steps", None) or 1000)


def _table(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """alpha_t, sigma_t at t = 0, 1/T, …, 1: two float64 tensors (T + 1,)."""
    steps = _steps(schedule)
    with torch.no_grad():
        alpha, sigma = schedule(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return alpha.detach().cpu().double(), sigma.detach().cpu().double()


def preserving(schedule: Schedule) -> bool:
    """Whether alpha² + sigma² = 1 at all times."""
    alpha, sigma = _table(schedule)
    return bool(torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-6))


def _by_time(last: int, label: str) -> tuple[Figure, Axes]:
    """A figure whose x axis is the time t, in 0 … T."""
    figure, ax = style.axes()
    ax.set(xlim=(0, last), xlabel="time $t$", ylabel=label)
    style.count_axis(ax)
    return figure, ax


def _log_axis(ax: Axes, low: float, high: float) -> None:
    """Set a logarithmic y axis around low … high, labelled at powers of ten."""
    ax.set(yscale="log", ylim=(low / 2, 2 * high))
    style.plain_numbers(ax.yaxis)


def _over_training(steps: Sequence[int], curves: int) -> list[tuple[int, Any]]:
    """Up to `curves` of `steps`, log-spaced by index, each with its colour."""
    picks = np.unique(np.geomspace(1, len(steps), min(curves, len(steps))).round().astype(int)) - 1
    return list(zip([steps[i] for i in picks], style.sequence(len(picks)), strict=True))
