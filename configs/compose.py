"""Configuration files and command lines: Hydra composes YAML, and its errors become one line each."""

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import hydra
import yaml
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from configs.foreign_names import answer_to
from configs.help import CONFIGS, config_groups
from configs.schema import Config, parse_config, replace_places, to_dict
from data.config import BPE_VOCAB_SIZE
from system.errors import CommandError, ConfigError, RunError, reason
from system.files import write_text
from system.text import did_you_mean, format_command

# An override of this program's keys and groups: not of Hydra's own config, a package or a nested group.
OVERRIDE = re.compile(r"(\+{0,2}|~)(?!hydra\b)([A-Za-z_][\w.]*)(?:=(.*))?", re.DOTALL)
SEVERAL_VALUES = re.compile(r"(?:Ambiguous value for argument|Sweep parameters) '(?:\+\+)?(.+?)=(.*?)'")
IMPORTED = "checkpoints/step-00000000"  # only scripts.import_hf writes a checkpoint before any step
MOST_ALIASES = 10  # in a YAML file, which they expand to at most 40 times its size
REWRITE = "Delete it and repeat the command of that run, which writes it again."
# Values of a vision transformer that come from the data of each run.
FROM_IMAGES = ("image_size", "channels", "num_classes")


def save_config(config: Config, path: Path | str) -> None:
    """Writes YAML that `load_config` reads; places inside the project are relative, so that it can move."""
    relative = replace_places(config, lambda place: place.removeprefix(f"{CONFIGS.parent}/"))
    write_text(Path(path), to_yaml(to_dict(relative)))


def to_yaml(values: dict) -> str:
    return OmegaConf.to_yaml(values)


def load_config(path: Path | str) -> Config:
    """Reads a file of `save_config`; ConfigError or RunError with its name and first problem."""
    try:
        config = parse_config(read_yaml(path))
        return replace_places(config, lambda place: os.path.join(CONFIGS.parent, place))
    except ConfigError as error:
        problem, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{path} is damaged, or of another version ({problem}{more}). {REWRITE}") from error


def read_yaml(path: Path | str) -> dict:
    try:
        check_aliases(path)
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({reason(error)})") from error
    except Exception as error:  # the parser also raises errors of the constructors that it calls
        raise ConfigError(f"not a configuration: {explain(error)}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise ConfigError("holds no keys")
    return loaded


def check_aliases(path: Path | str) -> None:
    """Raises ConfigError for a YAML file whose aliases may expand it to more than the memory, or a pipe."""
    if os.path.exists(path) and not os.path.isfile(path):  # opening a named pipe would wait
        raise ConfigError(f"{path} is not a regular file")
    with open(path, encoding="utf-8", errors="replace") as file, contextlib.suppress(yaml.YAMLError):
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(file)) > MOST_ALIASES:
            raise ConfigError(f"{path} has more than {MOST_ALIASES} aliases (*name): write out their values")


def compose(
    overrides: list[str], *, config_dir: Path | None = None, report: Callable[[str], None] = lambda line: None
) -> dict:
    """Nested values of a command line.

    Increasing precedence: defaults, model, data and context of the parent (`init_from`), experiment file,
    command line. The learning rate is at most that of an imported parent, unless the command line sets it.
    `config_dir` has more files of the groups. `report` receives one line that lists what is inherited.
    """
    with hydra_errors():
        cfg, choices = compose_files(overrides, config_dir)
        if not isinstance(cfg.get("init_from"), str):
            return OmegaConf.to_container(cfg, resolve=True)
        if (run := run_to_inherit(cfg)) is None:
            raise no_run(f"init_from={cfg.init_from}", Path(str(cfg.get("output_dir")), cfg.init_from))
        parent = load_config(run / "config.yaml")
        is_similar = OmegaConf.select(cfg, "model.architecture") == parent.model.architecture
        groups = groups_to_inherit(choices, overrides, is_similar=is_similar)
        with parent_files(parent):
            files = [f"{group}=parent" for group in (*groups, "inherited")]
            cfg, _ = compose_files(overrides, config_dir, files)
        if parent.context_length is not None and cfg.get("context_length") == parent.context_length:
            groups.append("context_length")
        # Imported weights, which are of step 0, bear a small rate only; a run resumes at its own.
        has_limit = run != Path(os.path.expanduser(cfg.init_from)) or (run / IMPORTED).exists()
        is_set = "optimizer.learning_rate" in map(override_key, overrides)
        rate, limit = OmegaConf.select(cfg, "optimizer.learning_rate"), parent.optimizer.learning_rate
        if has_limit and not is_set and isinstance(rate, int | float) and rate > limit:
            cfg.optimizer.learning_rate = limit
            groups.append(f"optimizer.learning_rate={limit:g}")
            if "optimizer.adamw_learning_rate_ratio" not in map(override_key, overrides):
                cfg.optimizer.adamw_learning_rate_ratio = parent.optimizer.adamw_learning_rate_ratio
        if groups:
            report(f"{', '.join(groups)} from {run}")
        return OmegaConf.to_container(cfg, resolve=True)


