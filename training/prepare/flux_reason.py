"""
FLUX-Reason-6M (`LucasFang/FLUX-Reason-6M`, Apache-2.0) to a sampled training set in LLaVA's form.

The data set streams by once, 5,890,279 rows with 1024 x 1024 JPEGs, and a seeded hash of a row's `id` decides where
the row goes. Out come two folders that `granulon.training.data.load_training_data` reads:

    OUTPUT/train/chat.json       OUTPUT/train/images/
    OUTPUT/validation/chat.json  OUTPUT/validation/images/
    OUTPUT/README.md             source, licence, settings, counts
    OUTPUT/.sampling/            rows taken so far and the place in the stream; only needed to go on

**Which rows.** With the hash h in [0, 1), v = validation / total and t = train / total, a row is for validation if
h < v, for training if v <= h < v + t, and not taken otherwise. So the sample does not depend on the order of the rows,
the two sides never meet, a smaller sample with as much validation lies within a larger one, and counts come out near
to what was asked for, not at it: 200,000 +- 440 (one standard deviation) for the defaults. Rows that a quality gate or
a broken image takes away are not made up for. `chat.json` is ordered by h: its first k rows are a fair sample of it.

**Which answer.** The first of the asked captions that is not null (nor blank). `caption_detail`, the long description
that the image was made from, is the only one that every row has, so whatever stands behind it is hardly ever reached.

**Which question.** A seeded choice, again by `id`, of the instructions that `QUESTIONS` holds for that kind of
caption; a Chinese caption (`detail_cn`) adds that the answer be in Chinese.

```bash
python -m granulon.training.prepare.flux_reason --output data/flux-reason
```
"""

import argparse
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image as PILImage
from tqdm import tqdm

from granulon.files import new_file
from granulon.training.data import IMAGE_TAG, check_image, seeded_fraction


SOURCE = "LucasFang/FLUX-Reason-6M"
TOTAL_ROWS = 5_890_279
SPLITS = ("train", "validation")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "original": (
        "Describe the image briefly.",
        "What does this image show?",
        "Write a short caption for this picture.",
    ),
    "detail": (
        "Describe the image in detail.",
        "Give a thorough description of everything that this picture shows.",
        "Look closely. What is in the image, how is it arranged, and how does it look?",
    ),
    "composition": (
        "Describe the composition of the image.",
        "How are the things in this picture arranged?",
        "What is in the foreground and background, and how is the scene laid out?",
    ),
    "entity": (
        "Which objects and beings does the image show? Describe them.",
        "Describe the main subjects of this picture.",
        "What things can be seen here, and what are they like?",
    ),
    "text": (
        "What text does the image show, and where? Describe it.",
        "Read the writing in this picture and say how it looks.",
        "Describe the image with attention to any words in it.",
    ),
    "imaginative": (
        "What is unusual or imagined in this image?",
        "Describe the fantastic side of this picture.",
        "Describe what is surreal or inventive in the scene.",
    ),
    "style": (
        "Describe the style of the image.",
        "In which artistic style is this picture made, and what shows it?",
        "How would you characterise the look, light and technique of this image?",
    ),
    "abstract": (
        "Which mood or idea does the image convey?",
        "Describe the abstract meaning of this picture.",
        "What does this image express beyond the things that it shows?",
    ),
}
CAPTIONS = (*QUESTIONS, *(f"{kind}_cn" for kind in QUESTIONS))
_BATCH = 128  # rows in memory at once: some 20 MB of images
_SAVE_EVERY = 1_000  # rows between two notes of the place in the stream
_REASONS = {
    "no_id": "have no id",
    "duplicate": "repeat the id of a row already taken",
    "not_original": "fail the gate `bool_caption_original`",
    "not_clear": "fail the gate `score_image_clarity`",
    "no_caption": "have none of the asked captions",
    "bad_image": "have no image, or one that cannot be decoded",
}


