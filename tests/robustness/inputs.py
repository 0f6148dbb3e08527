"""Wrong inputs of every command: values of keys and flags, damaged runs and data, environments."""

import argparse
import contextlib
import importlib
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

from configs.schema import Config, walk

ROOT = Path(__file__).resolve().parents[2]
split = shlex.split
SHARED = split("model.dim=16 model.num_layers=1 model.num_heads=2 model.mlp_dim=24 num_steps=2")
SHARED += split("compile=graph log_every=1 eval_batches=1 sample_every=null checkpoint_every=1")
SHARED += split("precision=float32 optimizer.warmup_steps=1 data.cache_dir=cache")
LM = [*SHARED, *split("model.num_kv_heads=1 context_length=16 batch_size=2")]
TEXT = [*LM, *split("data=text_files data.path=text data.held_out=0.3")]
VIT = [*SHARED, *split("experiment=vit data=image_folder data.path=images data.image_size=[8,8]")]
VIT += split("model.patch_size=4 batch_size=4")
PASSKEY = [word for word in LM if not word.startswith(("data", "context"))]
PASSKEY += split("data=passkey context_length=128 data.held_out_examples=4 data.texts=1")
# Arguments with which each command succeeds; `half` is a run to resume. The first word is a command.
COMMANDS = {
    "train half": [*TEXT, "name=half"],
    "train child": [*TEXT, "name=child", "init_from=outputs/lm"],
    "train vit": [*VIT, "name=vit"],
    "generate": split("outputs/lm --prompt ab --length 4 --temperature 0 --seed 1"),
    "evaluate": ["outputs/lm"],
    "evaluate windows": split("outputs/lm --windows 8 16 --targets 64"),
    "evaluate vit": split("outputs/vit --image-size 8 12"),
    "predict": split("outputs/vit images/a/0.png images/b/1.png"),
    "passkey": split("outputs/passkey --lengths 128 --depths 2 --examples 2"),
    "visualize": split("outputs/lm --prompt abc"),
    "export": split("outputs/lm --format keras --output exported"),
    "list_runs": ["outputs/lm"],
    # Wrong arguments only: these would take minutes, or start processes.
    "benchmarks": split("rope --only nothing"),
    "docs.figures": ["/dev/null"],
    "launch_local": split("-- num_steps=-1"),
    "import_hf": split("text --name imported"),
    "study": split("nothing --seeds 0"),
}
SUCCEEDING = list(COMMANDS)[:12]
NAMES = ["v[1]", "o*", "o?", "a b", "-x", "x" * 300, "x" * 255, "..", "a\\b", "a:b", "é"]
VALUES = ["", "null", "-1", "0", "1.5", "nan", "inf", "1e400", "9" * 400, "9223372036854775808", "1000000000"]
VALUES += ["abc", "true", "[]", "[1,2]", "[[1]]", "{}", "{a:1}", "[", "'", "${seed}", "${oc.env:HOME}", "???"]
VALUES += ["é\u202e\x1b[31m\n", "\udcff", "a,b", "range(1,3)", "1e-320", "-0.0", "1_0", "0x10", "x" * 300]
PLACES = ["", *split("missing text/0.txt outputs/lm outputs fifo /dev/null /dev/zero closed/x .")]
PLACES += ["outputs/v[1]", "o[2024]*?", "x/" * 900, "y" * 300, "x " * 190, "~nobody/x", "~", "loop"]
MAKE_PLACES = "mkfifo fifo; mkdir -m 0 closed; ln -s loop loop; mkdir 'outputs/v[1]'"
# Shell commands; {} is a file or directory.
FILE_DAMAGE = ["rm -r {}", ": > {}", "truncate -s $(($(stat -c %s {}) / 2)) {}", "chmod 0 {}"]
FILE_DAMAGE += ["echo '[1]' > {}", "echo null > {}", "head -c 500 /dev/urandom > {}"]
FILE_DAMAGE += ["rm -r {}; mkdir {}", "rm -r {}; mkfifo {}"]
FILE_DAMAGE += ["rm -r {}; ln -s nowhere {}", "rm -r {}; ln -s {} {}", "rm -r {}; ln -s /dev/zero {}"]
FILE_DAMAGE += ["mv {} copied; ln -s $PWD/copied {}", r"printf '\0' >> {}", "sed -i '$d' {}"]
FILE_DAMAGE += [r"sed -i '1s/^/\xef\xbb\xbf/' {}", "sed -i 's/[1-9]/7/3' {}"]
RUN_FILES = split("config.yaml metrics.jsonl summary.json loss.png .lock tensorboard checkpoints")
RUN_FILES += split("checkpoints/step-* checkpoints/step-*/manifest.* checkpoints/step-*/tensors.index")
RUN_FILES += ["checkpoints/step-*/tensors.data-*"]
VARIABLES = split("KERAS_BACKEND=torch KERAS_BACKEND=x MPLBACKEND=module://matplotlib_inline.backend_inline")
VARIABLES += split("PYTHONIOENCODING=ascii PYTHONIOENCODING=latin-1 TERM=dumb COLUMNS=0 HOME=/proc HOME=")
VARIABLES += ["TMPDIR=/no"]
VARIABLES += split("MPLCONFIGDIR=/dev/null OMP_NUM_THREADS=x TF_NUM_INTRAOP_THREADS=x TF_CPP_MIN_LOG_LEVEL=x")
VARIABLES += split("CUDA_VISIBLE_DEVICES=x TF_XLA_FLAGS=--nothing XDG_CACHE_HOME=/dev/null")
CLUSTERS = ["", "x", "[]", "{}", '{"cluster": 1}', '{"cluster": {"worker": []}, "task": {"index": 5}}']


