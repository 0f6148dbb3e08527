"""Scalings by name, from the `rope_scaling` dict of a Hugging Face `config.json`.

Nothing in such a dict is ignored: a key that is unknown, or that its scheme does not read, is an error.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rope import schemes
from rope.schemes import Scaled

# Parameters of a scheme that are not keys of the dict: the embedding supplies them.
SUPPLIED = ("frequencies", "theta", "target_length")
WHY_NEEDED = {
    "theta": "Its formula holds for language frequencies (freqs_for='lang') alone.",
    "target_length": "Its frequencies depend on the length of the sequence; give the longest you will use.",
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


def scale(
    frequencies: np.ndarray,
    scaling: Mapping[str, object],
    *,
    theta: float | None = None,
    target_length: int | None = None,
) -> Scaled:
    """Scales frequencies as a `rope_scaling` dict says.

    Args:
        frequencies: (dim / 2,) radians per token, float64, unscaled.
        scaling: `rope_type` (or `type`), a name in `SCALINGS`, and the keys of that scheme. Keys that are
            None count as not given.
        theta: rotation base of the frequencies; None when they have none, which some schemes need.
        target_length: length of sequence to fix the regime for, where it depends on one.

    Returns:
        The scaled frequencies, float64, and the attention factor.

    Raises:
        TypeError: if `scaling` is not a mapping.
        ValueError: if the type or a key is unknown, missing, not read by this type, or out of its range.
    """
    check_mapping(scaling)
    name, options = parsed(scaling)
    supplied = {"theta": theta, "target_length": target_length}
    for key, value in supplied.items():
        if key in parameters(name):
            if value is None:
                raise ValueError(f"scaling {name} needs {key}, got none. {WHY_NEEDED[key]}")
            options[key] = value
        elif key == "target_length" and value is not None:
            raise ValueError(f"scaling {name} does not depend on a target_length, got {value}. Leave it out.")
    try:
        return SCALINGS[name](frequencies, **options)
    except OverflowError as error:
        numbers = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ValueError(
            f"scaling {name} must stay in the range of float64, got {numbers}. Use smaller numbers."
        ) from error


def check_mapping(scaling: object) -> None:
    if not isinstance(scaling, Mapping):
        raise TypeError(
            f"scaling must be a dict, as a config.json has for rope_scaling, got {scaling!r}. "
            "Put the name in it as rope_type."
        )


def parsed(scaling: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Name and options of a `rope_scaling` dict, its keys checked."""
    given = {key: value for key, value in scaling.items() if value is not None}
    name = scaling_type(given)
    options = {key: value for key, value in given.items() if key not in ("rope_type", "type")}
    required, optional = keys_of(name)
    for key in options:
        if key not in (*required, *optional):
            readers = [other for other in SCALINGS if key in sum(keys_of(other), ())]
            where = (
                f"it belongs to {', '.join(readers)}" if readers else did_you_mean(key, required + optional)
            )
            raise ValueError(f"scaling {name} does not read the key {key!r}; {where}")
    missing = [key for key in required if key not in options]
    if missing:
        raise ValueError(
            f"scaling {name} needs {', '.join(required)}; missing: {', '.join(missing)}. Add it to the dict."
        )
    return name, {key: checked(key, value) for key, value in options.items()}


def scaling_type(scaling: Mapping[str, object]) -> str:
    """Name in `SCALINGS` of a `rope_scaling` dict."""
    names = {scaling[key] for key in ("rope_type", "type") if scaling.get(key) is not None}
    if len(names) != 1:
        raise ValueError(
            f"a scaling needs one rope_type (or type), got {sorted(names) or 'none'}. "
            f"Choose one of {', '.join(SCALINGS)}."
        )
    (name,) = names
    name = ALIASES.get(name, name)
    if name not in SCALINGS:
        raise ValueError(f"unknown scaling {name!r}; {did_you_mean(name, tuple(SCALINGS))}")
    return name


def with_original_length(scaling: Mapping[str, object], length: int) -> dict[str, object]:
    """`scaling`, with `length` as its original_max_position_embeddings if it reads that key and lacks it."""
    key = "original_max_position_embeddings"
    if key not in parameters(scaling_type(scaling)) or scaling.get(key) is not None:
        return dict(scaling)
    return {**scaling, key: length}


def keys_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys that a scheme must be given, and those it may be given."""
    keys = {key: value for key, value in parameters(name).items() if key not in SUPPLIED}
    required = tuple(key for key, value in keys.items() if value.default is inspect.Parameter.empty)
    return required, tuple(key for key in keys if key not in required)


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(SCALINGS[name]).parameters


def checked(key: str, value: object) -> object:
    """`value`, if it is of the kind that `key` wants."""
    if key == "truncate":
        kind, fits = "true or false", isinstance(value, bool)
    elif key in ("short_factor", "long_factor"):
        kind, fits = (
            "a list of numbers",
            isinstance(value, Sequence | np.ndarray) and all(map(is_number, value)),
        )
    else:
        kind, fits = "a number", is_number(value)
    if not fits:
        raise ValueError(f"scaling {key} must be {kind}, got {value!r}.")
    return value


def is_number(value: object) -> bool:
    """Whether a value is a finite number that float64 can hold."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def did_you_mean(word: object, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(str(word), known, n=1)
    if not known:
        return "it takes none"
    return f"did you mean {matches[0]!r}?" if matches else f"choose from {', '.join(known)}"
