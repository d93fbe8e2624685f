"""Files and text of unknown origin: read within limits, shown as the characters that they are."""

import html
import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml


_MAX_BYTES = 1 << 26  # of a file: the log of a year's training stays below
_MAX_METADATA = 1 << 18  # characters of a card's metadata
_MAX_DEPTH = 64
# controls, halves of surrogate pairs, line separators, and what turns the direction of writing around
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]+")


def read_text(path: Path) -> str:
    """
    Raises:
        ValueError: it is huge, or no UTF-8.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size >> 20} MB, expected at most {_MAX_BYTES >> 20}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}). Write it again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: it is no object of JSON, is huge, or nests deeper than anything that a person or program means.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
        if _depth_exceeds(content, _MAX_DEPTH):
            raise RecursionError
    except RecursionError:
        raise ValueError(f"{path} nests deeper than {_MAX_DEPTH} levels. Write the directory again.") from None
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). It was cut short: write the directory again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object.")
    return content


def read_metadata(path: Path) -> dict[str, Any]:
    """
    The YAML at the top of a card, all values strings, lists and dicts; {} where there is none.

    Raises:
        ValueError: it is no YAML mapping, is huge, nests deeply, or has aliases, which can stand for gigabytes.
    """
    head = re.match(r"\s*---[ \t]*\r?\n", text := read_text(path))
    if head is None:
        return {}
    block = re.split(r"^---[ \t]*\r?$", text[head.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    if len(block) > _MAX_METADATA:
        raise ValueError(f"its {len(block)} characters are more than the {_MAX_METADATA} that are read")
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", block))
    if max(accumulate(steps), default=0) > _MAX_DEPTH:  # the parser would take the square of the time
        raise ValueError(f"it nests deeper than {_MAX_DEPTH} levels")
    try:
        content = yaml.load(block, _PlainLoader) or {}  # makes strings, lists and dicts only
    except yaml.YAMLError as error:
        raise ValueError(f"it is no valid YAML ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__}, expected names and values")
    return content


class _PlainLoader(yaml.BaseLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (`*name`) are not read")
        if self.depth == _MAX_DEPTH:
            raise yaml.YAMLError(f"it nests deeper than {_MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _depth_exceeds(content: Any, limit: int) -> bool:
    layer = [content]
    for _ in range(limit):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True


def one_line(value: Any, limit: int = 200) -> str:
    """On one line, without control characters: nothing that could end a YAML block, or write to a terminal."""
    text = re.sub(r"\s+", " ", _INVISIBLE.sub(" ", str(value))).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(value: Any) -> str:
    """As Markdown that shows just these characters: no HTML, no link, no mention, no cell of a table."""
    escaped = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(one_line(value), quote=False))
    escaped = escaped.replace("://", ":&#47;/").replace("@", "&#64;")
    return re.sub(r"\b(www)\.", r"\1&#46;", re.sub(r"^([-+>=]|\d+[.)])", r"\\\1", escaped), flags=re.IGNORECASE)


def code(value: Any) -> str:
    """As a code span; a backtick would end it, a bar would end a table's cell."""
    return "`" + html.unescape(one_line(value)).replace("`", "'").replace("|", "¦") + "`"
