import json
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from system.files import read_json_lines
from tests.comparison import events_of
from training.run_log import RunDirectory, RunLog


@pytest.fixture
def directory(tmp_path):
    with RunDirectory(tmp_path) as directory:
        yield directory


def make_log(directory, **options):
    defaults = {"start_step": 0, "num_steps": 40, "unit": "tokens", "units_per_step": 32}
    return RunLog(directory, **defaults | options)


def write_rows(directory, steps):
    lines = [json.dumps({"step": step, "loss": 1.0, "tokens_per_second": 9}) + "\n" for step in steps]
    directory.metrics.write_text("".join(lines))


def steps_of(directory):
    return [row["step"] for row in read_json_lines(directory.metrics)]


def test_a_row_holds_the_step_the_metrics_and_the_time(directory):
    with make_log(directory) as log:
        log.step_took(100.0, 2.5)  # compiles
        log.step_took(0.5, 2.5)
        log.step_took(1.5, 2.5)
        log.write(3, {"loss": 2.5, "validation_loss": 2.75})
    assert read_json_lines(directory.metrics) == [
        {
            "step": 3,
            "tokens": 3 * 32,
            "loss": 2.5,
            "validation_loss": 2.75,
            "tokens_per_second": 32,  # 2 steps of 32 in 2 seconds, without the one that compiled
            "elapsed_seconds": 102.0,
        }
    ]


@pytest.mark.parametrize(
    "garbage", [b'{"step": 20, "lo', b"\x00\x00\x00", b"\xff\xfe", b"[1]", b'{"step": "1"}']
)
def test_damaged_lines_are_dropped(directory, garbage):
    """The last line is one that a crash cut short."""
    write_rows(directory, [10, 20, 30])
    first, _, last = directory.metrics.read_bytes().splitlines()
    directory.metrics.write_bytes(b"\n".join([first, garbage, last, garbage]))
    assert steps_of(directory) == [10, 30]
    with make_log(directory, start_step=30) as log:
        log.write(40, {"loss": 2.0})
    assert steps_of(directory) == [10, 30, 40]


def test_metrics_of_a_step_join_one_row(directory):
    with make_log(directory) as log:
        log.write(20, {"loss": 2.0})
        log.write(40, {"loss": 1.5, "learning_rate": 0.1})
    for validation_loss in (1.75, 1.7):  # interrupted after the first, and resumed
        with make_log(directory, start_step=40) as log:
            log.write(40, {"validation_loss": validation_loss, "sample": "text"})
    assert steps_of(directory) == [20, 40]
    last = read_json_lines(directory.metrics)[-1]
    assert (last["loss"], last["learning_rate"], last["validation_loss"]) == (1.5, 0.1, 1.7)


def test_time_and_rate_continue_after_a_resume(directory):
    with make_log(directory) as log:
        for _ in range(5):
            log.step_took(0.5, 2.0)
        log.write(4, {"loss": 2.0})
    with make_log(directory, start_step=5, elapsed_seconds=log.elapsed_seconds) as log:
        assert (log.elapsed_seconds, log.rate) == (2.5, 64)
        log.step_took(50.0, 2.0)  # compiles again
        assert (log.elapsed_seconds, log.rate) == (52.5, 64)
        log.step_took(1.0, 2.0)
        assert (log.elapsed_seconds, log.rate) == (53.5, 32)


def test_rows_and_samples_after_the_start_step_are_dropped(directory):
    with make_log(directory) as log:
        log.write(10, {"sample": "one\n"})
        log.write(20, {"sample": "two"})
    assert directory.samples.read_text() == "--- step 10 ---\none\n\n\n--- step 20 ---\ntwo\n"
    with make_log(directory, start_step=10) as log:
        assert directory.samples.read_text() == "--- step 10 ---\none\n\n"
        assert steps_of(directory) == [10]
        log.write(30, {"loss": 2.0})
    assert steps_of(directory) == [10, 30]
    make_log(directory, start_step=5).__exit__()
    assert directory.samples.read_text() == ""


