"""easy-VQA: simple questions about one coloured shape, from the package of the same name (PyPI, MIT)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from granulon.evaluation.benchmarks.base import Baseline, Benchmark, Item


if TYPE_CHECKING:
    from datasets import Dataset


ANSWERS = {
    "yes / no": ("yes", "no"),
    "shape": ("circle", "rectangle", "triangle"),
    "colour": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
}


def read_split(split: str) -> list[dict[str, str]]:
    """The questions of the official "train" or "test" split: `question`, `answer` and the `image` path of each."""
    import easy_vqa

    questions, answers, image_ids = getattr(easy_vqa, f"get_{split}_questions")()
    paths = getattr(easy_vqa, f"get_{split}_image_paths")()
    return [
        {"question": question, "answer": answer, "image": paths[image_id]}
        for question, answer, image_id in zip(questions, answers, image_ids, strict=True)
    ]


def _table() -> "Dataset":
    from datasets import Dataset

    return Dataset.from_list([{"number": number, **row} for number, row in enumerate(read_split("test"))])


def _item(row: dict[str, Any]) -> Item:
    kind = next(kind for kind, answers in ANSWERS.items() if row["answer"] in answers)
    choices = ANSWERS[kind]
    expected = {"references": choices.index(row["answer"]), "choices": choices}
    return Item(str(row["number"]), row["question"], row["answer"], expected, row["image"], {"kind": kind})


def _question_only(items: Sequence[Item]) -> list[str]:
    from granulon.evaluation.answers import question_only

    training = [{**row, "kind": ""} for row in read_split("train")]
    return question_only([{"question": item.prompt, "kind": item.cuts["kind"]} for item in items], training)


BENCHMARKS = [
    Benchmark(
        name="easy-vqa",
        summary="colour, shape and presence of one shape",
        columns=("number", "question", "answer", "image"),
        item=_item,
        build=_table,
        image_column=None,  # paths only
        metric="multiple_choice",
        options={"form": "text"},
        baseline=Baseline("question only", _question_only),
    )
]
