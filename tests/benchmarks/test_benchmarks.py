"""Benchmarks: turns, ratios, contenders that are left out, and the work that each contender does."""

import datetime
import json

import numpy as np
import pytest

from benchmarks import __main__ as benchmark
from benchmarks import harness, keras_peers, ours
from benchmarks.harness import Contender, Workload
from benchmarks.workloads import WORKLOADS
from models.config import RopeConfig
from system.text import ROOT, format_command
from training.evaluation import summed_cross_entropy
from training.hardware import describe_machine

MODEL = {"dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 12}
QUERIES = {"batch": 2, "heads": 3, "length": 8, "head_dim": 4}
TINY = MODEL | QUERIES | {"grid": 3}


def fake(name, function, **options):
    return Contender(name, f"tests.benchmarks.fake_peers:{function}", options)


@pytest.fixture
def fakes(monkeypatch):
    """`fakes(*contenders)`: replaces the contenders of `rope`."""

    def replace(*contenders):
        work = Workload("the work", {"size": 3}, list(contenders), ("pages_per_second", 5))
        monkeypatch.setitem(WORKLOADS, "rope", [work])

    return replace


def test_contenders_take_turns_and_those_that_fail_are_left_out(fakes, tmp_path, capsys):
    log = tmp_path / "log"
    names = ("missing", "broken", "dying")
    sleeping = (fake(mark, "sleeping", milliseconds=1, log=str(log), mark=mark) for mark in "abc")
    fakes(*(fake(name, name) for name in names), *sleeping)
    assert benchmark.main(["rope", "--repeats", "3"]) == 1
    assert log.read_text() == "abc" + "abc" + "cba" + "abc"  # the first call of each is a warm-up
    first, headers, *rows, missing, broken, dying = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{describe_machine()}, {datetime.date.today()}, tensorflow 2.")
    assert headers.split()[:3] == ["work", "by", "milliseconds"]
    assert [row.split()[:3] for row in rows] == [["the", "work", mark] for mark in "abc"]
    command = format_command("-m", "pip", "install", "-r", ROOT / "requirements-bench.txt")
    assert missing == f"left out: missing: a_package_that_nobody_has is not installed: {command}"
    assert broken == "left out: broken: failed (RuntimeError: this contender is broken)"
    assert dying.startswith("left out: dying: failed (BrokenProcessPool: ")


def test_groups_are_printed_and_written_as_soon_as_they_are_measured(monkeypatch, tmp_path, capsys):
    """The measurement of the third group is interrupted."""
    path, measured = tmp_path / "rows.json", []

    def measure(workload, *, repeats):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(workload.title)
        return [{"work": workload.title, "by": "copy", "milliseconds": 1_234.5, "ratio": 1.0}]

    monkeypatch.setattr(benchmark, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(["rope", "--json", str(path)])
    rows = json.loads(path.read_text())
    assert [row["work"] for row in rows] == measured
    facts = {"machine": describe_machine(), "date": str(datetime.date.today())}
    assert all(row.items() >= facts.items() and "tensorflow 2." in row["packages"] for row in rows)
    output = capsys.readouterr()
    assert output.err.splitlines()[0] == "about 7:00 (minutes:seconds) if all are installed"
    assert output.out.splitlines()[-1].split()[-3:] == ["copy", "1,234", "1.00"]


@pytest.mark.parametrize("subject", WORKLOADS)
def test_quick_measures_one_round_of_one_group_in_about_two_minutes(subject):
    options = benchmark.parse([subject, "--quick"])
    (workload,), (start, turn) = options.workloads, options.workloads[0].seconds
    assert options.repeats == 1
    assert workload.contenders[0] == WORKLOADS[subject][0].contenders[0]  # the reference of the ratios
    assert len(workload.contenders) > 1
    assert len(workload.contenders) * (start + turn) <= 150


def test_times_are_per_unit_and_ratios_refer_to_the_first_contender(fakes, tmp_path):
    fakes(fake("ours", "sleeping", milliseconds=0.02, count=1_000), fake("peer", "sleeping", milliseconds=20))
    assert benchmark.main(["rope", "--repeats", "2", "--json", str(tmp_path / "rows.json")]) == 0
    ours_row, peer = json.loads((tmp_path / "rows.json").read_text())
    assert (ours_row["work"], ours_row["by"], peer["by"]) == ("the work", "ours", "peer")
    assert 0.02 <= ours_row["first_quartile"] <= ours_row["milliseconds"] <= ours_row["third_quartile"]
    assert ours_row["milliseconds"] < 20 <= peer["milliseconds"]  # the calls take equally long
    assert ours_row["ratio"] == 1
    assert peer["ratio"] == pytest.approx(peer["milliseconds"] / ours_row["milliseconds"])
    assert peer["pages_per_second"] == pytest.approx(5_000 / peer["milliseconds"])


def test_memory_is_counted_from_the_first_call():
    work = Workload("", {}, [fake("ours", "allocating", before=100, during=150)], ("pages_per_second", 1))
    (row,) = harness.measure(work, repeats=1)
    assert 140 < row["peak_megabytes"] < 220


def test_only_selects_rows_by_their_names():
    (work,) = benchmark.parse(["rope", "--only", "float32, forward: copy", "nothing"]).workloads
    assert [contender.name for contender in work.contenders] == ["copy by TensorFlow"]
    assert work.sizes["direction"] == "forward"
    assert work.rate[1] == pytest.approx(2 * 8 * 8 * 1024 * 64 * 4 / 1e9)  # gigabytes read and written


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [("--only", "abacus", "no row of rope contains 'abacus'"), ("--json", "no/x", "no is not a directory")],
)
def test_a_wrong_argument_is_refused_before_measuring(flag, value, problem, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["rope", flag, value])
    assert f"argument {flag}: {problem}" in capsys.readouterr().err


@pytest.mark.parametrize("subject", ["rope", "train", "axial"])
def test_our_work_can_be_repeated(subject, eagerly):
    for workload in WORKLOADS[subject]:
        contender = workload.contenders[0]
        sizes = {name: TINY.get(name, value) for name, value in workload.sizes.items()}
        work = getattr(ours, contender.make.partition(":")[2])(**sizes, **contender.options)
        for _ in range(2):
            work.call()
        assert work.count >= 1


@pytest.fixture
def trained():
    """Weights of our language model, large and in the layout of the peers, some tokens and their logits."""
    model = ours.language_model(8, "float32", **MODEL, rope=RopeConfig(layout="half"))
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(generator.normal(size=variable.shape, scale=0.5))
    tokens = generator.integers(256, size=(2, 8))
    return {variable.path: variable.numpy() for variable in model.variables}, tokens, model(tokens).numpy()


def test_the_keras_model_equals_ours(trained):
    weights, tokens, logits = trained
    theirs = keras_peers.language_model(8, **MODEL)
    values = []
    for path, value in weights.items():
        parts = {"qkv": 3, "gate_and_up": 2}.get(path.split("/")[-2], 1)
        values += np.split(value, parts, axis=-1)
    theirs.set_weights(values)
    np.testing.assert_allclose(theirs(tokens), logits, rtol=1e-3, atol=1e-3)  # epsilons of norms differ


def test_the_torch_model_equals_ours(trained):
    torch_peers = pytest.importorskip("benchmarks.torch_peers", reason="torch is not installed")
    import torch

    weights, tokens, logits = trained
    theirs = torch_peers.language_model(8, **MODEL)
    for path, value in weights.items():
        *outer, layer, kind = path.split("/")
        blocks = [f"blocks.{part[-1]}." for part in outer if part.startswith("block_")]
        weight = theirs.get_submodule("".join([*blocks, layer])).weight
        weight.data = torch.tensor(value.T if kind == "kernel" else value)
    expected = summed_cross_entropy(logits, tokens) / tokens.size
    theirs.head.weight = theirs.embedding.weight
    loss = theirs(torch.tensor(tokens), torch.tensor(tokens))
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-4)


