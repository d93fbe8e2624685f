"""All rows of a source in one form: at once, checked and counted, or as a stream that is read while training."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from datasets import Dataset, IterableDataset
from tqdm import tqdm

from granulon.processing import GranulonProcessor
from granulon.processing.images_granulon import MAX_IMAGE_PIXELS

from .faults import BadRowError, BadRows, Policy, shorten
from .formats import FormatName, choose_format, expected_columns, formats_named
from .images import ImageChecks, decode_image
from .json_rows import JSON_COLUMN, parse_row
from .rows import RowReader, Sample
from .sources import Rows, as_stored, open_source
from .writing import Traits, Writer


logger = logging.getLogger(__name__)

_CHUNK = 256  # rows whose images are checked together


@dataclass
class TrainingData:
    """
    Args:
        dataset: the rows, as the package's docstring lists them.
        name: of the source, without local folders.
        num_rows: `None` for a stream.
        fingerprint: SHA-256 over the kept rows in order, texts, labels and image contents, so it is the same on every
            machine; for a stream over what names the source ("stream:" in front).
        bad_rows: fills up while a stream is read (in the process that reads it).
        layout: "prompt-completion" or "messages".
    """

    dataset: Dataset | IterableDataset
    name: str
    num_rows: int | None
    fingerprint: str
    bad_rows: BadRows
    layout: str

    def provenance(self) -> dict[str, Any]:
        """What a checkpoint records of its data."""
        return {"name": self.name, "num_rows": self.num_rows, "fingerprint": self.fingerprint}


def load_training_data(
    source: Any,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    format: FormatName = "auto",
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    streaming: bool = False,
    layout: Literal["auto", "messages"] = "auto",
    max_rows: int | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    max_bad_rows: int | None = None,
    check_images: bool = True,
    processor: GranulonProcessor | None = None,
) -> TrainingData:
    """
    Read training data of any supported form.

    Args:
        source: a folder (with `chat.json`, `metadata.jsonl`, parquet or JSONL files, or written by `save_to_disk`), a
            `.json`, `.jsonl` or `.parquet` file, the id of a data set on the Hub, or an object of `datasets`.
        images: the folder that image names are relative to; by default `images/` beside the file where that exists,
            or else the file's own folder. A name that leads out of it makes a bad row; symbolic links are followed.
        split: of a data set with several; by default `train`, or the only one.
        name: of the configuration of a Hub data set.
        revision: branch, tag or commit of a Hub data set.
        format: of the rows, by its name in `formats.FORMATS`; "auto" looks at each row's columns. "surgical" wants
            `image`, `question`, `answer`, and `task`, which is `phase` or `instrument`.
        columns: our name to yours, such as `{"answer": "caption"}`.
        question: asked about every image of a source that has answers (captions) but no questions.
        streaming: read and check row by row while training; nothing is known up front, and chats stay `messages`.
        layout: "messages" also for chats of one question and one answer, so that sources can be mixed.
        max_rows: keep the first so many usable rows.
        on_bad_row: "error" stops at the first row that cannot be used; "skip" leaves it out and counts it.
        max_bad_rows: with "skip", stop when there are more than so many.
        check_images: decode every image once up front (JPEG at an eighth of its size), so that a broken one does not
            stop training in its third hour. What was found is remembered for local files that have not changed.
        processor: the model's; maps level names, re-bins granularity labels to its number of levels, and lets texts
            be checked for its reserved tokens and against its chat template, and images against its limit of pixels.

    Raises:
        BadRowError: an unusable row and `on_bad_row="error"`, or more of them than `max_bad_rows`.
        ValueError: no usable rows, no images, unknown columns, an unknown split.
        FileNotFoundError: no such file, folder or data set.
    """
    _check_choice("on_bad_row", on_bad_row, ("error", "skip"))
    _check_choice("format", format, get_args(FormatName))
    _check_choice("layout", layout, ("auto", "messages"))
    found = open_source(source, split, name, revision, streaming, images)
    reader = RowReader(formats_named(format), dict(columns or {}), question, found.root, **_model_settings(processor))
    policy = Policy(BadRows(found.name), on_bad_row, max_bad_rows)
    max_pixels = MAX_IMAGE_PIXELS if processor is None else processor.image_processor.max_image_pixels
    if isinstance(found.rows, IterableDataset):
        description = [found.name, split, name, revision, format, columns, question, max_rows]
        return _as_stream(found, reader, policy, max_rows, max_pixels, description)
    checks = ImageChecks(found.root, max_pixels, check_images)
    return _at_once(found, reader, policy, layout, max_rows, checks)


def _check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, expected one of {list(choices)}.")


def _model_settings(processor: GranulonProcessor | None) -> dict[str, Any]:
    """What a `RowReader` has of the model's processor."""
    if processor is None:
        return {}
    return {
        "level_names": tuple(processor.level_names),
        "reserved": (processor.image_token, processor.semantic_token),
        "render": processor.apply_chat_template if processor.chat_template else None,
    }


def _check_columns(names: Iterable[str], reader: RowReader) -> None:
    missing = sorted(set(reader.columns.values()) - set(names))
    if missing:
        raise ValueError(f"`columns` names {missing}, but the data set has {sorted(names)}.")
    have = {*names, *reader.columns, *(("question",) if reader.question else ())}
    if choose_format(have, reader.formats) is None:
        raise ValueError(
            f"The data set has the columns {sorted(names)}, expected {expected_columns(reader.formats)}. Map yours "
            'with `columns`, such as `{"answer": "caption"}`, and give captions a `question`.'
        )


