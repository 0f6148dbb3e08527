"""The benchmark: turns, ratios, who is left out, and that each piece of work does what it is timed for."""

import json

import keras
import numpy as np
import pytest

from models.config import TransformerLMConfig
from scripts import benchmark
from scripts.benchmarks import commands, harness, keras_peers, ours, plan
from scripts.benchmarks.harness import Contender, Cost
from scripts.benchmarks.plan import WORKLOADS, Workload
from scripts.machine import machine

TINY = {"batch": 2, "heads": 3, "length": 8, "head_dim": 4, "prompt": 3, "tokens": 5, "grid": 3}
TINY |= {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "mlp_dim": 12}


def fake(name, function, **options):
    return Contender(name, f"tests.scripts.fake_peers:{function}", options)


@pytest.fixture
def fakes(monkeypatch):
    """A function that makes the given contenders those of `rope`."""

    def use(*contenders):
        column = ("square", lambda sizes, seconds: float(sizes["length"] ** 2))
        work = Workload("work of {length}", [{"length": 3}, {"length": 5}], contenders, column)
        monkeypatch.setitem(WORKLOADS, "rope", [work])

    return use


def rows_of(capsys):
    return json.loads(capsys.readouterr().out)["rows"]


def test_contenders_take_turns_there_and_back(fakes, tmp_path):
    log = tmp_path / "log"
    fakes(*(fake(name, "sleeping", milliseconds=1, log=str(log), mark=name) for name in "abc"))
    assert benchmark.main(["rope", "--set", "length=3", "--repeats", "3", "--json"]) == 0
    warm_ups = "".join(name * harness.WARM_UPS for name in "abc")
    assert log.read_text() == warm_ups + "abc" + "cba" + "abc"


def test_ratios_are_to_the_first_and_times_are_those_of_a_unit(fakes, capsys):
    fakes(
        fake("ours", "sleeping", milliseconds=20, count=2),
        fake("peer", "sleeping", milliseconds=100),
    )
    assert benchmark.main(["rope", "--repeats", "2", "--json"]) == 0
    rows = rows_of(capsys)
    assert [(row["work"], row["by"]) for row in rows] == [
        (f"work of {length}", name) for length in (3, 5) for name in ("ours", "peer")
    ]
    for first, second in (rows[:2], rows[2:]):
        assert 20 <= first["first_quartile"] <= first["milliseconds"] <= first["third_quartile"]
        assert second["milliseconds"] >= 100
        assert first["ratio"] == 1
        assert second["ratio"] == pytest.approx(second["milliseconds"] / first["milliseconds"])
    assert [row["square"] for row in rows] == [9, 9, 25, 25]


def test_the_median_and_the_quartiles_are_those_of_the_rounds(fakes, monkeypatch, capsys):
    fakes(fake("ours", "sleeping", milliseconds=0))
    seconds = iter([0.5, 0.1, 0.2, 0.3, 0.4])
    answers = iter([{}] + [{"seconds": next(seconds), "peak_bytes": 7_000_000} for _ in range(5)])
    monkeypatch.setattr(harness.Process, "_answer", lambda process: next(answers))
    assert benchmark.main(["rope", "--set", "length=3", "--json"]) == 0
    (row,) = rows_of(capsys)
    quartiles = [row[name] for name in ("first_quartile", "milliseconds", "third_quartile")]
    np.testing.assert_allclose(quartiles, [200, 300, 400])
    assert row["peak_megabytes"] == 7


def test_memory_is_counted_from_before_the_first_call(fakes, capsys):
    fakes(fake("ours", "allocating", made_with=300, needed=400))
    assert benchmark.main(["rope", "--set", "length=3", "--repeats", "1", "--json"]) == 0
    assert 380 < rows_of(capsys)[0]["peak_megabytes"] < 500


def test_who_is_missing_too_large_or_broken_loses_no_other(fakes, capsys):
    names = ("missing", "too_large", "broken", "dying")
    fakes(*(fake(name, name) for name in names), fake("ours", "sleeping", milliseconds=1))
    assert benchmark.main(["rope", "--set", "length=3", "--repeats", "2"]) == 1
    first, headers, row, *problems = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{machine()}, tensorflow 2.")
    assert headers.split()[:3] == ["work", "by", "milliseconds"]
    assert row.split()[:4] == ["work", "of", "3", "ours"]
    assert problems == [
        "not measured: work of 3: missing: a_package_that_nobody_has is not installed",
        "not measured: work of 3: too_large: it may need 99 GB, which are not free",
        "not measured: work of 3: broken: failed",
        "not measured: work of 3: dying: failed",
    ]


