"""
Training data: whatever form it comes in, out comes one form, and a list of the rows that were no good.

`load_training_data` reads LLaVA's `chat.json` with its folder of images, `messages` and prompt/completion data sets,
questions with answers (surgical JSONL among them) and captioned images, from local files, `datasets` objects and the
Hub, at once or streaming. Its rows have

- `prompt` and `completion`, if every chat is one question with one answer, or else `messages`;
- `images`: a list of images, decoded when they are read;
- `granularity_labels`: weights over the model's levels, coarse to fine, or null; only if some row has them;
- `granularity`: the level that the row is trained at, -1 for the controller's choice; only if some row has one.

```python
data = load_training_data("my-photos", on_bad_row="skip")  # my-photos/chat.json, my-photos/images/
print(data.bad_rows.report(), data.fingerprint)
trainer = GranulonSFTTrainer(model, args, train_dataset=data.dataset, processing_class=processor)
```
"""

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict, List, Value
from PIL import Image as PILImage
from tqdm import tqdm

from .granularity_corpus import rebin_weights, validate_weights


logger = logging.getLogger(__name__)

IMAGE_TAG = "<image>"
SURGICAL_TASKS = ("phase", "instrument")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PART = {"type": Value("string"), "text": Value("string")}
_CHAT = List({"role": Value("string"), "content": List(_PART)})
_CHUNK = 256  # rows whose images are checked together
_ACCEPTED = (
    "`messages`, `conversations` (LLaVA), `prompt` and `completion`, or `question` and `answer`, with `image` or "
    "`images`"
)


class BadRowError(ValueError):
    """A row that training cannot use. The message says which and why."""


@dataclass
class BadRows:
    """The rows that were left out: `(index in the source, counted from 0; reason)`, and how many were looked at."""

    name: str
    rows: list[tuple[int, str]] = field(default_factory=list)
    num_seen: int = 0

    def report(self, limit: int = 5) -> str:
        """One line with the count, then the first `limit` rows, each with its reason."""
        if not self.rows:
            return f"{self.name}: all {self.num_seen} rows are usable."
        lines = [f"{self.name}: left out {len(self.rows)} of {self.num_seen} rows."]
        lines += [f"  row {index}: {reason}" for index, reason in self.rows[:limit]]
        if len(self.rows) > limit:
            lines.append(f"  and {len(self.rows) - limit} more")
        return "\n".join(lines)


@dataclass
class TrainingData:
    """
    Args:
        dataset: the rows, as the module's docstring lists them.
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


@dataclass
class _Sample:
    """One row in the common form. An image is a path, a dict of bytes and path, or a PIL image."""

    turns: list[tuple[str, list[dict[str, Any]]]]
    images: list[Any]
    labels: list[float] | None = None
    granularity: int = -1
    task: str | None = None


# ---------------------------------------------------------------------------------------------- the one entry point


def load_training_data(
    source: Any,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    format: Literal["auto", "surgical"] = "auto",
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    streaming: bool = False,
    layout: Literal["auto", "messages"] = "auto",
    max_rows: int | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    max_bad_rows: int | None = None,
    check_images: bool = True,
    processor: Any = None,
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
        format: "surgical" wants `image`, `question`, `answer`, and `task`, which is `phase` or `instrument`.
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
            be checked for its reserved tokens.

    Raises:
        BadRowError: an unusable row and `on_bad_row="error"`, or more of them than `max_bad_rows`.
        ValueError: no usable rows, no images, unknown columns, an unknown split.
        FileNotFoundError: no such file, folder or data set.
    """
    _check_choice("on_bad_row", on_bad_row, ("error", "skip"))
    _check_choice("format", format, ("auto", "surgical"))
    _check_choice("layout", layout, ("auto", "messages"))
    raw, label, root = _open(source, split, name, revision, streaming, images)
    reader = _Reader(
        root=root,
        columns=dict(columns or {}),
        question=question,
        is_surgical=format == "surgical",
        level_names=tuple(processor.level_names) if processor is not None else None,
        reserved=(processor.image_token, processor.semantic_token) if processor is not None else (),
    )
    policy = _Policy(BadRows(label), on_bad_row, max_bad_rows)
    if isinstance(raw, IterableDataset):
        description = json.dumps([label, split, name, revision, format, columns, question, max_rows], default=str)
        stream = _stream(raw, reader, policy, max_rows)
        fingerprint = "stream:" + hashlib.sha256(description.encode()).hexdigest()
        return TrainingData(stream, label, None, fingerprint, policy.bad_rows, "messages")
    return _materialise(raw, reader, policy, label, layout, max_rows, check_images)


