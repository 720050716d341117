"""The figures of a run: each function maps data to a matplotlib `Figure`. Figure numbers are those of the memoir."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from diffusion.pixels import arranged, opened, tiles, to_rgb
from diffusion.randomness import generator_for
from diffusion.report import style
from diffusion.report.style import DPI, spread
from diffusion.runs.folder import Metrics, Series, bins_of

PEAK = 20  # times the median β_t; a higher peak would dwarf everything else on a linear axis
FAR = 5  # noise relative to signal; with more noise, a linear axis would hide the signal
RAW: Any = {"linestyle": (0, (3, 1.5)), "linewidth": 0.9}  # for raw weights
POINTS = 1500  # most points of a curve, about the pixel columns of a screen
FEW = 12  # points that are marked
ERRORS = {
    "val/mse": (style.BLUE, "validation images"),
    "fit/mse": (style.VERMILION, "training images"),
    "val/mse_raw": (style.BLUE, "validation, raw weights"),
    "fit/mse_raw": (style.VERMILION, "training, raw weights"),
}

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`alpha, sigma = schedule(t)` for t (B,) float64 in [0, 1]. A discrete schedule also has an int `steps`."""


@style.styled
def picture_rows(pictures: np.ndarray, columns: Sequence[str], label: str) -> Figure:
    """Rows of pictures, uint8 (R, C, H, W, 3), with a text under each column and `label` left of the texts.

    A pixel is a whole number of dots wide, so that the saved figure contains the exact values of the pictures.
    """
    padded = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    n, width = padded.shape[1], padded.shape[3]
    canvas = arranged(padded.reshape(-1, *padded.shape[2:]), n)
    scale = max(1, round(style.TEXT_WIDTH * DPI / (width * max(6, n))))  # few columns are not enlarged further
    left, foot = 70, 50  # dots
    across, down = left + scale * canvas.shape[1], foot + scale * canvas.shape[0]
    figure = Figure(figsize=(across / DPI, down / DPI))
    ax = figure.add_axes((left / across, foot / down, 1 - left / across, 1 - foot / down))
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    for j, text in enumerate(columns):
        x = (left + (j + 0.5) * scale * width) / across
        figure.text(x, foot / 2 / down, text, ha="center", va="center", fontsize=9)
    figure.text(4 / across, foot / 2 / down, label, va="center", fontsize=9)
    return figure


def noising(images: Tensor, schedule: Schedule, times: Sequence[int] | None = None, seed: int = 0) -> Figure:
    """Fig. 1: x_t = alpha_t x0 + sigma_t ε with one ε per image, for uint8 `images` (N, C, H, W) and `times` in 0 … T.

    x_t is clamped to [−1, 1]. By default, there are 11 evenly spaced times.
    """
    steps = _steps(schedule)
    times = np.linspace(0, steps, 11).round().astype(int).tolist() if times is None else list(times)
    x0 = images.detach().cpu().double() / 127.5 - 1
    eps = torch.randn(x0.shape, generator=generator_for("figure", "noising", seed), dtype=torch.float64)
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64) / steps)
    x = alpha.view(-1, 1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1, 1) * eps  # (times, N, C, H, W)
    shown = to_rgb(((x.clamp(-1, 1) + 1) * 127.5).round().byte()).permute(1, 0, 3, 4, 2).numpy()
    return picture_rows(shown, [f"{t:,}" for t in times], "$t$ =")


def samples_over_training(grids: Sequence[tuple[int, Path]], rows: int = 4, columns: int = 8) -> Figure:
    """Fig. 8: the first `rows` images of at most `columns` of the grids (step, file), all from the same noise."""
    chosen = [grids[i] for i in spread(len(grids), columns)]
    pictures = [tiles(opened(path))[:rows] for _, path in chosen]
    by_row = np.stack([*zip(*pictures, strict=False)])  # as many rows as the smallest grid has
    return picture_rows(by_row, [f"{step:,}" for step, _ in chosen], "step")


def copies(samples: Tensor, nearest: Tensor, ratios: Sequence[float]) -> Figure:
    """Samples, uint8 (k, C, H, W), above their nearest training images, each with the ratio r of the copy audit."""
    rows = to_rgb(torch.stack([samples, nearest])).permute(0, 1, 3, 4, 2).numpy()
    return picture_rows(rows, [f"{ratio:.2f}" for ratio in ratios], "$r$ =")