@dataclass
class FluxReasonSample:
    """
    What a run has done so far, earlier runs that it went on from included.

    Args:
        num_rows: rows of the source that were looked at.
        num_taken: rows by side, `train` and `validation`.
        num_skipped: drawn rows that were left out, by reason.
        captions: taken rows by kind of caption.
        is_complete: the source was read to its end, not to `limit_rows`.
    """

    output: Path
    num_rows: int = 0
    num_taken: Counter[str] = field(default_factory=Counter)
    num_skipped: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    is_complete: bool = False

    def report(self) -> str:
        """A line of counts, then one per reason for which drawn rows were left out."""
        lines = [
            f"{self.num_rows:,} rows read{'' if self.is_complete else ' (not all: stopped at the limit)'}: "
            f"{self.num_taken['train']:,} for training, {self.num_taken['validation']:,} for validation."
        ]
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(self.captions.items()))
        lines += [f"Captions: {kinds}."] if kinds else []
        lines += [
            f"Left out: {number:,} rows that {_REASONS[key]}." for key, number in sorted(self.num_skipped.items())
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Settings:
    """All that decides what is sampled. A run only goes on from one with the same settings."""

    source: str
    revision: str | None
    files: str
    train: int
    validation: int
    total_rows: int
    seed: int
    captions: tuple[str, ...]
    min_clarity: float | None
    require_original: bool

    @property
    def columns(self) -> list[str]:
        gates = ["bool_caption_original"] * self.require_original
        gates += ["score_image_clarity"] * (self.min_clarity is not None)
        return ["id", "image", *(f"caption_{kind}" for kind in self.captions), *gates]

    def side(self, fraction: float) -> str | None:
        if fraction < self.validation / self.total_rows:
            return "validation"
        return "train" if fraction < (self.validation + self.train) / self.total_rows else None


def sample_flux_reason(
    output: str | Path,
    source: str | Path = SOURCE,
    train: int = 200_000,
    validation: int = 1_000,
    seed: int = 0,
    captions: Sequence[str] = ("original", "detail"),
    min_clarity: float | None = None,
    require_original: bool = False,
    *,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    data_files: str | Sequence[str] | None = None,
    total_rows: int | None = None,
    limit_rows: int | None = None,
    show_progress: bool = True,
) -> FluxReasonSample:
    """
    Sample FLUX-Reason-6M, or go on with a sample that was interrupted: the same call does both.

    Args:
        output: folder to write to; the module's docstring shows what is in it.
        source: id on the Hub, or a local folder (searched through) or file of parquet.
        train: expected number of rows for training.
        validation: expected number of rows for validation.
        captions: kinds in order of preference, of `CAPTIONS`.
        min_clarity: least `score_image_clarity`, on the data set's own scale; a row without a score fails.
        require_original: only rows whose `bool_caption_original` is true.
        name: of a configuration, on the Hub.
        split: on the Hub.
        revision: branch, tag or commit on the Hub. The commit it stands for is noted, and a run goes on from that.
        data_files: only files that match these patterns, such as `"*Text*/*.parquet"`. The Hub's whole data set is
            about 820 GB of reading, however few rows are taken, so a few files with a `total_rows` to match are the
            quick way to a small sample.
        total_rows: in the files that are read; turns counts into shares. By default what local files say they hold,
            and 5,890,279 on the Hub.
        limit_rows: stop when so many rows have been read. `chat.json` is then written with what there is, and a later
            call with a higher limit or none goes on.

    Raises:
        ValueError: a column is missing, an unknown kind of caption, more rows asked for than there are, or `output`
            holds a sample with other settings.
        FileNotFoundError: no such source, or no parquet files in it.
        ConnectionError: the Hub does not answer.
    """
    kinds = tuple([captions] if isinstance(captions, str) else captions)
    _check_arguments(kinds, train, validation, limit_rows)
    output = Path(output).expanduser()
    state_file = output / ".sampling" / "state.json"
    state = json.loads(state_file.read_text()) if state_file.is_file() else None
    where, label, commit, files, counted = _locate(source, name, split, revision, data_files, state)
    total = total_rows if total_rows is not None else counted
    if total is None:
        raise ValueError(
            "How many rows these files hold is not known before they are read, and shares need it: pass `total_rows` "
            f"(--total-rows). The whole of {SOURCE} has {TOTAL_ROWS:,}."
        )
    if train + validation > total:
        raise ValueError(
            f"{train:,} rows for training and {validation:,} for validation are more than the {total:,} in {label}. "
            "Ask for fewer (--train, --validation), or say with `total_rows` how many there are."
        )
    settings = _Settings(label, commit, files, train, validation, total, seed, kinds, min_clarity, require_original)
    result = FluxReasonSample(output)
    if state is not None:
        _check_same(state["settings"], settings, output)
        result.num_rows, result.is_complete = state["num_rows"], state["is_complete"]
        for key in ("num_taken", "num_skipped", "captions"):
            getattr(result, key).update(state[key])
    if not result.is_complete and (limit_rows is None or result.num_rows < limit_rows):
        stream = _open_stream(where, settings.columns, label)
        _read(stream, settings, result, state, state_file, limit_rows, show_progress)
    for side in SPLITS:
        _write_chat(output, side)
    with new_file(output / "README.md", newline="\n") as file:
        file.write(_readme(settings, result))
    return result


def _check_arguments(captions: tuple[str, ...], train: int, validation: int, limit_rows: int | None) -> None:
    unknown = [kind for kind in captions if kind not in CAPTIONS]
    if unknown or not captions:
        raise ValueError(
            f"`captions` is {list(captions)}, expected some of {list(CAPTIONS)}, the preferred one first."
        )
    for argument, value in (("train", train), ("validation", validation), ("limit_rows", limit_rows)):
        least = 1 if argument == "limit_rows" else 0
        if value is not None and value < least:
            raise ValueError(f"`{argument}` is {value}, expected a number of rows, {least} or more.")


def _check_same(before: Mapping[str, Any], settings: _Settings, output: Path) -> None:
    now = _plain(settings)
    different = [
        f"{key} was {before.get(key)!r} and is now {now[key]!r}" for key in now if before.get(key) != now[key]
    ]
    if different:
        raise ValueError(
            f"{output} holds a sample that was begun with other settings: {'; '.join(different)}. Go on with the same "
            "ones, or choose another output folder."
        )


def _plain(settings: _Settings) -> dict[str, Any]:
    return {**vars(settings), "captions": list(settings.captions)}


# ------------------------------------------------------------------------------------------------ opening the source


def _locate(
    source: str | Path,
    name: str | None,
    split: str,
    revision: str | None,
    data_files: str | Sequence[str] | None,
    state: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], str, str | None, str, int | None]:
    """
    Returns:
        what `load_dataset` is to load, a name for it without local folders, the commit, what files are meant, and the
        number of rows if known.
    """
    patterns = [data_files] if isinstance(data_files, str) else list(data_files or [])
    path = Path(source).expanduser()
    if path.exists():
        found = [path]
        if path.is_dir():
            found = sorted({file for pattern in patterns or ["**/*.parquet"] for file in path.glob(pattern)})
        found = [file for file in found if file.suffix == ".parquet"]
        if not found:
            raise FileNotFoundError(
                f"There are no parquet files {f'like {patterns} ' if patterns else ''}in {path}. Expected files of "
                f"{SOURCE}, which `hf download {SOURCE} --repo-type dataset` fetches."
            )
        digest = hashlib.sha256()
        for file in found:
            digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}:{file.stat().st_size}/".encode())
        local = {"path": "parquet", "data_files": [os.path.abspath(file) for file in found], "split": "train"}
        return local, path.resolve().name, None, f"{len(found)} files, {digest.hexdigest()[:16]}", _count_rows(found)
    if str(source).endswith(".parquet") or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"There is no file or folder {str(source)!r}, and it is no id on the Hub like {SOURCE}."
        )
    commit = state["settings"].get("revision") if state is not None and revision is None else None
    if commit is None:
        try:
            commit = HfApi().dataset_info(str(source), revision=revision).sha
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"{str(source)!r} is neither a file or folder here nor a data set that the Hub shows us. Check the "
                "name; for a private or gated one run `hf auth login`."
            ) from error
        except Exception as error:  # the transport's own errors, whose library changes
            raise ConnectionError(f"the Hub does not answer for {str(source)!r} ({error}).") from error
    where: dict[str, Any] = {"path": str(source), "name": name, "revision": commit, "split": split}
    where |= {"data_files": patterns} if patterns else {}
    is_whole = str(source) == SOURCE and not patterns and name is None
    return where, str(source), commit, json.dumps([name, split, patterns]), TOTAL_ROWS if is_whole else None


