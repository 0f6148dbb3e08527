"""Loss by window of context: what is compared, its numbers, and its command line."""

import csv
import functools
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema import Config
from data.corpus import TextCorpus
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from rope.config import RopeConfig, RopeScalingConfig
from runs import window_cases as context_cases
from runs import window_cost as context_cost
from runs.window_cases import Case, Run, lengthened_config, model_of
from runs.windows import evaluate_windows
from scripts.evaluate import main
from system.command import run_command
from system.errors import RunError

MODEL = TransformerLMConfig(context_length=8, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=20)
TRAINING = {"batch_size": 100, "precision": "float32", "compile": "graph"}
LENGTHS = 40, 13, 37, 52, 35  # all but the second are longer than the longest window
OPTIONS = {"stride": 3, "max_targets": 10_000, "scalings": [], "attention": "full"}


def corpus_of(lengths=LENGTHS, fingerprint="a"):
    draw = np.random.default_rng(5)
    parts = [np.append(draw.integers(97, 105, length), 0) for length in lengths]
    tokens = np.concatenate([[0], *parts]).astype(np.uint8)
    return TextCorpus(tokens, tokens, len(lengths), len(lengths), fingerprint, "made")


@pytest.fixture
def eagerly():
    """A tiny model is evaluated sooner than it is traced."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def run_of(*, rope=None, **model):
    config = replace(MODEL, **model, **({} if rope is None else {"rope": RopeConfig(**rope)}))
    lm = TransformerLM(config)
    for number, weight in enumerate(lm.weights):
        values = np.random.default_rng(number).normal(size=weight.shape)
        if "kernel" in weight.path:
            values *= 1.5 * weight.shape[0] ** -0.5
        elif "frequencies" in weight.path:
            values = np.abs(values)
        elif "scale" in weight.path:
            values = np.ones(weight.shape)
        weight.assign(values)
    settled = Config(context_length=config.context_length, model=config, **TRAINING)
    return Run(Path("made"), lm, settled, {"step": 7}, corpus_of())


@functools.cache
def plain_run():
    """The run without options, which tests leave as it is."""
    return run_of()


def losses_of(rows, scaling="none"):
    return {row["window"]: row["nats_per_token"] for row in rows if row["zero_shot"] == scaling}


def losses_one_by_one(model, tokens, *, window, stride, longest, block=None):
    """(document, loss) of each target, from a plain reading of what a window is."""
    contexts = []
    for document, (start, stop) in enumerate(itertools.pairwise(np.flatnonzero(tokens == 0))):
        eligible = range(start + longest, stop)
        for number, target in enumerate(eligible):
            of_block = eligible[number - number % stride :][:stride]
            contexts.append((document, tokens[target], tokens[of_block[-1] - window : target]))
            assert 0 not in contexts[-1][2][1:]
    found = []
    for length in {len(context) for _, _, context in contexts}:
        alike = [of_target for of_target in contexts if len(of_target[2]) == length]
        inputs = np.stack([context for _, _, context in alike]).astype(np.int32)
        logits = model(inputs, attention_block=block).numpy()[:, -1].astype(float)
        for (document, target, _), row in zip(alike, logits, strict=True):
            found.append((document, row.max() + np.log(np.exp(row - row.max()).sum()) - row[target]))
    return found


@pytest.mark.parametrize(("attention", "block"), [("full", None), ("blockwise-causal", 4)])
def test_losses_are_those_of_targets_predicted_one_by_one(eagerly, attention, block):
    run = plain_run()
    small = replace(run, config=replace(run.config, batch_size=13))
    rows = evaluate_windows([small], [5, 34], **OPTIONS | {"attention": attention, "stride": 4})
    for row in rows:
        found = losses_one_by_one(
            run.model, run.corpus.validation, window=row["window"], stride=4, longest=34, block=block
        )
        mean = np.mean([loss for _, loss in found])
        assert row["nats_per_token"] == pytest.approx(mean, abs=1e-5)  # float32 logits
        assert row["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
        assert row["bits_per_byte"] == pytest.approx(mean / math.log(2), abs=1e-5)
        assert (row["targets"], row["documents"]) == (len(found), 4) == (7 + 4 + 19 + 2, 4)
        in_documents = [
            [loss - mean for document, loss in found if document == number] for number in (0, 2, 3, 4)
        ]
        error = math.sqrt(4 / 3 * sum(sum(document) ** 2 for document in in_documents)) / len(found)
        assert row["standard_error"] == pytest.approx(error, rel=1e-3)


def test_differences_are_to_the_first_row(eagerly):
    rows = evaluate_windows([plain_run()], [5, 9, 20], **OPTIONS)
    assert (rows[0]["difference"], rows[0]["difference_error"]) == (0, 0)
    for row in rows[1:]:
        assert row["difference"] == pytest.approx(row["nats_per_token"] - rows[0]["nats_per_token"])
        assert row["difference_error"] > 0


def test_a_model_without_attention_has_one_loss_for_all_windows(eagerly):
    run = run_of()
    for block in run.model.blocks:
        kernel = block.attentions[0].output_projection.kernel
        kernel.assign(tf.zeros_like(kernel))
    rows = evaluate_windows([run], [3, 8, 21], **OPTIONS)
    losses = [row["nats_per_token"] for row in rows]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)  # float32
    assert rows[2]["difference_error"] < 1e-6


@pytest.mark.parametrize(
    ("scaling", "rope"),
    [
        ("linear", {"interpolate_factor": 3.0}),
        ("linear", {"interpolate_factor": 3.0, "learned_freq": True}),
        ("ntk", {"theta_rescale_factor": 3.0}),
        (
            "yarn",
            {"scaling": RopeScalingConfig(type="yarn", factor=3.0, original_max_position_embeddings=8)},
        ),
        # (3 * 24 - 2 * 8) / 8 = 7 times the length, as dynamic NTK has it.
        ("dynamic", {"theta_rescale_factor": 7.0}),
    ],
)
def test_zero_shot_is_the_model_with_that_scaling(eagerly, scaling, rope):
    base = run_of(rope={"learned_freq": True}) if "learned_freq" in rope else plain_run()
    zero_shot = evaluate_windows([base], [6, 24], **OPTIONS | {"scalings": [scaling]})
    configured = evaluate_windows([run_of(rope=rope)], [24], **OPTIONS)
    plain, scaled = losses_of(zero_shot), losses_of(zero_shot, scaling)
    assert scaled[24] == pytest.approx(losses_of(configured)[24], abs=1e-5)  # float32
    assert abs(scaled[24] - plain[24]) > 1e-3
    assert scaled[6] == plain[6]
    assert [row["factor"] for row in zero_shot] == [1, 1, 1, 3]


@pytest.mark.parametrize("scaling", [{}, {"type": "dynamic", "factor": 2.0}, {"type": "yarn", "factor": 2.0}])
def test_xpos_beyond_its_context_is_the_same_model(eagerly, scaling):
    rope = {"xpos": True, "xpos_scale_base": 16.0, "scaling": RopeScalingConfig(**scaling)}
    run = run_of(rope=rope, context_length=12)
    longer = model_of(Case(run, "none", 30))
    assert longer.config.context_length == 30
    tokens = run.corpus.validation[None, :12].astype(np.int32)
    # The centre of its scales moves, and cancels: float32.
    np.testing.assert_allclose(longer(tokens), run.model(tokens), rtol=1e-4, atol=1e-4)
    assert longer(tf.zeros((1, 30), tf.int32)).shape == (1, 30, 256)
    rows = evaluate_windows([run], [9, 30], **OPTIONS)
    assert all(math.isfinite(row["nats_per_token"]) for row in rows)


def test_a_lengthened_config_keeps_the_lengths_of_its_scaling():
    rope = RopeConfig(scaling=RopeScalingConfig(type="dynamic", factor=2.0))
    config = replace(MODEL, rope=rope)
    longer = lengthened_config(config, length=40)
    assert longer.rotary_options() == config.rotary_options()
    assert lengthened_config(MODEL, length=40) == replace(MODEL, context_length=40)


def test_documents_packed_in_a_row_stay_apart_under_a_scaling():
    run = plain_run()
    packed = replace(run, model=TransformerLM(run.model.config, document_separator=0))
    assert model_of(Case(packed, "ntk", 24)).document_separator == 0


def test_a_longer_window_warns_of_extrapolation(eagerly, capsys):
    evaluate_windows([plain_run()], [5, 8, 9, 20], **OPTIONS)
    errors = capsys.readouterr().err
    assert (
        "warning: made was trained on a context of 8 tokens; without a scaling the windows 9, 20 are"
        in errors
    )
    evaluate_windows([plain_run()], [5, 8], **OPTIONS)
    assert "warning" not in capsys.readouterr().err


def test_time_and_memory_are_estimated_before(eagerly, capsys):
    evaluate_windows([plain_run()], [5, 8], **OPTIONS)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("this takes about 0:0")
    assert line.endswith(" GB of memory")


def test_windows_that_memory_does_not_hold_are_refused(eagerly, monkeypatch):
    monkeypatch.setattr(context_cost, "available_memory", lambda: 60_000)
    with pytest.raises(RunError, match=r"a window of 30 may need 0.0 GB .* free. Leave it out"):
        evaluate_windows([plain_run()], [5, 30], **OPTIONS)


def test_little_memory_makes_smaller_batches_with_the_same_losses(eagerly, monkeypatch):
    expected = losses_of(evaluate_windows([plain_run()], [2, 5], **OPTIONS | {"stride": 2}))
    model = plain_run().model
    enough = context_cost.memory_of_batch(model, window=5, batch_size=2)
    monkeypatch.setattr(context_cost, "available_memory", lambda: enough)
    assert context_cost.fitting_batch_size(model, window=5, tokens=24, memory=enough) == 2
    assert context_cost.fitting_batch_size(model, window=5, tokens=24, memory=math.inf) == 4
    found = losses_of(evaluate_windows([plain_run()], [2, 5], **OPTIONS | {"stride": 2}))
    assert found == pytest.approx(expected, abs=1e-6)  # float32


def test_a_device_without_room_is_told_in_a_line(eagerly, monkeypatch):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")

    monkeypatch.setattr(context_cases, "make_window_evaluator", lambda *_, **__: fail)
    with pytest.raises(RunError, match=r"do not fit in memory \(OOM when allocating\). Use shorter ones"):
        evaluate_windows([replace(plain_run())], [5], **OPTIONS)


def test_runs_on_different_text_are_not_compared(eagerly):
    one = replace(plain_run(), path=Path("one"))
    runs = [one, replace(one, path=Path("two"), corpus=corpus_of(fingerprint="b"))]
    with pytest.raises(RunError, match="one and two hold out different text"):
        evaluate_windows(runs, [5], **OPTIONS)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            {"position": "learned"},
            {},
            "a window of 20 cannot be evaluated: the learned positions of made end at its context_length 8",
        ),
        ({"position": "alibi"}, {"scalings": ["yarn"]}, "scales rotary positions, made has position=alibi"),
        (
            {"rope": {"interpolate_factor": 2.0}},
            {"scalings": ["ntk"]},
            "made was trained with model.rope.interpolate_factor=2.0. Evaluate it without --zero-shot",
        ),
        (
            {"rope": {"scaling": RopeScalingConfig(type="linear", factor=2.0)}},
            {"scalings": ["ntk"]},
            "made was trained with model.rope.scaling.type=linear",
        ),
        (
            {"context_length": 30},
            {"scalings": ["ntk"]},
            "--zero-shot has no effect on made: no window is longer than its context of 30",
        ),
        (
            {"context_length": 30},
            {"attention": "blockwise-causal"},
            "--attention blockwise-causal has no effect on made: no window is longer",
        ),
        (
            {"dim": 4},
            {"scalings": ["ntk"]},
            "made cannot be evaluated at 20 under ntk scaling: rope cannot be used: NTK-aware scaling keeps",
        ),
        (
            {"rope": {"xpos": True, "xpos_scale_base": 0.1}},
            {},
            r"made cannot be evaluated at 20: rope cannot be used: xpos_max_length must be in \[1, 12\]",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_told(eagerly, model, options, message):
    with pytest.raises(RunError, match=message):
        evaluate_windows([run_of(**model)], [5, 20], **OPTIONS | options)


def evaluate(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


def test_the_command_prints_json_and_writes_csv_and_picture(trained_run, tmp_path, capsys):
    files = "--csv", tmp_path / "rows.csv", "--plot", tmp_path / "windows.png"
    windows = "--windows", "20", "10"
    assert evaluate(trained_run, *windows, "--zero-shot", "yarn", "--json", *files) == 0
    output = capsys.readouterr()
    rows = json.loads(output.out)
    assert [(row["zero_shot"], row["window"]) for row in rows] == [
        (scaling, window) for scaling in ("none", "yarn") for window in (10, 20)
    ]
    assert {row["run"] for row in rows} == {str(trained_run)}
    assert {(row["step"], row["stride"], row["context_length"]) for row in rows} == {(30, 5, 16)}
    assert {row["standard_error"] for row in rows} == {None}  # one document
    with open(tmp_path / "rows.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["nats_per_token"]) for row in read] == [row["nats_per_token"] for row in rows]
    assert (tmp_path / "windows.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {tmp_path / 'windows.png'}" in output.err
    assert "this takes about 0:" in output.err


def test_the_command_prints_a_table_with_the_picture_in_the_run(trained_run, capsys):
    try:
        assert evaluate(trained_run, "--windows", "8", "16", "--targets", "30", "--stride", "7") == 0
        assert (trained_run / "context.png").exists()
    finally:
        (trained_run / "context.png").unlink(missing_ok=True)
    headers, *rows = capsys.readouterr().out.splitlines()
    assert headers.split()[:4] == ["run", "zero", "shot", "window"]
    assert [row.split()[:3] for row in rows] == [
        [str(trained_run), "none", "8"],
        [str(trained_run), "none", "16"],
    ]
    assert rows[0].split()[-2:] == ["28", "1"]  # 4 blocks of 7, one document


def test_several_runs_have_their_picture_here(trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(trained_run, trained_run, "--windows", "8", "--targets", "10") == 0
    assert (tmp_path / "context.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--windows 128,256",
            "argument --windows: must be a whole number of at least 1, got '128,256'; separate",
        ),
        ("--windows 0", "argument --windows: must be a whole number of at least 1, got '0'"),
        ("--windows abc", "argument --windows: must be a whole number of at least 1, got 'abc'"),
        ("--windows -5", "argument --windows: must be a whole number of at least 1, got '-5'"),
        ("--windows 8 --stride 9", "--stride must be at most the smallest window 8, got 9"),
        ("--windows 8 --stride 4 --targets 3", "--targets must be at least the stride 4, got 3"),
        (
            "--windows 8 --zero-shot yarm",
            "must be one of linear, ntk, yarn, dynamic; got 'yarm'; did you mean 'yarn'?",
        ),
        ("--windows 8 --attention block", "invalid choice: 'block'"),
        (
            "--windows 8 --csv /no/such/rows.csv",
            "cannot write /no/such/rows.csv: there is no directory /no/such",
        ),
        ("--windows 8 --plot rows.txt", "argument --plot: must end in .png, .svg, .pdf, got 'rows.txt'"),
        ("--stride 4", "--stride has no effect without --windows"),
        ("--zero-shot yarn", "--zero-shot has no effect without --windows"),
    ],
)
def test_options_of_the_wrong_form_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate("anywhere", *arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_window_longer_than_any_document_is_refused(trained_run, capsys):
    assert evaluate(trained_run, "--windows", "8", "5000") == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a window of 5,000 tokens is longer than any held-out document")


def test_a_file_that_cannot_be_written_is_told_after_the_table(trained_run, tmp_path, capsys):
    (tmp_path / "rows.csv").mkdir()
    assert evaluate(trained_run, "--windows", "8", "--targets", "8", "--csv", tmp_path / "rows.csv") == 2
    output = capsys.readouterr()
    assert "nats per token" in output.out
    assert output.err.splitlines()[-1] == f"error: cannot write {tmp_path / 'rows.csv'} (Is a directory)"


def test_the_help_says_what_the_difference_is_to(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert "the column `difference` is to the loss of the first row, on the same bytes" in help_text