def split_by_image(data: TrainingData, share: float, seed: int = 0) -> tuple[TrainingData, TrainingData]:
    """
    Hold out about a `share` of the images, with all their rows, by a seeded hash of the image's content or path: rows
    about one image never fall on both sides, and the split does not depend on the order of the rows.

    Raises:
        ValueError: a stream, a share outside (0, 1), or a side that would be empty.
    """
    if data.num_rows is None:
        raise ValueError("A stream cannot be split: name a held-out data set in `eval_data`.")
    if not 0 < share < 1:
        raise ValueError(f"The held-out `share` is {share}, but must lie between 0 and 1.")
    rows = data.dataset.select_columns(["images"]).cast_column("images", List(Image(decode=False)))
    held: list[int] = []
    kept: list[int] = []
    for index, row in enumerate(rows):
        first = row["images"][0] if row["images"] else None
        content = str(index) if first is None else first["bytes"] or Path(first["path"]).name
        (held if seeded_fraction(seed, content) < share else kept).append(index)
    if not held or not kept:
        raise ValueError(
            f"Holding out {share:.1%} of {data.num_rows} rows by image leaves {len(kept)} to train on and {len(held)} "
            "to evaluate on. Choose another `share`, or name a data set in `eval_data`."
        )
    parts = []
    for indices, side in ((kept, "train"), (held, "held out")):
        fingerprint = hashlib.sha256(f"{data.fingerprint}/{share}/{seed}/{side}".encode()).hexdigest()
        parts.append(
            replace(
                data,
                dataset=data.dataset.select(indices),
                name=f"{data.name} ({side})",
                num_rows=len(indices),
                fingerprint=fingerprint,
            )
        )
    return parts[0], parts[1]


def combine(parts: Sequence[TrainingData]) -> TrainingData:
    """Several sources one after the other (streams too); training shuffles them. All must have one layout."""
    if len(parts) == 1:
        return parts[0]
    layouts = {part.layout for part in parts}
    if len(layouts) > 1:
        raise ValueError(f"The sources have the layouts {sorted(layouts)}: load all with `layout='messages'`.")
    if len({part.num_rows is None for part in parts}) > 1:
        raise ValueError("Some sources stream and some do not. Set `streaming` alike for all of them.")
    is_stream = parts[0].num_rows is None
    features = parts[0].dataset.features
    for part in parts[1:]:
        features = Features({**features, **part.dataset.features})
    same = [part.dataset if is_stream else _with_features(part.dataset, features) for part in parts]
    bad = BadRows("all sources", [row for part in parts for row in part.bad_rows.rows])
    bad.num_seen = sum(part.bad_rows.num_seen for part in parts)
    return TrainingData(
        datasets.concatenate_datasets(same),
        " + ".join(part.name for part in parts),
        None if is_stream else sum(part.num_rows or 0 for part in parts),
        hashlib.sha256("/".join(part.fingerprint for part in parts).encode()).hexdigest(),
        bad,
        parts[0].layout,
    )


def _with_features(dataset: Dataset, features: Features) -> Dataset:
    for name, feature in features.items():
        if name not in dataset.column_names:
            empty = -1 if name == "granularity" else None
            dataset = dataset.add_column(name, [empty] * len(dataset), feature=feature)
    return dataset.select_columns(list(features)).cast(features)


