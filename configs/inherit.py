"""Values that a run with `init_from` takes from its parent, between the defaults and the experiment file.

They become files of the groups `model`, `data` and `inherited` that exist in memory only: the experiment file
and the command line override them as they override the defaults.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from configs.help import CONFIGS
from configs.schema import Config, to_dict

PARENT = "parent"
# Values of a vision transformer that come from the data of each run.
FROM_IMAGES = ("image_size", "channels", "num_classes")


def config_to_inherit(cfg: DictConfig | dict) -> Path | None:
    """File of the config to inherit: that of the run itself once it exists, else that of `init_from`."""
    if not isinstance(cfg.get("init_from"), str):
        return None
    own = Path(str(cfg.get("output_dir")), str(cfg.get("name")))
    paths = (directory / "config.yaml" for directory in (own, Path(cfg["init_from"]).expanduser()))
    return next(filter(Path.is_file, paths), None)


def missing_parent(values: dict) -> list[str]:
    """A line if `init_from` has no config; keys of its model and data are then reported as unknown."""
    if not isinstance(values.get("init_from"), str) or config_to_inherit(values) is not None:
        return []
    return [f"init_from={values['init_from']} is not a run directory: it has no config.yaml"]


def implicit_groups(choices: Mapping[str, str], overrides: Iterable[str]) -> list[str]:
    """Groups of `model` and `data` that neither the experiment file nor the command line chooses.

    Args:
        choices: name of the chosen file of each group.
        overrides: overrides of the command line.
    """
    defaults = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    chosen = {override.lstrip("+~").partition("=")[0] for override in overrides}
    groups = (group for group in ("model", "data") if group not in chosen)
    return [group for group in groups if {group: choices.get(group)} in defaults]


@contextlib.contextmanager
def parent_files(config: Config) -> Iterator[None]:
    """Registers the values of a config as the file `parent` of each group inside."""
    values = escape(to_dict(config))
    model = {key: None if key in FROM_IMAGES else value for key, value in values["model"].items()}
    scaling = model["rope"]["scaling"]
    if scaling["factor"] is not None:  # a longrope without one cannot do without the original length
        scaling["original_max_position_embeddings"] = None  # that of the parent, once it is read
    inherited = {"context_length": values["context_length"]}
    files = (("model", model, None), ("data", values["data"], None), ("inherited", inherited, "_global_"))
    store = ConfigStore.instance()
    for group, node, package in files:
        store.store(group=group, name=PARENT, node=node, package=package)
    try:
        yield
    finally:
        for group, *_ in files:
            store.repo[group].pop(f"{PARENT}.yaml")


def escape(value: object) -> object:
    """The value with its interpolations escaped: nothing in a file of another run is resolved."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value
