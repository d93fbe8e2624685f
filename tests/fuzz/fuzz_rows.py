"""Rows of training data: whatever stands in one, it is left out with its reason, or training takes it."""

import atexit
import copy
import functools
import json
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import datasets
from tiny import make_granulon, make_image

from granulon.training.collator import GranulonDataCollator
from granulon.training.data import load_training_data
from granulon.training.data.formats import formats_named
from granulon.training.data.rows import RowReader, Sample


ALLOWED = ()
COUNT = 120

GOOD = {"image": "0.png", "question": "What is it?", "answer": "A dog."}
ROWS: list[Any] = [
    GOOD,
    {**GOOD, "granularity": "fine", "granularity_labels": [0.25, 0.25, 0.25, 0.25]},
    {"images": ["0.png", {"path": "1.png"}], "prompt": "Alike?", "completion": "No.", "granularity": 1},
    {
        "image": ["0.png", "1.png"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nAlike?"},
            {"from": "gpt", "value": "No."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
    },
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image", "path": "0.png"}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        ]
    },
]
WORDS = (
    *("images", "image", "bytes", "path", "index", "type", "text"),
    *("question", "messages", "content", "role", "from"),
)
TEXTS = (
    *("", " ", "\0", "a\0.png", "\ud800", "\udcff.png", "\u2028", "\ue000", "9" * 30, "x" * 5000, "{{ x }}"),
    *("../../0.png", "/dev/zero", ".", "0.png/", "broken.png", "wide.png", "note.png"),
    *("file:///0.png", "http://x/0.png", "data:image/png;base64,", "auto", "-1", "image", "text"),
    *("<image>", "<ima<image>ge>", "<|image_pad|>", "<|vision_pad|>", "<|im_end|>"),
    *("user", "assistant", "system", "human", "gpt", "tool"),
)
NUMBERS = (0, 1, -1, 2, 7, 10**18, 10**30, -0.5, 1e308, float("nan"), float("inf"), True, False)
DEEP, LONG = "@deep@", "@long@"  # become brackets and digits that no parser takes


class Case(NamedTuple):
    form: str  # of the file, ".json" or ".jsonl"; "table" of `datasets`; "object", for the reader itself
    row: Any
    text: bytes  # of the row
    streaming: bool


def make(rng: random.Random) -> Case:
    row = copy.deepcopy(rng.choice(ROWS))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        row = _mutate(row, rng)
    form = rng.choice((".json", ".jsonl", ".jsonl", "table", "object"))
    text = json.dumps(row, default=repr).encode()
    text = text.replace(f'"{DEEP}"'.encode(), b"[" * 5000 + b"]" * 5000).replace(f'"{LONG}"'.encode(), b"9" * 5000)
    if form == ".jsonl" and rng.random() < 0.3:
        text = _flip(text, rng)
    return Case(form, row, text, rng.random() < 0.3)


def run(case: Case) -> None:
    if case.form == "object":
        _check_object(case.row)
    elif case.form == "table":
        table = _table(case.row)
        if table is not None:
            _check_source(table, case.streaming, num_rows=3)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"rows{case.form}")
            good = json.dumps(GOOD).encode()
            path.write_bytes((b"[%s,%s,%s]" if case.form == ".json" else b"%s\n%s\n%s\n") % (good, case.text, good))
            _check_source(path, case.streaming, num_rows=3 if case.text.strip() else 2)


def _check_source(source: Any, streaming: bool, num_rows: int) -> None:
    """The row in the middle is left out with a reason, or it is one that training takes."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        with patch.object(datasets.config, "HF_DATASETS_CACHE", Path(folder)):
            data = load_training_data(
                source, images=_images(), streaming=streaming, on_bad_row="skip", processor=_processor()
            )
        rows = list(data.dataset)
    reasons = dict(data.bad_rows.rows)
    assert data.bad_rows.num_seen == num_rows and set(reasons) <= {1}, reasons
    assert len(rows) + len(reasons) == num_rows
    assert all(reason.strip() and len(reason.encode()) < 2000 for reason in reasons.values()), reasons
    collate = GranulonDataCollator(_processor(), completion_only_loss=data.layout == "prompt-completion")
    collate(rows)


def _check_object(row: Any) -> None:
    """A row that a user's generator yields may hold anything."""
    reader = RowReader(formats=formats_named("auto"), root=_images(), level_names=tuple(_processor().level_names))
    try:
        sample = reader.read(row)
    except ValueError as error:
        assert type(error).__name__ == "BadRowError" and str(error).encode()
    else:
        assert isinstance(sample, Sample) and json.dumps(sample.chat, ensure_ascii=False).encode()


def _table(row: Any) -> datasets.Dataset | None:
    """The row between good ones, if a table takes it."""
    try:
        return datasets.Dataset.from_list([GOOD, row, GOOD])
    except Exception:  # of many kinds: a table has typed columns
        return None


def _mutate(row: Any, rng: random.Random) -> Any:
    """The row with one of its values, keys or items replaced, doubled or taken out; now and then the row itself."""
    places = list(_places(row))
    if not places or rng.random() < 0.05:
        return _value(rng)
    parent, key = rng.choice(places)
    if isinstance(parent[key], str) and rng.random() < 0.5:
        parent[key] = rng.choice((parent[key], "")) + rng.choice(TEXTS)
        return row
    change = rng.random()
    if change < 0.7:
        parent[key] = _value(rng)
    elif change < 0.8:
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, _value(rng) if rng.random() < 0.5 else copy.deepcopy(parent[key]))
    else:
        parent[rng.choice(WORDS)] = parent[key] if change < 0.9 else _value(rng)
    return row


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 3 else 4)
    if kind == 0:
        return rng.choice((None, DEEP, LONG, object(), b"\x89PNG", {1, 2}, b"", (1, "a"), frozenset()))
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind in (2, 3):
        return rng.choice(TEXTS)
    if kind == 4:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {rng.choice(WORDS): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return copy.deepcopy(rng.choice(ROWS))


def _flip(text: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(text[: rng.randrange(1, len(text) + 1)] if rng.random() < 0.3 else text)
    for _ in range(rng.randrange(1, 4)):
        flipped[rng.randrange(len(flipped))] = rng.randrange(256)
    return bytes(flipped).replace(b"\n", b" ").replace(b"\r", b" ")


@functools.cache
def _processor() -> Any:
    return make_granulon()[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each bad row, and bars for three."""
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        logging.disable(logging.NOTSET)


@functools.cache
def _images() -> Path:
    """A folder of two good images and some that are none, which lives as long as the process."""
    root = Path(tempfile.mkdtemp(prefix="granulon-fuzz-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for index in range(2):
        make_image(index).save(root / f"{index}.png")
    whole = (root / "0.png").read_bytes()
    (root / "broken.png").write_bytes(whole[: len(whole) // 2])
    (root / "note.png").write_text("not an image")
    header = bytearray(whole)
    header[16:24] = (50_000).to_bytes(4, "big") * 2  # width and height, a lie of the header's
    (root / "wide.png").write_bytes(header)
    return root
