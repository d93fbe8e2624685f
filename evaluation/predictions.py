"""The file of predictions: a line for each, kept whatever ends a run, and never a second one for the same question."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from granulon.chat_runs import whole_lines
from granulon.evaluation.benchmarks import Item


FIELDS = ("benchmark", "granularity", "id", "prompt", "reference", "prediction", "level", "visual_tokens")
IDENTITY = ("model", "revision", "dtype", "seed")
Key = tuple[str, str, str]  # benchmark, granularity asked for, id


class Predictions:
    """
    The lines of `path` by what was asked, those of earlier runs first.

    Args:
        identity: whose they are, by `IDENTITY`; written with each line.

    Raises:
        ValueError: `path` holds lines of another model or seed, two of one question, or what is no prediction.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, dict(identity)
        self._lines: dict[Key, dict[str, Any]] = {}
        numbers: dict[Key, int] = {}
        for number, text in whole_lines(path):
            line = self._read(number, text)
            key = _key(line)
            if key in numbers:
                raise ValueError(
                    f"{path}: lines {numbers[key]} and {number} both answer question {key[2]} of {key[0]} at "
                    f"{key[1]}. Delete one of them."
                )
            numbers[key], self._lines[key] = number, line

    def _read(self, number: int, text: str) -> dict[str, Any]:
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {number}: this is not JSON ({error}). Delete the line.") from error
        if not isinstance(line, dict) or (missing := [name for name in (*FIELDS, *IDENTITY) if name not in line]):
            what = f"has no {', '.join(missing)}" if isinstance(line, dict) else "is no JSON object"
            raise ValueError(f"{self.path}, line {number} is no prediction: it {what}. Name another folder.")
        for name in IDENTITY[1:]:  # a model may have moved: its revision tells
            if line[name] != self.identity[name]:
                raise ValueError(
                    f"{self.path}, line {number}: an answer of {line['model']} with the {name} {line[name]}, but this "
                    f"run is of {self.identity['model']} with the {name} {self.identity[name]}. Name another folder, "
                    "or run what the folder is of."
                )
        return line

    def find(self, benchmark: str, granularity: str, item: Item) -> dict[str, Any] | None:
        """
        The line that answers `item`, if there is one.

        Raises:
            ValueError: something else was asked under its id.
        """
        line = self._lines.get((benchmark, granularity, item.id))
        if line is not None and (line["prompt"], line["reference"]) != (item.prompt, item.reference):
            raise ValueError(
                f"{self.path}: question {item.id} of {benchmark} was {line['prompt']!r} ({line['reference']!r}) and "
                f"is now {item.prompt!r} ({item.reference!r}). The data changed: name another folder."
            )
        return line

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, which reach the disk together, or are cut where a crash or a full disk cuts them."""
        added = [{**line, **self.identity} for line in lines]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in added)
        with self.path.open("ab", buffering=0) as file:
            rest = memoryview(text.encode("utf-8", "replace"))
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        self._lines |= {_key(line): line for line in added}


def _key(line: Mapping[str, Any]) -> Key:
    return line["benchmark"], line["granularity"], line["id"]
