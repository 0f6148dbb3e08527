"""Command lines of train.py: help, errors in one line, and sweeps."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from configs.foreign_names import ANSWER_OF, ANSWERS, answer_to
from configs.schema import Config, to_flat
from system.command import run_command
from train import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = "lm_shallow, lm_small, lm_tiny, vit_small, vit_tiny"

STUB = f"""
import json, pathlib, sys, types
sys.path.insert(0, {str(ROOT)!r})
import train
from configs.compose import save_config
from system.command import run_command

def train_run(config):
    assert "tensorflow" not in sys.modules
    directory = pathlib.Path(config.output_dir, config.name)
    directory.mkdir(parents=True)
    save_config(config, directory / "config.yaml")
    (directory / "summary.json").write_text("{{}}")
    row = {{"step": 0, "validation_loss": 1 - config.num_steps / 1000, "elapsed_seconds": 61}}
    (directory / "metrics.jsonl").write_text(json.dumps(row))

sys.modules["keras"] = sys.modules["runs.run"] = types.SimpleNamespace(train_run=train_run)
sys.exit(run_command(lambda: train.main(sys.argv[1:])))
"""


def train(*arguments, cwd, program=(ROOT / "train.py",)):
    return subprocess.run(
        [sys.executable, *map(str, program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture
def errors_of(empty, monkeypatch, capsys):
    """Calls train.py in this process and returns its lines, which must be config errors."""

    def call(*arguments):
        monkeypatch.chdir(empty)
        assert run_command(lambda: main(list(map(str, arguments)))) == 2
        output, errors = capsys.readouterr()
        lines = errors.splitlines()
        assert output == "" and list(empty.iterdir()) == []
        assert all(line.startswith("config error: ") for line in lines)
        return [line.removeprefix("config error: ") for line in lines]

    return call


@pytest.fixture
def empty(tmp_path):
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return (path,)


def test_help_shows_keys_without_tensorflow(empty):
    result = train("--help", cwd=empty, program=("-X", "importtime", ROOT / "train.py"))
    assert result.returncode == 0
    assert MODELS in result.stdout
    assert "model.rope.interpolate_factor=1.0" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "omegaconf" in imported
    assert not {"tensorflow", "keras"} & imported


def test_a_word_after_help_is_its_topic_or_an_override(capsys):
    for arguments, word in (
        (["--help", "model.rope"], "  model.rope.rotary_fraction=1.0"),
        (["--help", "experiment=vit"], "  model.patch_size=null"),
        (["experiment=vit", "--help", "model"], "  model.drop_path=0.0"),
        (["-m", "--help"], "  num_steps=600"),
    ):
        assert main(arguments) is None
        assert word in capsys.readouterr().out


def test_bash_completes_keys_as_the_page_says():
    (command,) = re.findall(r"`(complete .* python)`", (ROOT / "docs" / "configuration.md").read_text())
    command = command.replace("complete -o default -o nospace", "compgen").removesuffix("python")
    script = f'python() {{ {sys.executable} "$@"; }}; {command} -- model.rope.xpos_'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["model.rope.xpos_scale_base="], done.stderr


def test_every_problem_of_the_command_line_is_one_line(errors_of):
    words = ["model.interpolate_facto=2", "+training.num_steps=5", "num_steps=many", "++model.rope.theta=x"]
    assert errors_of(*words) == [
        "num_steps must be a whole number, got 'many'",
        "model.rope.theta must be a finite number, got 'x'",
        "unknown key 'model.interpolate_facto'; did you mean 'model.rope.interpolate_factor'?",
        "unknown key 'training.num_steps'; did you mean 'num_steps'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("name=a=b", """cannot read 'name=a=b': quote the value inside the shell's quotes: "name='a=b'\""""),
        (
            "name=a,b",
            "'name=a,b' holds several values: add -m to run each, "
            """or quote it to mean one: "name='a,b'\"""",
        ),
        ("num_steps", "cannot read 'num_steps': write key=value"),
        ("model=lm_tin", f"no 'lm_tin' in model; choose from {MODELS}; did you mean 'lm_tiny'?"),
        ("model=vit", f"no 'vit' in model; choose from {MODELS}; did you mean 'experiment=vit'?"),
        (
            "recipe=vit_mnist",
            "a group is set by group=file, without ++; experiment= and data= choose the recipe",
        ),
        ("name=${nam}", "name: Interpolation key 'nam' not found"),
        ("-m seed=glob(*)", "glob() and interval() are not supported: list the values"),
        ("--config-dir absent", "--config-dir absent is not a directory"),
        ("data=text_files data.path=''", "data.path must not be empty, got ''"),
    ],
)
def test_argument_that_cannot_be_followed_gives_one_line(errors_of, arguments, problem):
    assert errors_of(*arguments.split()) == [problem]


