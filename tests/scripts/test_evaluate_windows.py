"""Loss by window of context: its values and its command."""

import functools
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config
from data.corpus import TextCorpus
from models.config import RopeConfig, RopeScalingConfig, TransformerLMConfig
from models.transformer import TransformerLM
from runs.evaluate_windows import evaluate_windows
from runs.extended_context import Case, make_case_model
from runs.load import TrainedRun
from scripts.evaluate import main
from system.errors import CommandError, RunError

MODEL = TransformerLMConfig(context_length=8, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=20)
TRAINING = {"batch_size": 100, "precision": "float32", "compile": "graph"}
LENGTHS = 40, 13, 37, 52, 35  # all but the second are longer than the longest window
OPTIONS = {"stride": 3, "max_targets": 10_000, "scalings": [], "attention": "full"}


def corpus_of(lengths=LENGTHS, fingerprint="a"):
    draw = np.random.default_rng(5)
    parts = [np.append(draw.integers(97, 105, length), 0) for length in lengths]
    tokens = np.concatenate([[0], *parts]).astype(np.uint8)
    return TextCorpus(tokens, tokens, fingerprint, "made", num_bytes={})


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
    return TrainedRun(Path("made"), lm, settled, {"step": 7}, corpus_of())


@functools.cache
def plain_run():
    """Run without options; tests leave it unchanged."""
    return run_of()


def losses_of(rows, scaling="none"):
    return {row["window"]: row["nats_per_token"] for row in rows if row["zero_shot"] == scaling}


def losses_one_by_one(model, tokens, *, window, stride, longest, block=None):
    """(document, loss) of each target, in a plain loop over the definition of a window."""
    contexts = []
    for document, (start, stop) in enumerate(itertools.pairwise(np.flatnonzero(tokens == 0))):
        eligible = range(start + longest, stop)
        for number, target in enumerate(eligible):
            block_targets = eligible[number - number % stride :][:stride]
            contexts.append((document, tokens[target], tokens[block_targets[-1] - window : target]))
            assert 0 not in contexts[-1][2][1:]
    losses = []
    for length in {len(context) for _, _, context in contexts}:
        group = [context for context in contexts if len(context[2]) == length]
        inputs = np.stack([context for _, _, context in group]).astype(np.int32)
        logits = model(inputs, attention_block=block).numpy()[:, -1].astype(float)
        for (document, target, _), row in zip(group, logits, strict=True):
            losses.append((document, row.max() + np.log(np.exp(row - row.max()).sum()) - row[target]))
    return losses


