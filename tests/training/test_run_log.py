import contextlib
import json
import os
import pty
import resource
import termios
from pathlib import Path

import pytest
import tensorflow as tf

from system.text import format_duration
from training.run_directory import RunDirectory
from training.run_log import RunLog, read_rows


@pytest.fixture
def directory(tmp_path):
    with RunDirectory(tmp_path) as directory:
        yield directory


def make_log(directory, *, start_step=0, num_steps=40, **options):
    return RunLog(
        directory, start_step=start_step, num_steps=num_steps, unit="tokens", units_per_step=32, **options
    )


def write_rows(directory, steps, *, ends="\n"):
    lines = [json.dumps({"step": step, "loss": 1.0, "tokens_per_second": 9}) for step in steps]
    directory.metrics.write_text("\n".join(lines) + ends)


def steps_of(directory):
    return [row["step"] for row in read_rows(directory)]


def test_a_row_holds_the_step_the_metrics_and_the_time(directory):
    with make_log(directory) as log:
        log.step_took(100.0, 2.5)  # compiles
        log.step_took(0.5, 2.5)
        log.step_took(1.5, 2.5)
        log.write(3, {"loss": 2.5, "validation_loss": 2.75})
    assert read_rows(directory) == [
        {
            "step": 3,
            "tokens": 3 * 32,
            "loss": 2.5,
            "validation_loss": 2.75,
            "tokens_per_second": 32,  # 2 steps of 32 in 2 seconds, without the one that compiled
            "elapsed_seconds": 102.0,
        }
    ]


def test_rows_past_the_step_to_go_on_from_are_dropped(directory):
    write_rows(directory, [1, 10, 20, 30])
    with make_log(directory, start_step=20) as log:
        assert steps_of(directory) == [1, 10, 20]
        log.write(30, {"loss": 2.0})
    assert steps_of(directory) == [1, 10, 20, 30]
    assert read_rows(directory)[-1]["loss"] == 2.0


@pytest.mark.parametrize("torn", ['{"step": 30, "lo', '{"step": 30, "lo\n', "\x00\x00\x00"])
def test_a_last_line_that_a_crash_cut_short_is_left_out(directory, torn):
    write_rows(directory, [10, 20], ends="\n" + torn)
    assert steps_of(directory) == [10, 20]
    with make_log(directory, start_step=30) as log:
        log.write(40, {"loss": 2.0})
    assert steps_of(directory) == [10, 20, 40]


@pytest.mark.parametrize(
    "garbage", ['{"step": 20, "lo', "7", "[]", '{"loss": 1.0}', '{"step": "x"}', "[" * 99_999]
)
def test_a_damaged_line_costs_no_other(directory, garbage):
    write_rows(directory, [10, 20, 30])
    lines = directory.metrics.read_text().splitlines()
    directory.metrics.write_text("\n".join([lines[0], garbage, lines[2]]) + "\n")
    with make_log(directory, start_step=30) as log:
        log.write(40, {"loss": 2.0})
    assert steps_of(directory) == [10, 30, 40]


def test_bytes_that_are_no_text_are_left_out(directory):
    write_rows(directory, [10])
    with open(directory.metrics, "ab") as file:
        file.write(b"\xff\xfe")
    assert steps_of(directory) == [10]


def test_a_step_has_one_row_however_often_it_is_written(directory):
    with make_log(directory) as log:
        log.write(20, {"loss": 2.0})
        log.write(40, {"loss": 1.5, "learning_rate": 0.1})
    for validation_loss in (1.75, 1.7):  # interrupted after the first, and started again
        with make_log(directory, start_step=40) as log:
            log.write(40, {"validation_loss": validation_loss, "sample": "text"})
    assert steps_of(directory) == [20, 40]
    last = read_rows(directory)[-1]
    assert (last["loss"], last["learning_rate"], last["validation_loss"]) == (1.5, 0.1, 1.7)


def test_time_and_speed_go_on_after_a_resume(directory):
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


def test_samples_are_those_of_the_steps_that_count(directory):
    with make_log(directory) as log:
        log.write(10, {"sample": "one\n"})
        log.write(20, {"sample": "two"})
    assert directory.samples.read_text() == "--- step 10 ---\none\n\n\n--- step 20 ---\ntwo\n"
    make_log(directory, start_step=10).__exit__()
    assert directory.samples.read_text() == "--- step 10 ---\none\n\n"
    make_log(directory, start_step=5).__exit__()
    assert directory.samples.read_text() == ""


def test_lines_are_plain_where_no_one_watches(directory, capsys):
    with make_log(directory) as log:
        for _ in range(3):
            log.step_took(1.0, 2.5)
        log.write(20, {"loss": 2.5})
        log.write(30, {"loss": 2.25, "validation_loss": 2.5, "sample": "some text"})
        log.say("a word")
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "step 20/40  loss 2.5000  32 tokens/s  ETA 0:20",
        "step 30/40  loss 2.2500  validation 2.5000  32 tokens/s  ETA 0:10",
        "--- sample at step 30 ---",
        "some text",
        "---",
        "a word",
    ]
    assert output.err == ""


def test_speed_is_left_out_until_it_is_known(directory, capsys):
    with make_log(directory) as log:
        log.step_took(10.0, 2.5)
        log.write(1, {"loss": 2.5})
    assert capsys.readouterr().out == "step 1/40  loss 2.5000\n"


