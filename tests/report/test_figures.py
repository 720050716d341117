"""The charts show the numbers of the files and of the schedules, and stay readable as SVG."""

import json
import re
import threading
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from composing import settings
from matplotlib.figure import Figure

from diffusion.config.build import make
from diffusion.process.schedule import linear
from diffusion.report import figures, style
from diffusion.report.style import svg
from diffusion.runs.folder import Curve, read_metrics


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """Label -> (n, 2) plotted points."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()}


@pytest.mark.parametrize("choice", ["cosine", "zero_snr", "edm", "ve"])
@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")  # Matplotlib's and NumPy's
def test_the_lines_of_every_shipped_schedule_fill_their_figure(choice: str) -> None:
    figure = figures.signal(make(settings([f"schedule={choice}"]).schedule, "schedule")).figure
    svg(figure, "signal")
    (ax,) = figure.axes
    for line in ax.get_lines():
        points = np.asarray(line.get_xydata())
        shown = ax.transAxes.inverted().transform(ax.transData.transform(points[np.isfinite(points).all(1)]))[1:, 1]
        assert np.all(np.abs(shown - 0.5) < 0.51)
        middle = shown[len(shown) // 10 : -len(shown) // 10]
        flat = np.ptp(points[:, 1]) == 0
        assert (middle.min() > 0.1) if flat else (np.ptp(middle) > 0.05), "a line along the edge"


def test_signal_and_noise_squared_sum_to_one() -> None:
    drawn = lines(figures.signal(linear(steps=100)).figure)
    signal, noise = drawn[r"signal $\sqrt{\bar\alpha_t}$"], drawn[r"noise $\sqrt{1-\bar\alpha_t}$"]
    np.testing.assert_allclose(signal[:, 1] ** 2 + noise[:, 1] ** 2, 1, rtol=1e-12)
    np.testing.assert_allclose(signal[:, 1] ** 2, np.cumprod([1, *1 - np.linspace(1e-4, 0.02, 100)]), rtol=1e-9)
    other = lines(figures.signal(lambda t: (torch.ones_like(t), 80 * t)).figure)
    assert other[r"noise $\sigma_t$"][-1].tolist() == [1000, 80]


def test_the_mse_figure_shows_the_values_of_metrics_csv(run_folder: Path) -> None:
    figure = figures.mse(read_metrics(run_folder / "metrics.csv")).figure
    drawn = lines(figure)
    assert drawn["validation images"].tolist() == [[100, 0.4], [200, 0.1], [300, 0.05], [400, 0.06]]
    assert drawn["training, raw weights"][:, 1].tolist() == [0.78, 0.18, 0.08, 0.06]
    assert drawn["objective, per batch"][:, 1].tolist() == [1 / step for step in range(50, 401, 50)]
    (gap,) = figure.axes[0].collections
    corners = {tuple(point) for point in gap.get_paths()[0].vertices.tolist()}
    assert {(400.0, 0.06), (400.0, 0.03)} <= corners
    assert {line.get_marker() for line in figure.axes[0].lines} == {"o"}  # few points


def test_only_a_higher_error_on_held_out_images_is_shaded(run_folder: Path) -> None:
    metrics = read_metrics(run_folder / "metrics.csv")
    figure = figures.mse({"val/mse": metrics["fit/mse"], "fit/mse": metrics["val/mse"]}).figure
    (gap,) = figure.axes[0].collections
    assert not gap.get_paths()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["validation images", "training images"]


def test_the_gap_is_drawn_at_the_log_snr_of_its_decile_with_its_interval(run_folder: Path) -> None:
    schedule = linear(steps=1000)
    ax = figures.gap(read_metrics(run_folder / "metrics.csv"), schedule, curves=2).figure.axes[0]
    _, last = ax.containers
    assert [c.get_label() for c in ax.containers] == ["step 100", "step 400"]
    alpha, sigma = schedule(torch.arange(0.05, 1, 0.1, dtype=torch.float64))
    np.testing.assert_allclose(last.lines[0].get_xdata(), 2 * (alpha / sigma).log(), rtol=1e-9)
    np.testing.assert_allclose(last.lines[0].get_ydata(), [0.03] * 10)
    low, high = (cap.get_ydata() for cap in last.lines[1])
    np.testing.assert_allclose((high - low) / 2, [0.003] * 10)


def test_bins_are_in_their_places_even_if_some_have_no_images() -> None:
    series = Curve(np.array([10, 20]), np.array([0.1, 0.2]))
    drawn = lines(figures.bins({f"val/mse_bin{i}": series for i in (0, 1, 9)}).figure)
    np.testing.assert_allclose(drawn["step 10"], [[0.05, 0.1], [0.15, 0.1], [0.95, 0.1]])


def test_an_svg_has_the_pages_colours_and_the_place_of_its_steps(run_folder: Path) -> None:
    metrics = read_metrics(run_folder / "metrics.csv")
    figure = figures.mse(metrics).figure
    texts = [svg(figures.gap(metrics, linear(100)).figure, "by <time>"), svg(figure, "mse")]
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


def test_threads_draw_one_after_the_other_and_leave_matplotlibs_settings_alone():
    before, inside, gone = dict(matplotlib.rcParams), threading.Event(), threading.Event()

    @style.matplotlib_settings(style.STYLE)
    def draw():
        inside.set()
        gone.wait(5)

    with style.matplotlib_settings(style.STYLE):
        (other := threading.Thread(target=draw)).start()
        assert not inside.wait(0.1)
    gone.set()
    other.join()
    assert dict(matplotlib.rcParams) == before
