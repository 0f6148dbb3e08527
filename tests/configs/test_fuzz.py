"""Random configurations: each is accepted or gives lines of errors, never a traceback."""

import random

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from configs.compose import load_config, save_config
from configs.help import CONFIGS
from configs.schema import Config, flatten, parse_config
from system.errors import ConfigError

LONGEST_LINE = 2_000
WORDS = r"""
null None true -1 0 1.5 1e400 nan -inf 0x10 1_000 [] [1,2] [[1]] [1, {} {a:1} {a.b:{c:[]}} abc 'quoted " \
${oc.env:HOME} ${seed} ${nothing.here} ${ ??? a=b a,b ../../etc mixed_bfloat16 rotary axial_vit digits @x
"""
NUMBERS = (-1, 0, 2**70, 1.5, float("nan"), float("inf"))
OTHERS = (None, True, [], [1, 2], [[]], [None], {}, {"a": 1}, {1: {2: 3}}, b"bytes", (1, 2), object)
VALUES = (*WORDS.split(), "", " ", "9" * 400, "é\u202e\n", *NUMBERS, *OTHERS)
TAGS = b"[ { *a \x00 \xff --- !!python/name:os.getcwd"
TAGGED = (b"&a [*a]", b"!!int x", b"!!omap [a]", b"? [a]\n: b", b"\t", b"%YAML 3.0\n", b"[" * 1200)
YAML = (*TAGS.split(), *TAGGED)


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
