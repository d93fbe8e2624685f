"""What a metric's columns may hold: each cell is checked, since `evaluate` looks at the first row only."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from datasets import List, Value


class Column(NamedTuple):
    """One of a metric's inputs."""

    feature: Any  # how `datasets` stores a cell
    expected: str  # what a cell is, in words
    accept: Callable[[Any], Any]  # a cell as it is stored; ValueError or TypeError if it is none

    def cells(self, name: str, values: Any) -> list[Any]:
        """All cells of the column `name`, checked."""
        if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
            raise TypeError(
                f"`{name}` is {_described(values)}; expected a list with one entry for each row: {self.expected}."
            )
        return [self._cell(name, row, value) for row, value in enumerate(values)]

    def _cell(self, name: str, row: int, value: Any) -> Any:
        try:
            return self.accept(value)
        except (TypeError, ValueError, OverflowError) as error:
            reason = f" ({error})" if str(error) else ""
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"`{name}[{row}]` is {_described(value)}; expected {self.expected}{reason}. "
                "Mend the row or leave it out of every column."
            ) from None


def _described(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if re.search("[\ud800-\udfff]", value):
        raise ValueError("it holds half of a surrogate pair, which UTF-8 cannot write")
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            raise ValueError("it looks like the string form of a list: read it with ast.literal_eval first")
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes | dict):
        raise TypeError
    texts = [_text(entry) for entry in value]
    if not texts:
        raise ValueError("the list is empty")
    return texts


def _index(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    if not 0 <= value.__index__() < 2**63:
        raise ValueError("it is negative" if value.__index__() < 0 else "it is out of range")
    return value.__index__()


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's has two names
        raise TypeError
    return bool(value)


def _key(value: Any) -> str:
    return value if isinstance(value, str) else str(_index(value))


def _box(value: Any) -> list[float]:
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise TypeError
    numbers = [float(entry) for entry in value]
    if len(numbers) != 4:
        raise ValueError(f"{len(numbers)} numbers")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not all of them are finite")
    return numbers


TEXT = Column(Value("string"), 'a string ("" where there is none)', _text)
TEXTS = Column(List(Value("string")), "a string, or a list of at least one", _texts)
INDEX = Column(Value("int64"), "an index that counts from 0", _index)
FLAG = Column(Value("bool"), "True or False", _flag)
KEY = Column(Value("string"), "a name or a number", _key)
BOX = Column(List(Value("float64")), "a box of four numbers", _box)