@contextlib.contextmanager
def terminal():
    """Makes standard error a terminal; gives a function that ends it and reads all that it has shown."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with open(theirs, "w") as stream, contextlib.redirect_stderr(stream):

        def read():
            stream.close()
            shown = b""
            with contextlib.suppress(OSError):  # how Linux says that the other end is closed
                while part := os.read(ours, 100_000):
                    shown += part
            return shown.decode()

        yield read
    os.close(ours)


def test_progress_is_a_live_line_on_a_terminal(directory, capsys):
    with terminal() as read:
        with make_log(directory) as log:
            for _ in range(3):
                log.step_took(1.0, 2.5)
            log.write(3, {"loss": 2.5})
            log.write(4, {"validation_loss": 2.25})
        shown = read()
    assert "3/40" in shown
    assert "loss 2.500, 32 tokens/s" in shown
    assert shown.count("\r") > 1
    assert capsys.readouterr().out == "step 4/40  validation 2.2500  32 tokens/s  ETA 0:36\n"


def test_the_live_line_ends_when_an_error_leaves_the_log(directory):
    with terminal() as read:
        with pytest.raises(ZeroDivisionError), make_log(directory) as log:
            log.step_took(1.0, 2.5)
            raise ZeroDivisionError
        assert read().endswith("\n")


def events_of(directory):
    """(step, tag, value) of all that TensorBoard would show, in the order it was written."""
    for path in sorted(directory.tensorboard.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                yield event.step, value.tag, tf.make_ndarray(value.tensor)[()]


def test_tensorboard_has_scalars_and_text(directory):
    with make_log(directory) as log:
        log.write(7, {"loss": 2.5, "sample": "some text"})
    assert list(events_of(directory)) == [
        (7, "loss", 2.5),
        (7, "sample", b"```\nsome text\n```"),
        (7, "tokens_per_second", 0),
    ]


def test_events_past_the_step_to_go_on_from_are_dropped(directory):
    """A kill in the midst of writing leaves a file that ends too early, and whole ones of earlier resumes."""
    for start, steps in ((0, (10, 20, 30)), (20, (25, 30, 40))):
        with make_log(directory, start_step=start) as log:
            for step in steps:
                log.write(step, {"loss": float(step)})
    latest = max(directory.tensorboard.iterdir())
    latest.write_bytes(latest.read_bytes()[:-5])
    with make_log(directory, start_step=25) as log:
        log.write(30, {"loss": 31.0})
    assert [(step, value) for step, tag, value in events_of(directory) if tag == "loss"] == [
        (10, 10.0),
        (20, 20.0),
        (25, 25.0),
        (30, 31.0),
    ]
    assert len(list(directory.tensorboard.iterdir())) == 2


def test_events_that_a_kill_left_in_two_files_are_shown_once(directory, monkeypatch):
    for step in (10, 20):
        with make_log(directory, start_step=step - 10) as log:
            log.write(step, {"loss": float(step)})
    before = list(events_of(directory))

    def die(path, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            make_log(directory, start_step=20)
    make_log(directory, start_step=20).__exit__()
    assert list(events_of(directory)) == before


@pytest.fixture
def synced(monkeypatch):
    """Paths in the order in which they are synced."""
    paths, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (paths.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file))
    )
    return paths


def test_rows_and_events_are_on_disk_when_asked_for_and_at_the_end(directory, synced):
    """A checkpoint, and the summary, say that they are there."""
    with make_log(directory) as log:
        log.write(10, {"loss": 1.0})
        files = [str(directory.metrics), *map(str, directory.tensorboard.iterdir())]
        for finish in (log.sync, log.__exit__):
            synced.clear()
            finish()
            assert synced == files


def test_a_row_that_is_written_anew_is_on_disk(directory, synced):
    with make_log(directory) as log:
        log.write(10, {"loss": 1.0})
        synced.clear()
        log.write(10, {"validation_loss": 1.0})
        assert synced[-1] == str(directory.path)


def test_what_is_measured_again_at_the_end_is_shown_once(directory):
    with make_log(directory) as log:
        log.write(40, {"loss": 1.5})
    for _ in range(2):
        with make_log(directory, start_step=40) as log:
            log.write(40, {"validation_loss": 1.75})
    tags = [tag for _, tag, _ in events_of(directory)]
    assert sorted(tags) == ["loss", "tokens_per_second", "validation_loss"]


def test_tensorboard_that_cannot_be_written_is_told_once_and_is_no_reason_to_stop(directory, capfd):
    """A limit on the size of files fails each write past it, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with make_log(directory) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
        try:
            for step in range(1, 20):
                log._events.write(step, {"sample": "x" * 500})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.write(20, {"loss": 1.0})
    lines = capfd.readouterr().err.splitlines()
    (line,) = (line for line in lines if line.startswith("note: "))
    assert line.startswith(f"note: cannot write {directory.tensorboard} (")
    assert line.endswith("File too large); the run goes on.")
    assert steps_of(directory) == [20]


def test_tensorboard_that_is_not_installed_is_told_once(directory, capfd, monkeypatch):
    monkeypatch.setattr(tf.summary, "create_file_writer", None)
    with make_log(directory) as log:
        log.write(1, {"loss": 1.0})
        log.write(2, {"loss": 1.0})
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert steps_of(directory) == [1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3_600, "1:00:00"), (90_061, "25:01:01")]
)
def test_a_duration_is_told_in_hours_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text
