"""One value against the annotation and the range of its field; every error says what the value must be."""

import difflib
import operator
import sys
from dataclasses import Field
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

BOUNDS = {
    "min": (">=", operator.ge),
    "max": ("<=", operator.le),
    "above": (">", operator.gt),
    "below": ("<", operator.lt),
}


def typed(value: object, annotation: object) -> object:
    """`value` as the annotation wants it; ValueError says what it must be."""
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        (inner,) = (member for member in get_args(annotation) if member is not NoneType)
        return None if value is None else typed(not_the_word_none(value), inner)
    if get_origin(annotation) is Literal:
        return one_of(value, get_args(annotation))
    if get_origin(annotation) is tuple:
        return tuple_of(value, get_args(annotation)[0])
    return READERS[annotation](value)


def not_the_word_none(value: object) -> object:
    if value in ("None", "none"):
        raise ValueError(f"must be null where nothing is meant, got {value!r}")
    return value


def one_of(value: object, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    match = difflib.get_close_matches(str(value), choices, n=1)
    raise ValueError(f"must be one of {', '.join(choices)}; got {shown(value)}" + did_you_mean(*match))


def tuple_of(value: object, annotation: object) -> tuple:
    if isinstance(value, list | tuple) and value:
        return tuple(typed(item, annotation) for item in value)
    example = [annotation(1), annotation(2)]
    raise ValueError(f"must be a list such as {str(example).replace(' ', '')}, got {shown(value)}")


def as_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"must be true or false, got {shown(value)}")


def as_int(value: object) -> int:
    if is_number(value) and (isinstance(value, int) or value.is_integer()):
        return int(value)
    raise ValueError(f"must be a whole number, got {shown(value)}")


def as_float(value: object) -> float:
    if is_number(value) and abs(value) <= sys.float_info.max:
        return float(value)
    raise ValueError(f"must be a finite number, got {shown(value)}")


def as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"must be text, got {shown(value)}" + quoting_hint(value))


READERS = {bool: as_bool, int: as_int, float: as_float, str: as_text}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def quoting_hint(value: object) -> str:
    return f""". In quotes it is text: "'{value}'\"""" if is_number(value) else ""


def check_range(value: object, field: Field) -> None:
    bounds = [(*BOUNDS[name], field.metadata[name]) for name in BOUNDS if name in field.metadata]
    if value is None or all(holds(value, bound) for _, holds, bound in bounds):
        return
    rules = " and ".join(f"{sign} {type(value)(bound)}" for sign, _, bound in bounds)
    raise ValueError(f"must be {rules}, got {shown(value)}")


def shown(value: object) -> str:
    """`value` as a user would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def plain(value: object) -> str:
    """`value` as it stands in YAML."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(plain, value))}]"
    return value if isinstance(value, str) else shown(value)


def did_you_mean(match: str | None = None) -> str:
    return f"; did you mean {match!r}?" if match else ""
