import errno
import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

from configs.compose import compose, save_config
from configs.schema import parse_config
from runs import study as studies
from runs.study import fill_in, read_study, select, study_names
from runs.study_page import figure_of, format_values, mean_and_interval, paired_differences
from scripts import study as command
from system.command import run_command
from system.errors import ConfigError, RunError

DECLARATION = """
question: Does a width of 8 lower the loss?
setup: Tiny models.
seeds: [3, 5]
recipes:
  wide:
    steps: [7]
    start_seconds: 50
    step_seconds: 10
    set: [model.dim=$dim]
    evaluate: [evaluate --size $dim]
  tuned:
    parent: wide
    steps: [2, 4]
    start_seconds: 10
    step_seconds: 5
    scaling: linear
    set: [context_length=32]
    evaluate: [evaluate]
    evaluate_parent: [evaluate --zero-shot $scaling]
variants:
  narrow: {recipe: wide, dim: 4}
  wide: {recipe: wide, dim: 8}
  tuned: {recipe: tuned, reference: wide}
reference: narrow
columns:
  loss: {from: summary, value: loss, steps: 7}
  tokens: {from: metrics, value: tokens, loss: <= 2.5, steps: 7, format: ",.0f"}
  zero-shot: {value: loss, steps: 0, zero_shot: $scaling}
  tuned: {value: loss, take: mean, steps: 4}
figure:
  - - {title: loss, columns: [loss]}
    - {title: tuning, columns: [zero-shot, tuned]}
"""

TINY = """
question: Does a scaling help?
setup: Tiny models.
seeds: [1]
recipes:
  text: {steps: [2], start_seconds: 1, step_seconds: 1, set: [context_length=16]}
  longer: {parent: rotary, steps: [1], start_seconds: 1, step_seconds: 1, set: [context_length=32]}
variants:
  rotary: {recipe: text, evaluate: [evaluate --windows 16 32 --targets 100]}
  longer:
    recipe: longer
    set: [model.rope.interpolate_factor=2]
    evaluate: [evaluate --windows 16 32 --targets 100]
    evaluate_parent: ["evaluate --windows 16 32 --targets 100 --zero-shot linear"]
reference: rotary
columns:
  loss: {from: summary, value: validation_loss}
  scaled: {value: nats_per_token, window: 32, zero_shot: linear, steps: 0}
  steps: {from: metrics, value: step, validation_loss: <= 10}
figure:
  - - {columns: [loss]}
"""


