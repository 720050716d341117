"""The figures of a run: each function draws data and returns the caption. Figure numbers are those of the memoir."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from diffusion.base.pixels import framed, grey, save_png, spread, to_rgb
from diffusion.findings.faults import SHOWN, Judged
from diffusion.findings.numbers import number
from diffusion.metric.faults import WORST
from diffusion.report import style
from diffusion.runs.folder import Metrics, bins_of, validated_weights

FAR = 5  # noise relative to signal; with more noise, a linear axis would hide the signal
SOLID: Any = {"markersize": 3}
RAW: Any = {"markersize": 2, "linestyle": (0, (3, 1.5)), "linewidth": 0.9}  # for raw weights
FEW = 12  # points that are marked
ERRORS = {
    "train/loss": (style.LIGHT, "objective, per batch", SOLID | {"linewidth": 0.6}),
    "val/mse": (style.BLUE, "validation images", SOLID),
    "fit/mse": (style.VERMILION, "training images", SOLID),
    "unused/mse": (style.GREEN, "unused images of the training photographs", SOLID),
    "val/mse_raw": (style.BLUE, "validation, raw weights", RAW),
    "fit/mse_raw": (style.VERMILION, "training, raw weights", RAW),
}
MSE = (
    "Denoising MSE during training, on the frozen validation images and on equally many training images. Shaded where "
    "it is higher on the former: where this gap widens, the network memorizes its images. Dashed: raw weights; grey: "
    "the objective of single batches (in its own units, unless it is the simple loss of ε). The other lines: "
)
SPECTRUM = (
    "The samples beside real images: the energy of their details from coarse to fine, how alike pixels at a distance "
    "are, and the values of their colours."
)

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`alpha, sigma = schedule(t)` for t (B,) float64 in [0, 1]. A discrete schedule also has an int `steps`."""


@style.chart("figures/signal.png")
def signal(figure: Figure, schedule: Schedule) -> str:
    """Fig. 10: the factors of signal √ᾱ_t = alpha_t and of noise √(1 − ᾱ_t) = sigma_t, at t = 0 … T.

    T is the `steps` of a discrete schedule, else 1000. If alpha² + sigma² is not 1, the labels are α_t and σ_t. If
    sigma grows far beyond alpha, the axis is logarithmic.
    """
    steps = int(getattr(schedule, "steps", None) or 1000)
    with torch.no_grad():
        alpha, sigma = (each.double() for each in schedule(torch.arange(steps + 1, dtype=torch.float64) / steps))
    preserving = torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-6)
    names = (r"\sqrt{\bar\alpha_t}", r"\sqrt{1-\bar\alpha_t}") if preserving else (r"\alpha_t", r"\sigma_t")
    ax = figure.add_subplot()
    style.count_axis(ax)
    ax.plot(alpha, label=f"signal ${names[0]}$", color=style.BLUE)
    ax.plot(sigma, label=f"noise ${names[1]}$", color=style.VERMILION, linestyle="--")
    ax.set(xlim=(0, steps), xlabel="time $t$", ylabel="factor of $x_0$ and of $\\varepsilon$ in $x_t$")
    if sigma.max() > FAR * alpha.max():
        style.log_axis(ax)
    else:
        ax.set_ylim(bottom=0)
    ax.legend()
    return "The factors of the image, √ᾱ_t, and of the noise, √(1−ᾱ_t), in x_t."


@style.chart("figures/mse.png", style.TALL)
def mse(figure: Figure, metrics: Metrics) -> str:
    """Fig. 9: denoising MSE over training, on equally many validation and training images; the gap is shaded."""
    ax = figure.add_subplot()
    for name, (colour, label, look) in ERRORS.items():
        if name in metrics:
            marker = "o" if len(metrics[name].step) <= FEW else ""
            ax.plot(*style.thinned(metrics[name]), color=colour, label=label, marker=marker, **look)
    if "val/mse" in metrics and "fit/mse" in metrics:
        val, fit = metrics["val/mse"], metrics["fit/mse"]
        step, of_val, of_fit = np.intersect1d(val.step, fit.step, return_indices=True)
        low, high = fit.value[of_fit], val.value[of_val]
        look = {"color": style.BLUE, "alpha": 0.15, "linewidth": 0, "label": "gap" * any(high > low), "zorder": 1}
        ax.fill_between(step, low, high, high > low, interpolate=True, **look)
    style.log_axis(ax)
    ax.set(xlabel=style.STEPS, ylabel=r"denoising MSE,  $\|\varepsilon-\varepsilon_\theta(x_t,t)\|^2/d$")
    style.count_axis(ax)
    style.legend_below(figure, ax)
    caption = MSE + f"{validated_weights(metrics)}."
    if "val/mse" in metrics:
        step, value = metrics["val/mse"]
        caption += f" The best validation MSE is {number(value.min())}, at step {step[value.argmin()]:,}."
    return caption