class Case(NamedTuple):
    """One input.

    Attributes:
        command: name of a command, with a word that tells its kinds apart.
        arguments: command line.
        damage: shell command that is run in the copy of the prepared files.
        shell: how a process of its own is started, with the command as "$@"; otherwise it is forked.
        is_named: whether the input must not end in an internal error.
        same: whether an accepted input must give the result of the undamaged one.
    """

    command: str
    arguments: list[str]
    damage: str = ""
    shell: str = ""
    is_named: bool = False
    same: bool = False


def modules() -> dict[str, str]:
    """Module of each command."""
    names = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py"))
    return {name: f"scripts.{name}" for name in names} | {
        "train": "train",
        "benchmarks": "benchmarks.__main__",
        "docs.figures": "docs.figures.__main__",
    }


def all_cases(seed: int) -> list[Case]:
    """Every input; `seed` chooses among the values of keys and flags, and the damages of runs."""
    choose = random.Random(seed)
    return [*flag_cases(choose), *key_cases(choose), *damaged_runs(choose), *named_cases(), *environments()]


def key_cases(choose: random.Random) -> Iterator[Case]:
    """Every key with wrong values."""
    tried = {"model.context_length"}
    for arguments in (TEXT, VIT, PASSKEY):
        flat = dict(word.split("=", 1) for word in [*arguments, "name=new"])
        kinds = {"data.source": flat["data"], "model.architecture": "axial_vit" if arguments is VIT else None}
        for _, _, key, _ in walk(Config, {**flat, **kinds}):
            is_place = key.endswith(("path", "init_from", "output_dir", "data_dir", "cache_dir"))
            values = [] if key in tried else choose.sample(VALUES, 2) + choose.sample(PLACES, 2 * is_place)
            for value in values:
                others = [f"{other}={text}" for other, text in flat.items() if other != key]
                prefix = choose.choice(["", "", "", "", "", "", "++", "+", "~"])
                yield Case("train", [*others, f"{prefix}{key}={value}"], MAKE_PLACES)
            tried.add(key)


def flag_cases(choose: random.Random) -> Iterator[Case]:
    """Every flag and positional argument of each parser with wrong values; missing and unknown ones."""
    for command, arguments in COMMANDS.items():
        name = command.split()[0]
        if name == "train" or name not in modules():
            continue
        end = arguments.index("--") if "--" in arguments else len(arguments)
        at = 0
        for action in actions(importlib.import_module(modules()[name])):
            values = choose.sample(VALUES, 2) + choose.sample(PLACES, 2)
            if action.option_strings:
                for value in values if action.nargs != 0 else ():
                    word = [action.option_strings[-1], value]
                    yield Case(command, [*arguments[:end], *word, *arguments[end:]], MAKE_PLACES)
            else:
                for value in values if command in SUCCEEDING else ("", "/dev/null", "closed/x", "text/0.txt"):
                    yield Case(command, [*arguments[:at], value, *arguments[at + 1 :]], MAKE_PLACES)
                at += 1
        wrong = [arguments[0], "--nothing"], [*arguments, "extra", "-x"], [*arguments, "--prompt", "---"]
        yield from (Case(command, words) for words in (*wrong, ["--help"]))


def actions(module: ModuleType) -> list[argparse.Action]:
    """Arguments of the parser of a command."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser, *_):
        found.append(parser)
        raise InterruptedError

    stops = {"parse_known_args": stop, "parse_known_intermixed_args": stop}
    with mock.patch.multiple(argparse.ArgumentParser, **stops), contextlib.suppress(InterruptedError):
        module.main([])
    return [action for action in found[0]._actions if not isinstance(action, argparse._HelpAction)]


def damaged_runs(choose: random.Random) -> Iterator[Case]:
    pairs = [(file, damage) for file in RUN_FILES for damage in FILE_DAMAGE]
    for command in SUCCEEDING:
        text = " ".join(COMMANDS[command])
        run = re.findall(r"outputs/\w+|name=(?:half|vit)", text)[-1].replace("name=", "outputs/")
        for file, damage in choose.sample(pairs, 12):
            damage = damage.replace("{}", f"{run}/{file}")
            yield Case(command, COMMANDS[command], damage, same=command != "list_runs")


def named_cases() -> Iterator[Case]:
    """Inputs of named_inputs.txt, which were met in use."""
    usual = {**COMMANDS, "train": [*TEXT, "name=new"], "train new vit": [*VIT, "name=new"]}
    for line in (ROOT / "tests/robustness/named_inputs.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        commands, text, damage = (*line.split(" | "), "")[:3]
        choices = {"NAME": NAMES, "PLACE": PLACES}
        word, values = next((choice for choice in choices.items() if choice[0] in text), ("NAME", [""]))
        for command in commands.split(", "):
            name = command.removesuffix(" same")
            for value in values:
                words = [each.replace(word, value) for each in split(text)]
                keys = {each.partition("=")[0] for each in words}
                others = [each for each in usual[name] if each.partition("=")[0] not in keys]
                arguments = [each for part in words for each in (others if part == "..." else [part])]
                prepared = damage or (MAKE_PLACES if word in text else "")
                yield Case(name, arguments, prepared, is_named=True, same=name != command)


def environments() -> Iterator[Case]:
    """Variables of other programs, each in a process of its own."""
    new = [*TEXT, "name=new"]
    for variable in VARIABLES:
        yield Case("train", new, shell=f'env {variable} "$@"', is_named=True)
    for value in CLUSTERS:
        words = [*new, "distribute=multi_worker"]
        yield Case("train", words, shell=f"env TF_CONFIG={shlex.quote(value)} " + '"$@"', is_named=True)
