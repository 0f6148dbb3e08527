"""Configuration of a run: its keys, validation of nested values, and comparison of two configs."""

import difflib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, get_args

from pydantic import Field, TypeAdapter, ValidationError

from configs.foreign_names import answer_to
from data.config import TOKENIZERS, DataConfig, ImagesConfig, Place, PythonStdlibConfig
from models.config import AxialViTConfig, TransformerLMConfig
from system.errors import ConfigError
from system.text import format_value
from system.validation import Options, problems_of
from training.config import DistributeConfig, OptimizerConfig, TrainingConfig

Model = TransformerLMConfig | AxialViTConfig
UNSET = "???"
# Set at the top level, for the model too.
SHARED = {"model.context_length": "context_length"}
# Files and directories: a run is the same at other places, if its data are the same.
PLACES = ("init_from", "data.path", "data.data_dir", "data.cache_dir", "data.tokenizer")
# Keys that may change when a run is resumed: names, places, devices and intervals.
FREE_KEYS = {
    *PLACES,
    *("name", "output_dir", "max_minutes", "max_bad_steps", "distribute.strategy", "distribute.devices"),
    *("log_every", "eval_every", "eval_batches", "sample_every"),
    *("checkpoint_every", "keep_checkpoints", "keep_best"),
}


class Config(TrainingConfig):
    """Options of a run; `context_length` is null for images."""

    name: str = "lm"
    output_dir: Place = "outputs"
    init_from: Annotated[Place | None, Field(examples=["outputs/lm"])] = None
    init_from_step: Annotated[int, Field(ge=0)] | None = None
    init_from_data: str | None = None
    resample_positions: bool = False
    reset_head: bool = False
    context_length: Annotated[int, Field(ge=2, le=2**31 - 1)] | None = TransformerLMConfig.context_length
    # The tokenizer determines the size of the vocabulary.
    model: Annotated[Model, Field(discriminator="architecture")] = TransformerLMConfig(vocab_size=None)
    data: Annotated[DataConfig, Field(discriminator="source")] = PythonStdlibConfig()
    distribute: DistributeConfig = DistributeConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.name or self.name.startswith(".") or set("/\\\0") & set(self.name):
            yield "name", f"must be a plain directory name, got {self.name!r}"
        for key in ("init_from_step", "init_from_data", "resample_positions", "reset_head"):
            if getattr(self, key) and self.init_from is None:
                yield key, f"has no effect without init_from, got {format_value(getattr(self, key))}"
        has_images = isinstance(self.data, ImagesConfig)
        if isinstance(self.model, AxialViTConfig):
            if not has_images:
                yield (
                    "data.source",
                    f"{self.data.source!r} is text, but the model is a vision transformer: choose images, "
                    "such as data=digits, or leave out experiment=vit",
                )
            if self.context_length is not None:
                yield "context_length", f"must be null for a vision transformer, got {self.context_length}"
            return
        if has_images:
            yield (
                "data.source",
                f"{self.data.source!r} is images, but the model is a language model: choose text, such as "
                "data=python_stdlib, or add experiment=vit",
            )
        if self.reset_head:
            yield "reset_head", "has no effect with a language model, which has no classifier"


ADAPTER = TypeAdapter(Config)
# Key that selects the class of a group, and the classes by its value.
UNIONS = {
    "model": ("architecture", {cls.architecture: cls for cls in get_args(Model)}),
    "data": ("source", {cls.source: cls for cls in get_args(DataConfig)}),
}

# Files of the groups that are not named after the kind.
FILES = {"tfds": "tfds_text", "transformer_lm": "lm_tiny", "axial_vit": "vit_tiny"}


def parse_config(nested: dict) -> Config:
    """Config from nested values, as in YAML, and defaults; ConfigError has one line for each problem."""
    flat = flatten(nested)
    for group, (tag, kinds) in UNIONS.items():
        key = f"{group}.{tag}"
        if flat.get(key, next(iter(kinds))) not in tuple(kinds):
            # An unknown kind is reported alone, since its keys are unknown too.
            others = {other: value for other, value in flat.items() if not other.startswith(f"{group}.")}
            flat = {**others, key: flat[key]}
    entries = list(walk(Config, flat))
    classes = {group: cls for group, cls, _, _ in entries}
    defaults = {key: default for _, _, key, default in entries}
    values = {key: flat.get(key, default) for key, default in defaults.items()}
    values |= {key: values[source] for key, source in SHARED.items() if key in values}
    present = {key: value for key, value in values.items() if not value == defaults[key] == UNSET}
    config, problems = validate(present, classes)
    known = [*(key for key in values if key not in SHARED), *sorted(classes)[1:], "experiment"]
    unread = [key for key in flat if key not in values or key in SHARED]
    problems += [explain_unknown(key, flat[key], known) for key in unread]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def validate(values: dict[str, object], classes: dict[str, type[Options]]) -> tuple[Config | None, list[str]]:
    """Config, or None if it is invalid, and one line for each problem."""
    violated: dict[type, list[tuple[str, str]]] = {}  # rules between fields, by class
    messages: dict[str, str] = {}
    config = None
    try:  # JSON, since strict validation of Python objects accepts no dict for a dataclass
        config = ADAPTER.validate_json(json.dumps(nest(values), default=repr), context=violated)
    except ValidationError as error:
        for key, message in problems_of(error, classes):
            messages.setdefault(SHARED.get(key, key), message)
    lines = [f"{key} {message}" for key, message in messages.items()]
    for group, cls in classes.items():
        prefix = f"{group}." if group else ""
        lines += [f"{prefix}{key} {message}" for key, message in violated.get(cls, ())]
    return config, lines


