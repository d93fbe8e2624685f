"""SEED-Bench, its questions about one image (Li et al. 2023, arXiv 2307.16125), answered by letter or by text."""

from functools import partial
from typing import Any

from granulon.evaluation.benchmarks.base import FIRST_OPTION, LETTER, LETTERS, Benchmark, Item, always, with_options


CONTENT = "\n(Answer with the option content)"  # as the Granulon authors ask


def _item(row: dict[str, Any], ending: str) -> Item | None:
    if row["data_type"] != "image":
        return None
    choices = [row[f"choice_{letter}"] for letter in "abcd"]
    right = "ABCD".find(row["answer"].strip().upper() or "?")
    if right < 0:
        raise ValueError(f"`answer` is {row['answer']!r}, none of A, B, C, D")
    return Item(
        str(row["question_id"]),
        with_options(row["question"], choices, ending),
        f"{LETTERS[right]}. {choices[right]}",
        {"references": right, "choices": choices},
        row["data_id"],
        {"question type": str(row["question_type_id"])},
    )


def _image(row: dict[str, Any]) -> Any:
    return row["image"][0] if isinstance(row["image"], list) else row["image"]


_benchmark = partial(
    Benchmark,
    sources=("lmms-lab-encoder/SEED-Bench", "lmms-lab/SEED-Bench"),
    columns=(
        *("question_id", "question_type_id", "data_id", "data_type", "image"),
        *("question", "choice_a", "choice_b", "choice_c", "choice_d", "answer"),
    ),
    image=_image,
    metric="multiple_choice",
)

BENCHMARKS = [
    _benchmark(
        name="seed-bench",
        summary="four options, answered by letter and read by the first character, as its authors do",
        item=partial(_item, ending=LETTER),
        options={"form": "first_character"},
        baseline=always("A"),
    ),
    _benchmark(
        name="seed-bench-text",
        summary="the same questions, answered by the option's text, as the Granulon paper does",
        item=partial(_item, ending=CONTENT),
        options={"form": "text"},
        max_new_tokens=64,
        baseline=FIRST_OPTION,
    ),
]
