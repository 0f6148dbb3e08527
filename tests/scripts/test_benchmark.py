"""What a step of the vision transformer costs: each grid in a process of its own, and what is counted."""

import json
import subprocess

import pytest

from models.vit import AxialViT
from scripts import benchmark
from scripts.machine import machine


def test_each_grid_is_measured_with_each_attention(capsys):
    assert benchmark.main(["axial", "--grids", "2", "--repeats", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["patches"], row["attention"]) for row in rows] == [("2x2", "full"), ("2x2", "axial")]
    for row in rows:
        assert 0 < row["seconds"] < 10
        assert 0 <= row["peak_megabytes"] < 1_000
        assert row["microseconds_per_HW(H+W)"] == pytest.approx(row["seconds"] * 1e6 / 16)


def test_a_grid_that_fails_loses_no_other(monkeypatch, capsys):
    def run(command, **options):
        killed = command[-1] == "full" and command[command.index("--grids") + 1] == "64"
        output = "" if killed else json.dumps({"seconds": 0.5, "bytes": 2_000_000})
        return subprocess.CompletedProcess(command, -9 if killed else 0, stdout=output)

    monkeypatch.setattr(subprocess, "run", run)
    assert benchmark.main(["axial", "--grids", "64", "32"]) == 1
    first, headers, *rows = capsys.readouterr().out.splitlines()
    assert first == machine()
    assert headers.split()[:3] == ["patches", "attention", "seconds"]
    assert [row.split()[:4] for row in rows] == [
        ["64x64", "full", "failed", "-"],
        ["64x64", "axial", "0.5000", "2"],
        ["32x32", "full", "0.5000", "2"],
        ["32x32", "axial", "0.5000", "2"],
    ]


def test_memory_is_counted_from_before_the_first_full_size_pass(monkeypatch):
    passes = []

    class Watched(AxialViT):
        def call(self, images, **options):
            passes.append(images.shape[1])
            return super().call(images, **options)

    monkeypatch.setattr("models.vit.AxialViT", Watched)
    monkeypatch.setattr(benchmark, "peak_bytes", lambda: passes.append("peak") or 1)
    options = benchmark.parse(["axial", "--grids", "6", "--attention", "full", "--repeats", "1"])
    benchmark.step_cost(options)
    small, real = 2 * benchmark.PATCH_SIZE, 6 * benchmark.PATCH_SIZE
    first, counted, *rest, last = passes
    assert (first, counted, set(rest), last) == (small, "peak", {real}, "peak")


@pytest.mark.parametrize("option", ["--grids", "--repeats", "--batch-size"])
def test_fewer_than_one_is_refused(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["axial", option, "0"])
    assert f"argument {option}: must be a whole number of at least 1, got '0'" in capsys.readouterr().err
