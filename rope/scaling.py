"""Scalings by name, from the `rope_scaling` dict of a Hugging Face `config.json`.

Every key of the dict has an effect: an unknown key, or one that its scheme does not read, is an error.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rope import schemes
from rope.schemes import Scaled

# Parameters of a scheme that the embedding supplies; they are not keys of the dict.
SUPPLIED = {
    "frequencies": "in radians per token",
    "theta": "which only language frequencies have",
    "target_length": "the longest sequence length to be used, such as target_length=1024",
}
ALIASES = {"su": "longrope"}
SCALINGS: dict[str, Callable[..., Scaled]] = {
    "default": schemes.default,
    "linear": schemes.linear,
    "ntk": schemes.ntk,
    "dynamic": schemes.dynamic,
    "yarn": schemes.yarn,
    "llama3": schemes.llama3,
    "longrope": schemes.longrope,
    "proportional": schemes.proportional,
}


def scale_frequencies(
    frequencies: np.ndarray,
    scaling: Mapping[str, Any],
    *,
    theta: float | None = None,
    target_length: int | None = None,
) -> Scaled:
    """Scales frequencies by a Hugging Face `rope_scaling` dict.

    Args:
        frequencies: (dim / 2,) radians per token, float64, unscaled.
        scaling: `rope_type` (or `type`), a name in `SCALINGS`, and the keys of that scheme; None is ignored.
        theta: rotation base of the frequencies, or None if they have none.
        target_length: longest sequence length to be used, for schemes that depend on it.

    Raises:
        TypeError: if `scaling` is not a mapping.
        ValueError: if the type or a key is unknown, missing, without effect, or out of its range.
    """
    name = scaling_type(scaling)
    options = options_of(name, scaling)
    for key, value in {"theta": theta, "target_length": target_length}.items():
        if key in parameters(name):
            if value is None:
                raise ValueError(f"scaling {name} needs {key}, {SUPPLIED[key]}.")
            options[key] = value
            check_value(key, value)
        elif key == "target_length" and value is not None:
            raise ValueError(f"scaling {name} does not depend on a target_length, got {value}. Leave it out.")
    try:
        return SCALINGS[name](frequencies, **options)
    except OverflowError as error:
        raise ValueError(f"scaling {name} must stay in the range of float64, got {options}.") from error


def options_of(name: str, scaling: Mapping[str, Any]) -> dict[str, Any]:
    """Checked keys and values of a `rope_scaling` dict for the scheme `name`."""
    keys, options = keys_of(name), {}
    for key, value in scaling.items():
        if value is None or key in ("rope_type", "type"):
            continue
        if key not in keys:
            readers = ", ".join(other for other in SCALINGS if key in keys_of(other))
            hint = f"it belongs to {readers}" if readers else did_you_mean(key, (*keys, "rope_type"))
            raise ValueError(f"scaling {name} does not read the key {key!r}; {hint}")
        check_value(key, value)
        options[key] = value
    required = [key for key, is_required in keys.items() if is_required]
    if missing := [key for key in required if key not in options]:
        raise ValueError(f"scaling {name} needs {', '.join(required)}; missing: {', '.join(missing)}.")
    return options


def scaling_type(scaling: Mapping[str, Any]) -> str:
    """Name in `SCALINGS` of a `rope_scaling` dict."""
    if not isinstance(scaling, Mapping):
        raise TypeError(f"scaling must be a dict, such as rope_scaling in a config.json, got {scaling!r}.")
    values = [scaling[key] for key in ("rope_type", "type") if scaling.get(key) is not None]
    names = {ALIASES.get(name, name) for name in values}
    if len(names) != 1:
        raise ValueError(f"scaling needs one rope_type of {', '.join(SCALINGS)}; got {sorted(names)}.")
    (name,) = names
    if name not in SCALINGS:
        raise ValueError(f"unknown scaling {name!r}; {did_you_mean(name, tuple(SCALINGS))}")
    return name


def with_original_length(scaling: Mapping[str, Any], length: int) -> dict[str, Any]:
    """`scaling`, with `length` as its original_max_position_embeddings if it reads that key and lacks it."""
    key = "original_max_position_embeddings"
    is_missing = key in parameters(scaling_type(scaling)) and scaling.get(key) is None
    return {**scaling, key: length} if is_missing else dict(scaling)


def keys_of(name: str) -> dict[str, bool]:
    """Keys of a scheme, and whether they are required."""
    keys = {key: value for key, value in parameters(name).items() if key not in SUPPLIED}
    return {key: value.default is inspect.Parameter.empty for key, value in keys.items()}


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(SCALINGS[name]).parameters


def check_value(key: str, value: Any) -> None:
    """Raises ValueError if `value` is not of the type or in the range that `key` needs."""
    if key == "truncate":
        expected, is_valid = "true or false", isinstance(value, bool)
    elif key in ("short_factor", "long_factor"):
        is_list = isinstance(value, Sequence | np.ndarray)
        expected, is_valid = "a list of numbers", is_list and all(map(is_number, value))
    elif not is_number(value):
        expected, is_valid = "a number", False
    elif key == "factor":
        expected, is_valid = ">= 1", value >= 1
    else:
        expected, is_valid = "> 0", value > 0
    if not is_valid:
        raise ValueError(f"scaling {key} must be {expected}, got {value!r}.")


def is_number(value: Any) -> bool:
    """Whether a value is a number within the range of float64."""
    is_numeric = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_numeric and bool(abs(value) <= sys.float_info.max)


def did_you_mean(word: object, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"choose from {', '.join(known)}"
