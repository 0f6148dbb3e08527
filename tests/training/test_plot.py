from training.plot import plot_loss


def rows():
    for step in range(1, 4):
        row = {"step": step, "tokens": 1_000 * step, "loss": 5 / step}
        yield row | ({"validation_loss": 6 / step} if step % 2 else {})


def test_a_picture_is_written(tmp_path):
    plot_loss(list(rows()), tmp_path / "loss.png", title="a run")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_points_has_an_empty_picture(tmp_path):
    plot_loss([{"step": 1, "tokens": 5, "sample": "text"}], tmp_path / "loss.png", title="a run")
    assert (tmp_path / "loss.png").exists()
