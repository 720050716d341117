from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from composing import settings
from matplotlib.figure import Figure
from PIL import Image

from diffusion.config.build import make
from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.process.schedule import cosine, linear
from diffusion.report import figures, style
from diffusion.report.images import grid, save_png
from diffusion.runs.metrics import Series, read_metrics


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """Label -> (n, 2) plotted points."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()}


def random_images(n: int, size: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def pictures(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """The square images of a figure, (rows, columns, H, W, 3), in dots of the figure."""
    ((canvas,),) = (ax.get_images() for ax in figure.axes)
    dots = np.asarray(canvas.get_array())
    left, gap, foot = 70, 6, 50
    width, height = (dots.shape[1] - left + gap) // columns, (dots.shape[0] - foot + gap) // rows
    assert width == height
    tops, lefts = np.arange(rows) * height, left + np.arange(columns) * width
    assert (np.delete(dots[: rows * height - gap], np.add.outer(tops, np.arange(height - gap)).ravel(), 0) == 255).all()
    side = width - gap
    return np.stack([[dots[y : y + side, x : x + side] for x in lefts] for y in tops])


def unscaled(shown: np.ndarray, size: int) -> np.ndarray:
    """Images (…, H, W, 3) with one dot per pixel, after a check that all dots of a pixel are equal."""
    scale = shown.shape[-2] // size
    small = shown[..., ::scale, ::scale, :]
    assert (small.repeat(scale, axis=-3).repeat(scale, axis=-2) == shown).all()
    return small


def test_the_beta_figure_shows_the_schedules_betas() -> None:
    (drawn,) = lines(figures.beta(linear(steps=1000, first=1e-4, last=0.02))).values()
    assert np.array_equal(drawn[:, 0], np.arange(1, 1001))
    np.testing.assert_allclose(drawn[:, 1], np.linspace(1e-4, 0.02, 1000), rtol=1e-6)
    u = np.arange(1001) / 1000
    bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    (drawn,) = lines(figures.beta(cosine(1000))).values()
    np.testing.assert_allclose(drawn[:, 1], np.minimum(1 - bar[1:] / bar[:-1], 0.999), rtol=1e-6)


CHOICES = sorted(file.stem for file in (conf_dir() / "schedule").glob("*.yaml"))
WITHOUT_BETA = {"edm", "flow", "sub_vp", "ve"}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")  # Matplotlib's and NumPy's
def test_the_lines_of_every_shipped_schedule_fill_their_figures(tmp_path: Path, choice: str) -> None:
    schedule = make(settings([f"schedule={choice}"]).schedule, "schedule")
    drawn = {name: getattr(figures, name)(schedule) for name in ("beta", "signal")}
    for name, figure in drawn.items():
        style.save(figure, tmp_path / f"{name}.png")
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
    else:
        assert np.all((line[:, 1] > 0) & (line[:, 1] < 1))
    assert ("log-SNR" in drawn["beta"].axes[0].get_ylabel()) == (choice in WITHOUT_BETA)


def test_signal_and_noise_squared_sum_to_one() -> None:
    drawn = lines(figures.signal(linear(steps=100)))
    signal, noise = drawn[r"signal $\sqrt{\bar\alpha_t}$"], drawn[r"noise $\sqrt{1-\bar\alpha_t}$"]
    assert np.array_equal(signal[:, 0], np.arange(101))
    np.testing.assert_allclose(signal[:, 1] ** 2 + noise[:, 1] ** 2, 1, rtol=1e-12)
    np.testing.assert_allclose(signal[:, 1] ** 2, np.cumprod([1, *1 - np.linspace(1e-4, 0.02, 100)]), rtol=1e-9)


def test_a_schedule_that_does_not_preserve_variance_has_other_symbols() -> None:
    drawn = lines(figures.signal(lambda t: (torch.ones_like(t), 80 * t)))
    assert drawn.keys() == {r"signal $\alpha_t$", r"noise $\sigma_t$"}
    assert drawn[r"noise $\sigma_t$"][-1].tolist() == [1000, 80]


def test_noising_follows_the_forward_process_with_one_noise() -> None:
    images = random_images(2, size=16)
    schedule = linear(steps=100)
    figure = figures.noising(images, schedule, times=[0, 40, 100])
    assert [text.get_text() for text in figure.texts] == ["0", "40", "100", "$t$ ="]
    shown = unscaled(pictures(figure, rows=2, columns=3), 16)
    assert shown.shape == (2, 3, 16, 16, 3)
    assert (shown[:, 0] == images.permute(0, 2, 3, 1).numpy()).all()  # alpha_0 = 1, sigma_0 = 0
    # the noise computed from t = 100 predicts t = 40 where neither was clamped
    alpha, sigma = (table.numpy() for table in schedule(torch.tensor([0.4, 1.0], dtype=torch.float64)))
    x0, x40, x100 = (shown[:, i] / 127.5 - 1 for i in range(3))
    predicted = alpha[0] * x0 + sigma[0] * (x100 - alpha[1] * x0) / sigma[1]
    kept = (np.abs(x100) < 0.99) & (np.abs(x40) < 0.99)
    assert kept.mean() > 0.2
    np.testing.assert_allclose(predicted[kept], x40[kept], atol=0.02)


def test_a_picture_in_a_figure_keeps_its_pixels(tmp_path: Path) -> None:
    images = random_images(3, size=16)
    path = style.save(figures.noising(images, linear(steps=100), times=[0, 50]), tmp_path / "noising.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    scale = round(((style.TEXT_WIDTH * style.DPI - 70) / style.FEWEST - 6) / 16)
    assert (
        pixels[scale // 2 : 16 * scale : scale, 70 + scale // 2 : 70 + 16 * scale : scale]
        == (images[0].permute(1, 2, 0).numpy())
    ).all()


def test_samples_over_training_shows_the_first_images_of_the_grids(tmp_path: Path) -> None:
    steps = range(100, 1300, 100)
    sets = {step: random_images(4 + step // 100) for step in steps}
    grids = [(step, save_png(grid(sets[step]), tmp_path / f"step-{step:08d}.png")) for step in steps]
    figure = figures.samples_over_training(grids, rows=3, columns=4)
    assert [text.get_text() for text in figure.texts] == ["100", "500", "800", "1,200", "step"]
    shown = unscaled(pictures(figure, rows=3, columns=4), 8)
    for column, step in enumerate((100, 500, 800, 1200)):
        assert (shown[:, column] == sets[step][:3].permute(0, 2, 3, 1).numpy()).all()


def test_an_unreadable_sample_grid_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.png"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"step-00000001\.png: not a readable picture"):
        figures.samples_over_training([(1, path)])


def test_the_mse_figure_shows_the_values_of_metrics_csv(run_folder: Path) -> None:
    metrics = read_metrics(run_folder / "metrics.csv")
    figure = figures.mse(metrics, [(0, 50)])
    drawn = lines(figure)
    assert drawn["validation images"].tolist() == [[100, 0.4], [200, 0.1], [300, 0.05], [400, 0.06]]
    assert drawn["training images"].tolist() == [[100, 0.39], [200, 0.09], [300, 0.04], [400, 0.03]]
    assert drawn["validation, raw weights"][:, 1].tolist() == [0.8, 0.2, 0.1, 0.12]
    assert drawn["training, raw weights"][:, 1].tolist() == [0.78, 0.18, 0.08, 0.06]
    assert drawn["objective, per batch"][:, 1].tolist() == [1 / step for step in range(50, 401, 50)]
    (gap,) = figure.axes[0].collections
    corners = {tuple(point) for point in gap.get_paths()[0].vertices.tolist()}
    assert {(400.0, 0.06), (400.0, 0.03)} <= corners
    style.save(figure, run_folder / "figures/mse.png")
    epochs = figure.axes[0].child_axes[0].get_xlim()
    np.testing.assert_allclose(epochs, np.array(figure.axes[0].get_xlim()) / 50)


def test_a_narrow_error_axis_has_at_least_three_ticks() -> None:
    for factor in (1.02, 1.5, 3.0, 30.0):
        series = Series(np.array([1, 2]), np.array([0.9, 0.9 * factor]))
        ax = figures.mse({"val/mse": series}).axes[0]
        low, high = ax.get_ylim()
        assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 3


def test_epochs_are_counted_correctly_after_resuming_with_another_epoch_length(run_folder: Path) -> None:
    figure = figures.mse(read_metrics(run_folder / "metrics.csv"), [(0, 80), (200, 30)])
    ax = figure.axes[0]
    ax.set_xlim(0, 380)
    style.save(figure, run_folder / "figures/mse.png")
    assert ax.child_axes[0].get_xlim() == pytest.approx((0, 200 / 80 + 180 / 30))


def test_bins_show_each_decile_at_the_first_and_last_validation(run_folder: Path) -> None:
    drawn = lines(figures.bins(read_metrics(run_folder / "metrics.csv"), curves=2))
    assert drawn.keys() == {"step 100", "step 400"}
    np.testing.assert_allclose(drawn["step 400"][:, 0], np.arange(0.05, 1, 0.1))
    np.testing.assert_allclose(drawn["step 400"][:, 1], 0.06 / np.arange(1, 11))


def test_bins_without_images_leave_the_others_in_their_places() -> None:
    """With few images, no frozen time may lie in a tenth of [0, 1]; its column is empty."""
    series = Series(np.array([10]), np.array([0.1]))
    drawn = lines(figures.bins({f"val/mse_bin{i}": series for i in (0, 1, 9)}))
    np.testing.assert_allclose(drawn["step 10"][:, 0], [0.05, 0.15, 0.95])


def test_the_gap_is_drawn_at_the_log_snr_of_its_decile_with_its_interval(run_folder: Path) -> None:
    metrics = read_metrics(run_folder / "metrics.csv")
    schedule = linear(steps=1000)
    ax = figures.gap(metrics, schedule, curves=2).axes[0]
    _, last, _ = ax.containers
    assert [c.get_label() for c in ax.containers] == ["step 100", "step 400", "last step, raw weights"]
    alpha, sigma = schedule(torch.arange(0.05, 1, 0.1, dtype=torch.float64))
    np.testing.assert_allclose(last.lines[0].get_xdata(), 2 * (alpha / sigma).log(), rtol=1e-9)
    np.testing.assert_allclose(last.lines[0].get_ydata(), [0.03] * 10)
    low, high = (cap.get_ydata() for cap in last.lines[1])
    np.testing.assert_allclose((high - low) / 2, [0.003] * 10)


def test_metrics_are_read_without_their_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,a,b\n0,5,1.5,\n0,3,,nan\n1,9,2.5,\n1,9,2.75,\n,7,,0.5\n")
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["a"].step.tolist() == [6, 10]
    assert metrics["a"].value.tolist() == [1.5, 2.75]
    assert metrics["a"].at(10) == 2.75
    assert np.isnan(metrics["a"].at(9))
    assert metrics["b"].step.tolist() == [8]
    assert read_metrics(tmp_path / "none.csv") == {}


def test_drawing_does_not_change_matplotlibs_settings(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    style.save(figures.signal(linear(steps=10)), tmp_path / "signal.png")
    assert dict(matplotlib.rcParams) == before
    assert Image.open(tmp_path / "signal.png").info["dpi"] == pytest.approx((200, 200), abs=0.1)


def test_a_figure_is_saved_in_the_style_it_was_drawn_in(tmp_path: Path) -> None:
    with matplotlib.rc_context(style.STYLE):
        figures.signal(linear(steps=10)).savefig(tmp_path / "within.png", dpi=style.DPI)
    style.save(figures.signal(linear(steps=10)), tmp_path / "after.png")
    within, after = (np.asarray(Image.open(tmp_path / name)) for name in ("within.png", "after.png"))
    assert np.array_equal(within, after)