def _count_rows(files: Iterable[Path]) -> int:
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)


def _open_stream(where: dict[str, Any], columns: list[str], label: str) -> datasets.IterableDataset:
    """Only the columns that are needed, images undecoded."""
    found = datasets.load_dataset(**where, streaming=True).column_names or []
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(
            f"{label} lacks {'the column' if len(missing) == 1 else 'the columns'} {missing}. It has {found}. "
            f"Expected the columns of {SOURCE}: `id`, `image`, a `caption_KIND` for each kind that is asked for, and "
            "the column of each quality gate. Ask for other captions, leave the gate out, or check the source."
        )
    stream = datasets.load_dataset(**where, streaming=True, columns=columns, batch_size=_BATCH)
    return stream.cast_column("image", datasets.Image(decode=False))


# --------------------------------------------------------------------------------------------------------- sampling


def _read(
    stream: datasets.IterableDataset,
    settings: _Settings,
    result: FluxReasonSample,
    state: Mapping[str, Any] | None,
    state_file: Path,
    limit_rows: int | None,
    show_progress: bool,
) -> None:
    """
    Append taken rows to `.sampling/*.jsonl` and note the place in the stream now and then. What was appended after the
    last note is cut off on the next run, which reads those rows again and finds their images written.
    """
    state_file.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    with ExitStack() as stack:
        logs = {}
        for side in SPLITS:
            log = stack.enter_context(open(_log(result.output, side), "a+b"))
            log.truncate(state["log_sizes"][side] if state is not None else 0)
            log.seek(0)
            seen.update(json.loads(line)["id"] for line in log)
            log.seek(0, os.SEEK_END)
            logs[side] = log
        if state is not None:
            stream.load_state_dict(state["stream"])
        end = settings.total_rows if limit_rows is None else min(limit_rows, settings.total_rows)
        bar = tqdm(total=end, initial=result.num_rows, unit=" rows", desc="FLUX-Reason", disable=not show_progress)
        stack.enter_context(bar)

        def save() -> None:
            for log in logs.values():
                log.flush()
                os.fsync(log.fileno())
            note = {
                "settings": _plain(settings),
                "num_rows": result.num_rows,
                "num_taken": result.num_taken,
                "num_skipped": result.num_skipped,
                "captions": result.captions,
                "is_complete": result.is_complete,
                "log_sizes": {side: log.tell() for side, log in logs.items()},
                "stream": stream.state_dict(),
            }
            with new_file(state_file) as file:
                json.dump(note, file)

        for row in stream:
            result.num_rows += 1
            bar.update()
            _take(row, settings, result, seen, logs)
            if limit_rows is not None and result.num_rows >= limit_rows:
                break
            if result.num_rows % _SAVE_EVERY == 0:
                save()
                bar.set_postfix(result.num_taken, refresh=False)
        else:
            result.is_complete = True
        save()


