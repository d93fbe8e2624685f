"""
Rows of JSON and JSONL files, each as its text: rows of one file need not share a schema, and one that cannot be parsed
is a bad row, not the end of its file.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from datasets import Features, IterableDataset, Value

from .faults import BadRowError, shorten


JSON_COLUMN = "json"  # of a stream: the text of each row
_SPACE = re.compile(r"\s*")
_AFTER_ITEM = re.compile(r"\s*([,\]])\s*")
_STRING_OR_MARK = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)


def open_json(split_rows: Callable[[str], Iterator[str]], path: str, streaming: bool) -> list[Any] | IterableDataset:
    """The rows of a file. `split_rows` is one of the functions below."""
    if not streaming:
        return [parse_row(text) for text in split_rows(path)]
    return IterableDataset.from_generator(
        _stream_rows,
        gen_kwargs={"paths": [path], "split_rows": split_rows},
        features=Features({JSON_COLUMN: Value("string")}),
    )


def parse_row(text: str) -> Any:
    """The row; a `BadRowError` instead of one that cannot be parsed, for the row's report."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return BadRowError(f"is not JSON: {shorten(str(error))}")
    except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
        return BadRowError(f"cannot be read as JSON ({shorten(str(error))})")


def split_lines(path: str) -> Iterator[str]:
    """The rows of a file with one on each line; empty lines count for nothing."""
    with _open_text(path) as file:
        yield from (line for line in file if line.strip())


def split_list(path: str) -> Iterator[str]:
    """The rows of a file that holds a list of them."""
    with _open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        raise ValueError(
            f"{path} holds no list of rows, but begins with {text[:40]!r}. One object per line is a .jsonl file."
        )
    try:
        spans = list(_item_spans(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    yield from (text[start:end] for start, end in spans)


def _stream_rows(paths: list[str], split_rows: Callable[[str], Iterator[str]]) -> Iterator[dict[str, str]]:
    for path in paths:
        for text in split_rows(path):
            # a table takes no half characters; JSON takes them written out
            yield {JSON_COLUMN: re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)}


def _open_text(path: str) -> Any:
    # a byte that is not UTF-8 becomes half of a surrogate pair, which makes its row a bad one
    return open(path, encoding="utf-8-sig", errors="surrogateescape")


def _item_spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each item of a list."""
    decoder = json.JSONDecoder()
    position = _skip_space(text, text.index("[") + 1)
    is_over = text[position : position + 1] == "]"
    position = _skip_space(text, position + 1) if is_over else position
    while not is_over:
        try:
            end = decoder.raw_decode(text, position)[1]
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError):  # as in `parse_row`
            end = _item_end(text, position)
        yield position, end
        after = _AFTER_ITEM.match(text, end)
        if after is None:
            raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
        position, is_over = after.end(), after[1] == "]"
    if position < len(text):
        raise json.JSONDecodeError("Extra data", text, position)


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _item_end(text: str, start: int) -> int:
    """Where an item ends that cannot be parsed: at the next comma or bracket outside of its own brackets."""
    depth = 0
    for mark in _STRING_OR_MARK.finditer(text, start):
        if depth == 0 and mark[0] in (",", "]"):
            return mark.start()
        depth += (mark[0] in ("[", "{")) - (mark[0] in ("]", "}"))
    return len(text)