class FakeRuns:
    """Stands for train.py and the scripts: the results depend on the overrides of a run."""

    def __init__(self, stop_at=None):
        self.commands, self.stop_at = [], stop_at

    def __call__(self, arguments, file=None):
        _, program, *words = arguments
        self.commands.append(" ".join(words))
        if len(self.commands) == self.stop_at:
            raise KeyboardInterrupt
        if program.endswith("train.py"):
            keys = dict(word.replace("'", "").split("=", 1) for word in words)
            directory = studies.Path(keys["output_dir"], keys["name"])
            assert "init_from" not in keys or (studies.Path(keys["init_from"]) / "summary.json").exists()
            directory.mkdir()
            loss = int(keys.get("model.dim", 0)) + int(keys["num_steps"]) + int(keys["seed"]) ** 2
            rows = [{"step": step, "tokens": 10 * step, "loss": 4 - step} for step in (1, 2, 3)]
            (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (directory / "summary.json").write_text(json.dumps({"loss": loss, "elapsed_seconds": 60.0}))
        else:
            loss = json.loads((studies.Path(words[0]) / "summary.json").read_text())["loss"]
            zero_shot = words[2] if "--zero-shot" in words else "none"
            json.dump([{"loss": loss + 1, "zero_shot": zero_shot}, {"loss": loss + 2}], file)
        return 0


@pytest.fixture
def declaration(tmp_path, monkeypatch):
    """Path of a declaration with two widths, and models that start from one of them."""
    monkeypatch.setattr(studies, "DECLARATIONS", tmp_path / "declarations")
    path = tmp_path / "declarations" / "width.yaml"
    path.parent.mkdir()
    path.write_text(DECLARATION)
    return path


@pytest.fixture
def start(declaration, tmp_path, monkeypatch):
    """Function that starts the study; returns its commands, and the table unless it was interrupted."""

    def start(*words, stop_at=None):
        fake = FakeRuns(stop_at)
        monkeypatch.setattr(studies, "run_job", fake)
        places = ["--output-dir", str(tmp_path / "runs"), "--pages", str(tmp_path / "pages")]
        try:
            command.main(["width", *words, *places])
        except KeyboardInterrupt:
            return fake.commands, None
        return fake.commands, (tmp_path / "pages" / "width.csv").read_text()

    return start


def test_a_study_writes_a_table_of_each_seed_and_a_page(start, tmp_path):
    commands, table = start()
    assert len(commands) == 2 * (2 + 2 + 1 + 4)  # seeds; each variant is trained and measured, `wide` twice
    assert table.splitlines() == [
        "variant,seed,loss,tokens,zero-shot,tuned",
        "narrow,3,20.0,20.0,nan,nan",
        "narrow,5,36.0,20.0,nan,nan",
        "wide,3,24.0,20.0,nan,nan",
        "wide,5,40.0,20.0,nan,nan",
        "tuned,3,nan,nan,25.0,14.5",
        "tuned,5,nan,nan,41.0,30.5",
    ]
    page = " ".join((tmp_path / "pages" / "width.md").read_text().split())
    assert "Does a width of 8 lower the loss?" in page and "8 runs and 8 minutes" in page
    assert "| narrow | 28.0000 ± 101.6496 | 20 ± 0 | - | - |" in page
    assert "| wide | +4.0000 ± 0.0000 | +0 ± 0 | - | - |" in page
    assert (tmp_path / "pages" / "width.png").stat().st_size > 1_000


def test_an_interrupted_study_resumes_to_the_same_table(start, tmp_path):
    expected, table = start()
    for stop_at in range(1, len(expected) + 1, 2):
        studies.delete(tmp_path / "runs")
        first, _ = start(stop_at=stop_at)
        second, resumed = start()
        assert resumed == table
        assert first + second[1:] == expected and second[0] == first[-1]


def test_a_finished_study_runs_nothing_and_keeps_the_words_on_its_page(start, tmp_path):
    start()
    page = tmp_path / "pages" / "width.md"
    page.write_text(page.read_text().replace("Not written yet.", "Words of a person.", 1))
    before = page.read_text()
    assert start()[0] == []
    assert page.read_text() == before


def test_a_changed_declaration_repeats_only_what_it_changes(start, declaration):
    start()
    text = declaration.read_text()
    declaration.write_text(text.replace("narrow: {recipe: wide, dim: 4}", "narrow: {recipe: wide, dim: 2}"))
    commands, table = start()
    assert len(commands) == 4 and all("narrow" in command for command in commands)
    assert "narrow,3,18.0" in table
    declaration.write_text(text.replace("[evaluate]", "[evaluate --step 1]"))
    assert {command.split()[1] for command in start()[0] if "tuned" in command} == {"--step"}


def test_what_starts_from_a_changed_variant_is_trained_again(start, declaration):
    start()
    declaration.write_text(declaration.read_text().replace("wide, dim: 8", "wide, dim: 16"))
    commands, table = start()
    assert len(commands) == 2 * (3 + 4) and not any("narrow" in command for command in commands)
    assert "tuned,3,nan,nan,33.0,14.5" in table


def test_a_directory_of_another_run_is_one_clear_line(start, tmp_path):
    other = tmp_path / "runs" / "width" / "narrow-7-seed-3"
    other.mkdir(parents=True)
    with pytest.raises(RunError, match="narrow-7-seed-3 is a run of another config"):
        start()


def test_a_failed_run_ends_the_study_with_its_exit_code(start, monkeypatch, capsys):
    monkeypatch.setattr(FakeRuns, "__call__", lambda self, arguments, file=None: 75)
    with pytest.raises(SystemExit, match="75"):
        start()
    assert capsys.readouterr().err == "note: the study has stopped; the same command resumes it.\n"


def test_a_full_disk_is_one_clear_line(start, monkeypatch, capsys):
    def fail(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(studies, "write_text", fail)
    assert run_command(start) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_other_keys_for_all_runs_leave_those_of_the_declaration_alone(start, tmp_path):
    start()
    before = sorted((tmp_path / "runs" / "width").iterdir())
    start("model.dim=8")
    assert sorted((tmp_path / "runs" / "width").iterdir()) == before
    assert (tmp_path / "runs" / "width-model.dim-8").is_dir()
    for end in "ab":  # longer than a file system's names
        start(f"data.path={'x' * 300}{end}")
    assert len(list((tmp_path / "runs").glob("width-data.path-xxx*"))) == 2


def test_quick_runs_have_two_steps_of_one_seed_and_leave_the_pages_alone(start, tmp_path):
    commands, _ = start("precision=float32", "--seeds", "7"), None
    (tmp_path / "pages" / "width.csv").write_text("")
    commands, table = start("--quick")
    trainings = [command for command in commands if "num_steps" in command]
    assert all("num_steps=2" in command and "seed=3" in command for command in trainings)
    assert table == "" and (tmp_path / "runs" / "width-quick" / "width.md").exists()


def test_intervals_are_those_of_student_and_pairs_are_subtracted(declaration):
    draw = np.random.default_rng(0)
    for count, quantile in ((2, 12.706), (3, 4.303), (10, 2.262)):  # 97.5 %, of a printed table
        values = draw.normal(size=count)
        interval = values.mean(), quantile * values.std(ddof=1) / count**0.5
        np.testing.assert_allclose(mean_and_interval(np.append(values, np.nan)), interval, rtol=1e-4)
    values = {name: draw.normal(size=(4, 2)) for name in ("narrow", "wide", "tuned")}
    differences = paired_differences(read_study("width"), values)
    *_, wide, tuned = format_values(read_study("width"), differences, sign="+").splitlines()
    points, curves = (figure := figure_of(read_study("width"), values)).axes
    assert [label.get_text() for label in points.get_yticklabels()] == ["wide", "tuned (wide)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(values)
    np.testing.assert_allclose(curves.containers[1].lines[0].get_ydata(), values["wide"][[2, 3]].mean(axis=1))
    for row, name, other in ((wide, "wide", "narrow"), (tuned, "tuned (wide)", "wide")):
        own = values[name.partition(" ")[0]]
        assert row.startswith(f"| {name} | {(own - values[other])[0].mean():+.4f} ± ")


def test_a_column_with_several_values_is_refused():
    rows = [{"from": "script", "loss": 1.0, "window": 8}, {"from": "script", "loss": 2.0, "window": 16}]
    assert select(rows, {"value": "loss", "window": "$long"}, {"long": 16}) == 2.0
    assert select(rows, {"value": "loss", "take": "mean"}, {}) == 1.5
    with pytest.raises(ConfigError, match="has 2 values"):
        select(rows, {"value": "loss"}, {})


def test_an_unknown_study_is_refused():
    with pytest.raises(ConfigError, match=r"no study 'position'.*did you mean 'positions'"):
        read_study("position")


@pytest.mark.parametrize("name", study_names())
def test_every_command_of_a_study_is_accepted(name, tmp_path):
    study = replace(read_study(name, [0]), directory=tmp_path)
    assert len(read_study(name).seeds) >= 3
    assert int(study.cost.split()[3]) * len(read_study(name).seeds) <= 60  # minutes
    names = [run.directory.name for variant in study.variants for run in study.runs(variant, 0)]
    assert len(set(names)) == len(names)
    for variant in study.variants:
        options = study.variant(variant)
        assert options["reference"] in study.variants
        for run in study.runs(variant, 0)[:1]:
            parent = [f"init_from={run.parent.directory}"] if run.parent else []
            config = parse_config(compose([*run.overrides, *parent, f"output_dir={tmp_path}"]))
            run.directory.mkdir()
            save_config(config, run.directory / "config.yaml")
        for line in options["evaluate"] + options["evaluate_parent"]:
            script, *words = fill_in(line, options).split()
            importlib.import_module(f"scripts.{script}").parse(["run", *words, "--json"])
    for column in study.columns.values():  # each `$key` is one of a variant
        keys = {value.removeprefix("$") for value in map(str, column.values()) if value.startswith("$")}
        assert any(keys <= {*study.variant(variant)} for variant in study.variants)
    for panel in (panel for row in study.figure for panel in row):
        assert {*panel["columns"]} <= {*study.columns} and {*panel.get("variants", ())} <= {*study.variants}
        assert {*panel} <= {"title", "columns", "ticks", "variants", "x", "y"}
    assert len((studies.DECLARATIONS / f"{name}.yaml").read_text().splitlines()) <= 60


@pytest.mark.slow
def test_a_study_of_tiny_models_is_trained_and_measured(workplace, tmp_path, declaration):
    declaration.write_text(TINY)
    own = ("num_steps", "context_length", "output_dir")  # keys that the study sets
    overrides = [word for word in workplace.defaults if not word.startswith(own)]
    places = ["--output-dir", str(tmp_path / "runs"), "--pages", str(tmp_path / "pages")]
    command.main(["width", *overrides, *places])
    header, *rows = (tmp_path / "pages" / "width.csv").read_text().splitlines()
    assert header == "variant,seed,loss,scaled,steps"
    (_, _, loss, scaled, steps), (_, _, longer_loss, longer_scaled, longer_steps) = (
        r.split(",") for r in rows
    )
    assert 0 < float(loss) < 10 and 0 < float(longer_loss) < 10 and scaled == "nan"
    assert 0 < float(longer_scaled) < 10 and (steps, longer_steps) == ("2.0", "1.0")