@style.chart("figures/others.png")
def others(figure: Figure, metrics: Metrics, names: Sequence[str]) -> str:
    """Small charts of other quantities by training step, two in a row."""
    rows = -(-len(names) // 2)
    figure.set_size_inches(style.COLUMN[0], 0.3 + 1.15 * rows)
    for i, name in enumerate(names):
        ax = figure.add_subplot(rows, 2, i + 1)
        ax.plot(*style.thinned(metrics[name]), color=style.BLUE, linewidth=1.1, label=name)
        ax.set_title(style.plain(name), fontsize=9)
        ax.tick_params(labelsize=7)
        ax.locator_params(axis="y", nbins=3)
        style.count_axis(ax, 3)
    return "The other logged quantities."


@style.chart("figures/bins.png")
def bins(figure: Figure, metrics: Metrics) -> str:
    _by_time(figure, metrics, "val/mse", "denoising MSE")
    return "The validation MSE by time t, in tenths of [0, T], from early to late in training."


@style.chart("figures/regret.png")
def regret(figure: Figure, metrics: Metrics) -> str:
    _by_time(figure, metrics, "regret/mse", r"$\|\varepsilon_\theta-\varepsilon_*\|^2/d$")
    return "The squared difference of the network's estimate of ε from the best one, on validation data, by time t."


def _by_time(figure: Figure, metrics: Metrics, quantity: str, label: str) -> None:
    """A point per tenth of t, a curve for each of at most 24 validations."""
    ax, names = figure.add_subplot(), bins_of(metrics, quantity)
    for step, colour in _over_training(metrics[names[0]].step.tolist(), 24):
        look: Any = {"color": colour, "marker": "o", "markersize": 2.5, "linewidth": 1.2}
        ax.plot(_middles(names), [metrics[name].at(step) for name in names], label=f"step {step:,}", **look)
    style.log_axis(ax)
    ax.set(xlim=(0, 1), xlabel="time $t/T$", ylabel=label)
    ax.legend(handles=[ax.lines[i] for i in spread(len(ax.lines), 5)])


@style.chart("figures/gap.png", style.TALL)
def gap(figure: Figure, metrics: Metrics, schedule: Schedule, curves: int = 4) -> str:
    """The generalisation gap by log-SNR with 95% intervals: held-out minus training MSE, paired, early to late.

    There is a point per tenth of t, at its middle.
    """
    ax, names = figure.add_subplot(), bins_of(metrics, "gap/half")
    with torch.no_grad():
        alpha, sigma = schedule(torch.as_tensor(_middles(names)))
    x = 2 * (alpha.log() - sigma.log()).cpu().numpy()
    ax.axhline(0, color=style.INK, linewidth=0.8)
    for step, colour in _over_training(metrics[names[0]].step.tolist(), curves):
        pairs = [(name.replace("half", "mse"), name) for name in names]
        mean, half = np.array([[metrics[name].at(step) for name in pair] for pair in pairs]).T
        look: Any = {"label": f"step {step:,}", "color": colour, "marker": "o", "linewidth": 1.3, "markersize": 3}
        ax.errorbar(x, mean, half, capsize=2, elinewidth=0.8, **look)
    snr = r"log-SNR  $\log(\alpha_t^2/\sigma_t^2)$ (left: noise, right: image)"
    ax.set(xlabel=snr, ylabel="held-out MSE − training MSE")
    style.legend_below(figure, ax)
    return (
        "MSE on held-out images minus that on training images by noise level, at the same times and noises, with 95% "
        "intervals. Where it rises, the network memorizes; its level also depends on which set is harder."
    )


@style.chart("figures/spectrum.png", (7.2, 2.4))
def spectrum(figure: Figure, images: Tensor, real: Tensor) -> str:
    """Of uint8 images (n, C, H, W) and real ones: spectrum and autocorrelation of the luma, values of the colours."""
    left, middle, right = figure.subplots(1, 3)
    for x, look in ((real, {"color": style.GREY, "label": "real"}), (images, {"color": style.BLUE, "label": "these"})):
        rgb = to_rgb(x).float()
        luma = grey(rgb)[:, 0] - grey(rgb).mean()
        power = torch.fft.fft2(luma).abs().square().mean(dim=0) / luma[0].numel()
        correlation = torch.fft.ifft2(power).real
        down, across = (torch.fft.fftfreq(side) * side for side in luma.shape[1:])
        radius = (down[:, None].square() + across.square()).sqrt().round().long().flatten()
        inside = min(luma.shape[1:]) // 2 + 1
        for ax, each in ((left, power), (middle, correlation / correlation[0, 0])):
            ax.plot((radius.bincount(each.flatten()) / radius.bincount())[:inside], **look)
        for k, line in enumerate(("-", "--", ":") if x.shape[1] > 1 else ("-",)):
            right.plot(torch.histc(rgb[:, k], 32, 0, 255) / rgb[:, k].numel(), linestyle=line, color=look["color"])
    left.set(yscale="log", xlabel="periods in an example", title="spectrum")
    middle.set(xlabel="distance in pixels", title="correlation")
    right.set(xlabel="value / 8 (– red, -- green, ·· blue)", title="colours")
    left.legend()
    return SPECTRUM


@style.chart("figures/measurements.png", (7.2, 2.4))
def measurements(figure: Figure, images: Tensor, real: Tensor, names: Sequence[str]) -> str:
    """Of standardised measurements (n, C, *size) and real ones: the power by radius, and the values of each channel."""
    left, right = figure.subplots(1, 2)
    for c, name in enumerate(names):
        for x, look in ((real, {"color": style.GREY, "linestyle": "--"}), (images, {"color": style.HUES[c % 5]})):
            each = x[:, c].nan_to_num()
            power = torch.fft.fftn(each, dim=[*range(1, each.ndim)]).abs().square().mean(dim=0) / each[0].numel()
            waves = torch.meshgrid(*(torch.fft.fftfreq(side) * side for side in each.shape[1:]), indexing="ij")
            radius = torch.stack(waves).square().sum(dim=0).sqrt().round().long().flatten()
            label = name if x is images else "_"
            mean = radius.bincount(power.flatten().double()) / radius.bincount()
            left.plot(mean[: min(each.shape[1:]) // 2 + 1], label=label, **look)
            known = x[:, c][~x[:, c].isnan()]
            right.plot(torch.linspace(-2, 2, 40), torch.histc(known, 40, -2, 2) / max(1, known.numel()), **look)
    left.set(yscale="log", xlabel="periods per picture", title="spectrum")
    right.set(xlabel="(value − mean)/(2 deviations)", title="values")
    left.legend()
    return "Spectrum and values of samples; dashed: of held-out measurements."


@style.chart("figures/ensembles.png", (7.2, 2.6))
def ensembles(figure: Figure, found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """For each channel the shares of ranks with their intervals; and the spread and the error of each image."""
    left, right = figure.subplots(1, 2)
    for c, (name, each) in enumerate(found.items()):
        places = np.arange(len(each["shares"])) + 0.1 * c
        left.errorbar(places, each["shares"], each["half"], color=style.HUES[c % 5], fmt="o", markersize=3, label=name)
        right.plot(each["spread"], each["error"], "o", color=style.HUES[c % 5], markersize=3, alpha=0.6)
    left.axhline(1 / len(each["shares"]), color=style.LIGHT, linewidth=0.9)
    right.axline((0, 0), slope=1, color=style.LIGHT, linewidth=0.9)
    left.set(xlabel="rank of the real value among the samples", ylabel="share", ylim=(0, None))
    right.set(xlabel="spread of the samples", ylabel="error of their mean")
    left.legend()
    return (
        "Several samples of each held-out condition. Left: the ranks of the real values, all alike (the line) if the "
        "samples are of the right distribution; with 95% intervals over images. More at the ends: they are too alike. "
        "Right: a point for each image."
    )


def draw_judged(found: Judged | None, folder: Path) -> None:
    """Draw the worst faults of judged samples, and their statistics beside real ones, into figures/ of the folder."""
    if found and found.quantities:
        measurements(*found.standardised, found.quantities).save(folder)
    if found and (faults := found.faults[:SHOWN]):
        worst, places = ([each for fault in faults for each in fault[key]] for key in ("worst", "place"))
        save_png(framed(found.samples[worst], WORST, places), folder / "figures/faults.png")
        spectrum(found.samples, found.real).save(folder)


def _middles(names: Sequence[str]) -> np.ndarray:
    """The middle of each bin of t, a tenth of [0, 1], from its name: 0.05 for val/mse_bin0."""
    return (np.array([int(name[-1]) for name in names]) + 0.5) / 10


def _over_training(steps: Sequence[int], curves: int) -> list[tuple[int, Any]]:
    """Up to `curves` of `steps`, log-spaced by index, each with a colour from early (light) to late (dark)."""
    picks = np.unique(np.geomspace(1, len(steps), min(curves, len(steps))).round().astype(int)) - 1
    colours = colormaps["viridis_r"](np.linspace(0.12, 0.68, len(picks)))  # readable on white and on black
    return list(zip([steps[i] for i in picks], colours, strict=True))