def seeded_fraction(seed: int, content: bytes | str) -> float:
    """A number in [0, 1) that depends on nothing but `seed` and `content`: the same on every machine."""
    data = content if isinstance(content, bytes) else content.encode()
    digest = hashlib.blake2b(data, key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, expected one of {list(choices)}.")


# ------------------------------------------------------------------------------------------------ opening a source


def _open(
    source: Any, split: str | None, name: str | None, revision: str | None, streaming: bool, images: str | Path | None
) -> tuple[Any, str, Path | None]:
    """
    Returns:
        the rows (a list of objects, a `Dataset` or an `IterableDataset`), a name for reports, and the folder that
        image names are relative to.
    """
    if isinstance(source, Dataset | IterableDataset | DatasetDict | IterableDatasetDict):
        chosen = _choose_split(source, split)
        label = getattr(chosen.info, "dataset_name", None) or "data set"
        chosen = chosen.to_iterable_dataset() if streaming and isinstance(chosen, Dataset) else chosen
        return chosen, label, Path(os.path.abspath(images)) if images else None
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"`source` is a {type(source).__name__}, expected a path, a Hub id or an object of `datasets`."
        )
    path = Path(source).expanduser()
    if path.exists():
        return _open_local(path, split, streaming, images)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or path.suffix in (".json", ".jsonl", ".parquet"):
        raise FileNotFoundError(f"There is no file or folder {str(source)!r}. Check the path.")
    try:
        raw: Any = datasets.load_dataset(str(source), name, split=split, revision=revision, streaming=streaming)
    except (FileNotFoundError, ConnectionError) as error:  # DatasetNotFoundError is the former
        raise FileNotFoundError(
            f"{str(source)!r} is neither a file or folder here nor a data set that the Hub gives us ({error}). Check "
            "the name; for a private or gated one run `hf auth login`."
        ) from error
    return _choose_split(raw, split), str(source), Path(os.path.abspath(images)) if images else None


def _choose_split(source: Any, split: str | None) -> Any:
    if not isinstance(source, DatasetDict | IterableDatasetDict):
        return source
    wanted = split or ("train" if "train" in source or len(source) != 1 else next(iter(source)))
    if wanted not in source:
        raise ValueError(f"There is no split {wanted!r}. The data set has {list(source)}.")
    return source[wanted]


def _open_local(path: Path, split: str | None, streaming: bool, images: str | Path | None) -> tuple[Any, str, Any]:
    if path.is_dir():
        inner = [path / "chat.json", path / "metadata.jsonl", path / (split or "train") / "metadata.jsonl"]
        found = next((file for file in inner if file.is_file()), None)
        if found is not None:
            return _open_local(found, split, streaming, images)[0], path.name, _image_root(found, images)
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            raw = _choose_split(datasets.load_from_disk(str(path)), split)
            return (raw.to_iterable_dataset() if streaming else raw), path.name, _image_root(path, images)
        return _load_files(str(path), None, split, streaming), path.name, _image_root(path, images)
    root = _image_root(path, images)
    if path.suffix == ".parquet":
        return _load_files("parquet", str(path), split, streaming), path.name, root
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path} is a {path.suffix or 'nameless'} file, expected .json, .jsonl or .parquet.")
    if streaming:
        rows = IterableDataset.from_generator(
            _json_texts, gen_kwargs={"paths": [str(path)]}, features=Features({"json": Value("string")})
        )
        return rows, path.name, root
    return [_parse(text) for text in _json_texts([str(path)])], path.name, root


def _load_files(kind: str, file: str | None, split: str | None, streaming: bool) -> Any:
    try:
        raw: Any = datasets.load_dataset(kind, data_files=file, streaming=streaming)
    except FileNotFoundError as error:  # of several kinds in `datasets`
        raise FileNotFoundError(
            f"The folder {kind} holds no training data. Expected `chat.json`, `metadata.jsonl`, parquet or JSONL "
            "files, or what `save_to_disk` writes."
        ) from error
    return _choose_split(raw, split)


def _image_root(path: Path, images: str | Path | None) -> Path:
    """The folder that image names are relative to, absolute."""
    if images is not None:
        root = Path(images).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"The folder of images {str(images)!r} does not exist.")
        return Path(os.path.abspath(root))
    folder = path if path.is_dir() else path.parent
    return Path(os.path.abspath(folder / "images" if path.name == "chat.json" else folder))


