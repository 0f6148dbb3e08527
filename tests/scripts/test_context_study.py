"""The study of context extension: its parts, how it goes on, and what it makes of the results."""

import csv
import io
import itertools
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.schema import compose, parse_config, to_dict
from scripts import context_report, context_study, evaluate
from scripts.context_plan import CONTINUED, EXTENDED, SCALINGS, WINDOWS, Part, Study, parts_of, seconds_left
from scripts.context_report import BEGIN, END, PAGE, Report
from scripts.failures import exit_code_of


def composed(part):
    """The config that a training composes, by key."""
    kept = sys.argv
    try:
        sys.argv = ["train.py"]
        return to_dict(parse_config(compose(list(part.command[1:]))))
    finally:
        sys.argv = kept


def differing(one, other):
    """The values that differ between two nested dictionaries, of the second, by their last key."""
    found = {}
    for key in one:
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            found |= differing(one[key], other[key])
        elif one[key] != other[key]:
            found[key] = other[key]
    return found


@pytest.fixture
def composing(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # restores what composing sets


@pytest.fixture(scope="module")
def trainings():
    """Of two seeds, by name."""
    parts = parts_of(Study(seeds=(3, 5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "1")
        return {part.name: composed(part) for part in parts if not part.is_evaluation}


def test_each_seed_has_a_base_a_control_and_four_variants_and_one_has_xpos(trainings):
    expected = [f"train {variant}-{seed}" for seed in (3, 5) for variant in ("base", *CONTINUED)]
    assert list(trainings) == [*expected, "train xpos-3"]
    assert list(CONTINUED) == ["continued", "direct", "linear", "ntk", "yarn"]


def test_variants_differ_from_each_other_in_their_scaling_alone(trainings):
    plain = trainings["train direct-5"]
    assert plain["model"]["rope"]["interpolate_factor"] == 1
    scalings = {
        "linear": {"interpolate_factor": 4.0},
        "ntk": {"type": "ntk", "factor": 4.0},
        "yarn": {"type": "yarn", "factor": 4.0},
    }
    for variant, changed in scalings.items():
        name = f"{variant}-5"
        assert differing(plain, trainings[f"train {name}"]) == {"name": name} | changed


def test_variants_are_fine_tuned_from_the_base_of_their_seed(trainings):
    base, plain = trainings["train base-5"], trainings["train direct-5"]
    assert (base["context_length"], base["num_steps"], base["batch_size"]) == (256, 2000, 8)
    assert (plain["context_length"], plain["num_steps"], plain["batch_size"]) == (1024, 300, 2)
    for seed, variant in itertools.product((3, 5), CONTINUED):
        child = trainings[f"train {variant}-{seed}"]
        assert (child["init_from"], child["seed"]) == (f"outputs/context_study/base-{seed}", seed)
    assert differing(base["model"], plain["model"]) == {}


def test_the_control_sees_as_many_tokens_at_the_length_of_the_base(trainings):
    found = differing(trainings["train direct-5"], trainings["train continued-5"])
    assert found == {"name": "continued-5", "context_length": 256, "batch_size": 8}


def test_seeds_differ_in_nothing_else(trainings):
    found = differing(trainings["train base-3"], trainings["train base-5"])
    assert found == {"name": "base-5", "seed": 5}


def test_xpos_is_the_base_with_xpos(trainings):
    found = differing(trainings["train base-3"], trainings["train xpos-3"])
    assert found == {"name": "xpos-3", "xpos": True}


def test_evaluations_ask_for_the_same_windows_and_targets(tmp_path):
    study = Study(seeds=(3, 5), output_dir=tmp_path, targets=640)
    for name in ("parts", "base-3", "xpos-3"):
        (tmp_path / name).mkdir()
    parts = parts_of(study)
    asked = {part.name: evaluate.parse(list(part.command[2:])) for part in parts if part.is_evaluation}
    assert len(asked) == 2 * 6 + 3
    for name, options in asked.items():
        assert (options.windows, options.stride, options.targets) == ([128, 256, 512, 1024, 2048], 64, 640)
        is_base = name.split()[1].count("-") == 1 and "base" in name
        assert options.zero_shot == (["linear", "ntk", "dynamic", "yarn"] if is_base else [])
    blockwise = {name for name, options in asked.items() if options.attention == "blockwise-causal"}
    assert blockwise == {"evaluate xpos-3-blockwise-causal", "evaluate base-3-blockwise-causal"}


def test_steps_and_overrides_reach_every_training(composing):
    study = Study(seeds=(1,), num_steps=7, extend_steps=5, overrides=("model.dim=64",))
    for part in parts_of(study):
        if not part.is_evaluation:
            config = composed(part)
            assert config["num_steps"] == (5 if part.variant in CONTINUED else 7)
            assert config["model"]["dim"] == 64


def test_no_two_parts_share_a_name_or_a_result():
    parts = parts_of(Study())
    assert len({part.name for part in parts}) == len({part.result for part in parts}) == len(parts) == 40


def test_every_run_is_trained_before_it_is_read():
    ready = set()
    for part in parts_of(Study(seeds=(1, 2))):
        if part.is_evaluation:
            assert part.command[2] in ready
        else:
            parents = {change.split("=")[1] for change in part.command if change.startswith("init_from=")}
            assert parents <= ready
            ready.add(str(part.result.parent))


def test_the_remaining_time_is_that_of_the_parts_of_its_kind():
    base, zero_shot, extend, evaluation = parts_of(Study())[:4]
    assert seconds_left([base, extend, extend], []) == 330 + 2 * 90
    # The base took half of what is guessed; extending is known.
    done = [(base, 165.0), (extend, 45.0)]
    assert seconds_left([zero_shot, evaluation], done) == pytest.approx((400 + 90) / 2)
    assert seconds_left([extend, extend], [(extend, 10.0), (extend, 30.0)]) == 40


# Running


class Runner:
    """Stands for `run_job`: notes each command, and writes what it would.

    A training whose directory is of another command is refused.
    """

    def __init__(self, *, failing=None, code=2, elapsed_seconds=0.0):
        self.names, self.failing, self.code = [], failing, code
        self.elapsed_seconds = elapsed_seconds

    def __call__(self, command):
        assert command[0] == sys.executable
        arguments = command[1:]
        options = dict(word.split("=", 1) for word in arguments if "=" in word)
        is_training = arguments[0] == "train.py"
        self.names.append(options["name"] if is_training else Path(arguments[-1]).stem)
        if self.names[-1] == self.failing:
            return self.code
        if is_training:
            run = Path(options["output_dir"]) / options["name"]
            run.mkdir(parents=True, exist_ok=True)
            recorded = run / "config.yaml"
            if recorded.exists() and recorded.read_text() != str(arguments):
                return 2
            recorded.write_text(str(arguments))
            (run / "summary.json").write_text(json.dumps({"elapsed_seconds": self.elapsed_seconds}))
        else:
            Path(arguments[-1]).write_text(made_csv(arguments[2], arguments[3:]))
        return 0


def loss_of(variant, seed, scaling, attention, window):
    """Any number, the same for the same case."""
    return random.Random(f"{variant} {seed} {scaling} {attention} {window}").uniform(1, 2)


def made_csv(run, options):
    variant, seed = Path(run).name.rsplit("-", 1)
    attention = options[options.index("--attention") + 1] if "--attention" in options else "full"
    scalings = options[options.index("--zero-shot") + 1].split(",") if "--zero-shot" in options else []
    rows = [
        {
            "run": run,
            "zero_shot": scaling,
            "window": window,
            "nats_per_token": loss_of(variant, seed, scaling, attention, window),
            "standard_error": "",
            "targets": 640,
            "documents": 9,
            "attention": attention,
            "stride": 64,
        }
        for scaling in ("none", *scalings)
        for window in WINDOWS
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def study_in(tmp_path, monkeypatch):
    """The exit code of a study below tmp_path with a runner, without a figure."""
    monkeypatch.setattr(context_report, "plot_context_panels", lambda *_, **__: None)

    def study(runner, *arguments):
        monkeypatch.setattr(context_study, "run_job", runner)
        places = "--output-dir", str(tmp_path / "runs"), "--docs-dir", str(tmp_path / "docs")
        return exit_code_of(lambda: context_study.main([*places, *arguments]))

    return study


def test_a_finished_study_is_not_run_again(study_in, tmp_path):
    first, second = Runner(), Runner()
    assert study_in(first, "--seeds", "4") == 0
    assert len(first.names) == 16
    page = (tmp_path / "docs" / PAGE).read_text()
    assert study_in(second, "--seeds", "4") == 0
    assert second.names == []
    assert (tmp_path / "docs" / PAGE).read_text() == page


def test_what_is_missing_is_made_again(study_in, tmp_path):
    assert study_in(Runner(), "--seeds", "4") == 0
    for path in "parts/evaluate-yarn-4.csv", "parts/evaluate-ntk-4.json", "xpos-4/summary.json":
        (tmp_path / "runs" / path).unlink()
    again = Runner()
    assert study_in(again, "--seeds", "4") == 0
    evaluations = ["evaluate-xpos-4", "evaluate-xpos-4-blockwise-causal"]
    assert again.names == ["evaluate-ntk-4", "evaluate-yarn-4", "xpos-4", *evaluations]


def test_other_options_are_not_taken_for_done(study_in, tmp_path):
    assert study_in(Runner(), "--seeds", "4") == 0
    targets, steps = Runner(), Runner()
    assert study_in(targets, "--seeds", "4", "--targets", "640") == 0
    assert all(name.startswith("evaluate") for name in targets.names)
    assert len(targets.names) == 9
    for variant in CONTINUED:
        shutil.rmtree(tmp_path / "runs" / f"{variant}-4")
    assert study_in(steps, "--seeds", "4", "--targets", "640", "--extend-steps", "5") == 0
    assert steps.names == [f"{kind}{variant}-4" for variant in CONTINUED for kind in ("", "evaluate-")]


def test_what_comes_of_a_base_that_is_trained_again_is_made_again(study_in, tmp_path, capsys):
    assert study_in(Runner(), "--seeds", "4") == 0
    runs = tmp_path / "runs"
    shutil.rmtree(runs / "base-4")
    refused, stopped, again = Runner(), Runner(failing="base-4", code=130), Runner()
    assert study_in(refused, "--seeds", "4") == 2
    assert refused.names == []
    children = [runs / f"{variant}-4" for variant in CONTINUED]
    assert capsys.readouterr().err == (
        f"error: {runs / 'base-4'} is to be trained again, but other runs started from the old one. "
        f"Delete {', '.join(map(str, children))}\n"
    )
    for child in children:
        shutil.rmtree(child)
    assert study_in(stopped, "--seeds", "4") == 130
    assert study_in(again, "--seeds", "4") == 0
    assert again.names == [
        "base-4",
        "evaluate-base-4",
        *[f"{kind}{variant}-4" for variant in CONTINUED for kind in ("", "evaluate-")],
        "evaluate-base-4-blockwise-causal",
    ]


def test_a_directory_of_another_config_is_told_with_what_to_do(study_in, tmp_path, capsys):
    assert study_in(Runner(), "--seeds", "4") == 0
    assert study_in(Runner(), "--seeds", "4", "--num-steps", "5") == 2
    assert capsys.readouterr().err == (
        f"error: train base-4 ended with exit code 2; if {tmp_path / 'runs' / 'base-4'} is a run of another "
        "config, use another --output-dir or delete it; else the same command goes on from there\n"
    )


def test_the_time_before_an_interruption_counts(study_in, tmp_path):
    """The 7 trainings; a test takes no hour."""
    assert study_in(Runner(elapsed_seconds=3_600.0), "--seeds", "4") == 0
    assert "in 420 minutes on" in (tmp_path / "docs" / PAGE).read_text()


@pytest.mark.parametrize("code", [2, 130])
def test_a_part_that_fails_stops_the_study_which_goes_on_there(study_in, tmp_path, capsys, code):
    failed = Runner(failing="linear-4", code=code)
    assert study_in(failed, "--seeds", "4") == code
    assert failed.names[-1] == "linear-4"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (f"error: train linear-4 ended with exit code {code}; the same command goes on from there")
    assert not (tmp_path / "docs" / PAGE).exists()
    again = Runner()
    assert study_in(again, "--seeds", "4") == 0
    assert again.names[0] == "linear-4"


def test_an_interrupt_stops_the_study(study_in):
    def interrupted(_):
        raise KeyboardInterrupt

    assert study_in(interrupted) == 130


def test_progress_says_what_is_next_and_how_long(study_in, capsys):
    assert study_in(Runner(), "--seeds", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/16] train base-4; about 37 minutes left in all"
    assert lines[15] == "[16/16] evaluate base-4-blockwise-causal; about 0 minutes left in all"


@pytest.mark.parametrize(
    ("page", "is_right"),
    [
        (f"{BEGIN}\n{END}\n", True),
        ("no place", False),
        (f"{END}\n{BEGIN}\n", False),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", False),
    ],
)
def test_a_page_without_a_place_for_results_is_told_before_anything_runs(
    study_in, tmp_path, capsys, page, is_right
):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / PAGE).write_text(page)
    runner = Runner()
    assert study_in(runner) == (0 if is_right else 2)
    assert bool(runner.names) == is_right
    if not is_right:
        assert "has no place for the results: it needs a line <!-- results -->" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_in_a_line(study_in, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert study_in(Runner()) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path / 'runs'}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--targets 63", "--targets must be at least 64, got 63"),
        ("--num-steps 0", "argument --num-steps: must be a whole number of at least 1, got '0'"),
        ("--seeds one", "argument --seeds: invalid int value: 'one'"),
    ],
)
def test_options_of_the_wrong_form_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        context_study.main(arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# What comes out


SEEDS = 2, 7, 9


@pytest.fixture
def rows(tmp_path):
    parts = [part for part in parts_of(Study(seeds=SEEDS, output_dir=tmp_path)) if part.is_evaluation]
    (tmp_path / "parts").mkdir()
    for part in parts:
        part.result.write_text(made_csv(part.command[2], part.command[3:]))
    return context_report.read_results(parts)


@pytest.fixture
def report(rows):
    return Report(rows, seconds=600, date="2030-01-02", machine="a machine")


def losses(variant, window, scaling="none", attention="full"):
    return np.array([loss_of(variant, seed, scaling, attention, window) for seed in SEEDS])


def shown(values, sign=""):
    return f"{np.mean(values):{sign}.4f} ± {np.std(values, ddof=1):.4f}"


def cells(table):
    """{first cell: other cells} of the rows of a Markdown table."""
    _, _, *lines = table.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: row[1:] for row in rows}


def test_trained_models_stand_with_mean_and_spread(report):
    found = cells(context_report.trained_table(report))
    assert list(found) == [
        "the base, trained at 256",
        "the base, continued at 256",
        "no scaling",
        "positional interpolation",
        "NTK-aware",
        "YaRN",
    ]
    for row, variant in zip(found.values(), ("base", *CONTINUED), strict=True):
        assert row == [shown(losses(variant, window)) for window in WINDOWS]


def test_zero_shot_stands_for_windows_beyond_the_base(report):
    found = cells(context_report.zero_shot_table(report))
    for row, scaling in zip(found.values(), ("none", *SCALINGS), strict=True):
        assert row == [shown(losses("base", window, scaling)) for window in (512, 1024, 2048)]


def test_costs_and_gains_are_differences_within_a_seed(report):
    found = cells(context_report.cost_table(report))
    for row, variant in zip(found.values(), EXTENDED, strict=True):
        pairs = (128, 128), (256, 256), (1024, 256)
        assert row == [shown(losses(variant, a) - losses("continued", b), "+") for a, b in pairs]


def test_xpos_stands_beside_rope_of_its_seed(report):
    found = cells(context_report.xpos_table(report))
    cases = itertools.product((("base", "RoPE"), ("xpos", "xPos")), ("full", "blockwise-causal"))
    for (variant, name), attention in cases:
        expected = [loss_of(variant, SEEDS[0], "none", attention, window) for window in WINDOWS]
        assert found[f"{name}, {attention}"] == [f"{loss:.4f}" for loss in expected]


def test_a_single_seed_has_no_spread():
    assert context_report.cell([1.25]) == "1.2500"


def test_evaluations_on_different_targets_are_not_compared(tmp_path):
    parts = []
    for number, targets in enumerate(("640", "641")):
        path = tmp_path / f"{number}.csv"
        path.write_text(made_csv("base-1", []).replace("640", targets))
        parts.append(Part(str(number), "evaluate", "base", 1, (), path))
    with pytest.raises(context_report.RunError, match="the evaluations differ in their targets: 640, 641"):
        context_report.read_results(parts)


def test_results_are_replaced_and_prose_is_kept(report, tmp_path):
    page = tmp_path / PAGE
    page.write_text(f"# Title\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter, 5 ± 3\n", encoding="utf-8")
    for _ in range(2):
        results, figure, written = context_report.write_report(report, tmp_path)
        text = written.read_text(encoding="utf-8")
        assert text.startswith(
            f"# Title\n\nbefore\n\n{BEGIN}\n\nMade on 2030-01-02 in 10 minutes on a machine."
        )
        assert text.endswith(f"\n\n{END}\n\nafter, 5 ± 3\n")
        assert "old" not in text
    for table in ("trained_table", "zero_shot_table", "cost_table", "xpos_table"):
        assert getattr(context_report, table)(report) in text
    assert "the same 640 bytes of 9 held-out documents, with a stride of 64" in text
    assert "the seeds 2, 7, 9 ± their standard deviation" in text
    assert figure.read_bytes().startswith(b"\x89PNG")
    with open(results, newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(report.rows) == 3 * (6 * 5 + 4 * 5) + 3 * 5
    assert {int(row["seed"]) for row in read} == set(SEEDS)


def test_the_figure_shows_each_variant(report, monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(context_report, "plot_context_panels", lambda panels, *_, **__: drawn.update(panels))
    context_report.draw(report, tmp_path / "figure.png")
    assert [len(curves) for curves in drawn.values()] == [2 + len(EXTENDED), 1 + len(SCALINGS)]
    linear = drawn["fine-tuned at 1,024"][3]
    assert (linear["label"], linear["windows"]) == ("positional interpolation", list(WINDOWS))
    np.testing.assert_allclose(linear["losses"], [losses("linear", w).mean() for w in WINDOWS])
    np.testing.assert_allclose(linear["errors"], [losses("linear", w).std(ddof=1) for w in WINDOWS])


def test_the_page_of_the_repository_has_a_place_for_results():
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / PAGE).exists()
    context_report.check_page(docs)


def test_what_scripts_evaluate_writes_is_read(trained_run, tmp_path):
    path = tmp_path / "rows.csv"
    picture = str(tmp_path / "windows.png")
    options = ["--windows", "8", "16", "--targets", "40", "--plot", picture, "--csv", str(path)]
    evaluate.main([str(trained_run), *options])
    report = Report(
        context_report.read_results([Part("any", "evaluate", "base", 3, (), path)]), 0.0, "today", "here"
    )
    assert [len(report.losses("base", window)) for window in (8, 16, 32)] == [1, 1, 0]
    assert 1 < report.losses("base", 16)[0] < 6
    assert report.losses("base", 16, attention="blockwise-causal") == []