def beta(schedule: Schedule) -> Figure:
    """Fig. 2: the added variance β_t = 1 − ᾱ_t / ᾱ_{t−1}, ᾱ_t = alpha_t², at t = 1 … T. If alpha² + sigma² is not 1,
    the log-SNR log(alpha_t² / sigma_t²)."""
    alpha, sigma, preserving = _table(schedule)
    if not preserving:
        return _by_time({"": 2 * (alpha / sigma).log()[1:]}, r"log-SNR, $\log(\alpha_t^2/\sigma_t^2)$", first=1)
    added = -torch.expm1(2 * alpha.log().diff())
    return _by_time({"": added}, r"noise added per step, $\beta_t$", bool(added.max() > PEAK * added.median()), 1)


def signal(schedule: Schedule) -> Figure:
    """Fig. 10: the factors of signal √ᾱ_t = alpha_t and of noise √(1 − ᾱ_t) = sigma_t, at t = 0 … T.

    If alpha² + sigma² is not 1, the labels are α_t and σ_t. If sigma grows far beyond alpha, the axis is logarithmic.
    """
    alpha, sigma, preserving = _table(schedule)
    names = (r"\sqrt{\bar\alpha_t}", r"\sqrt{1-\bar\alpha_t}") if preserving else (r"\alpha_t", r"\sigma_t")
    curves = {f"signal ${names[0]}$": alpha, f"noise ${names[1]}$": sigma}
    far = bool(sigma.max() > FAR * alpha.max())
    return _by_time(curves, "factor of $x_0$ and of $\\varepsilon$ in $x_t$", far)


@style.styled
def mse(metrics: Metrics, per_epoch: int | None = None) -> Figure:
    """Fig. 9: denoising MSE over training, on equally many validation and training images; the gap is shaded.

    With the number of steps `per_epoch`, a second axis counts epochs.
    """
    figure, ax = style.axes(style.TALL)
    if "train/loss" in metrics:
        ax.plot(*_thinned(metrics["train/loss"]), color=style.LIGHT, linewidth=0.6, label="objective, per batch")
    for name, (colour, label) in ERRORS.items():
        if name in metrics:
            look = RAW | {"markersize": 2} if "raw" in name else {"markersize": 3}
            marker = "o" if len(metrics[name].step) <= FEW else ""
            ax.plot(*metrics[name], color=colour, label=label, marker=marker, **look)
    if "val/mse" in metrics and "fit/mse" in metrics:
        val, fit = metrics["val/mse"], metrics["fit/mse"]
        step, of_val, of_fit = np.intersect1d(val.step, fit.step, return_indices=True)
        ends = fit.value[of_fit], val.value[of_val]
        ax.fill_between(step, *ends, color=style.BLUE, alpha=0.15, linewidth=0, label="gap", zorder=1)
    style.log_axis(ax)
    ax.set(xlabel=style.STEPS, ylabel=r"denoising MSE,  $\|\varepsilon-\varepsilon_\theta(x_t,t)\|^2/d$")
    style.count_axis(ax)
    if per_epoch:
        functions: Any = (lambda step: step / per_epoch, lambda epoch: epoch * per_epoch)
        ax.secondary_xaxis("top", functions=functions).set_xlabel("epoch")
    style.legend_below(figure, ax)
    return figure