def _json_texts(paths: list[str]) -> Iterator[dict[str, str]]:
    """Each row of JSON and JSONL files as its text: rows of one file need not share a schema."""
    for path in paths:
        with open(path, encoding="utf-8-sig") as file:
            if path.endswith(".jsonl"):
                yield from ({"json": line} for line in file if line.strip())
                continue
            try:
                rows = json.load(file)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is not JSON: {error}. One object per line is a .jsonl file.") from error
        if not isinstance(rows, list):
            raise ValueError(f"{path} holds a JSON {type(rows).__name__}, expected a list of rows.")
        yield from ({"json": json.dumps(row)} for row in rows)


def _parse(row: Mapping[str, Any]) -> Any:
    """The object in a row of `_json_texts`; a `BadRowError` instead of one that is not JSON, for the row's report."""
    try:
        return json.loads(row["json"])
    except json.JSONDecodeError as error:
        return BadRowError(f"is not JSON: {error}")


# ------------------------------------------------------------------------------------------- one row, whatever form


@dataclass(frozen=True)
class _Reader:
    """Turns a row into a `_Sample`, or raises `BadRowError` with the reason."""

    root: Path | None
    columns: dict[str, str]
    question: str | None
    is_surgical: bool
    level_names: tuple[str, ...] | None
    reserved: tuple[str, ...]

    def read(self, row: Any) -> _Sample:
        if isinstance(row, BadRowError):
            raise row
        if not isinstance(row, Mapping):
            raise BadRowError(f"is a {type(row).__name__}, expected an object with {_ACCEPTED}")
        row = {**row, **{ours: row.get(theirs) for ours, theirs in self.columns.items()}}
        images = self._images(row)
        turns, has_tags = self._turns(row)
        turns, images = self._place(turns, images, has_tags)
        self._check_turns(turns)
        sample = _Sample(turns, images)
        if self.is_surgical:
            sample.task = row.get("task")
            if sample.task not in SURGICAL_TASKS:
                raise BadRowError(f"has the task {sample.task!r}, expected one of {list(SURGICAL_TASKS)}")
            if not images:
                raise BadRowError("has no image")
        sample.labels, sample.granularity = self._labels(row), self._level(row.get("granularity"))
        return sample

    def _images(self, row: Mapping[str, Any]) -> list[Any]:
        keys = ("images", "image", "file_name", "file_names")  # the last two: `imagefolder`'s
        value: Any = next((row[key] for key in keys if row.get(key) is not None), [])
        return [self._locate(image) for image in (value if isinstance(value, list | tuple) else [value])]

    def _locate(self, image: Any) -> Any:
        if isinstance(image, Mapping):
            if image.get("bytes") is not None:
                return dict(image)
            image = image.get("path")
        if isinstance(image, PILImage.Image):
            return image
        if not isinstance(image, str) or not image.strip():
            raise BadRowError(f"has the image {image!r}, expected the name of a file")
        if re.match(r"(https?|hf|s3|gs|data):", image):
            raise BadRowError(f"names the image {image[:80]!r}, which is not a local file: download it first")
        if self.root is None:
            if os.path.isabs(image):
                return image
            raise BadRowError(f"names the image {image!r}, but no folder: pass `images`")
        root = str(self.root)
        path = os.path.abspath(os.path.join(root, image))
        if not os.path.exists(path) and image.startswith(self.root.name + "/"):  # "images/1.png" beside images/
            path = os.path.abspath(os.path.join(os.path.dirname(root), image))
        if os.path.commonpath([root, path]) != root:
            raise BadRowError(f"names the image {image!r}, which leads out of the folder of images {root}")
        return path

    def _turns(self, row: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], bool]:
        """Roles and contents, and whether texts must mark the place of every image with `<image>`."""
        if row.get("conversations") is not None:
            return [self._turn(turn, "from", "value") for turn in _list(row, "conversations")], True
        if row.get("messages") is not None:
            return [self._turn(turn, "role", "content") for turn in _list(row, "messages")], False
        if row.get("prompt") is not None and row.get("completion") is not None:
            turns: list[tuple[str, Any]] = []
            for key, role in (("prompt", "user"), ("completion", "assistant")):
                value = row[key]
                if isinstance(value, str):
                    turns.append((role, value))
                else:
                    turns += [self._turn(turn, "role", "content") for turn in _list(row, key)]
            return turns, False
        asked = row.get("question") if row.get("question") is not None else self.question
        if asked is not None and "answer" in row:
            return [("user", asked), ("assistant", row["answer"])], False
        raise BadRowError(f"has the columns {sorted(row)}, expected {_ACCEPTED}; `columns` maps other names")

    @staticmethod
    def _turn(turn: Any, role_key: str, content_key: str) -> tuple[str, Any]:
        if not isinstance(turn, Mapping) or role_key not in turn or content_key not in turn:
            raise BadRowError(f"has the turn {str(turn)[:80]!r}, expected `{role_key}` and `{content_key}`")
        role = _ROLES.get(turn[role_key])
        if role is None:
            raise BadRowError(f"has a turn of {turn[role_key]!r}, expected one of {list(_ROLES)}")
        return role, turn[content_key]

    def _place(self, turns: list[tuple[str, Any]], images: list[Any], has_tags: bool) -> tuple[list, list]:
        """Contents as lists of parts, in which every image has its place."""
        placed: list[tuple[str, list[dict[str, Any]]]] = []
        order: list[Any] = []  # which image belongs to a place, where the parts say so
        own_images: list[Any] = []
        for role, content in turns:
            parts: list[dict[str, Any]] = []
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else _parts(content):
                if part.get("type") == "image":
                    parts.append({"type": "image", "text": None})
                    own = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
                    own_images += [] if own is None else [self._locate(own)]
                    order += [] if part.get("index") is None else [part["index"]]
                elif part.get("type") == "text":
                    texts = (part.get("text") or "").split(IMAGE_TAG) if role == "user" else [part.get("text") or ""]
                    for index, text in enumerate(texts):
                        parts += [{"type": "image", "text": None}] if index else []
                        # without the line break that LLaVA writes beside the tag: a chat template has none
                        text = text.strip() if isinstance(content, str) or len(texts) > 1 else text
                        parts += [{"type": "text", "text": text}] if text else []
                else:
                    raise BadRowError(f"has a part of the type {part.get('type')!r}, expected `text` or `image`")
            placed.append((role, parts))
        images = [*images, *own_images] if own_images and not images else images
        places = sum(part["type"] == "image" for _, parts in placed for part in parts)
        if not places and images and not has_tags:  # as TRL does: in front of the first question
            first = next((parts for role, parts in placed if role == "user"), None)
            if first is not None:
                first[:0] = [{"type": "image", "text": None} for _ in images]
                places = len(images)
        if places != len(images):
            raise BadRowError(f"marks the place of {places} images ({IMAGE_TAG}), but has {len(images)}")
        if len(order) == len(images) and sorted(order) == list(range(len(images))):
            images = [images[index] for index in order]
        return placed, images

    def _check_turns(self, turns: list[tuple[str, list[dict[str, Any]]]]) -> None:
        spoken = [turn for turn in turns if turn[0] != "system"]
        if not spoken or any(role != ("user", "assistant")[index % 2] for index, (role, _) in enumerate(spoken)):
            roles = [role for role, _ in turns]
            raise BadRowError(f"has turns of {roles}, expected the user and the assistant in turn, the user first")
        if len(spoken) % 2:
            raise BadRowError("ends with a question that has no answer")
        for role, parts in spoken:
            text = "".join(part["text"] or "" for part in parts).strip()
            if not text and (role == "assistant" or not parts):
                raise BadRowError(f"has an empty {'answer' if role == 'assistant' else 'question'}")
            if role == "assistant" and any(part["type"] == "image" for part in parts):
                raise BadRowError("has an image in an answer")
            for token in (*self.reserved, *((IMAGE_TAG,) if role == "assistant" else ())):
                if token in text:
                    raise BadRowError(f"has {token!r} in its text, which is reserved for images")

    def _labels(self, row: Mapping[str, Any]) -> list[float] | None:
        if row.get("granularity_labels") is None:
            return None
        labels = row["granularity_labels"]
        try:
            weights = validate_weights(list(labels) if isinstance(labels, tuple | list) else labels)
        except ValueError as error:
            raise BadRowError(f"has bad `granularity_labels`: {error}") from error
        return rebin_weights(weights, len(self.level_names)) if self.level_names else list(weights)

    def _level(self, level: Any) -> int:
        names = self.level_names
        if level is None or level in (-1, "auto", ""):
            return -1
        if isinstance(level, str) and names and level in names:
            return names.index(level)
        if isinstance(level, int) and not isinstance(level, bool) and 0 <= level < (len(names) if names else 1 << 30):
            return level
        known = f"one of {list(names)}, " if names else ""
        hint = "" if names else " (names need `processor`)"
        raise BadRowError(f"has the granularity {level!r}, expected {known}an index from 0, or null{hint}")


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(row[key], list | tuple) or not row[key]:
        raise BadRowError(f"has {str(row[key])[:80]!r} as `{key}`, expected a list of turns")
    return list(row[key])