def compose_files(
    overrides: list[str], config_dir: Path | None, inherited: Iterable[str] = ()
) -> tuple[DictConfig, dict[str, str]]:
    """Composed configuration, and the chosen file of each group; `inherited` are files of the parent."""
    arguments = [*map(hydra_override, overrides), *inherited]
    if config_dir is not None:
        for path in config_dir.rglob("*.yaml"):
            check_aliases(path)
        arguments.append(f"hydra.searchpath=['{config_dir.absolute()}']")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("train", arguments, return_hydra_config=True)
    with open_dict(cfg):
        choices = OmegaConf.to_container(cfg.pop("hydra").runtime.choices)
    return cfg, choices


def run_to_inherit(cfg: DictConfig) -> Path | None:
    """Directory of the config to inherit: the run itself once it exists, else `init_from`."""
    own = os.path.join(str(cfg.get("output_dir")), str(cfg.get("name")))
    runs = (Path(os.path.expanduser(place)) for place in (own, cfg.init_from))
    return next((run for run in runs if (run / "config.yaml").is_file()), None)


def no_run(place: str | Path, similar: Path | None = None) -> RunError:
    """Error for `place` without a run; suggests `similar` if that is one."""
    if similar is not None and (similar / "config.yaml").is_file():
        return RunError(f"{place} is not a run directory; did you mean '{similar}'?")
    command = format_command("train.py")
    return RunError(f"{place} is not a run directory: it has no config.yaml. Train one: {command}")


def groups_to_inherit(choices: Mapping[str, str], overrides: Iterable[str], *, is_similar: bool) -> list[str]:
    """Groups of `model` and `data` that neither the experiment file nor the command line chooses.

    Where the architecture is the same (`is_similar`), only the parent's sizes fit its weights, so that the
    model of an experiment file yields to it. The data of `experiment=vit` are a default too.
    """
    defaults = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    yielding = ("model", "data") if choices.get("experiment") == "vit" else ("model",)
    chosen = set(map(override_key, overrides))
    return [
        group
        for group in ("model", "data")
        if group not in chosen
        and ({group: choices.get(group)} in defaults or (is_similar and group in yielding))
    ]


@contextlib.contextmanager
def parent_files(config: Config) -> Iterator[None]:
    """Registers the values of a config as the file `parent` of each group inside."""
    values = escape(to_dict(config))
    model = {key: None if key in FROM_IMAGES else value for key, value in values["model"].items()}
    scaling = model["rope"]["scaling"]
    if scaling["factor"] is not None:  # a longrope without one cannot do without the original length
        scaling["original_max_position_embeddings"] = None  # that of the parent, once it is read
    inherited = {"context_length": values["context_length"]}
    # The tokenizer is that of the parent's directory.
    defaults = {"tokenizer": None, "bpe_vocab_size": BPE_VOCAB_SIZE}
    data = {key: defaults.get(key, value) for key, value in values["data"].items()}
    store = ConfigStore.instance()
    store.store(group="model", name="parent", node=model)
    store.store(group="data", name="parent", node=data)
    store.store(group="inherited", name="parent", node=inherited, package="_global_")
    try:
        yield
    finally:
        for group in ("model", "data", "inherited"):
            del store.repo[group]["parent.yaml"]


def escape(value: object) -> object:
    """The value with its interpolations escaped: nothing in a file of another run is resolved."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value


def override_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def combinations(overrides: list[str]) -> list[tuple[str, ...]]:
    """Overrides of each job of a sweep."""
    with hydra_errors():
        alternatives = (
            [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            if override.is_sweep_override()
            else [override.input_line]
            for override in OverridesParser.create().parse_overrides(overrides)
        )
        return list(itertools.product(*alternatives))


def hydra_override(argument: str) -> str:
    """`++key=value` for Hydra, which stops at the first unknown key, or `group='file'`."""
    match = OVERRIDE.fullmatch(argument)
    if match is None:
        raise ConfigError(f"{argument!r} is not supported: write key=value; sweep with -m key=value,value")
    prefix, key, value = match.groups()
    if prefix or value is None:
        return argument
    if key not in config_groups():
        return f"++{argument}"
    return argument if set(value) & set(",'\"") else f"{key}='{value}'"  # a number is no file name


@contextlib.contextmanager
def hydra_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, CommandError) or getattr(error, "filename", None):  # an OSError of a path
            raise
        raise ConfigError(explain(error)) from error


def explain(error: Exception) -> str:
    if isinstance(error, OverrideParseException):
        override = error.override.removeprefix("++")
        key, equals, value = override.partition("=")
        if not equals:
            return f"cannot read {override!r}: {answer_to(override) or 'write key=value'}"
        return f"""cannot read {override!r}: quote the value inside the shell's quotes: "{key}='{value}'\""""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        choices = ", ".join(error.options)
        others = [name for name, files in config_groups().items() if option in files]
        answer = f"; did you mean '{others[0]}={option}'?" if others else did_you_mean(option, error.options)
        return f"no {option!r} in {group}; choose from {choices}{answer}"
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key}: {first_line(error)}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if found := SEVERAL_VALUES.search(str(error)):
        key, value = found.groups()
        choice = f"""add -m to run each, or quote it to mean one: "{key}='{value}'\""""
        return f"'{key}={value}' holds several values: {choice}"
    if "force-add of config groups" in str(error):
        return "a group is set by group=file, without ++; experiment= and data= choose the recipe"
    if re.search("ConfigLoader is not set|Can only enumerate", str(error)):
        return "glob() and interval() are not supported: list the values"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """First line of the message, or of its cause: Hydra wraps some errors in one without text."""
    if str(error).strip() or error.__cause__ is None:
        return reason(error)
    return first_line(error.__cause__)
