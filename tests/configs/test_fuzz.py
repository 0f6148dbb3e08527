"""Random configurations and command lines: each is accepted or gives lines of errors, never a traceback."""

import random
import warnings

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from configs.compose import compose, load_config, save_config
from configs.help import CONFIGS, config_groups
from configs.schema import Config, flatten, parse_config
from system.errors import ConfigError
from tests.run_helpers import contents_of, copy_of

LONGEST_LINE = 2_000
# Of these a value may name a place to write to, or another run.
PLACES = {"name", "output_dir", "init_from", "data.cache_dir", "data.data_dir", "data.path"}
TEXTS = (
    "",
    "null",
    "None",
    "true",
    "-1",
    "0",
    "1.5",
    "1e400",
    "nan",
    "-inf",
    "0x10",
    "1_000",
    "9" * 400,
    "[]",
    "[1,2]",
    "[[1]]",
    "[1,",
    "{}",
    "{a:1}",
    "{a.b:{c:[]}}",
    "abc",
    "'quoted",
    '"',
    "\\",
    "${oc.env:HOME}",
    "${seed}",
    "${nothing.here}",
    "${",
    "???",
    "a=b",
    "a,b",
    "range(1,3)",
    "choice(1,2)",
    "glob(*)",
    "int(x)",
    "!!python/object/apply:os.getcwd []",
    "../../etc",
    "é\u202e\n",
    "mixed_bfloat16",
    "rotary",
    "axial_vit",
    "digits",
    " ",
    "@x",
)
VALUES = (
    *TEXTS,
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    [],
    [1, 2, 3],
    [[]],
    [None],
    {},
    {"a": 1},
    {1: {2: 3}},
    b"bytes",
    (1, 2),
    object,
)


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("train", overrides=list(overrides)))


def check(parse, case):
    """Asserts that `parse` returns a config or raises an error in short lines."""
    try:
        assert isinstance(parse(), Config), case
    except ConfigError as error:
        assert str(error), case
        for line in str(error).split("\n"):
            assert 0 < len(line) < LONGEST_LINE, case


@pytest.mark.parametrize(
    ("overrides", "repeats"),
    [((), 30), pytest.param(("experiment=vit",), 400, marks=pytest.mark.slow)],
)
def test_random_values_do_not_break_the_parser(overrides, repeats):
    generator, base = random.Random(0), composed(*overrides)
    keys = list(flatten(base))
    for _ in range(repeats):
        changes = {}
        nested = OmegaConf.to_container(OmegaConf.create(base))
        for _ in range(generator.randint(1, 3)):
            *parents, last = generator.choice(keys).split(".")
            depth = generator.randint(0, len(parents))  # at times a whole group
            last, parents = [*parents, last][depth], parents[:depth]
            last = generator.choice([last, last, last, f"{last}x", "", 7])
            node = nested
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node[last] = changes[(*parents, last)] = generator.choice(VALUES)
        check(lambda nested=nested: parse_config(nested), changes)


YAML = (b"[", b"{", b"*a", b"&a [*a]", b"!!int x", b"!!timestamp x", b"!!bool x", b"!!omap [a]", b"<<: 3")
YAML += (
    b"? [a]\n: b",
    b"\x00",
    b"\xff",
    b"\t",
    b"---\n",
    b"%YAML 3.0\n",
    b"!!python/name:os.getcwd",
    b"[" * 1200,
)


@pytest.mark.slow
def test_damage_to_a_recorded_config_does_not_break_the_parser(tmp_path):
    path, generator = tmp_path / "config.yaml", random.Random(3)
    save_config(Config(), path)
    whole = path.read_bytes()
    for number in range(200):
        content = bytearray(whole)
        at = generator.randrange(len(whole))
        match number % 4:
            case 0:
                content[at] ^= 1 << generator.randrange(8)
            case 1:
                del content[at:]
            case 2:
                content[at:at] = generator.choice(YAML)
            case 3:
                at = whole.index(b": ", at) + 2 if b": " in whole[at:] else 0
                content[at:at] = generator.choice(YAML) + b"\n"
        path.write_bytes(content)
        check(lambda: load_config(path), bytes(content[at - 20 : at + 50]))


def random_overrides(generator, *, places=True):
    keys = [key for key in KEYS if places or key not in PLACES]
    for _ in range(generator.randint(1, 2)):
        kind = generator.random()
        if kind < 0.15:
            group = generator.choice(list(config_groups()))
            yield f"{generator.choice(['', '', '+', '++', '~'])}{group}={generator.choice(TEXTS)}"
        elif kind < 0.25:
            yield generator.choice(STRANGE)
        else:
            key = generator.choice(keys) + generator.choice(["", "", "", "", "x", ".x"])
            yield f"{generator.choice(['', '', '', '+', '++', '~'])}{key}={generator.choice(TEXTS)}"


KEYS = (
    "seed",
    "num_steps",
    "precision",
    "context_length",
    "deterministic",
    "max_minutes",
    "model",
    "model.dim",
    "model.position",
    "model.architecture",
    "model.rope",
    "model.rope.scaling.type",
    "model.rope.theta",
    "model.rope.interpolate_factor",
    "data",
    "data.source",
    "data.held_out",
    "optimizer.learning_rate",
    "optimizer",
    "training",
    *sorted(PLACES),
    "hydra.run.dir",
    "hydra",
    "recipe",
)
STRANGE = (
    "=",
    "==",
    "~",
    "+",
    "~seed",
    "~model",
    "~nothing",
    "seed",
    "a b=c",
    "model@x=lm_tiny",
    "--",
    "hydra/launcher=basic",
    "hydra.mode=MULTIRUN",
    "+experiment=[lm,vit]",
    "data=null",
    "\u200b=1",
    "a.b.c=1",
    "model.rope.scaling={type:yarn}",
    "experiment=vit",
    "data=digits",
    ".=1",
    "seed.=1",
    ".seed=1",
)


@pytest.mark.slow
def test_random_command_lines_do_not_break_the_composition(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = random.Random(1)
    for _ in range(50):
        arguments = list(random_overrides(generator))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(lambda arguments=arguments: parse_config(compose(arguments)), arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_random_command_lines_do_not_change_an_existing_run(trained_run, workplace, capfd):
    """Only a cadence may, which the run then records."""
    run, generator = copy_of(trained_run, "fuzzed"), random.Random(2)
    before, codes = contents_of(run), []
    for _ in range(16):
        arguments = [word for word in random_overrides(generator, places=False) if not word.startswith("-")]
        codes.append(workplace.train("name=fuzzed", *arguments))
        errors = capfd.readouterr().err
        assert "Traceback" not in errors, arguments
        assert (codes[-1] == 2) == ("error: " in errors), arguments
        assert contents_of(run).keys() == before.keys(), arguments
        changed = {path.name for path, content in contents_of(run).items() if content != before[path]}
        assert changed <= ({"config.yaml"} if codes[-1] == 0 else set()), arguments
        (run / "config.yaml").write_bytes(before[run / "config.yaml"])
    assert set(codes) <= {0, 2}
    assert codes.count(2) > 8
