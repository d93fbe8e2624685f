"""What a benchmark is: where its rows come from, what is asked about each of them, and how answers are scored."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image


if TYPE_CHECKING:
    from datasets import Dataset


WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Item(NamedTuple):
    """One question, without its image."""

    id: str  # within the benchmark
    prompt: str
    reference: str  # the right answer, for a reader
    expected: Mapping[str, Any]  # the metric's columns beside `predictions`
    group: Hashable = None  # what is resampled together for intervals; by default each question alone
    cuts: Mapping[str, str] = {}  # what results are also told by, such as {"kind": "colour"}


class Baseline(NamedTuple):
    """Answers that need no image, scored as the model's are."""

    name: str
    answers: Callable[[Sequence[Item]], list[str]]


@dataclass(frozen=True)
class Benchmark:
    """
    One benchmark, made of functions of a row of its table.

    Args:
        summary: what it asks, in a few words.
        columns: what a row must have.
        item: the question of a row; `None` leaves the row out, a ValueError says what is wrong with it.
        metric: of `granulon.evaluation.metrics`; its first result is the benchmark's.
        options: the metric's.
        sources: ids of the data set on the Hub, tried in order.
        build: makes the table where it needs no download.
        image: the picture of a row.
        image_column: which column is heavy and is read only when it is asked about.
        clean: what is done to an answer before it is scored.
        in_groups: whether groups are drawn as a whole.
    """

    name: str
    summary: str
    columns: Sequence[str]
    item: Callable[[dict[str, Any]], Item | None]
    metric: str
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: Sequence[str] = ()
    split: str = "test"
    build: "Callable[[], Dataset] | None" = None
    image: Callable[[dict[str, Any]], Any] = lambda row: row["image"]
    image_column: str | None = "image"
    max_new_tokens: int = 16
    clean: Callable[[str], str] = str.strip
    baseline: Baseline | None = None
    in_groups: bool = False


@dataclass(frozen=True)
class Questions:
    """Questions that were drawn from a benchmark. Their images are read from the table one by one."""

    benchmark: Benchmark
    items: Sequence[Item]
    rows: Mapping[str, int]  # item's id -> row of the table
    table: "Dataset"
    data: str  # where the table is from, and at which revision
    num_all: int  # that could have been drawn
    seed: int

    def image(self, item: Item) -> Image.Image:
        """
        Raises:
            ValueError: it cannot be read.
        """
        try:
            found = self.benchmark.image(self.table[self.rows[item.id]])
            found = found if isinstance(found, Image.Image) else Image.open(found)
            return found.convert("RGB")
        except (OSError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.benchmark.name}: the image of question {item.id} cannot be read ({error}). "
                f"Download {self.data} again."
            ) from error


def draw(
    benchmark: Benchmark,
    limit: int | None = 1000,
    seed: int = 0,
    source: str | None = None,
    revision: str | None = None,
) -> Questions:
    """
    `limit` questions, drawn uniformly; with the same seed a smaller limit gives the first of a larger one's.

    Args:
        limit: `None` takes all.
        source: a Hub id or a local folder, in place of the benchmark's own.
        revision: of the data set, a commit or a tag.

    Raises:
        ValueError: the data set cannot be loaded, or is not what it was: columns and rows are checked.
    """
    table, data = _load(benchmark, source, revision)
    if missing := [name for name in benchmark.columns if name not in table.column_names]:
        raise ValueError(
            f"{benchmark.name}: {data} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}. "
            "The data set was changed, or is another one: name a revision or a source that has "
            f"{', '.join(benchmark.columns)}."
        )
    heavy = [name for name in (benchmark.image_column,) if name in table.column_names]
    items: dict[str, Item] = {}
    rows: dict[str, int] = {}
    for number, row in enumerate(table.remove_columns(heavy)):
        item = _read(benchmark, data, number, row)
        if item is None:
            continue
        if item.id in items:
            raise ValueError(f"{benchmark.name}: rows {rows[item.id]} and {number} of {data} share the id {item.id}.")
        items[item.id], rows[item.id] = item, number
    if not items:
        raise ValueError(f"{benchmark.name}: none of the {len(table)} rows of {data} is a question about an image.")
    drawn = _sample(list(items.values()), limit, seed, benchmark)
    return Questions(benchmark, drawn, rows, table, data, len(items), seed)


def _load(benchmark: Benchmark, source: str | None, revision: str | None) -> "tuple[Dataset, str]":
    """The table, and what it is called in results."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    if benchmark.build is not None:
        if source or revision:
            raise ValueError(f"{benchmark.name} needs no data set: leave source and revision out.")
        try:
            return benchmark.build(), benchmark.name
        except ModuleNotFoundError as error:
            raise ValueError(f"{benchmark.name} needs {error.name}: pip install 'granulon[offline]'.") from error
    faults = []
    for name in [source] if source else benchmark.sources:
        try:
            table = load_dataset(name, split=benchmark.split, revision=revision)
            return table, name if revision is None else f"{name}@{revision}"
        except (OSError, ValueError, DatasetsError) as error:  # absent, moved, gated, without this split, no network
            faults.append(f"{name} ({' '.join(str(error).split()).rstrip('.')})")
    raise ValueError(
        f"{benchmark.name}: its split {benchmark.split} could not be loaded from "
        + ", nor from ".join(faults)
        + ". Log in with `hf auth login` if it is gated, or name a copy: a Hub id, or a folder of parquet files."
    )


def _read(benchmark: Benchmark, data: str, number: int, row: dict[str, Any]) -> Item | None:
    try:
        return benchmark.item(row)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{benchmark.name}: row {number} of {data} is not as expected ({error}). The data set was changed: name a "
            "revision that this reads."
        ) from error


def _sample(items: list[Item], limit: int | None, seed: int, benchmark: Benchmark) -> list[Item]:
    units: dict[Hashable, list[Item]] = {}
    for item in items:
        units.setdefault(item.group if benchmark.in_groups else item.id, []).append(item)
    order = list(units.values())
    random.Random(seed).shuffle(order)
    drawn: list[Item] = []
    for unit in order:
        if limit is not None and len(drawn) + len(unit) > limit:
            break
        drawn += unit
    if not drawn:
        raise ValueError(f"{benchmark.name}: a limit of {limit} is less than one group of {len(order[0])} questions.")
    return drawn


# ---------------------------------------------------------------------- what several benchmarks share


def with_options(question: str, choices: Sequence[str], ending: str = LETTER) -> str:
    """The question, its options on lines that begin with A., B. ..., and what kind of answer is wanted."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question.strip(), *lines]) + ending


def always(answer: str) -> Baseline:
    return Baseline(f"always {answer}", lambda items: [answer] * len(items))


FIRST_OPTION = Baseline("always the first option", lambda items: [item.expected["choices"][0] for item in items])