def test_the_backward_pass_is_part_of_the_timed_rotation():
    work = ours.time_rotation(lambda x: 3 * x, dtype="float32", direction="forward+backward", **QUERIES)
    rotated, gradient = work.call()
    np.testing.assert_array_equal(rotated, gradient)  # x is also the gradient of the output


def test_generation_returns_every_token(eagerly):
    work = ours.generation(batch=2, prompt=3, tokens=5, precision="float32", **MODEL)
    for _ in range(2):
        assert np.shape(work.call()) == (5, 2)
    assert work.count == 5


def test_commands_are_timed_to_a_line_or_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "ROOT", tmp_path)
    train = tmp_path / "train.py"
    train.write_text("import time\nprint('step 1/9 at last', flush=True)\ntime.sleep(999)")
    assert ours.command(until="step 1/").call() == "step 1/9 at last\n"
    train.write_text("import sys\nprint('step 1/9')\nprint(*sys.argv[1:])")
    assert ours.command(arguments=["name=x"]).call().split()[1:] == ["name=x"]
    train.write_text("import sys\nprint('config error:', sys.argv[-1])\nsys.exit(len(sys.argv) - 2)")
    for options in ({"until": "step 1/"}, {"arguments": ["nonsense=1"]}):
        with pytest.raises(RuntimeError, match=r"train\.py .* ended with [01]: config error: "):
            ours.command(**options).call()