# ---------------------------------------------------------------------- all rows at once


def _at_once(
    found: Rows, reader: RowReader, policy: Policy, layout: str, max_rows: int | None, checks: ImageChecks
) -> TrainingData:
    is_table = isinstance(found.rows, Dataset)
    rows: Any = as_stored(found.rows) if is_table else found.rows
    if is_table:
        _check_columns(rows.column_names, reader)
    digest = hashlib.sha256()
    kept: list[int] = []
    samples: list[Sample] = []  # not of a table, which is read once more: it may hold the bytes of all images
    traits = Traits()
    for index, sample, hashes in _checked(rows, reader, policy, checks, max_rows):
        kept.append(index)
        digest.update(json.dumps([sample.chat, hashes, sample.labels, sample.granularity]).encode())
        traits.add(sample)
        samples += [] if is_table else [sample]
    checks.remember()
    if not kept:
        raise ValueError(f"{found.name} holds no usable row. {policy.bad_rows.report()}")
    if not traits.has_images:
        raise ValueError(
            f"{found.name} holds no images in any of its {len(kept)} usable rows. Expected "
            f"{expected_columns(reader.formats)}."
        )
    if policy.bad_rows.rows:
        logger.warning("%s", policy.bad_rows.report())
    write = traits.writer(layout)
    if is_table:
        dataset = rows.select(kept).map(
            _ReadAndWrite(replace(reader, render=None), write),  # without the processor: it is hashed for the cache
            remove_columns=rows.column_names,
            features=write.features,
            desc=f"{found.name}: one form",
        )
    else:
        dataset = Dataset.from_list([write(sample) for sample in samples], features=write.features)
    return TrainingData(dataset, found.name, len(kept), digest.hexdigest(), policy.bad_rows, write.layout)


def _checked(
    rows: Any, reader: RowReader, policy: Policy, checks: ImageChecks, max_rows: int | None
) -> Iterator[tuple[int, Sample, list[str]]]:
    """Index, sample and image hashes of every usable row, up to `max_rows` of them."""
    num_kept = 0
    bar = tqdm(total=len(rows), desc=f"{policy.bad_rows.name}: checking", unit=" rows", delay=2, leave=False)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = [(index, _read(rows, index, reader)) for index in range(start, min(start + _CHUNK, len(rows)))]
            flat = [image for _, sample in chunk if isinstance(sample, Sample) for image in sample.images]
            results = iter(list(pool.map(checks.check, flat)))
            for index, sample in chunk:
                if num_kept == max_rows:
                    return
                bar.update()
                policy.bad_rows.num_seen += 1
                if isinstance(sample, BadRowError):
                    policy.reject(index, str(sample))
                    continue
                verdicts = [next(results) for _ in sample.images]
                reasons = [reason for reason, _ in verdicts if reason]
                if reasons:
                    policy.reject(index, reasons[0])
                else:
                    num_kept += 1
                    yield index, sample, [hashed for _, hashed in verdicts]


def _read(rows: Any, index: int, reader: RowReader) -> Sample | BadRowError:
    try:
        row = rows[index]
    except Exception as error:  # of a table, whose columns may be decoded, or made by a function of the user's
        return BadRowError(f"cannot be fetched ({type(error).__name__}: {shorten(str(error))})")
    try:
        return reader.read(row)
    except BadRowError as error:
        return error


@dataclass(frozen=True)
class _ReadAndWrite:
    reader: RowReader
    write: Writer

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self.write(self.reader.read(row))


# ---------------------------------------------------------------------- as a stream


def _as_stream(
    found: Rows, reader: RowReader, policy: Policy, max_rows: int | None, max_pixels: int | None, description: Any
) -> TrainingData:
    raw = as_stored(found.rows)
    names = raw.column_names
    is_json = names == [JSON_COLUMN]
    if names and not is_json:
        _check_columns(names, reader)
    have = {*(names or ()), *reader.columns}
    # the columns of a stream of JSON are not known before it ends: all of them, then
    has_labels, has_granularity = (is_json or name in have for name in ("granularity_labels", "granularity"))
    choices = tuple(name for each in reader.formats for name in each.choices)
    write = Writer("messages", has_labels, has_granularity, choices)
    stream = raw.map(
        _ReadBatch(reader, write, policy, max_pixels),
        with_indices=True,
        batched=True,
        batch_size=16,
        remove_columns=names,
        features=write.features,
    )
    stream = stream if max_rows is None else stream.take(max_rows)
    fingerprint = "stream:" + hashlib.sha256(json.dumps(description, default=str).encode()).hexdigest()
    return TrainingData(stream, found.name, None, fingerprint, policy.bad_rows, write.layout)


@dataclass
class _ReadBatch:
    """Reads batches of a stream. Rows that cannot be used are left out, counted and logged, or fatal."""

    reader: RowReader
    write: Writer
    policy: Policy
    max_pixels: int | None

    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        output: dict[str, list[Any]] = {name: [] for name in self.write.features}
        for position, index in enumerate(indices):
            row: Any = {name: values[position] for name, values in batch.items()}
            self.policy.bad_rows.num_seen += 1
            try:
                sample = self.reader.read(parse_row(row[JSON_COLUMN]) if set(row) == {JSON_COLUMN} else row)
                sample.images = [decode_image(image, self.max_pixels) for image in sample.images]
            except BadRowError as error:
                self.policy.reject(index, str(error))
                logger.warning("%s, row %d left out: %s", self.policy.bad_rows.name, index, error)
                continue
            for name, value in self.write(sample).items():
                output[name].append(value)
        return output