def _parts(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    if not isinstance(content, list | tuple) or not all(isinstance(part, Mapping) for part in content):
        raise BadRowError(f"has the content {str(content)[:80]!r}, expected a text or a list of parts")
    return [dict(part) for part in content]


# ------------------------------------------------------------------------------------------------ images, unreadable


def check_image(content: bytes) -> str | None:
    """Why an image cannot be trained on, or `None`. The whole file is decoded, JPEG at an eighth of its size."""
    limit = PILImage.MAX_IMAGE_PIXELS
    try:
        with PILImage.open(io.BytesIO(content)) as image:
            width, height = image.size
            if limit is not None and width * height > limit:
                return f"{width} x {height} pixels are more than the {limit} that are safe to decode"
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
            image.load()
    except PILImage.DecompressionBombError as error:
        return f"{error}"
    except PILImage.UnidentifiedImageError:  # whose message names the object in memory
        return "cannot be decoded: the file is broken or no image"
    except Exception as error:  # PIL's decoders raise what they like, SyntaxError and struct.error among them
        return f"cannot be decoded ({error or type(error).__name__}): the file is broken, cut short or no image"
    return None


def _decode(image: Any) -> PILImage.Image:
    """The image of a stream's row, as `datasets` decodes it; a `BadRowError` where that fails."""
    if isinstance(image, PILImage.Image):
        return image
    try:
        content = image["bytes"] if isinstance(image, Mapping) else Path(image).read_bytes()
    except OSError as error:
        raise BadRowError(f"the image {image!r} cannot be read ({error.strerror or error})") from error
    reason = check_image(content)
    if reason:
        shown = (image.get("path") or "") if isinstance(image, Mapping) else image
        raise BadRowError(f"the image {os.path.basename(shown)!r} {reason}")
    return Image().decode_example({"bytes": content, "path": None})


class _ImageChecks:
    """Reasons and content hashes of images; those of local files are remembered until the file changes."""

    def __init__(self, root: Path | None, is_on: bool = True):
        self.is_on = is_on
        self.known: dict[str, list[Any]] = {}  # path: size, time of change, hash, reason
        self.file = None
        if root is not None and is_on:
            key = hashlib.sha256(str(root).encode()).hexdigest()[:16]
            self.file = Path(datasets.config.HF_DATASETS_CACHE) / "granulon-image-checks" / f"{key}.json"
            try:
                self.known = json.loads(self.file.read_text())
            except (OSError, ValueError):
                self.known = {}
        self.num_remembered = len(self.known)

    def check(self, image: Any) -> tuple[str | None, str]:
        """Reason or `None`, and the hash."""
        if isinstance(image, PILImage.Image):
            return None, hashlib.sha256(image.tobytes()).hexdigest()
        if isinstance(image, Mapping):
            return (check_image(image["bytes"]) if self.is_on else None), hashlib.sha256(image["bytes"]).hexdigest()
        shown = os.path.basename(image)
        try:
            status = os.stat(image)
            if not self.is_on:
                return None, f"{shown}:{status.st_size}"
            entry: list[Any] | None = self.known.get(image)
            if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
                content = Path(image).read_bytes()
                reason = check_image(content)
                entry = [status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest(), reason]
                self.known[image] = entry
        except OSError as error:
            return f"the image {image!r} cannot be read ({error.strerror or error})", ""
        return (f"the image {shown!r} {entry[3]}" if entry[3] else None), entry[2]

    def remember(self) -> None:
        if self.file is None or len(self.known) == self.num_remembered:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            staging = self.file.with_suffix(f".{os.getpid()}")
            staging.write_text(json.dumps(self.known))
            staging.replace(self.file)
        except OSError as error:  # a cache that cannot be written costs time, nothing else
            logger.warning("The image checks could not be remembered in %s: %s", self.file, error)


# ---------------------------------------------------------------------------------------------------- all rows at once


@dataclass
class _Policy:
    bad_rows: BadRows
    on_bad_row: str
    max_bad_rows: int | None

    def reject(self, index: int, reason: str) -> None:
        """Count a bad row, or raise."""
        if self.on_bad_row == "error":
            raise BadRowError(
                f"{self.bad_rows.name}, row {index}: {reason}. Mend the row, or leave such rows out with "
                '`on_bad_row: "skip"`.'
            )
        self.bad_rows.rows.append((index, reason))
        if self.max_bad_rows is not None and len(self.bad_rows.rows) > self.max_bad_rows:
            raise BadRowError(
                f"More than `max_bad_rows` = {self.max_bad_rows} rows cannot be used.\n{self.bad_rows.report()}"
            )


def _materialise(
    raw: Any, reader: _Reader, policy: _Policy, label: str, layout: str, max_rows: int | None, check_images: bool
) -> TrainingData:
    is_table = isinstance(raw, Dataset)
    rows = _undecoded(raw) if is_table else raw
    if is_table:
        _check_columns(raw.column_names, reader)
    checks = _ImageChecks(reader.root, check_images)
    digest = hashlib.sha256()
    kept: list[int] = []
    samples: list[_Sample] = []  # without images where the table holds their bytes
    traits: dict[str, Any] = {"single": True, "images": False, "labels": False, "granularity": False, "task": False}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for index, sample, hashes in _checked(rows, len(raw), reader, policy, checks, pool, label):
            if max_rows is not None and len(kept) >= max_rows:
                break
            kept.append(index)
            digest.update(json.dumps([sample.turns, hashes, sample.labels, sample.granularity]).encode())
            traits["single"] &= sum(role == "assistant" for role, _ in sample.turns) == 1
            traits["images"] |= bool(sample.images)
            traits["labels"] |= sample.labels is not None
            traits["granularity"] |= sample.granularity >= 0
            traits["task"] |= sample.task is not None
            if not is_table:
                samples.append(sample)
    checks.remember()
    if not kept:
        raise ValueError(f"{label} holds no usable row. {policy.bad_rows.report()}")
    if not traits["images"]:
        raise ValueError(f"{label} holds no images in any of its {len(kept)} usable rows. Expected {_ACCEPTED}.")
    if policy.bad_rows.rows:
        logger.warning("%s", policy.bad_rows.report())
    chosen = "prompt-completion" if traits["single"] and layout == "auto" else "messages"
    write = _Writer(chosen, traits["labels"], traits["granularity"], traits["task"])
    if is_table:
        dataset = rows.select(kept).map(
            _ReadAndWrite(reader, write),
            remove_columns=raw.column_names,
            features=write.features,
            desc=f"{label}: one form",
        )
    else:
        dataset = Dataset.from_list([write(sample) for sample in samples], features=write.features)
    return TrainingData(dataset, label, len(kept), digest.hexdigest(), policy.bad_rows, chosen)


def _checked(
    rows: Any,
    num_rows: int,
    reader: _Reader,
    policy: _Policy,
    checks: _ImageChecks,
    pool: ThreadPoolExecutor,
    label: str,
) -> Iterator[tuple[int, _Sample, list[str]]]:
    """Index, sample and image hashes of every usable row."""
    bar = tqdm(total=num_rows, desc=f"{label}: checking", unit=" rows", delay=2, leave=False)
    with bar:
        for start in range(0, num_rows, _CHUNK):
            chunk: list[tuple[int, _Sample | BadRowError]] = []
            for index in range(start, min(start + _CHUNK, num_rows)):
                try:
                    chunk.append((index, reader.read(rows[index])))
                except BadRowError as error:
                    chunk.append((index, error))
            flat = [image for _, sample in chunk if isinstance(sample, _Sample) for image in sample.images]
            results = iter(list(pool.map(checks.check, flat)))
            for index, sample in chunk:
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
                    yield index, sample, [hashed for _, hashed in verdicts]


def _undecoded(raw: Any) -> Any:
    """The data set with its images as they are stored: decoding all to look at texts would take hours."""
    if raw.features is None:  # a stream that has not been looked into
        raw = raw._resolve_features()
    for name, feature in raw.features.items():
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, Image):
            stored = Image(decode=False)
            raw = raw.cast_column(name, List(stored) if isinstance(feature, List) else stored)
    return raw


