"""Small local copies of data sets: the very columns and types that the Hub's have, filled with rows made here."""

from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from tiny import make_image


TEXT, NUMBER, FLAG = Value("string"), Value("int64"), Value("bool")


def _pope() -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    names = ("id", "question_id", "question", "answer", "image_source", "category")
    rows = [
        {
            "id": str(number),
            "question_id": str(number // 3 + 1),
            "question": f"Is there a thing {number // 3} in the image?",
            "answer": ("yes", "no")[number // 3 % 2],
            "image_source": f"COCO_val2014_{number // 6:012}",
            "category": ("adversarial", "popular", "random")[number % 3],
        }
        for number in range(12)
    ]
    return "test", dict.fromkeys(names, TEXT) | {"image": Image()}, rows


def _mmvp() -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    rows = [
        {
            "Index": str(number),
            "Question": f"Is the dog of pair {(number - 1) // 2} asleep?",
            "Options": "(a) Yes (b) No, awake",
            "Correct Answer": "(a)" if number % 2 else "(b)",
        }
        for number in range(95, 105)
    ]
    return "train", dict.fromkeys(rows[0], TEXT) | {"image": Image()}, rows


def _seed_bench() -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    choices = {"choice_a": "dog", "choice_b": "cat", "choice_c": "cow", "choice_d": "owl"}
    rows = [
        {
            "question": f"What is thing {number}?",
            **{column: f"{name} {number}" for column, name in choices.items()},
            "answer": "ABCD"[number % 4],
            "data_id": f"{number // 2}_{number}",
            "data_type": "video" if number == 3 else "image",
            "question_id": str(100 + number),
            "question_type_id": number % 2 + 1,
            "segment": None,
        }
        for number in range(9)
    ]
    features = dict.fromkeys(rows[0], TEXT) | {
        "question_type_id": NUMBER,
        "segment": List(Value("float64")),
        "image": List(Image()),
    }
    return "test", features, rows


def _a_okvqa() -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    rows = [
        {
            "question_id": f"q{number}",
            "question": f"What do people do at place {number}?",
            "choices": ["ski", "swim", "read", "sleep"],
            "correct_choice_idx": number % 4,
            "direct_answers": str(["ski"] * 8 + ["snowboard"] * 2),  # the Hub's is the string form of a list
            "difficult_direct_answer": number == 2,
            "rationales": ["There is snow."],
        }
        for number in range(6)
    ]
    features = {
        "image": Image(),
        "question_id": TEXT,
        "question": TEXT,
        "choices": List(TEXT),
        "correct_choice_idx": NUMBER,
        "direct_answers": TEXT,
        "difficult_direct_answer": FLAG,
        "rationales": List(TEXT),
    }
    return "validation", features, rows


REPLICAS = {
    "pope": _pope,
    "mmvp": _mmvp,
    "seed-bench": _seed_bench,
    "seed-bench-text": _seed_bench,
    "a-okvqa": _a_okvqa,
    "a-okvqa-direct": _a_okvqa,
}


def write(name: str, folder: Path, **changes: Any) -> Path:
    """
    A folder with the data set behind the benchmark `name` as a parquet file.

    Args:
        changes: values that replace those of the column in every row; `None` leaves the column out.
    """
    split, features, rows = REPLICAS[name]()
    for number, row in enumerate(rows):
        image = make_image(number)
        row |= {"image": [image] if isinstance(features["image"], List) else image} | changes
    gone = [column for column, value in changes.items() if value is None]
    table = Dataset.from_list(rows, features=Features(features)).remove_columns(gone)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder
