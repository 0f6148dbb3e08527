"""The one door between YAML and code: what a configuration may hold, and what is wrong with one."""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from configs.builder import build, flatten, nearest_key, nest, to_flat
from configs.help import groups_of
from configs.values import did_you_mean, plain
from data.config import (
    IMAGE_CONFIGS,
    DigitsConfig,
    ImageFolderConfig,
    PasskeyConfig,
    PythonStdlibConfig,
    TextFilesConfig,
    TfdsImagesConfig,
    TfdsTextConfig,
)
from models.config import AxialViTConfig, TransformerLMConfig
from system.errors import ConfigError
from training.config import DistributeConfig, OptimizerConfig, TrainingConfig

CONFIGS = Path(__file__).resolve().parent
PLAIN_OVERRIDE = re.compile(r"([A-Za-z_][\w.]*)=")
# Hydra's rerun unpickles a file; its sweepers and launchers share one process among jobs.
REFUSED = re.compile(r"--e|[+~]*hydra[./](mode|sweep|sweeper|launcher)\b")


# Names, places, devices and cadences: a run may go on with others.
FREE_KEYS = {
    "name",
    "output_dir",
    "data.cache_dir",
    "data.data_dir",
    "max_minutes",
    "max_bad_steps",
    "distribute.strategy",
    "distribute.devices",
    "log_every",
    "eval_every",
    "eval_batches",
    "sample_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
}


# By whether the model is for images: what the data are, what the model is, and what to do.
OTHER_TASK = {
    True: ("text", "vision transformer", "images, such as data=digits, or leave out experiment=vit"),
    False: ("images", "language model", "text, such as data=python_stdlib, or add experiment=vit"),
}


@dataclass(frozen=True)
class Config(TrainingConfig):
    """Configuration of a run; `context_length` is null for images."""

    name: str = "lm"
    output_dir: str = "outputs"
    init_from: str | None = field(default=None, metadata={"example": "outputs/lm"})
    init_from_step: int | None = field(default=None, metadata={"min": 0})
    init_from_data: str | None = None
    resample_positions: bool = False
    context_length: int | None = field(
        default=TransformerLMConfig.context_length, metadata={"min": 2, "also": "model.context_length"}
    )
    model: TransformerLMConfig | AxialViTConfig = field(default_factory=TransformerLMConfig)
    data: (
        PythonStdlibConfig
        | TfdsTextConfig
        | TextFilesConfig
        | PasskeyConfig
        | DigitsConfig
        | TfdsImagesConfig
        | ImageFolderConfig
    ) = field(default_factory=PythonStdlibConfig)
    distribute: DistributeConfig = field(default_factory=DistributeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        yield from super().problems()
        if not self.name or self.name.startswith(".") or set("/\\\0") & set(self.name):
            yield "name", f"must be a plain directory name, got {self.name!r}"
        for key in ("init_from_step", "init_from_data", "resample_positions"):
            if getattr(self, key) and self.init_from is None:
                yield key, f"has no effect without init_from, got {getattr(self, key)}"
        sees = isinstance(self.model, AxialViTConfig)
        if sees != isinstance(self.data, IMAGE_CONFIGS):
            has, model, advice = OTHER_TASK[sees]
            yield "data.source", f"{self.data.source!r} is {has}, but the model is a {model}: choose {advice}"
        if sees and self.context_length is not None:
            yield "context_length", f"must be null for a vision transformer, got {self.context_length}"
        if not sees and self.model.vocab_size < 256:
            yield "model.vocab_size", f"must be >= 256 to hold every byte, got {self.model.vocab_size}"


def parse_config(cfg: DictConfig | dict) -> Config:
    """The checked configuration of composed YAML.

    Raises:
        ConfigError: with every unknown key, wrong type, value out of range and broken rule.
    """
    try:
        given = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    except OmegaConfBaseException as error:
        raise ConfigError(explained(error)) from error
    config, problems = build(Config, flatten(given), other_names=("experiment",))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def to_dict(config: Config) -> dict:
    """The YAML form: `parse_config(to_dict(config)) == config`."""
    return nest(to_flat(config))


def differing_keys(a: Config, b: Config) -> list[tuple[str, object, object]]:
    """(key, value in a, value in b) of each key that differs; None where one has no such key."""
    old, new = to_flat(a), to_flat(b)
    return [(key, old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)]


def conflicting_keys(recorded: dict, config: Config) -> list[tuple[str, object, object]]:
    """(key, recorded value, value here) of each of the `deciding_keys` that differs.

    Keys that only one has are not named: they come with another model.architecture or data.source, which
    is, or with another version of this program.
    """
    here = deciding_keys(config)
    return [(key, recorded[key], here[key]) for key in recorded if key in here and recorded[key] != here[key]]


def deciding_keys(config: Config) -> dict[str, object]:
    """Value of each full key that can change the result of a step, as JSON holds it."""
    flat = {key: value for key, value in to_flat(config).items() if key not in FREE_KEYS}
    return json.loads(json.dumps(flat))


def there_and_here(difference: tuple[str, object, object]) -> str:
    """One of `differing_keys` in words, for values of another run and of this one."""
    key, there, here = difference
    return f"{key} is {plain(there)} there, {plain(here)} here"


def save_config(config: Config, path: Path | str) -> None:
    """Writes YAML that `load_config` reads; the file is whole or not there."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(to_dict(config)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_config(path: Path | str) -> Config:
    """The configuration in a file of `save_config`; it is data, so nothing in it is resolved.

    Raises:
        ConfigError: each line of which names the file.
    """
    try:
        return parse_config(read_yaml(path))
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def read_yaml(path: Path | str) -> dict:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError as error:
        raise ConfigError("no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}") from error
    # Besides errors of its own, the parser lets those through of what it calls for a value.
    except Exception as error:
        raise ConfigError(f"not a configuration: {explained(error)}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise ConfigError("holds no keys")
    return loaded


def compose(arguments: list[str]) -> DictConfig | None:
    """The YAML that the command line asks for; None if Hydra has answered a flag such as `--cfg job`."""
    if refused := next(filter(REFUSED.match, arguments), None):
        raise ConfigError(f"{refused!r} is not for this program; sweep with -m key=value,value")
    composed: list[DictConfig] = []

    def keep(cfg: DictConfig) -> None:
        composed.append(cfg)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints its errors and exits
    completing = {"-sc", "--shell-completion"} & set(arguments)
    sys.argv[1:] = arguments if completing else map(open_to_new_keys, arguments)
    with hydra_errors():
        hydra.main(config_path=str(CONFIGS), config_name="train", version_base="1.3")(keep)()
    return composed[0] if composed else None


def combinations(overrides: list[str]) -> list[tuple[str, ...]]:
    with hydra_errors():
        parsed = OverridesParser.create().parse_overrides(overrides)
        return list(itertools.product(*map(alternatives, parsed)))


def alternatives(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [override.input_line]


def open_to_new_keys(argument: str) -> str:
    """`key=value` as `++key=value`: Hydra stops at the first unknown key, `parse_config` names them all."""
    found = PLAIN_OVERRIDE.match(argument)
    is_ours = found and found[1] not in groups_of(CONFIGS) and not found[1].startswith("hydra.")
    return f"++{argument}" if is_ours else argument


@contextmanager
def hydra_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConfigError(explained(error)) from error


def explained(error: Exception) -> str:
    """What Hydra, OmegaConf or the YAML parser found wrong, in one line that says what to do."""
    if isinstance(error, OverrideParseException):
        return unreadable_override(error.override)
    if isinstance(error, MissingConfigException) and error.options:
        return missing_option(error)
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key}: {first_line(error)}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    for pattern, message in HYDRA_MESSAGES.items():
        if found := re.search(pattern, str(error)):
            return found.expand(message)
    return first_line(error)


HYDRA_MESSAGES = {
    r"Ambiguous value for argument '(?:\+\+)?(.+?)=(.*)'": (
        r"""'\1=\2' holds several values: add -m to run each, or quote it to mean one: "\1='\2'" """.rstrip()
    ),
    r"Sweep parameters '(?:\+\+)?(.*)' requires": r"'\1' holds several values: add -m to run each",
    r"An item is already at '(.*)'": r"there is a key '\1' already: write \1=... without the '+'",
    r"Could not delete .*'(.*)' does not exist": r"cannot delete '\1': there is no such key",
    r"force-add of config groups .*'\+\+recipe=": "recipe cannot be set: experiment= and data= choose it",
    r"force-add of config groups .*'\+\+(.*)'": r"'\1' chooses a file: write it without the '++'",
    r"(\w+) appears more than once in the final": r"'\1' is chosen twice: write \1=... without a '+'",
    r"Could not override '(.*)'\.\n": r"unknown key '\1'",
    r"Additional config directory '(.*)' not found": r"there is no directory '\1'",
    r"ConfigLoader is not set|Can only enumerate": "glob() and interval() are not read here: list the values",
    r"group override must be a string .* NoneType": "a group takes the name of a file, not null",
}


def unreadable_override(override: str) -> str:
    override = override.removeprefix("++")
    key, equals, value = override.partition("=")
    if not equals:
        return f"cannot read {override!r}: write key=value"
    return f"""cannot read {override!r}: quote the value inside the shell's quotes: "{key}='{value}'\""""


def missing_option(error: MissingConfigException) -> str:
    group, _, option = error.missing_cfg_file.rpartition("/")
    asked = re.match(r"In '(\w+/.*?)'", str(error))
    place = f"{asked[1]}: " if asked else ""
    choices = f"no {option!r} in {group}; choose from {', '.join(error.options)}"
    return place + choices + did_you_mean(nearest_key(option, error.options))


def first_line(error: BaseException) -> str:
    """Hydra wraps some errors of OmegaConf in one without text."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0]
    return first_line(error.__cause__) if error.__cause__ else type(error).__name__
