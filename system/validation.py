"""Option classes: frozen dataclasses that pydantic validates whenever one is constructed."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Annotated, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError

from system.errors import ConfigError
from system.text import did_you_mean, format_value

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
TYPES = {
    "int": "a whole number",
    "float": "a finite number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]  # sizes, steps and indices are int32 in TensorFlow
Problem = tuple[str, str]  # key and message, such as ("dim", "must be >= 1, got 0")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclass(frozen=True, config=CONFIG)
class Options:
    """Base class of options; each subclass is a frozen dataclass without a decorator of its own.

    Types are strict, except that 2e3 is accepted for an int, an int for a float and a list for a tuple.
    `Annotated[int, Field(ge=1)]` is a range; `Field(examples=[...])` appears in the error for a value that is
    missing or not a list. `problems` holds the rules between fields. `dataclasses.replace` validates as the
    constructor does. Both raise one ConfigError, a ValueError, with every problem of the values.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, config=CONFIG)(cls)
        cls.__init__ = with_readable_errors(cls, cls.__init__)

    def problems(self) -> Iterator[Problem]:
        """Key and message of each violated rule between fields."""
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _convert(cls, values: object) -> object:
        if isinstance(values, ArgsKwargs):
            return ArgsKwargs(convert(values.args), convert(values.kwargs or {}))
        return convert(values)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "Options":
        """Raises one error with all problems; a dict as context collects them by class instead."""
        problems = [*self.problems()]
        for key, field in type(self).__pydantic_fields__.items():
            if field.default is None and (value := getattr(self, key)) in ("None", "none"):
                problems.append((key, f"must be null to leave it unset, got {value!r}"))
        if info.context is not None:
            info.context[type(self)] = problems
        elif problems:
            raise PydanticCustomError("problems", "{problems}", {"problems": problems})
        return self


def convert(value: object) -> object:
    """Turns lists into tuples and whole floats into ints, which float fields accept as well."""
    if isinstance(value, dict):
        return {key: item if isinstance(item, dict) else convert(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(convert, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_readable_errors(cls: type, init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        try:
            init(self, *args, **kwargs)
        except ValidationError as error:
            problems = problems_of(error, {"": cls})
            raise ConfigError("; ".join(f"{key} {message}" for key, message in problems)) from None

    return __init__


def problems_of(error: ValidationError, classes: dict[str, type[Options]]) -> Iterator[Problem]:
    """Key and message of each error; `classes` are those of groups, such as {"": Config, "model": ...}."""
    for details in error.errors(include_url=False):
        if details["type"] == "problems":
            yield from details["ctx"]["problems"]
            continue
        group = key = ""
        for part in details["loc"]:  # also holds the kind of a union and the index in a list
            if part in getattr(classes.get(key), "__pydantic_fields__", ()):
                group, key = key, f"{key}.{part}" if key else part
        field = classes[group].__pydantic_fields__.get(key.rpartition(".")[2])
        example = next(iter(getattr(field, "examples", None) or ()), None)
        if details["type"].startswith("union_tag"):
            key += "." + details["ctx"]["discriminator"].strip("'")
        yield key or ".".join(map(str, details["loc"])) or "text", describe(details, key, example)


def describe(details: dict, key: str, example: str | None) -> str:
    """Message of one error of pydantic."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind.startswith("union_tag"):
        value = value.get(key.rpartition(".")[2])
    got = f"got {format_value(value, quoted=True)}"
    for name, sign in BOUNDS.items():
        if name in context:
            # A tiny bound excludes numbers that are zero in float32; to others it means 0.
            bound = 0 if name == "gt" and value <= 0 < context[name] < 1e-30 else context[name]
            return f"must be {sign} {bound:.15g}, {got}"
    if kind == "literal_error" or kind.startswith("union_tag"):
        choices = re.findall("'([^']*)'", context.get("expected", context.get("expected_tags", "")))
        return f"must be one of {', '.join(choices)}; {got}{did_you_mean(str(value), choices)}"
    if kind in ("tuple_type", "too_long") or (kind == "missing" and isinstance(details["loc"][-1], int)):
        return f"must be a list such as {example or '[1,2]'}, {got}"
    if kind == "missing":
        return f"is missing: set {key}={example or '...'}"
    if kind == "unexpected_keyword_argument":
        return "is no such option"
    if kind == "string_too_short":
        return f"must not be empty, {got}"
    expected = TYPES.get(kind.split("_")[0])
    if expected is None:
        return f"is invalid: {details['msg']}"
    is_number = expected == "text" and isinstance(value, int | float) and not isinstance(value, bool)
    quoting = f""". In quotes it is text: "'{value}'\"""" if is_number else ""
    return f"must be {expected}, {got}{quoting}"
