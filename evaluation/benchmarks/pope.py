"""POPE: is the object there, or hallucinated? (Li et al. 2023, arXiv 2305.10355)"""

from typing import Any

from granulon.evaluation.benchmarks.base import WORD, Benchmark, Item, always


def _item(row: dict[str, Any]) -> Item:
    answer = row["answer"].strip().lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"`answer` is {row['answer']!r}, neither yes nor no")
    return Item(
        f"{row['category']}/{row['question_id']}",
        row["question"].strip() + WORD,
        answer,
        {"references": answer},
        row["image_source"],
        {"category": row["category"]},
    )


BENCHMARKS = [
    Benchmark(
        name="pope",
        summary="objects that are there or hallucinated: adversarial, popular and random ones",
        sources=("lmms-lab-encoder/POPE", "lmms-lab/POPE"),
        columns=("question_id", "question", "answer", "image_source", "image", "category"),
        item=_item,
        metric="pope",
        baseline=always("yes"),
    )
]