def _take(
    row: Mapping[str, Any], settings: _Settings, result: FluxReasonSample, seen: set[str], logs: Mapping[str, Any]
) -> None:
    """Write the row's image and its line if the row is drawn and good; count it in any case where it is drawn."""
    if row["id"] is None:
        result.num_skipped["no_id"] += 1
        return
    key = str(row["id"])
    fraction = seeded_fraction(settings.seed, key)
    side = settings.side(fraction)
    if side is None:
        return
    content: Any = (row["image"] or {}).get("bytes")
    kind = next((kind for kind in settings.captions if _is_usable(row[f"caption_{kind}"])), None)
    reason = None
    if key in seen:
        reason = "duplicate"
    elif settings.require_original and row["bool_caption_original"] is not True:
        reason = "not_original"
    elif not _is_clear(row, settings.min_clarity):
        reason = "not_clear"
    elif kind is None:
        reason = "no_caption"
    elif not content or check_image(content):
        reason = "bad_image"
    if reason is not None or kind is None:
        result.num_skipped[reason or "no_caption"] += 1
        return
    image = _write_image(result.output / side / "images", key, content)
    line: dict[str, Any] = {
        "id": key,
        "image": image,
        "conversations": [
            {"from": "human", "value": f"{IMAGE_TAG}\n{_question(kind, settings.seed, key)}"},
            {"from": "gpt", "value": row[f"caption_{kind}"].strip()},
        ],
        "caption_kind": kind,
        "fraction": fraction,
    }
    logs[side].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    seen.add(key)
    result.num_taken[side] += 1
    result.captions[kind] += 1


def _is_usable(caption: str | None) -> bool:
    return caption is not None and caption.strip() != "" and IMAGE_TAG not in caption


def _is_clear(row: Mapping[str, Any], least: float | None) -> bool:
    return least is None or (row["score_image_clarity"] is not None and row["score_image_clarity"] >= least)


def _question(kind: str, seed: int, key: str) -> str:
    choices = QUESTIONS[kind.removesuffix("_cn")]
    question = choices[int(seeded_fraction(seed, f"question/{key}") * len(choices))]
    return f"{question} Answer in Chinese." if kind.endswith("_cn") else question


def _write_image(folder: Path, key: str, content: bytes) -> str:
    """The bytes as they are, unless the file is there; its name (of a hash: an id may hold anything) in the folder."""
    with PILImage.open(io.BytesIO(content)) as image:
        suffix = {"JPEG": "jpg"}.get(image.format or "", (image.format or "img").lower())
    digest = hashlib.blake2b(key.encode(), digest_size=10).hexdigest()
    file = folder / digest[:2] / f"{digest}.{suffix}"
    if not file.exists():
        with new_file(file, "wb") as stream:
            stream.write(content)
    return f"{digest[:2]}/{file.name}"


# ---------------------------------------------------------------------------------------------------------- writing


def _log(output: Path, side: str) -> Path:
    return output / ".sampling" / f"{side}.jsonl"