def _check_columns(names: Iterable[str], reader: _Reader) -> None:
    have = {*names, *reader.columns, *(("question",) if reader.question else ())}
    missing = sorted(set(reader.columns.values()) - set(names))
    if missing:
        raise ValueError(f"`columns` names {missing}, but the data set has {sorted(names)}.")
    wanted = ({"messages"}, {"conversations"}, {"prompt", "completion"}, {"question", "answer"})
    if not any(have >= group for group in wanted):
        raise ValueError(
            f"The data set has the columns {sorted(names)}, expected {_ACCEPTED}. Map yours with `columns`, such as "
            '`{"answer": "caption"}`, and give captions a `question`.'
        )


@dataclass(frozen=True)
class _Writer:
    """A `_Sample` as a row of the data set."""

    layout: str
    has_labels: bool
    has_granularity: bool
    has_task: bool

    @property
    def features(self) -> Features:
        chats = ("prompt", "completion") if self.layout == "prompt-completion" else ("messages",)
        features: dict[str, Any] = dict.fromkeys(chats, _CHAT)
        features["images"] = List(Image())
        if self.has_labels:
            features["granularity_labels"] = List(Value("float32"))
        if self.has_granularity:
            features["granularity"] = Value("int64")
        if self.has_task:
            features["task"] = Value("string")
        return Features(features)

    def __call__(self, sample: _Sample) -> dict[str, Any]:
        messages = [{"role": role, "content": parts} for role, parts in sample.turns]
        row: dict[str, Any] = {"messages": messages}
        if self.layout == "prompt-completion":
            row = {"prompt": messages[:-1], "completion": messages[-1:]}
        row["images"] = sample.images
        if self.has_labels:
            row["granularity_labels"] = sample.labels
        if self.has_granularity:
            row["granularity"] = sample.granularity
        if self.has_task:
            row["task"] = sample.task
        return row


