"""
Long runs of questions to a chat endpoint that can be stopped and resumed: what is known already, in a cache and in the
output of an earlier run, is not asked again; failures are listed beside the output, and the next run tries them again.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from granulon.chat_client import AttemptFailed, Budget, MalformedReply, RunStopped, read_json
from granulon.files import new_file


T = TypeVar("T")

MAX_CONSECUTIVE_FAILURES = 5  # then something is wrong with the endpoint rather than with a question


class JsonCache:
    """JSON on disk by what was asked, one file each, so that no answer is paid for twice. No folder, no cache."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def get(self, key: Sequence[Any]) -> Any:
        """What was put under `key`; None if that is nothing, or damaged."""
        if self.folder is None:
            return None
        try:
            return read_json(self._path(self.folder, key).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, key: Sequence[Any], record: Any) -> None:
        if self.folder is None:
            return
        with new_file(self._path(self.folder, key)) as file:
            json.dump(record, file)

    @staticmethod
    def _path(folder: Path, key: Sequence[Any]) -> Path:
        name = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()
        return folder / name[:2] / f"{name}.json"


@dataclass
class Counts:
    """What became of a run's items; `malformed` of the `failed` had a reply, but not in the form asked for."""

    done: int = 0
    failed: int = 0
    malformed: int = 0


def ask_each(
    items: Sequence[T],
    output: Path,
    *,
    recall: Callable[[T], dict[str, Any] | None],
    ask: Callable[[T], dict[str, Any]],
    describe: Callable[[T], dict[str, Any]],
    budget: Budget,
    name: str,
    unit: str,
) -> Counts:
    """
    Append a line for each item to `output`, in order and as soon as it is known.

    Args:
        recall: the line of an item from a cache, if it is there.
        ask: its line from the endpoint.
        describe: how `failed_path(output)` names an item that failed, beside the reason.
        name, unit: for the progress bar.

    Raises:
        RunStopped: `ask` raised it, or several items in a row failed.
    """
    counts, in_a_row = Counts(), 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with _appending(output) as file, tqdm(items, desc=name, unit=unit, disable=None) as bar:
        for item in bar:
            try:
                line = recall(item)
                if line is None:
                    line = ask(item)
                    in_a_row = 0
            except AttemptFailed as failure:
                with _appending(failed_path(output)) as failures:
                    _append(failures, describe(item) | {"reason": str(failure)})
                counts.failed += 1
                counts.malformed += isinstance(failure, MalformedReply)
                in_a_row += 1
                if in_a_row == MAX_CONSECUTIVE_FAILURES:
                    raise RunStopped(f"{in_a_row} {unit}s in a row failed, the last with: {failure}.") from failure
                continue
            _append(file, line)
            counts.done += 1
            if (cost := budget.cost) is not None:
                bar.set_postfix(spent=f"${cost:.3f}", failed=counts.failed)
    return counts


def fingerprint(text: str) -> str:
    """A short name of a text, such as a prompt, saved with what came of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def failed_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.failed.jsonl")


def whole_lines(output: Path) -> Iterator[tuple[int, str]]:
    """
    The lines of an earlier run's output and their numbers, none if there was no run. A last line without its line end
    was cut off by a crash: it is removed from the file.

    Raises:
        ValueError: it is not UTF-8.
    """
    if not output.exists():
        return
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        print(f"{output}: dropping an incomplete last line", file=sys.stderr)
        with output.open("r+b") as file:
            file.truncate(len(whole))
    yield from numbered_lines(output)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    The lines of a text that are not blank, and their numbers from 1.

    Raises:
        ValueError: it is not UTF-8.
    """
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: this is not UTF-8 ({error}). Save the file as UTF-8.") from error
        if line.strip():
            yield number, line


def _appending(path: Path) -> TextIO:
    """What UTF-8 cannot hold, halves of surrogate pairs, is written as JSON escapes them."""
    return path.open("a", encoding="utf-8", errors="backslashreplace")


def _append(file: Any, record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
