"""Pictures of every choice of some groups, for the site, drawn from the choices themselves: new ones are there, too.

`page` makes them. A choice that cannot be drawn alone is listed with the reason.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import diffusion
from diffusion.base.pixels import grid, to_uint8, to_unit
from diffusion.config.build import make
from diffusion.config.choices import choice, files
from diffusion.errors import UserError
from diffusion.process.mixture import Exact, moons
from diffusion.process.sampler import Sampler
from diffusion.process.timesteps import Quantile
from diffusion.randomness import Streams
from diffusion.report import style
from diffusion.report.images import address

SIZE = (2.3, 1.9)  # inches
SCALES = (1.0, 1.5, 2.0, 3.0)
TIMES = torch.linspace(0, 1, 202, dtype=torch.float64)[1:-1]


def built(group: str, name: str, **settings: Any) -> Any:
    """A choice with its own settings, but these."""
    return make(choice(group, name, **settings), group)


def usual() -> Any:
    """The schedule on which all other groups are drawn: a table, as some choices need one."""
    return built("schedule", "cosine")


def schedule(ax: Axes, name: str) -> None:
    """The log-SNR over t; grey: that of cosine."""
    for each, colour in ((usual(), style.LIGHT), (built("schedule", name), style.BLUE)):
        ax.plot(TIMES, each.log_snr(TIMES), color=colour)
    ax.set(xlabel="t", ylabel="log-SNR", ylim=(-16, 16))


def weighting(ax: Axes, name: str) -> None:
    """The weight of the squared error of ε over the noise level."""
    weight, eps = built("weighting", name), built("prediction", "eps")
    ax.loglog(usual().level(TIMES), weight(usual(), eps, TIMES), color=style.BLUE)
    ax.set(xlabel="σ/α", ylabel="weight", xlim=(0.02, 50))
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.1), max(high, 10))


def timesteps(ax: Axes, name: str) -> None:
    """The density of the times."""
    made = built("timesteps", name)
    if not isinstance(made, Quantile):
        raise UserError("it follows the losses of a run")
    u = (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000
    density = torch.histc(made.quantile(usual(), u), 50, 0, 1) / 1000
    ax.stairs(density.tolist(), torch.linspace(0, 1, 51).tolist(), color=style.BLUE)
    ax.set(xlabel="t", ylabel="density", ylim=(0, None))


def grids(ax: Axes, name: str) -> None:
    """The times of ten steps and their noise levels; the last, 0, has none."""
    t = built("grid", name)(usual(), 10)[:-1]
    ax.semilogy(TIMES, usual().level(TIMES), color=style.LIGHT)
    ax.semilogy(t, usual().level(t).clamp(max=1000), "o", color=style.BLUE, markersize=3.5)
    ax.set(xlabel="t", ylabel="σ/α", ylim=(1e-3, 2000))


def lr_scheduler(ax: Axes, name: str) -> None:
    """The factor of the learning rate over a run of 5000 steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = built("lr_scheduler", name)(optimizer, total_steps=5000), list[float]()
    for _ in range(5000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ax.plot(range(0, 5000, 20), rates[::20], color=style.BLUE)
    ax.set(xlabel="step", ylabel="factor", ylim=(0, 1.05))


def sampler(ax: Axes, name: str) -> None:
    """Six paths of eight steps, each from the same noise, by the exact denoiser of two moons."""
    made: Sampler = built("sampler", name, steps=8)
    streams, mixture = Streams(range(6)), moons()
    x = 1.6 * torch.stack([torch.arange(6).mul(math.tau / 6).cos(), torch.arange(6).mul(math.tau / 6).sin()], 1)
    path = [x.view(6, 2, 1, 1).double()]
    path.append(made(Exact(mixture, usual()), path[0], streams, watch=lambda k, x, _: path.append(x)))
    ax.plot(*mixture.means[::16].T, ".", color=style.LIGHT, markersize=3)
    for line in torch.stack(path)[..., 0, 0].unbind(1):
        ax.plot(*line.T, "-", marker="o", markersize=1.8, linewidth=0.8, color=style.BLUE)
    ax.set(xlim=(-1.9, 1.9), ylim=(-1.6, 1.6), xticks=[], yticks=[])


def photograph() -> Tensor:
    """A bundled photograph, (1, 3, 64, 64) in [−1, 1]."""
    images = built("data", "landscapes +seed=0", resolution=64)
    images.setup()
    return to_unit(images.splits["val"].images[:1])


def operator(name: str) -> Tensor:
    """What an operator makes of a photograph."""
    return built("operator", name)(photograph())


def augmentation(name: str) -> Tensor:
    """The same photograph six times."""
    x, node = photograph().expand(6, -1, -1, -1), choice("augmentation", name)
    return make(node, "augmentation")(x, Streams(range(6)))[0] if node else x


def guidance(name: str) -> list[Tensor]:
    """Samples of the bundled model from the same noise, by scale, uint8."""
    words = [f"{name} guidance.scale={scale}" for scale in SCALES]
    return [diffusion.load("demo", device="cpu").sample(6, guidance=each, progress=False) for each in words]


CURVES: dict[str, Callable[[Axes, str], None]] = {
    "schedule": schedule, "weighting": weighting, "timesteps": timesteps, "grid": grids,
    "lr_scheduler": lr_scheduler, "sampler": sampler,
}  # fmt: skip
IMAGES: dict[str, Callable[[str], Tensor]] = {"operator": operator, "augmentation": augmentation}
SLIDERS: dict[str, Callable[[str], list[Tensor]]] = {"guidance": guidance}
GROUPS = {**CURVES, **IMAGES, **SLIDERS}


@style.matplotlib_settings(style.STYLE)
def curve(group: str, name: str) -> str:
    """A choice as SVG, in the colours of the page."""
    figure = Figure(SIZE, layout="constrained")
    CURVES[group](figure.add_subplot(), name)
    return style.svg(figure, f"{group}={name}").replace("\n", " ")


def image(images: Tensor, words: str) -> str:
    """Images as an element with the picture inside."""
    pixels = images if images.dtype == torch.uint8 else to_uint8(images)
    return f'<img src="{address(grid(pixels, min(3, len(pixels))))}" alt="{words}">'


def slider(group: str, name: str) -> str:
    """Images by scale, of which a slider shows one."""
    each = [image(x, f"{group}={name}, scale {s:g}") for x, s in zip(SLIDERS[group](name), SCALES, strict=True)]
    hidden = [part.replace("<img", "<img hidden") for part in each[1:]]
    js = "let all = [...this.closest('figure').querySelectorAll('img')]; all.forEach((e, i) => e.hidden = i != value); "
    js += "nextElementSibling.value = all[value].alt.split(' ').pop()"
    ends = f'min="0" max="{len(SCALES) - 1}" value="0"'
    field = f'<label>scale <input type="range" {ends} oninput="{js}"><output>{SCALES[0]:g}</output></label>'
    return "".join([*each[:1], *hidden, field])


def pictures(group: str) -> dict[str, str | UserError]:
    """Each choice of a group -> its picture, as HTML, or why it has none."""
    found: dict[str, str | UserError] = {}
    for name in files(group):
        try:
            if group in CURVES:
                found[name] = curve(group, name)
            else:
                found[name] = slider(group, name) if group in SLIDERS else image(IMAGES[group](name), f"{group}={name}")
        except UserError as error:
            found[name] = error
    return found


def page(groups: Iterable[str] = GROUPS) -> str:
    """The page of these groups, as Markdown."""
    text = (
        "# Pictures of every choice\n\nEach is drawn from the choice itself, with its own settings. Where a schedule "
    )
    text += "is needed and nothing else is said, it is `cosine`.\n"
    for group in groups:
        text += f"\n## {group}\n\n{GROUPS[group].__doc__} [All settings](reference/{group}.md)\n\n"
        text += '<div class="choices">\n'
        drawn = pictures(group)
        for name, picture in drawn.items():
            if isinstance(picture, str):
                link = f'<a href="reference/{group}.html#{name}"><code>{name}</code></a>'
                text += f'<figure id="{group}-{name}">{picture}<figcaption>{link}</figcaption></figure>\n'
        text += "</div>\n\n"
        for name, reason in drawn.items():
            if isinstance(reason, UserError):
                text += f"- `{name}` has no picture: {str(reason).replace('<', '&lt;')}\n"
    return text
