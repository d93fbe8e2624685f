"""A-OKVQA, the validation split (Schwenk et al. 2022, arXiv 2206.01718): multiple choice and direct answers."""

import ast
from functools import partial
from typing import Any

from granulon.evaluation.benchmarks.base import LETTERS, WORD, Benchmark, Item, always, with_options


def _choice(row: dict[str, Any]) -> Item:
    choices, right = _texts(row["choices"]), row["correct_choice_idx"]
    if not 0 <= right < len(choices):
        raise ValueError(f"`correct_choice_idx` is {right} of {len(choices)} choices")
    return Item(
        str(row["question_id"]),
        with_options(row["question"], choices),
        f"{LETTERS[right]}. {choices[right]}",
        {"references": right, "choices": choices},
    )


def _direct(row: dict[str, Any]) -> Item | None:
    if row["difficult_direct_answer"]:  # which do not count
        return None
    answers = _texts(row["direct_answers"])
    return Item(
        str(row["question_id"]),
        row["question"].strip() + WORD,
        ", ".join(dict.fromkeys(answers)),
        {"references": answers, "difficult": False},
    )


def _texts(value: Any) -> list[str]:
    """A list of texts, or the string form of one, which copies of the data set have."""
    texts = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{value!r} is no list of texts")
    return list(texts)


_benchmark = partial(Benchmark, sources=("HuggingFaceM4/A-OKVQA",), split="validation")

BENCHMARKS = [
    _benchmark(
        name="a-okvqa",
        summary="questions that need knowledge of the world; four options, answered by letter",
        columns=("question_id", "question", "choices", "correct_choice_idx", "image"),
        item=_choice,
        metric="multiple_choice",
        baseline=always("A"),
    ),
    _benchmark(
        name="a-okvqa-direct",
        summary="the same questions, answered in a word and compared with ten people's answers",
        columns=("question_id", "question", "direct_answers", "difficult_direct_answer", "image"),
        item=_direct,
        metric="aokvqa_direct",
    ),
]
