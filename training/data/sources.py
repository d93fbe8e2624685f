"""
Where rows come from: folders, files, objects of `datasets` and the Hub.

To read another kind of file, add a line to `FILES`, and name the ending in docs/training.md.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, LargeList, List

from .json_rows import open_json, split_lines, split_list


def open_table(kind: str, path: str, streaming: bool) -> Any:
    """The rows of a file that `datasets` reads. `kind` is the name of one of its builders."""
    return datasets.load_dataset(kind, data_files=path, streaming=streaming)


# by ending: a function of the file's path, and of whether to stream
FILES: dict[str, Callable[[str, bool], Any]] = {
    ".json": partial(open_json, split_list),
    ".jsonl": partial(open_json, split_lines),
    ".parquet": partial(open_table, "parquet"),
}


class Rows(NamedTuple):
    """An open source."""

    rows: list[Any] | Dataset | IterableDataset
    name: str  # for reports
    root: Path | None  # the folder that image names are relative to, absolute


def open_source(
    source: Any, split: str | None, name: str | None, revision: str | None, streaming: bool, images: str | Path | None
) -> Rows:
    """The arguments are those of `load_training_data`."""
    if isinstance(source, Dataset | IterableDataset | DatasetDict | IterableDatasetDict):
        chosen = _choose_split(source, split)
        label = getattr(chosen.info, "dataset_name", None) or "data set"
        chosen = chosen.to_iterable_dataset() if streaming and isinstance(chosen, Dataset) else chosen
        return Rows(chosen, label, _image_root(None, images))
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"`source` is a {type(source).__name__}, expected a path, a Hub id or an object of `datasets`."
        )
    path = Path(source).expanduser()
    if path.exists():
        rows, root = (_open_folder if path.is_dir() else _open_file)(path, split, streaming, images)
        return Rows(rows, path.name, root)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or path.suffix in FILES:
        raise FileNotFoundError(f"There is no file or folder {str(source)!r}. Check the path.")
    try:
        raw: Any = datasets.load_dataset(str(source), name, split=split, revision=revision, streaming=streaming)
    except (FileNotFoundError, ConnectionError) as error:  # DatasetNotFoundError is the former
        raise FileNotFoundError(
            f"{str(source)!r} is neither a file or folder here nor a data set that the Hub gives us ({error}). Check "
            "the name; for a private or gated one run `hf auth login`."
        ) from error
    return Rows(_choose_split(raw, split), str(source), _image_root(None, images))


def _open_folder(path: Path, split: str | None, streaming: bool, images: str | Path | None) -> tuple[Any, Path | None]:
    inner = [path / "chat.json", path / "metadata.jsonl", path / (split or "train") / "metadata.jsonl"]
    found = next((file for file in inner if file.is_file()), None)
    if found is not None:
        return _open_file(found, split, streaming, images)
    root = _image_root(path, images)
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        raw = _choose_split(datasets.load_from_disk(str(path)), split)
        return (raw.to_iterable_dataset() if streaming else raw), root
    try:
        raw = datasets.load_dataset(str(path), streaming=streaming)
    except FileNotFoundError as error:  # of several kinds in `datasets`
        raise FileNotFoundError(
            f"The folder {path} holds no training data. Expected `chat.json`, `metadata.jsonl`, parquet or JSONL "
            "files, or what `save_to_disk` writes."
        ) from error
    return _choose_split(raw, split), root


def _open_file(path: Path, split: str | None, streaming: bool, images: str | Path | None) -> tuple[Any, Path | None]:
    if path.suffix not in FILES:
        *others, last = FILES
        raise ValueError(f"{path} is a {path.suffix or 'nameless'} file, expected {', '.join(others)} or {last}.")
    return _choose_split(FILES[path.suffix](str(path), streaming), split), _image_root(path, images)


def _choose_split(source: Any, split: str | None) -> Any:
    if not isinstance(source, DatasetDict | IterableDatasetDict):
        return source
    wanted = split or ("train" if "train" in source or len(source) != 1 else next(iter(source)))
    if wanted not in source:
        raise ValueError(f"There is no split {wanted!r}. The data set has {list(source)}.")
    return source[wanted]


def _image_root(path: Path | None, images: str | Path | None) -> Path | None:
    """`images`, or else the folder that belongs to a file or folder of rows."""
    if images is not None:
        root = Path(images).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"The folder of images {str(images)!r} does not exist.")
        return Path(os.path.abspath(root))
    if path is None:
        return None
    folder = path if path.is_dir() else path.parent
    return Path(os.path.abspath(folder / "images" if path.name == "chat.json" else folder))


# ---------------------------------------------------------------------- images stay as they are stored


def as_stored(rows: Any) -> Any:
    """A data set whose images (sounds, films) are not decoded: that would take hours only to look at texts."""
    if rows.features is None:  # a stream that has not been looked into
        rows = rows._resolve_features()
    for name, feature in rows.features.items():
        stored = _undecoded(feature)
        rows = rows if stored is feature else rows.cast_column(name, stored)
    return rows


def _undecoded(feature: Any) -> Any:
    """The feature with `decode=False` wherever it decodes; itself, where nothing does."""
    if getattr(feature, "decode", False) is True:
        return replace(feature, decode=False)
    if isinstance(feature, dict):
        inner = {name: _undecoded(value) for name, value in feature.items()}
        return feature if all(inner[name] is value for name, value in feature.items()) else inner
    if isinstance(feature, List | LargeList):
        stored = _undecoded(feature.feature)
        return feature if stored is feature.feature else replace(feature, feature=stored)
    return feature