@style.styled
def others(metrics: Metrics, names: Sequence[str]) -> Figure:
    """Small charts of other quantities by training step, two in a row."""
    rows = -(-len(names) // 2)
    figure = Figure((style.COLUMN[0], 0.3 + 1.15 * rows), layout="constrained")
    for i, name in enumerate(names):
        ax = figure.add_subplot(rows, 2, i + 1)
        ax.plot(*_thinned(metrics[name]), color=style.BLUE, linewidth=1.1, label=name)
        ax.set_title(style.plain(name), fontsize=9)
        ax.tick_params(labelsize=7)
        ax.locator_params(axis="y", nbins=3)
        style.count_axis(ax, 3)
    return figure


@style.styled
def bins(metrics: Metrics, curves: int = 24) -> Figure:
    """The validation MSE by time: a point per tenth of t, a curve for each of at most `curves` validations."""
    figure, ax = style.axes()
    names = bins_of(metrics, "val/mse")
    steps = sorted(set.intersection(*({*metrics[name].step.tolist()} for name in names)))
    for step, colour in _over_training(steps, curves):
        look: Any = {"color": colour, "marker": "o", "markersize": 2.5, "linewidth": 1.2, "gid": f"step-{step}"}
        ax.plot(_centres(names), [metrics[name].at(step) for name in names], label=f"step {step:,}", **look)
    style.log_axis(ax)
    ax.set(xlim=(0, 1), xlabel="time $t/T$", ylabel="denoising MSE")
    ax.legend(handles=[ax.lines[i] for i in spread(len(ax.lines), 5)])
    return figure


@style.styled
def gap(metrics: Metrics, schedule: Schedule, curves: int = 4) -> Figure:
    """The generalisation gap by log-SNR with 95% intervals: held-out minus training MSE, paired, early to late.

    There is a point per tenth of t, at its middle. A dashed curve shows the last validation of the raw weights.
    """
    figure, ax = style.axes(style.TALL)
    names = bins_of(metrics, "gap/mse")
    with torch.no_grad():
        alpha, sigma = schedule(torch.as_tensor(_centres(names), dtype=torch.float64))
    x = 2 * (alpha.log() - sigma.log()).cpu().numpy()
    ax.axhline(0, color=style.INK, linewidth=0.8)
    steps = metrics[names[0]].step.tolist()
    drawn = [(step, "", {"label": f"step {step:,}", "color": colour, "marker": "o", "linewidth": 1.3})
             for step, colour in _over_training(steps, curves)]  # fmt: skip
    if f"{names[0]}_raw" in metrics:
        drawn.append((steps[-1], "_raw", RAW | {"label": "last step, raw weights", "color": style.VERMILION}))
    for step, suffix, look in drawn:
        pairs = [(name + suffix, name.replace("mse", "half") + suffix) for name in names]
        mean, half = np.array([[metrics[n].at(step) if n in metrics else np.nan for n in pair] for pair in pairs]).T
        there = np.isfinite(mean)
        ax.errorbar(x[there], mean[there], half[there], capsize=2, elinewidth=0.8, markersize=3, **look)
    snr = r"log-SNR  $\log(\alpha_t^2/\sigma_t^2)$ (left: noise, right: image)"
    ax.set(xlabel=snr, ylabel="held-out MSE − training MSE")
    style.legend_below(figure, ax)
    return figure


def _thinned(series: Series) -> tuple[Any, Any]:
    """The steps and values of at most `POINTS` points of a series."""
    kept = spread(len(series.step), POINTS)
    return series.step[kept], series.value[kept]


def _centres(names: Sequence[str]) -> Any:
    """The middle of each bin of t, from its name: 0.05 for val/mse_bin0. (Bins are tenths of [0, 1].)"""
    return (np.array([int(name.rpartition("bin")[2]) for name in names]) + 0.5) / 10


def _steps(schedule: Schedule) -> int:
    """T of a discrete schedule; a continuous one is drawn with T = 1000."""
    return int(getattr(schedule, "steps", None) or 1000)


def _table(schedule: Schedule) -> tuple[Tensor, Tensor, bool]:
    """alpha_t, sigma_t at t = 0, 1/T, …, 1: two float64 tensors (T + 1,); whether alpha² + sigma² = 1."""
    steps = _steps(schedule)
    with torch.no_grad():
        alpha, sigma = (each.double() for each in schedule(torch.arange(steps + 1, dtype=torch.float64) / steps))
    return alpha, sigma, torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-6)


@style.styled
def _by_time(curves: dict[str, Tensor], label: str, far: bool = False, first: int = 0) -> Figure:
    """Curves over the time t = `first` … T; on a logarithmic axis if their values lie `far` from each other."""
    figure, ax = style.axes()
    style.count_axis(ax)
    for (name, values), colour, line in zip(curves.items(), (style.BLUE, style.VERMILION), ("-", "--"), strict=False):
        ax.plot(range(first, first + len(values)), values, label=name, color=colour, linestyle=line)
    ax.set(xlim=(0, first + len(values) - 1), xlabel="time $t$", ylabel=label)
    if far:
        style.log_axis(ax)
    elif float(values.min()) >= 0:
        ax.set_ylim(bottom=0)
    if len(curves) > 1:
        ax.legend(loc="lower right" if far else "center right")
    return figure


def _over_training(steps: Sequence[int], curves: int) -> list[tuple[int, Any]]:
    """Up to `curves` of `steps`, log-spaced by index, each with a colour from early (light) to late (dark)."""
    picks = np.unique(np.geomspace(1, len(steps), min(curves, len(steps))).round().astype(int)) - 1
    colours = colormaps["viridis_r"](np.linspace(0.68, 0.12, len(picks))[::-1])  # readable on white and on black
    return list(zip([steps[i] for i in picks], colours, strict=True))