@dataclass(frozen=True)
class _ReadAndWrite:
    reader: _Reader
    write: _Writer

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self.write(self.reader.read(row))


# --------------------------------------------------------------------------------------------------------- streaming


@dataclass
class _StreamReader:
    """
    Reads batches of a stream. Rows that cannot be used are left out, counted and logged, or fatal.
    """

    reader: _Reader
    write: _Writer
    policy: _Policy

    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        output: dict[str, list[Any]] = {name: [] for name in self.write.features}
        for position, index in enumerate(indices):
            row: Any = {name: values[position] for name, values in batch.items()}
            row = _parse(row) if set(row) == {"json"} else row
            self.policy.bad_rows.num_seen += 1
            try:
                sample = self.reader.read(row)
                sample.images = [_decode(image) for image in sample.images]
            except BadRowError as error:
                self.policy.reject(index, str(error))
                logger.warning("%s, row %d left out: %s", self.policy.bad_rows.name, index, error)
                continue
            for name, value in self.write(sample).items():
                output[name].append(value)
        return output


def _stream(raw: IterableDataset, reader: _Reader, policy: _Policy, max_rows: int | None) -> IterableDataset:
    raw = _undecoded(raw)
    names = raw.column_names
    if names and names != ["json"]:
        _check_columns(names, reader)
    have = set(names or ()) | set(reader.columns)
    # the columns of a stream of JSON are not known before it ends: all of them, then
    has = {key: key in have or names == ["json"] for key in ("granularity_labels", "granularity")}
    write = _Writer("messages", has["granularity_labels"], has["granularity"], reader.is_surgical)
    convert = _StreamReader(reader, write, policy)
    stream = raw.map(
        convert, with_indices=True, batched=True, batch_size=16, remove_columns=names, features=write.features
    )
    return stream if max_rows is None else stream.take(max_rows)