def test_a_missing_peer_is_no_failure(fakes, capsys):
    fakes(fake("peer", "missing"))
    assert benchmark.main(["rope", "--set", "length=3"]) == 0
    assert "a_package_that_nobody_has is not installed" in capsys.readouterr().out


def test_sizes_are_combined_and_only_some_are_measured(monkeypatch, capsys):
    seen = []

    def costs(contenders, sizes, *, repeats):
        seen.append(([contender.name for contender in contenders], sizes["length"], sizes["heads"], repeats))
        return [Cost(0.5, 0.25, 1.0, 0)] * len(contenders)

    monkeypatch.setattr(benchmark, "costs", costs)
    arguments = ["rope", "--set", "length=16,32", "heads=3", "--only", "float32, forward: copy", "nothing"]
    assert benchmark.main([*arguments, "--repeats", "4"]) == 0
    assert seen == [(["copy by TensorFlow"], length, 3, 4) for length in (16, 32)]
    *_, row = capsys.readouterr().out.splitlines()
    # 2 * 8 * 3 * 32 * 64 numbers of 4 bytes in half a second.
    assert row.split()[-6:] == ["500", "250", "1,000", "1.00", "0", "0.000786"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "argument --repeats: must be a whole number of at least 1, got '0'"),
        (["--set", "length=0"], "argument --set: must be a whole number of at least 1, got '0'"),
        (["--set", "width=3"], "argument --set: rope has batch, heads, length, head_dim; got 'width'"),
        (["--only", "abacus"], "argument --only: nothing that rope measures has 'abacus' in its name"),
    ],
)
def test_mistakes_are_told(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["rope", *arguments])
    assert message in capsys.readouterr().err


def works_of(module):
    """The first work of each contender whose work is made in that module, tiny."""
    for what, workloads in WORKLOADS.items():
        for workload in workloads:
            _, sizes = next(workload.cases({name: [value] for name, value in TINY.items()}))
            for contender in workload.contenders:
                path, function = contender.make.split(":")
                if path.endswith(f".{module}"):
                    yield pytest.param(function, sizes | contender.options, id=f"{what}: {contender.name}")


@pytest.fixture
def default_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("function", "arguments"), list(works_of("ours")))
def test_our_work_can_be_done_again_and_again(function, arguments):
    work = getattr(ours, function)(**arguments)
    for _ in range(2):
        work.call()
    assert work.count >= 1


@pytest.mark.parametrize("mode", ["graph", "xla", "auto"])
@pytest.mark.parametrize("precision", plan.PRECISIONS)
def test_keras_layers_train_under_fit(precision, mode, default_policy):
    sizes = {name: TINY[name] for name in ("batch", "length", *plan.DIM_128)}
    work = keras_peers.fit_step(**sizes, precision=precision, mode=mode)
    losses = [work.call().history["loss"][0] for _ in range(3)]
    assert losses[2] < losses[0] < 6  # near ln 256 at first
    assert work.count == keras_peers.STEPS


def test_the_gradient_is_rotated_back():
    """What is timed as forward+backward is both: by the inverse rotation, the gradient of x is what was x."""
    seen = []
    options = {name: TINY[name] for name in plan.QUERIES}
    work = ours.rotation_by(
        lambda x: seen.append(x) or 3 * x, dtype="float32", direction="forward+backward", **options
    )
    rotated, gradient = work.call()
    np.testing.assert_array_equal(rotated, gradient)


def test_generation_makes_every_token():
    sizes = {name: TINY[name] for name in ("batch", "prompt", "tokens", *plan.DIM_128)}
    work = ours.generation(**sizes, precision="float32")
    assert np.shape(work.call()) == (TINY["tokens"], TINY["batch"])
    assert work.count == TINY["tokens"]


def test_full_attention_that_would_fill_the_memory_is_not_begun():
    with pytest.raises(MemoryError, match=r"full attention may need [\d,]+ GB, which are not free"):
        ours.check_memory(TransformerLMConfig(), 10**15)


def test_a_command_is_timed_to_its_first_step():
    tiny = [
        "model.dim=8",
        "model.num_layers=1",
        "model.num_heads=2",
        "model.mlp_dim=8",
        "training.num_steps=9",
    ]
    assert commands.first_step("experiment=vit", *tiny).call().startswith("step 1/9 ")
    with pytest.raises(RuntimeError, match=r"ended before its first step: config error: .*nonsense"):
        commands.first_step("nonsense=1").call()
