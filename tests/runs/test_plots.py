import math

from runs.plots import plot_context, plot_loss


def rows():
    for step in range(1, 4):
        row = {"step": step, "tokens": 1_000 * step, "loss": 5 / step}
        yield row | ({"validation_loss": 6 / step} if step % 2 else {})


def test_a_picture_is_written(tmp_path):
    plot_loss(list(rows()), tmp_path / "loss.png", unit="tokens", title="a run")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_title_with_dollars_is_no_formula(tmp_path):
    plot_loss(list(rows()), tmp_path / "loss.png", unit="tokens", title=r"$\no$")
    assert (tmp_path / "loss.png").exists()


def test_a_run_without_points_has_an_empty_picture(tmp_path):
    plot_loss(
        [{"step": 1, "tokens": 5, "sample": "text"}], tmp_path / "loss.png", unit="tokens", title="a run"
    )
    assert (tmp_path / "loss.png").exists()


def test_accuracy_has_a_panel_of_its_own(tmp_path):
    images = [{"step": step, "images": 2_000_000 * step, "loss": 1.0, "accuracy": 0.5} for step in (1, 2)]
    plot_loss(images, tmp_path / "both.png", unit="images", title="a run")
    plot_loss(list(rows()), tmp_path / "loss.png", unit="tokens", title="a run")
    assert height_of(tmp_path / "both.png") > height_of(tmp_path / "loss.png")


def height_of(png):
    return int.from_bytes(png.read_bytes()[20:24], "big")


def test_losses_by_window_are_drawn_with_and_without_errors(tmp_path):
    curves = [
        {"label": "lm", "windows": [16, 32], "losses": [2.0, 1.5], "errors": [0.1, 0.2]},
        {"label": "lm, yarn", "windows": [16, 32], "losses": [2.0, 1.4], "errors": [math.nan, math.nan]},
    ]
    plot_context(curves, tmp_path / "context.png", trained_lengths=[16, 24])
    assert (tmp_path / "context.png").read_bytes().startswith(b"\x89PNG")