@pytest.mark.parametrize(("attention", "block"), [("full", None), ("blockwise-causal", 4)])
def test_losses_equal_those_targets_predicted_one_by_one(eagerly, attention, block):
    run = plain_run()
    small = replace(run, config=replace(run.config, batch_size=13))
    rows = evaluate_windows([small], [5, 34], **OPTIONS | {"attention": attention, "stride": 4})
    for row in rows:
        options = {"window": row["window"], "stride": 4, "longest": 34, "block": block}
        found = losses_one_by_one(run.model, run.corpus.validation, **options)
        mean = np.mean([loss for _, loss in found])
        assert row["nats_per_token"] == pytest.approx(mean, abs=1e-5)  # float32 logits
        assert row["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
        assert row["bits_per_byte"] == pytest.approx(mean / math.log(2), abs=1e-5)
        assert (row["targets"], row["documents"]) == (len(found), 4) == (7 + 4 + 19 + 2, 4)
        in_documents = [[loss - mean for document, loss in found if document == n] for n in (0, 2, 3, 4)]
        error = math.sqrt(4 / 3 * sum(sum(document) ** 2 for document in in_documents)) / len(found)
        assert row["standard_error"] == pytest.approx(error, rel=1e-3)


def test_differences_refer_to_the_first_row(eagerly):
    rows = evaluate_windows([plain_run()], [5, 9, 20], **OPTIONS)
    assert (rows[0]["difference"], rows[0]["difference_error"]) == (0, 0)
    for row in rows[1:]:
        assert row["difference"] == pytest.approx(row["nats_per_token"] - rows[0]["nats_per_token"])
        assert row["difference_error"] > 0


@pytest.mark.parametrize(
    ("scaling", "rope"),
    [
        ("linear", {"interpolate_factor": 3.0}),
        ("linear", {"interpolate_factor": 3.0, "learned_freq": True}),
        ("ntk", {"theta_rescale_factor": 3.0}),
        ("yarn", {"scaling": RopeScalingConfig(type="yarn", factor=3.0, original_max_position_embeddings=8)}),
        # (3 * 24 - 2 * 8) / 8 = 7 times the length, as dynamic NTK has it.
        ("dynamic", {"theta_rescale_factor": 7.0}),
    ],
)
def test_zero_shot_equals_a_model_configured_with_the_scaling(eagerly, scaling, rope):
    base = run_of(rope={"learned_freq": True}) if "learned_freq" in rope else plain_run()
    zero_shot = evaluate_windows([base], [6, 24], **OPTIONS | {"scalings": [scaling]})
    configured = evaluate_windows([run_of(rope=rope)], [24], **OPTIONS)
    plain, scaled = losses_of(zero_shot), losses_of(zero_shot, scaling)
    assert scaled[24] == pytest.approx(losses_of(configured)[24], abs=1e-5)  # float32
    assert abs(scaled[24] - plain[24]) > 1e-3
    assert scaled[6] == plain[6]
    assert [row["factor"] for row in zero_shot] == [1, 1, 1, 3]


@pytest.mark.parametrize("scaling", [{}, {"type": "dynamic", "factor": 2.0}])
def test_xpos_beyond_its_context_is_the_same_model_with_its_scaling(eagerly, scaling):
    rope = {"xpos": True, "xpos_scale_base": 16.0, "scaling": RopeScalingConfig(**scaling)}
    run = run_of(rope=rope, context_length=12)
    longer = make_case_model(Case(run, "none", 30))
    assert longer.config.context_length == 30
    assert longer.config.rotary_options() == run.model.config.rotary_options() | {"xpos_max_length": 30}
    tokens = run.corpus.validation[None, :12].astype(np.int32)
    # The center of its scales moves, and cancels: float32.
    np.testing.assert_allclose(longer(tokens), run.model(tokens), rtol=1e-4, atol=1e-4)
    rows = evaluate_windows([run], [9, 30], **OPTIONS | {"max_targets": 20})
    assert all(math.isfinite(row["nats_per_token"]) for row in rows)


def test_runs_on_different_text_are_not_compared():
    one = replace(plain_run(), path=Path("one"))
    runs = [one, replace(one, path=Path("two"), corpus=corpus_of(fingerprint="b"))]
    with pytest.raises(RunError, match="one and two hold out different text"):
        evaluate_windows(runs, [5], **OPTIONS)


@pytest.mark.parametrize(
    ("model", "scalings", "message"),
    [
        ({"position": "learned"}, [], "the learned positions of made end at its context_length 8"),
        ({"position": "alibi"}, ["yarn"], "rope.scaling is set, but has no effect with position=alibi"),
        ({"rope": {"interpolate_factor": 2.0}}, ["ntk"], "model without a scaling, but made has one"),
        ({"dim": 4}, ["ntk"], "rope.theta_rescale_factor"),
    ],
)
def test_runs_that_cannot_be_evaluated_are_refused(model, scalings, message):
    with pytest.raises(CommandError, match=message):
        evaluate_windows([run_of(**model)], [5, 20], **OPTIONS | {"scalings": scalings})


def test_the_command_prints_json(eagerly, trained_run, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    options = "--windows", 20, 10, "--targets", 60, "--zero-shot", "yarn", "--json"
    code, output, errors = run(main, trained_run, trained_run, *options)
    assert (code, errors[-1]) == (0, "wrote context.png")
    assert f"1/6: {trained_run} none 10 tokens" in errors  # yarn changes nothing at 10
    assert (tmp_path / "context.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(output)
    assert [(row["zero_shot"], row["window"]) for row in rows[:4]] == [
        (scaling, window) for scaling in ("none", "yarn") for window in (10, 20)
    ]
    assert rows[4:] == rows[:4]
    assert {row["run"] for row in rows} == {str(trained_run)}
    assert {(row["step"], row["stride"], row["context_length"]) for row in rows} == {(30, 5, 16)}
    assert {row["standard_error"] for row in rows} == {None}  # one document


def test_the_command_prints_a_table_with_the_picture_in_the_run(eagerly, trained_run, run):
    picture, options = trained_run / "context.png", ("--windows", 8, 16, "--targets", 30, "--stride", 7)
    try:
        _, output, errors = run(main, trained_run, *options)
        assert errors[-2] == "28 targets in 1 document"  # 4 blocks of 7
        assert picture.exists()
        picture.unlink()
        picture.mkdir()
        code, same_output, errors = run(main, trained_run, *options)
        assert (code, same_output) == (2, output)
        assert errors[-1] == f"error: cannot write {picture} (Is a directory)"
    finally:
        picture.rmdir()
    headers, rows = output.splitlines()[:-2], output.splitlines()[-2:]
    assert headers[-1].split()[:4] == ["run", "shot", "window", "token"]
    assert max(map(len, rows)) - len(str(trained_run)) <= 100 - len("outputs/extend_yarn")
    assert [row.split()[:3] for row in rows] == [[str(trained_run), "none", size] for size in ("8", "16")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--windows 128,256", "must be a whole number from 1 to 2147483647, got '128,256'; separate"),
        ("--windows 8 --stride 9", "--stride must be at most the smallest window 8, got 9"),
        ("--windows 8 --zero-shot yarm", "linear, ntk, yarn, dynamic; got 'yarm'; did you mean 'yarn'?"),
        ("--zero-shot yarn", "--zero-shot has no effect without --windows"),
    ],
)
def test_invalid_options_are_refused(arguments, message, run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(main, "anywhere", *arguments.split())
    assert message in capsys.readouterr().err.splitlines()[-1]