@pytest.mark.parametrize(
    "argument", ["+hydra.run.dir=written", "hydra/job_logging=default", "model@hydra=lm_tiny", "docs/*.md"]
)
def test_keys_of_hydra_and_other_forms_are_refused(errors_of, argument):
    (line,) = errors_of(argument)
    assert line.startswith(f"{argument!r} is not supported: write key=value")


def test_aliases_that_expand_exponentially_are_refused_at_once(tmp_path, errors_of):
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment" / "trial.yaml"
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 9))
    path.write_text("# @package _global_\n" + bomb)
    (line,) = errors_of("--config-dir", tmp_path, "experiment=trial")
    assert line == f"{path} has more than 10 aliases (*name): write out their values"
    path.write_text("# @package _global_\nsteps: &steps 5\nnum_steps: *steps\n")
    assert errors_of("--config-dir", tmp_path, "experiment=trial")[0].startswith("unknown key 'steps'")
    path.unlink()
    os.mkfifo(path)
    assert errors_of("--config-dir", tmp_path, "experiment=trial") == [f"{path} is not a regular file"]
    (tmp_path / "config.yaml").write_text(bomb)
    assert "has more than 10 aliases" in errors_of(f"init_from={tmp_path}")[0]


def test_config_is_printed_as_yaml_and_a_sweep_has_none(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["num_steps=3", "--cfg", "job", "seed=5"]) is None
    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["num_steps"], values["seed"], values["model"]["dim"]) == (3, 5, 128)
    with pytest.raises(SystemExit, match="2"):
        main(["-m", "--cfg", "job", "seed=1,2"])
    assert "argument --cfg: not allowed with argument -m/--multirun" in capsys.readouterr().err


def test_names_of_other_programs_are_answered(errors_of):
    names = ["optimizer.lr", *ANSWER_OF]
    lines = errors_of(*(f"{name}=5" for name in names))
    assert sorted(lines) == sorted(f"unknown key {name!r}; {answer_to(name)}" for name in names)
    known = {*to_flat(Config()), "model.patch_size", "data.image_size"}
    assert all(" " in answer or answer in known for answer in ANSWERS)
    assert answer_to("optimizer.lr") == "the key here is optimizer.learning_rate"
    assert errors_of("--resume") == ["unknown flag '--resume'; the same command resumes a run"]
    assert errors_of("resume") == ["cannot read 'resume': the same command resumes a run"]
    assert errors_of("--seq-len", "8", "--xyz=3") == [
        "unknown flag '--seq-len'; the key here is context_length",
        "unknown flag '--xyz=3'; write key=value",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("modl: 3\nmodel: {dim: x}\n", "unknown key 'modl'; did you mean 'model'?"),
        (
            "hydra: {job_logging: {handlers: {b: {class: logging.FileHandler, filename: c}}}}\n"
            "optimizer: {_target_: logging.FileHandler, filename: written}\n",
            "unknown key 'optimizer.filename'; did you mean 'optimizer.name'?",
        ),
        ("name: [a\nseed: 1\n", "trial.yaml, line 3: expected ',' or ']', but got ':'"),
    ],
)
def test_mistake_in_an_experiment_file_is_reported(tmp_path, errors_of, text, problem):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "trial.yaml").write_text("# @package _global_\n" + text)
    assert errors_of("--config-dir", tmp_path, "experiment=trial")[-1].endswith(problem)


def test_run_gets_its_configuration_and_hydra_writes_nothing(empty, stub):
    result = train("num_steps=2e3", "~model.position", "output_dir=out", cwd=empty, program=stub)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    names = ["config.yaml", "lm", "metrics.jsonl", "out", "summary.json"]
    assert sorted(path.name for path in empty.rglob("*")) == names


def test_sweep_names_its_runs_after_the_swept_keys_and_lists_them_by_loss(empty, stub):
    result = train("-m", "name=sweep", "num_steps=200,0,300", "++seed=1", cwd=empty, program=stub)
    names = [f"sweep-num_steps-{steps}" for steps in (200, 0, 300)]
    lines = result.stdout.splitlines()
    assert lines[0] == f"{sys.executable} {stub[0]} num_steps=200 ++seed=1 name={names[0]}"
    assert [line.split() for line in lines[-4:]] == [
        ["name", "state", "step", "loss", "time", "num", "steps"],
        [names[2], "complete", "0/300", "0.7000", "1:01", "300"],
        [names[0], "complete", "0/200", "0.8000", "1:01", "200"],
        [names[1], "exit", "2", "-", "-", "-", "0"],
    ]
    assert result.stderr == "config error: num_steps must be >= 1, got 0\n"
    assert result.returncode == 2
    assert {path.name for path in (empty / "outputs").iterdir()} == {names[0], names[2]}


@pytest.mark.slow
def test_job_that_does_not_compose_does_not_stop_the_others(empty, stub):
    result = train("--multirun", "init_from=outputs/none,null", cwd=empty, program=stub)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: init_from=outputs/none is not a run directory: it has no config.yaml. ")
    assert [path.name for path in (empty / "outputs").iterdir()] == ["lm-init_from-null"]
    assert result.returncode == 2
