"""A value that a person wrote, as the type that a field declares; what does not fit is named with what would."""

import difflib
import enum
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """
    Raises:
        ValueError: a key that is not known, with the nearest known one.
    """
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"{where} has the unknown key `{key}`. {hint}")


def one_of(name: str, value: Any, choices: Any) -> Any:
    """
    The value, one of a closed choice.

    Raises:
        ValueError: another one, with the nearest choice.
    """
    if value not in choices:
        near = difflib.get_close_matches(str(value), list(choices), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` is {value!r}, expected one of {list(choices)}.{hint}")
    return value


def typed(name: str, value: Any, hint: Any) -> Any:
    """
    The value as the type that a field declares; a text that reads as a number is one.

    Raises:
        TypeError: it is of another kind.
        ValueError: it is not among the choices that the type names.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                try:
                    return typed(name, value, option)
                except (TypeError, ValueError):
                    continue
        raise TypeError(f"`{name}` is {value!r}, expected {_type_name(hint)}.")
    if origin is typing.Literal:
        return one_of(name, value, typing.get_args(hint))
    kind = origin or hint
    if isinstance(kind, type):
        is_bool = isinstance(value, bool)
        if kind is float and not is_bool:
            number = _number(value)
            if number is not None:
                return number
        elif kind is int and not is_bool:
            number = _number(value)
            if number is not None and number.is_integer():
                return int(number)
        elif kind in (Mapping, dict) or issubclass(kind, Mapping):
            if isinstance(value, dict):
                return value
        elif kind is Path or issubclass(kind, os.PathLike):
            if isinstance(value, str):
                return value
        elif (kind is bool and is_bool) or (kind is not bool and isinstance(value, kind) and not is_bool):
            return value
        elif issubclass(kind, enum.Enum):  # by value
            return one_of(name, value, [member.value for member in kind])
    raise TypeError(f"`{name}` is {value!r}, a {type(value).__name__}, expected {_type_name(hint)}.")


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}
    names |= {list: "a list", type(None): "null"}
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]
    return " or ".join(names.get(typing.get_origin(o) or o, getattr(o, "__name__", str(o))) for o in options)