def test_lines_are_plain_without_a_terminal(directory, capsys):
    with make_log(directory) as log:
        log.step_took(10.0, 2.5)
        log.write(1, {"loss": 2.5})  # the rate is not known yet
        for _ in range(3):
            log.step_took(1.0, 2.5)
        log.write(20, {"loss": 2.5})
        log.write(30, {"loss": 2.25, "validation_loss": 2.5, "sample": "some text"})
        log.say("a word")
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "step 1/40  loss 2.5000",
        "step 20/40  loss 2.5000  32 tokens/s  ETA 0:20",
        "step 30/40  loss 2.2500  validation 2.5000  32 tokens/s  ETA 0:10",
        "--- sample at step 30 ---",
        "some text",
        "---",
        "a word",
    ]
    assert output.err == ""


def test_progress_of_an_evaluation_is_reported(directory, capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("training.run_log.time.monotonic", lambda: float(next(clock)))
    with make_log(directory) as log:
        assert list(log.progress([3, 5, 7, 9, 11])) == [3, 5, 7, 9, 11]
    assert capsys.readouterr().out == "batch 3/5  ETA 0:08\n"


def test_tensorboard_shows_the_pictures_that_were_written(directory):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    directory.predictions.write_bytes(tf.io.encode_png(pixels).numpy())
    with make_log(directory) as log:
        log.write(8, {"predictions": directory.predictions})
        directory.unwritable.add(directory.confusion)
        files = [directory.predictions, directory.confusion, directory.samples]
        log.write_events(10, {path.name: path for path in files})
    assert steps_of(directory) == []
    events = events_of(directory.path)
    assert list(events) == [(8, "predictions"), (10, "predictions")]
    ((width, height, png),) = events[8, "predictions"]
    assert (width, height) == (b"3", b"2")
    np.testing.assert_array_equal(tf.io.decode_png(png), pixels)


def test_progress_is_a_live_line_on_a_terminal(directory, capsys, monkeypatch):
    monkeypatch.setattr("training.run_log.can_redraw_lines", lambda: True)
    with make_log(directory) as log:
        for _ in range(3):
            log.step_took(1.0, 2.5)
        log.write(3, {"loss": 2.5})
        log.write(4, {"validation_loss": 2.25})
    output, line = capsys.readouterr()
    assert "3/40" in line and "loss 2.500, 32 tokens/s" in line and line.count("\r") > 1
    assert output == "step 4/40  validation 2.2500  32 tokens/s  ETA 0:36\n"


def test_tensorboard_draws_one_value_a_step_after_kills_and_resumes(directory):
    """A kill in the middle of writing truncates the last file."""
    for start, steps in ((0, (10, 20, 30)), (20, (25, 30, 40)), (25, (30, 35))):
        if start:
            time.sleep(1.1)  # the reader orders files by the second in their names
        with make_log(directory, start_step=start) as log:
            for step in steps:
                losses = {"loss": step + start / 100, "validation_loss": step + start / 100 + 1}
                log.write(step, losses | {"sample": str(step)})
        latest = max(directory.tensorboard.glob("events.*"))
        latest.write_bytes(latest.read_bytes()[:-5])
    events = events_of(directory.path)
    losses = {10: 10.0, 20: 20.0, 25: np.float32(25.2), 30: np.float32(30.25), 35: np.float32(35.25)}
    assert {step: values for (step, name), values in events.items() if name == "loss"} == {
        step: {loss} for step, loss in losses.items()
    }
    assert events[25, "sample"] == {b"```\n25\n```"}
    # In the directory `validation`, whose loss TensorBoard draws in the same chart.
    assert {step: events[step, "validation_loss"] for step in losses} == {
        step: {np.float32(loss + 1)} for step, loss in losses.items()
    }


def test_rows_and_events_are_synced(directory, monkeypatch):
    """A checkpoint, and the summary, rely on them."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    with make_log(directory) as log:
        log.write(10, {"loss": 1.0})
        log.write(10, {"validation_loss": 1.0})
        assert synced[-1] == str(directory.path)  # the row is rewritten
        files = [str(directory.metrics), *map(str, directory.tensorboard.rglob("events.*"))]
        for finish in (log.sync, log.__exit__):
            synced.clear()
            finish()
            assert synced == files
