"""Passkey retrieval: training on it, what is measured of a run, and when a heat map is drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema import Config, load_config
from data.config import PasskeyConfig
from data.passkeys import training_passkeys
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from rope.config import RopeConfig
from runs import retrieval
from runs.load import make_model
from runs.passkey_task import format_answer
from runs.retrieval import publish, retrieve, table_rows
from runs.text_task import readable
from runs.window_cases import Run, config_of
from scripts.evaluate import main as evaluate_main
from scripts.passkey import main, parse
from system.command import run_command
from system.errors import RunError

PASSKEYS = (
    "data=passkey",
    "data.digits=2",
    "data.held_out_examples=10",
    "~data.held_out",
    "~data.path",
    "~data.cache_dir",
    "context_length=64",
    "num_steps=4",
    "eval_every=2",
    "sample_every=4",
    "checkpoint_every=4",
)


@pytest.fixture(scope="module")
def passkey_run(workplace):
    """A run too short to have learned anything."""
    assert workplace.train(*PASSKEYS, "name=passkey") == 0
    return workplace.outputs / "passkey"


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def passkey(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


class Reader:
    """In place of a model: finds every key but those in the second half of a text, where a digit is wrong."""

    document_separator = None

    def __init__(self, config):
        self.config = config

    def __call__(self, inputs, *, last):
        logits = np.zeros((*inputs.shape, 256), np.float32)
        for row, tokens in enumerate(inputs.numpy()):
            found = re.search(rb"The key: (\d+)\. ", bytes(tokens.astype(np.uint8)))
            answer = bytearray(found[1])
            if found.start() > len(tokens) / 2:
                answer[1] ^= 1
            logits[row, np.arange(-last, 0), list(answer)] = 1
        return tf.constant(logits[:, -last:])


def reading_run(name="reader", *, context_length=150, digits=3):
    config = TransformerLMConfig(context_length=context_length)
    data = PasskeyConfig(digits=digits)
    training = {"batch_size": 3, "precision": "float32", "compile": "graph"}
    settled = Config(context_length=context_length, model=config, data=data, **training)
    return Run(Path(name), Reader(config), settled, {"step": 9})


def test_every_length_and_depth_has_a_row_with_the_keys_found_there(eagerly):
    rows = retrieve([reading_run()], [100, 190], depths=5, examples=4, scalings=[])
    assert [(row["length"], row["depth"]) for row in rows] == [
        (length, depth) for length in (100, 150, 190) for depth in (0, 0.25, 0.5, 0.75, 1)
    ]
    for row in rows:
        facts = row["run"], row["step"], row["context_length"], row["digits"], row["examples"]
        assert facts == ("reader", 9, 150, 3, 4)
    assert [row["accuracy"] for row in rows if row["length"] == 190] == [1, 1, 1, 0, 0]


def test_several_runs_are_measured_each_at_its_own_length_too(eagerly):
    runs = [reading_run("one"), reading_run("two", context_length=210)]
    rows = retrieve(runs, [120], depths=2, examples=1, scalings=[])
    assert [(row["run"], row["length"]) for row in rows[::2]] == [
        ("one", 120), ("one", 150), ("two", 120), ("two", 210),
    ]  # fmt: skip


def test_a_scaling_is_that_of_a_model_which_has_it_beyond_its_trained_length(monkeypatch):
    """What reads the keys is left out: it is told the config of the model of each case."""
    measured = []

    def keys_found(case, depths, *, examples, batch_size, progress):
        measured.append(config_of(case))
        return np.full((len(depths), examples), case.is_scaled)

    monkeypatch.setattr(retrieval, "keys_found", keys_found)
    run = reading_run(context_length=100)
    rows = retrieve([run], [80, 200], depths=2, examples=3, scalings=["yarn", "dynamic"])
    plain, scaled = measured[0].rope.scaling, [config.rope.scaling for config in measured[3:]]
    assert [config.context_length for config in measured] == [100, 100, 100, 200, 200]
    assert (plain.type, [scaling.type for scaling in scaled]) == ("none", ["yarn", "dynamic"])
    assert (scaled[0].factor, scaled[1].target_length) == (2, 200)
    assert [(row["zero_shot"], row["length"], row["factor"], row["accuracy"]) for row in rows[::2]] == [
        *[("none", 80, 1, 0), ("none", 100, 1, 0), ("none", 200, 1, 0)],
        *[("yarn", 80, 1, 0), ("yarn", 100, 1, 0), ("yarn", 200, 2, 1)],
        *[("dynamic", 80, 1, 0), ("dynamic", 100, 1, 0), ("dynamic", 200, 2, 1)],
    ]


@pytest.mark.parametrize(
    ("options", "lengths", "message"),
    [
        ({"position": "alibi"}, [200], "--zero-shot scales rotary positions, reader has position=alibi"),
        (
            {"rope": RopeConfig(interpolate_factor=2.0)},
            [200],
            "--zero-shot starts from a model without a scaling, but reader was trained with "
            "model.rope.interpolate_factor=2.0",
        ),
        ({}, [80], "--zero-shot has no effect on reader: no window is longer than its context of 100"),
    ],
)
def test_a_scaling_that_cannot_be_or_has_no_effect_is_refused(options, lengths, message):
    run = reading_run(context_length=100)
    run = replace(run, model=Reader(replace(run.model.config, **options)))
    with pytest.raises(RunError, match=message):
        retrieve([run], lengths, depths=2, examples=1, scalings=["yarn"])


def test_a_length_that_does_not_fit_in_memory_is_told(monkeypatch):
    def keys_found(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")

    monkeypatch.setattr(retrieval, "keys_found", keys_found)
    with pytest.raises(RunError, match=r"do not fit in memory \(OOM when allocating\)\. Use shorter ones$"):
        retrieve([reading_run()], [100], depths=2, examples=1, scalings=[])


def rows_of(accuracies, *, run="run", trained=64, scaling="none"):
    """Of accuracies by length and depth."""
    facts = {"run": run, "context_length": trained, "zero_shot": scaling}
    return [
        facts | {"length": length, "depth": depth, "accuracy": accuracy}
        for length, of_length in accuracies.items()
        for depth, accuracy in zip((0.0, 1.0), of_length, strict=True)
    ]


def test_a_table_has_a_row_for_each_length_and_a_column_for_each_depth():
    first, second = table_rows(rows_of({64: (1.0, 0.9), 128: (0.25, 0.0)}))
    facts = {"run": "run", "context_length": 64, "zero_shot": "none", "length": 64}
    assert first == facts | {"0%": "100%", "100%": "90%", "all": "95.0%"}
    assert (second["length"], second["0%"], second["all"]) == (128, "25%", "12.5%")


def test_a_run_that_finds_nine_keys_of_ten_where_it_was_trained_has_a_heat_map(tmp_path, capsys):
    publish(rows_of({32: (0.0, 0.0), 64: (1.0, 0.8), 128: (0.0, 0.0)}), tmp_path / "passkey.png")
    assert (tmp_path / "passkey.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().err == f"wrote {tmp_path / 'passkey.png'}\n"


def test_a_run_that_finds_fewer_has_none_and_keeps_no_older_one(tmp_path, capsys):
    (tmp_path / "passkey.png").write_text("older")
    publish(rows_of({32: (1.0, 1.0), 64: (1.0, 0.79)}), tmp_path / "passkey.png")
    assert not (tmp_path / "passkey.png").exists()
    line, removed = capsys.readouterr().err.splitlines()
    assert removed.startswith(f"removed {tmp_path / 'passkey.png'}")
    assert line.startswith(
        "run has not learned the task at its trained length 64: it finds 89.5% of the keys"
    )


def test_runs_that_have_learned_have_a_panel_each(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(retrieval, "plot_passkeys", lambda panels, path: drawn.append(panels))
    rows = rows_of({64: (1.0, 0.9), 128: (0.5, 0.25)}, run="one")
    rows += rows_of({64: (0.0, 0.0), 128: (0.0, 0.0)}, run="two")
    rows += rows_of({64: (0.2, 0.3), 128: (0.9, 1.0)}, run="three", trained=128)
    publish(rows, tmp_path / "passkey.png")
    ((one, three),) = drawn
    assert (one["label"], three["label"]) == ("one, trained at 64", "three, trained at 128")
    assert (one["lengths"], one["depths"]) == ([64, 128], [0, 1])
    np.testing.assert_array_equal(one["accuracies"], [[1.0, 0.5], [0.9, 0.25]])
    assert "two has not learned the task" in capsys.readouterr().err


def test_each_scaling_of_a_run_has_a_row_of_each_length_and_a_panel(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(retrieval, "plot_passkeys", lambda panels, path: drawn.extend(panels))
    rows = rows_of({64: (1.0, 0.9), 128: (0.5, 0.25)})
    rows += rows_of({64: (1.0, 0.9), 128: (0.75, 0.0)}, scaling="yarn")
    assert [(row["zero_shot"], row["length"], row["0%"]) for row in table_rows(rows)] == [
        ("none", 64, "100%"), ("none", 128, "50%"), ("yarn", 64, "100%"), ("yarn", 128, "75%"),
    ]  # fmt: skip
    publish(rows, tmp_path / "passkey.png")
    assert [panel["label"] for panel in drawn] == ["run, trained at 64", "run, trained at 64, yarn"]
    np.testing.assert_array_equal(drawn[1]["accuracies"], [[1.0, 0.75], [0.9, 0.0]])


def test_training_tells_how_many_keys_are_found_and_shows_some(passkey_run, capsys):
    summary = json.loads((passkey_run / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 0.5
    assert summary["digits"] == 2
    assert load_config(passkey_run / "config.yaml").data.held_out_examples == 10
    samples = (passkey_run / "samples.txt").read_text()
    assert len(re.findall(r"\.\.\..*What was the key\? The key: .*\((?:right|it is \d\d)\)", samples)) == 3


@pytest.mark.parametrize(("answer", "verdict"), [("12", "(right)"), ("21", "(it is 12)")])
def test_a_shown_answer_is_compared_with_the_key(answer, verdict):
    assert format_answer("The key: ", answer, "12") == f"...The key: {answer} {verdict}"


def test_tokens_that_are_no_bytes_are_not_shown():
    """Of a model with a larger vocabulary."""
    assert readable([49, 300, 50, -1]) == "12"


def test_evaluate_measures_held_out_keys(passkey_run, capsys):
    assert run_command(lambda: evaluate_main([str(passkey_run), "--json"])) == 0
    output = capsys.readouterr()
    (result,) = json.loads(output.out)
    summary = json.loads((passkey_run / "summary.json").read_text())
    assert (result["examples"], result["digits"], result["context_length"]) == (10, 2, 64)
    assert result["accuracy"] == pytest.approx(summary["accuracy"])
    assert output.err == ""


def test_the_loss_by_window_of_a_run_on_passkeys_is_refused(passkey_run, capsys):
    assert run_command(lambda: evaluate_main([str(passkey_run), "--windows", "8"])) == 2
    assert f"python -m scripts.passkey {passkey_run}" in capsys.readouterr().err.splitlines()[-1]


def test_the_command_prints_a_table_and_draws_nothing_of_a_run_that_has_not_learned(passkey_run, capsys):
    assert (
        passkey(passkey_run, "--lengths", "96", "--depths", "3", "--examples", "2", "--zero-shot", "ntk") == 0
    )
    output = capsys.readouterr()
    headers, *rows = output.out.splitlines()
    assert headers.split() == [
        "run",
        "context",
        "length",
        "zero",
        "shot",
        "length",
        "0%",
        "50%",
        "100%",
        "all",
    ]
    assert [row.split()[:4] for row in rows] == [
        [str(passkey_run), "64", scaling, length] for scaling in ("none", "ntk") for length in ("64", "96")
    ]
    assert f"{passkey_run} has not learned the task at its trained length 64" in output.err
    assert not (passkey_run / "passkey.png").exists()


def test_the_command_prints_json_and_draws_a_run_that_has_learned(passkey_run, monkeypatch, capsys):
    monkeypatch.setattr(retrieval, "LEARNED", 0.0)
    try:
        assert passkey(passkey_run, "--lengths", "64", "--depths", "2", "--examples", "2", "--json") == 0
        assert (passkey_run / "passkey.png").exists()
    finally:
        (passkey_run / "passkey.png").unlink(missing_ok=True)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["length"], row["depth"], row["examples"]) for row in rows] == [(64, 0, 2), (64, 1, 2)]


@pytest.mark.parametrize(("changes", "apart"), [({}, True), ({"reset_positions": False}, False)])
def test_the_texts_of_a_row_do_not_see_each_other_unless_asked_to(changes, apart):
    config = TransformerLMConfig(
        context_length=200, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=8
    )
    model = make_model(Config(model=config, data=PasskeyConfig(**changes), precision="float32"))
    inputs, _ = training_passkeys(0, batch_size=8, length=200, digits=3, texts=3, seed=0)
    row = next(row for row in inputs if (row == 0).sum() > 1)
    second = np.flatnonzero(row == 0)[1]
    other = np.where(np.arange(len(row)) == 3, row + 1, row)
    logits = model(np.stack([row, other])).numpy()[:, second:]
    assert np.array_equal(*logits) == apart


def test_a_run_on_text_is_measured_with_default_keys(tmp_path, eagerly):
    model = TransformerLM(
        TransformerLMConfig(context_length=80, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, mlp_dim=8)
    )
    settled = Config(model=model.config, precision="float32", compile="graph")
    run = Run(tmp_path, model, settled, {"step": 1})
    rows = retrieve([run], [90], depths=2, examples=3, scalings=[])
    assert {row["digits"] for row in rows} == {5}
    assert [row["length"] for row in rows] == [80, 80, 90, 90]


@pytest.mark.parametrize("options", [{"rope": RopeConfig(xpos=True)}, {"position": "alibi"}])
def test_other_positions_are_measured_beyond_their_context(tmp_path, eagerly, options):
    config = TransformerLMConfig(
        context_length=60, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, mlp_dim=8, **options
    )
    run = reading_run(context_length=60)
    run = replace(run, model=TransformerLM(config), config=replace(run.config, model=config))
    assert len(retrieve([run], [100], depths=2, examples=2, scalings=[])) == 4


def test_learned_positions_end_with_their_context(tmp_path):
    config = TransformerLMConfig(
        context_length=60, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, mlp_dim=8, position="learned"
    )
    run = replace(reading_run(context_length=60), model=TransformerLM(config))
    with pytest.raises(RunError, match="a window of 100 cannot be evaluated: the learned positions"):
        retrieve([run], [100], depths=2, examples=2, scalings=[])


def test_a_length_too_short_for_the_question_is_refused(passkey_run, trained_run, capsys):
    assert passkey(passkey_run, "--lengths", "20") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a context of 20 tokens is too short for a key of 2 digits")
    assert passkey(trained_run) == 2  # trained at 16 bytes
    assert "error: a context of 16 tokens is too short" in capsys.readouterr().err


def test_a_training_context_too_short_for_the_question_is_refused(workplace, capsys):
    assert workplace.train(*PASSKEYS, "~context_length", "context_length=30", "name=short") == 2
    assert "error: a context of 30 tokens is too short" in capsys.readouterr().err
    assert not (workplace.outputs / "short").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.digits=0", "data.digits must be >= 1 and <= 10, got 0"),
        ("data.digits=11", "data.digits must be >= 1 and <= 10, got 11"),
        ("data.texts=0", "data.texts must be >= 1, got 0"),
        ("data.held_out_examples=0", "data.held_out_examples must be >= 1, got 0"),
        ("data.held_out=0.1", "unknown key 'data.held_out' here; it belongs to data.source=python_stdlib"),
    ],
)
def test_a_bad_value_is_told_in_a_line(workplace, capsys, change, message):
    others = [word for word in PASSKEYS if not word.startswith(change.partition("=")[0] + "=")]
    assert workplace.train(*others, change, "name=bad") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--depths 1", "--depths must be 2 to 101, got 1"),
        ("--depths 102", "--depths must be 2 to 101, got 102"),
        (
            "--zero-shot yarm",
            "argument --zero-shot: must be one of linear, ntk, yarn, dynamic; got 'yarm'; did",
        ),
        ("--examples 0", "argument --examples: must be a whole number of at least 1, got '0'"),
        ("--lengths 256,512", "argument --lengths: must be a whole number of at least 1, got '256,512'; sep"),
    ],
)
def test_options_of_the_wrong_form_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        passkey("anywhere", *arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_hundred_keys_of_each_length_and_depth_are_asked_for_unless_told_otherwise():
    assert parse(["run"]).examples == 100


def test_what_is_no_language_model_is_refused(tmp_path, capsys):
    assert passkey(tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is not a run directory")
