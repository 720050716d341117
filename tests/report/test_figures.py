"""The charts show the numbers of the files and of the schedules, and stay readable as SVG."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from composing import settings
from matplotlib.figure import Figure
from PIL import Image

from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.pixels import grid, save_png
from diffusion.process.schedule import cosine, linear
from diffusion.report import figures, style
from diffusion.report.style import svg
from diffusion.runs.folder import Series, read_metrics


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """Label -> (n, 2) plotted points."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()}


def random_images(n: int, size: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def pictures(figure: Figure, rows: int, columns: int, size: int) -> np.ndarray:
    """The images of a figure, (rows, columns, size, size, 3), after a check that a pixel is a whole number of dots."""
    ((canvas,),) = (ax.get_images() for ax in figure.axes)
    shown = np.asarray(canvas.get_array())
    assert shown.shape == (rows * (size + 1), columns * (size + 1), 3)
    scale = figure.axes[0].get_position().width * figure.get_figwidth() * style.DPI / shown.shape[1]
    assert scale == pytest.approx(round(scale))
    return shown.reshape(rows, size + 1, columns, size + 1, 3).swapaxes(1, 2)[:, :, :size, :size]


def test_the_beta_figure_shows_the_schedules_betas() -> None:
    (drawn,) = lines(figures.beta(linear(steps=1000, first=1e-4, last=0.02))).values()
    assert np.array_equal(drawn[:, 0], np.arange(1, 1001))
    np.testing.assert_allclose(drawn[:, 1], np.linspace(1e-4, 0.02, 1000), rtol=1e-6)
    u = np.arange(1001) / 1000
    bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    (drawn,) = lines(figures.beta(cosine(1000))).values()
    np.testing.assert_allclose(drawn[:, 1], np.minimum(1 - bar[1:] / bar[:-1], 0.999), rtol=1e-6)


WITHOUT_BETA = {"edm", "ve"}


@pytest.mark.parametrize("choice", ["cosine", "zero_snr", *sorted(WITHOUT_BETA)])
@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")  # Matplotlib's and NumPy's
def test_the_lines_of_every_shipped_schedule_fill_their_figures(choice: str) -> None:
    schedule = make(settings([f"schedule={choice}"]).schedule, "schedule")
    drawn = {name: getattr(figures, name)(schedule) for name in ("beta", "signal")}
    for name, figure in drawn.items():
        svg(figure, name)
        (ax,) = figure.axes
        for line in ax.get_lines():
            points = np.asarray(line.get_xydata())
            shown = ax.transAxes.inverted().transform(ax.transData.transform(points[np.isfinite(points).all(1)]))[1:, 1]
            assert np.all(np.abs(shown - 0.5) < 0.51)
            middle = shown[len(shown) // 10 : -len(shown) // 10]
            flat = np.ptp(points[:, 1]) == 0
            assert (middle.min() > 0.1) if flat else (np.ptp(middle) > 0.05), f"{name}: a line along the edge"
    (line,) = lines(drawn["beta"]).values()
    alpha, sigma = schedule(torch.tensor([0.5], dtype=torch.float64))
    if choice in WITHOUT_BETA:
        assert line[499].tolist() == pytest.approx([500, float(2 * (alpha / sigma).log())])
    assert ("log-SNR" in drawn["beta"].axes[0].get_ylabel()) == (choice in WITHOUT_BETA)


def test_signal_and_noise_squared_sum_to_one() -> None:
    drawn = lines(figures.signal(linear(steps=100)))
    signal, noise = drawn[r"signal $\sqrt{\bar\alpha_t}$"], drawn[r"noise $\sqrt{1-\bar\alpha_t}$"]
    np.testing.assert_allclose(signal[:, 1] ** 2 + noise[:, 1] ** 2, 1, rtol=1e-12)
    np.testing.assert_allclose(signal[:, 1] ** 2, np.cumprod([1, *1 - np.linspace(1e-4, 0.02, 100)]), rtol=1e-9)
    other = lines(figures.signal(lambda t: (torch.ones_like(t), 80 * t)))
    assert other[r"noise $\sigma_t$"][-1].tolist() == [1000, 80]


def test_noising_follows_the_forward_process_with_one_noise() -> None:
    images, schedule = random_images(2, size=16), linear(steps=100)
    figure = figures.noising(images, schedule, times=[0, 40, 100])
    assert [text.get_text() for text in figure.texts] == ["0", "40", "100", "$t$ ="]
    shown = pictures(figure, rows=2, columns=3, size=16)
    assert (shown[:, 0] == images.permute(0, 2, 3, 1).numpy()).all()  # alpha_0 = 1, sigma_0 = 0
    # the noise computed from t = 100 predicts t = 40 where neither was clamped
    alpha, sigma = (table.numpy() for table in schedule(torch.tensor([0.4, 1.0], dtype=torch.float64)))
    x0, x40, x100 = (shown[:, i] / 127.5 - 1 for i in range(3))
    predicted = alpha[0] * x0 + sigma[0] * (x100 - alpha[1] * x0) / sigma[1]
    kept = (np.abs(x100) < 0.99) & (np.abs(x40) < 0.99)
    assert kept.mean() > 0.2
    np.testing.assert_allclose(predicted[kept], x40[kept], atol=0.02)


def test_samples_over_training_shows_the_first_images_of_the_grids(tmp_path: Path) -> None:
    steps = range(100, 1300, 100)
    sets = {step: random_images(4 + step // 100) for step in steps}
    grids = [(step, save_png(grid(sets[step]), tmp_path / f"step-{step:08d}.png")) for step in steps]
    figure = figures.samples_over_training(grids, rows=3, columns=4)
    assert [text.get_text() for text in figure.texts] == ["100", "500", "800", "1,200", "step"]
    shown = pictures(figure, rows=3, columns=4, size=8)
    for column, step in enumerate((100, 500, 800, 1200)):
        assert (shown[:, column] == sets[step][:3].permute(0, 2, 3, 1).numpy()).all()
    (tmp_path / "step-00000001.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"step-00000001\.png"):
        figures.samples_over_training([(1, tmp_path / "step-00000001.png")])


def test_the_mse_figure_shows_the_values_of_metrics_csv(run_folder: Path) -> None:
    figure = figures.mse(read_metrics(run_folder / "metrics.csv"), 80)
    drawn = lines(figure)
    assert drawn["validation images"].tolist() == [[100, 0.4], [200, 0.1], [300, 0.05], [400, 0.06]]
    assert drawn["training, raw weights"][:, 1].tolist() == [0.78, 0.18, 0.08, 0.06]
    assert drawn["objective, per batch"][:, 1].tolist() == [1 / step for step in range(50, 401, 50)]
    (gap,) = figure.axes[0].collections
    corners = {tuple(point) for point in gap.get_paths()[0].vertices.tolist()}
    assert {(400.0, 0.06), (400.0, 0.03)} <= corners
    figure.axes[0].set_xlim(0, 380)
    svg(figure, "mse")
    assert figure.axes[0].child_axes[0].get_xlim() == pytest.approx((0, 380 / 80))  # epochs


def test_bins_are_in_their_places_even_if_some_have_no_images() -> None:
    series = Series(np.array([10, 20]), np.array([0.1, 0.2]))
    drawn = lines(figures.bins({f"val/mse_bin{i}": series for i in (0, 1, 9)}))
    np.testing.assert_allclose(drawn["step 10"], [[0.05, 0.1], [0.15, 0.1], [0.95, 0.1]])


def test_the_gap_is_drawn_at_the_log_snr_of_its_decile_with_its_interval(run_folder: Path) -> None:
    schedule = linear(steps=1000)
    ax = figures.gap(read_metrics(run_folder / "metrics.csv"), schedule, curves=2).axes[0]
    _, last, _ = ax.containers
    assert [c.get_label() for c in ax.containers] == ["step 100", "step 400", "last step, raw weights"]
    alpha, sigma = schedule(torch.arange(0.05, 1, 0.1, dtype=torch.float64))
    np.testing.assert_allclose(last.lines[0].get_xdata(), 2 * (alpha / sigma).log(), rtol=1e-9)
    np.testing.assert_allclose(last.lines[0].get_ydata(), [0.03] * 10)
    low, high = (cap.get_ydata() for cap in last.lines[1])
    np.testing.assert_allclose((high - low) / 2, [0.003] * 10)


def test_an_svg_has_the_pages_colours_and_the_place_of_its_steps(run_folder: Path) -> None:
    metrics = read_metrics(run_folder / "metrics.csv")
    figure = figures.mse(metrics)
    texts = [svg(figures.bins(metrics), "by <time>"), svg(figure, "mse")]
    definitions = [dict(re.findall(r'<(?:path|clipPath) id="([^"]+)"(.*?)>', text, re.S)) for text in texts]
    assert all(definitions[1].get(name, text) == text for name, text in definitions[0].items())
    for text, own in zip(texts, definitions, strict=True):
        assert {"".join(pair) for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)} <= own.keys()
        assert "var(--ink)" in text
        assert not re.search("#222222|#ffffff", text, re.I)
    assert 'aria-label="by &lt;time&gt;"' in texts[0]
    assert "data-rule" not in texts[0]
    zero, step, top, bottom = json.loads(re.search(r'data-rule="([^"]*)"', texts[1])[1])
    x, y = figure.axes[0].transData.transform((400, 0.1)) * 72 / figure.dpi
    assert x == pytest.approx(zero + 400 * step, abs=0.1)
    assert top < 72 * figure.get_figheight() - y < bottom
    cx, cy, value = re.search(r'cx="(\S*)" cy="(\S*)" r="4"><title>validation images: (\S*) at 400<', texts[1]).groups()
    place = figure.axes[0].transData.transform((400, float(value))) * 72 / figure.dpi
    assert (float(cx), 72 * figure.get_figheight() - float(cy)) == pytest.approx(place, abs=0.1)


def test_drawing_does_not_change_matplotlibs_settings_or_depend_on_them(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context(style.STYLE):
        figures.signal(linear(steps=10)).savefig(tmp_path / "within.png", dpi=style.DPI)
    style.save(figures.signal(linear(steps=10)), tmp_path / "after.png")
    assert dict(matplotlib.rcParams) == before
    within, after = (np.asarray(Image.open(tmp_path / name)) for name in ("within.png", "after.png"))
    assert np.array_equal(within, after)