def _write_chat(output: Path, side: str) -> None:
    """`chat.json`, ordered by hash."""
    rows = []
    with open(_log(output, side), encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            rows.append((row.pop("fraction"), row["id"], json.dumps(row, ensure_ascii=False)))
    rows.sort()
    (output / side / "images").mkdir(parents=True, exist_ok=True)
    pieces = (f"{',' if index else ''}\n{text}" for index, (_, _, text) in enumerate(rows))
    with new_file(output / side / "chat.json", newline="\n") as file:
        file.writelines(["[", *pieces, "\n]\n"])


def _readme(settings: _Settings, result: FluxReasonSample) -> str:
    gates = [f"`score_image_clarity` at least {settings.min_clarity}"] * (settings.min_clarity is not None)
    gates += ["`bool_caption_original` true"] * settings.require_original
    revision = f", revision `{settings.revision}`" if settings.revision else ""
    return f"""---
license: apache-2.0
source_datasets:
- {SOURCE}
task_categories:
- image-text-to-text
---

# A sample of FLUX-Reason-6M

Images and captions are from [{SOURCE}](https://huggingface.co/datasets/{SOURCE}), licensed under the
[Apache License 2.0](https://www.apache.org/licenses/LICENSE-2.0), by Fang et al. The images are synthetic (FLUX), byte
for byte those of the source. Changes: a sample was drawn, and an instruction was put in front of each caption.

- Read from `{settings.source}`{revision}
- Seed {settings.seed}; {settings.train:,} for training and {settings.validation:,} for validation expected of \
{settings.total_rows:,} rows
- Captions, the first that a row has: {", ".join(f"`caption_{kind}`" for kind in settings.captions)}
- Quality gates: {", ".join(gates) or "none"}

{result.report()}

```python
from granulon.training.data import load_training_data

data = load_training_data("train")  # this folder's train/chat.json and train/images/
```
"""


# ----------------------------------------------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m granulon.training.prepare.flux_reason",
        description=(
            "Sample FLUX-Reason-6M for training. Writes OUTPUT/train and OUTPUT/validation, each with chat.json and "
            "images/ (LLaVA's form), and OUTPUT/README.md with source, licence and counts. A row is drawn by a seeded "
            "hash of its id: the same rows on every machine, in whatever order they come. Interrupted, the same "
            "command goes on where it stopped."
        ),
        epilog=(
            "The whole data set is about 820 GB; all of it is read to draw from all of it, and the default sample "
            "keeps about 28 GB. For a try: --limit-rows 5000. For a denser sample of fewer files: --data-files with "
            "--total-rows, for example --data-files '*Text*/*.parquet' --total-rows 711337 --train 50000. Counts come "
            "out near to those asked for, less what gates and broken images take away; the exact ones are printed."
        ),
    )
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write to, or to go on in")
    add("--source", default=SOURCE, help="Hub id, or local folder or file of parquet (default: %(default)s)")
    add("--train", type=int, default=200_000, metavar="N", help="expected rows for training (default: %(default)s)")
    add(
        "--validation",
        type=int,
        default=1_000,
        metavar="N",
        help="expected rows for validation (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="another seed, other rows (default: %(default)s)")
    add(
        "--captions",
        nargs="+",
        default=["original", "detail"],
        choices=CAPTIONS,
        metavar="KIND",
        help="preferred first; a row's answer is the first that it has, and `detail` every row has. Kinds: "
        f"{', '.join(QUESTIONS)}; with _cn for Chinese (default: original detail)",
    )
    add("--min-clarity", type=float, metavar="SCORE", help="only rows with at least this score_image_clarity")
    add("--require-original", action="store_true", help="only rows whose bool_caption_original is true")
    add("--name", help="configuration on the Hub, if the data set has several")
    add("--split", default="train", help="split on the Hub (default: %(default)s)")
    add("--revision", help="branch, tag or commit on the Hub; the commit is noted in README.md")
    add("--data-files", nargs="+", metavar="PATTERN", help="read only files that match; on the Hub with --total-rows")
    add("--total-rows", type=int, metavar="N", help="rows in the files read (default: 5890279, or counted if local)")
    add("--limit-rows", type=int, metavar="N", help="stop after reading so many rows; a higher limit goes on later")
    add("--no-progress", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = vars(parser.parse_args(argv))
    arguments["show_progress"] = not arguments.pop("no_progress")
    try:
        result = sample_flux_reason(**arguments)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except OSError as error:  # the Hub's errors among them
        print(f"stopped: {error}\nThe same command goes on from here.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{result.report()}\nWritten to {result.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