def walk(
    options: Options | type[Options], flat: dict[str, object], group: str = ""
) -> Iterator[tuple[str, type[Options], str, object]]:
    """Yields group, class, key and default (or UNSET) of each key of `group`, which `options` describe.

    The values of an instance are the defaults; those of `UNIONS` in `flat` select the class of a group.
    """
    cls = options if isinstance(options, type) else type(options)
    for item in fields(cls):
        key = f"{group}.{item.name}".removeprefix(".")
        default = getattr(options, item.name, UNSET)
        if key in UNIONS:
            tag, kinds = UNIONS[key]
            kind = flat.get(f"{key}.{tag}")
            default = kinds.get(kind, default) if isinstance(kind, str) else default
        if is_dataclass(default):
            yield from walk(default, flat, key)
        else:
            yield group, cls, key, default


def flatten(nested: dict, prefix: str = "") -> dict[str, object]:
    """Leaves by dotted key; a key that contains a dot is quoted."""
    flat = {}
    for key, value in nested.items():
        name = prefix + (f'"{key}"' if "." in str(key) else str(key))
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def nest(flat: dict[str, object]) -> dict:
    """Inverse of `flatten`."""
    nested: dict = {}
    for key, value in flat.items():
        *parents, name = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return nested


def explain_unknown(key: str, value: object, known: list[str]) -> str:
    below = [other for other in known if other.startswith(f"{key}.")]
    if below:
        return f"{key} holds keys of its own, such as {below[0]}; got {format_value(value, quoted=True)}"
    if key not in SHARED:
        owners = [
            f"{group}={FILES.get(kind, kind)}"
            for group, (_, kinds) in UNIONS.items()
            for kind, cls in kinds.items()
            if key in (name for _, _, name, _ in walk(cls, {}, group))
        ]
        if owners:
            return f"unknown key {key!r} here; it belongs to {' or '.join(owners)}"
    if answer := answer_to(key):
        return f"unknown key {key!r}; {answer}"
    # A key whose last part is similar, or else one that is similar as a whole.
    names = {other.rpartition(".")[2] for other in known}
    names = difflib.get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.7)
    same_name = [other for other in known if other.rpartition(".")[2] in names]
    matches = difflib.get_close_matches(key, same_name or known, n=1, cutoff=0 if same_name else 0.6)
    return f"unknown key {key!r}" + "".join(f"; did you mean {match!r}?" for match in matches)


def to_flat(config: Config) -> dict[str, object]:
    return {key: value for _, _, key, value in walk(config, {}) if key not in SHARED}


def to_dict(config: Config) -> dict:
    """Nested values of a config: `parse_config(to_dict(config)) == config`."""
    return nest(to_flat(config))


def replace_places(config: Config, change: Callable[[str], str]) -> Config:
    """Copy of a config with `change` applied to each of its `PLACES`."""
    flat = to_flat(config)
    changes = {key: change(flat[key]) for key in PLACES if flat.get(key) not in (None, *TOKENIZERS)}
    return parse_config(nest(flat | changes))


def differing_keys(a: Config, b: Config) -> list[tuple[str, object, object]]:
    """(key, value in a, value in b) of each key that differs; None where one has no such key."""
    old, new = to_flat(a), to_flat(b)
    return [(key, old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)]


def conflicting_keys(recorded: dict, config: Config) -> list[tuple[str, object, object]]:
    """(key, recorded value, current value) of each of the `deciding_keys` of both sides that differs."""
    current = deciding_keys(config)
    shared = (key for key in recorded if key in current)
    return [(key, recorded[key], current[key]) for key in shared if recorded[key] != current[key]]


def deciding_keys(config: Config) -> dict[str, object]:
    """JSON value of each key that can change the result of a step."""
    flat = {key: value for key, value in to_flat(config).items() if key not in FREE_KEYS}
    if "tokenizer" in vars(config.data):  # files are compared by their content
        value = config.data.tokenizer or "bytes"
        flat["data.tokenizer"] = value if value in TOKENIZERS else "a file"
    return json.loads(json.dumps(flat))


def describe_difference(difference: tuple[str, object, object]) -> str:
    """Describes one of `differing_keys` between another run and this one."""
    key, other, own = difference
    return f"{key} is {format_value(other)} there, {format_value(own)} here"
