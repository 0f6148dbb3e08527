"""Dataclasses out of flat keys such as 'model.rope.theta', with every problem reported; knows no YAML.

A field's metadata may hold:
    min, max, above, below: its range; the first two are inclusive.
    hint: a sentence added to an error about its value.
    example: a value to show when it is missing.
    also: the full key of a field of a nested dataclass that takes the same value and has no key of its own.
"""

import difflib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from configs.values import check_range, did_you_mean, one_of, shown, typed

INVALID = object()
UNSET = "???"


def flatten(nested: dict, prefix: str = "") -> dict[str, object]:
    """Leaves by dotted key; a dot inside one key is quoted, so that it names no other."""
    flat = {}
    for key, value in nested.items():
        name = prefix + (f'"{key}"' if "." in str(key) else str(key))
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def nest(flat: dict[str, object]) -> dict:
    """The inverse of `flatten`."""
    nested: dict = {}
    for key, value in flat.items():
        *parents, name = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return nested


def to_flat(instance: object) -> dict[str, object]:
    """Value of each key of a dataclass, as `build` reads them."""
    shared = shared_keys(type(instance))
    return {key: value for key, value in leaves_of(instance) if key not in shared}


def leaves_of(instance: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for field in fields(instance):
        value = getattr(instance, field.name)
        if is_dataclass(value):
            yield from leaves_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def kind_name(cls: type) -> str:
    """The field that tells the classes of a union apart: it has one possible value."""
    hints = get_type_hints(cls)
    return next(
        name for name, hint in hints.items() if get_origin(hint) is Literal and len(get_args(hint)) == 1
    )


def names_in(cls: type, prefix: str) -> Iterator[str]:
    """Keys of a class, those of its own dataclasses included."""
    for name, hint in get_type_hints(cls).items():
        yield from names_in(hint, f"{prefix}{name}.") if is_dataclass(hint) else (prefix + name,)


def shared_keys(cls: type) -> dict[str, str]:
    """Top-level key that stands for each nested key without one of its own."""
    return {field.metadata["also"]: field.name for field in fields(cls) if "also" in field.metadata}


def build(cls: type, flat: dict[str, object], other_names: tuple[str, ...] = ()) -> tuple[object, list[str]]:
    """A `cls` and the problems of `flat`; the first means nothing when there are any of the second.

    `other_names` are words that are no key of `cls`, but may be meant by an unknown one.
    """
    reader = Reader(cls, flat)
    instance = reader.dataclass(cls, "")
    reader.report_unknown_keys(other_names)
    return instance, reader.problems


class Reader:
    """Remembers what was read, so that the rest is unknown, and what was wrong."""

    def __init__(self, cls: type, flat: dict[str, object]):
        self.flat = flat
        self.shared = shared_keys(cls)
        self.problems: list[str] = []
        self.read: dict[str, object] = {}
        self.groups: set[str] = set()
        self.elsewhere: dict[str, list[str]] = {}

    def dataclass(self, cls: type, prefix: str, default: object = None) -> object:
        """What is not given is as in `default`, an instance, or else as in the class."""
        hints = get_type_hints(cls)
        values = {
            field.name: self.field(
                field, hints[field.name], prefix, getattr(default, field.name, field.default)
            )
            for field in fields(cls)
        }
        if any(value is INVALID for value in values.values()):
            return INVALID
        instance = cls(**values)
        if hasattr(instance, "problems"):
            self.problems += [f"{self.key(prefix + key)} {message}" for key, message in instance.problems()]
        return instance

    def field(self, field: Field, annotation: object, prefix: str, default: object) -> object:
        members = get_args(annotation)
        if is_dataclass(annotation):
            return self.group(field, annotation, prefix)
        if members and is_dataclass(members[0]):
            return self.union(field, members, prefix)
        return self.leaf(field, annotation, self.key(prefix + field.name), default)

    def key(self, path: str) -> str:
        return self.shared.get(path, path)

    def group(self, field: Field, cls: type, prefix: str) -> object:
        self.groups.add(prefix + field.name)
        return self.dataclass(cls, f"{prefix}{field.name}.", field.default_factory())

    def union(self, field: Field, classes: tuple[type, ...], prefix: str) -> object:
        """The class whose kind is given."""
        inner = f"{prefix}{field.name}."
        key = inner + kind_name(classes[0])
        by_kind = {get_type_hints(cls)[kind_name(cls)].__args__[0]: cls for cls in classes}
        default = getattr(field.default_factory, kind_name(field.default_factory))
        self.groups.add(prefix + field.name)
        elsewhere: dict[str, list[str]] = {}
        for kind, cls in by_kind.items():
            for name in names_in(cls, inner):
                elsewhere.setdefault(name, []).append(f"{key}={kind}")
        self.elsewhere |= elsewhere
        try:
            kind = one_of(self.flat.get(key, default), tuple(by_kind))
        except ValueError as error:
            self.problems.append(f"{key} {error}")
            self.read |= dict.fromkeys(elsewhere, INVALID)
            return INVALID
        return self.dataclass(by_kind[kind], inner)

    def leaf(self, field: Field, annotation: object, key: str, default: object) -> object:
        """The value of one key; read once, however many fields share it, if it suits the first."""
        if self.read.get(key) is None:
            self.read[key] = self.value(field, annotation, key, default)
        return self.read[key]

    def value(self, field: Field, annotation: object, key: str, default: object) -> object:
        given = self.flat.get(key, default)
        if given is MISSING or given == UNSET:
            self.problems.append(f"{key} is missing: set {key}={field.metadata.get('example', '...')}")
            return INVALID
        try:
            value = typed(given, annotation)
            check_range(value, field)
        except ValueError as error:
            hint = field.metadata.get("hint")
            self.problems.append(f"{key} {error}" + (f". {hint}" if hint else ""))
            return INVALID
        return value

    def report_unknown_keys(self, other_names: tuple[str, ...]) -> None:
        known = [*self.read, *sorted(self.groups), *other_names]
        for key, value in self.flat.items():
            if key not in self.read:
                self.problems.append(self.unknown(key, value, known))

    def unknown(self, key: str, value: object, known: list[str]) -> str:
        if key in self.groups:
            return f"{key} holds keys of its own, such as {self.key_below(key)}; got {shown(value)}"
        if key in self.elsewhere and key not in self.shared:
            return f"unknown key {key!r} here; it belongs to {' or '.join(self.elsewhere[key])}"
        match = self.shared.get(key) or nearest_key(key, known)
        return f"unknown key {key!r}" + did_you_mean(match)

    def key_below(self, group: str) -> str:
        return next(key for key in self.read if key.startswith(f"{group}."))


def nearest_key(key: str, known: list[str]) -> str | None:
    """The key with a like last part, or else a like whole."""
    last = key.rpartition(".")[2]
    lasts = {candidate.rpartition(".")[2] for candidate in known}
    parts = difflib.get_close_matches(last, lasts, n=1, cutoff=0.7)
    same_part = [candidate for candidate in known if candidate.rpartition(".")[2] in parts]
    matches = difflib.get_close_matches(key, same_part, n=1, cutoff=0)
    return next(iter(matches or difflib.get_close_matches(key, known, n=1)), None)
