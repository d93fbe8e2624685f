"""Scenes: painted places with pictograms, asked about at three granularities; the things are held out of training."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from granulon.evaluation.benchmarks.base import Baseline, Benchmark, Item


if TYPE_CHECKING:
    from datasets import Dataset


SPLITS = ("compositions", "pictograms")
NUM_SCENES = 500  # of each split
NUM_TRAINING_SCENES = 20_000  # whose answers the baseline knows


def _table() -> "Dataset":
    from datasets import Dataset

    from granulon.evaluation.scenes import TEST_START, scene_questions

    return Dataset.from_list(
        [
            {"id": f"{split}/{index - TEST_START}/{number}", "split": split, "index": index, **row}
            for split in SPLITS
            for index in range(TEST_START, TEST_START + NUM_SCENES)
            for number, row in enumerate(scene_questions(split, index))
        ]
    )


@cache
def _choices(kind: str, is_yes_or_no: bool) -> tuple[str, ...]:
    """All answers to a question of this kind."""
    from granulon.evaluation import scenes

    themes, times = (*scenes.TAXONOMY, "mixed"), ("day", "night")
    if is_yes_or_no:
        return ("yes", "no")
    if kind == "description":
        subjects = (*scenes.TAXONOMY, "mixed things")
        return tuple(f"{what}, {place}, {time}" for what in subjects for place in scenes.PLACES for time in times)
    return {
        "place": tuple(scenes.PLACES),
        "time": times,
        "kind": themes,
        "count all": scenes.COUNT_WORDS,
        "count noun": scenes.COUNT_WORDS,
        "identity": scenes.NOUNS,
        "colour": tuple(scenes.COLOURS),
        "size": ("small", "large"),
    }[kind]


def _item(row: dict[str, Any]) -> Item:
    choices = _choices(row["kind"], row["answer"] in ("yes", "no"))
    return Item(
        row["id"],
        row["question"],
        row["answer"],
        {"references": choices.index(row["answer"]), "choices": choices},
        (row["split"], row["index"]),
        {name: row[name] for name in ("split", "granularity", "kind")},
    )


def _image(row: dict[str, Any]) -> Any:
    from granulon.evaluation.scenes import make_scene, paint

    return paint(make_scene(row["split"], row["index"]))[0]


@cache
def _training() -> list[dict[str, str]]:
    from granulon.evaluation.scenes import scene_questions

    return [row for index in range(NUM_TRAINING_SCENES) for row in scene_questions("train", index)]


def _question_only(items: Sequence[Item]) -> list[str]:
    from granulon.evaluation.answers import question_only

    return question_only([{"question": item.prompt, "kind": item.cuts["kind"]} for item in items], _training())


BENCHMARKS = [
    Benchmark(
        name="scenes",
        summary="painted scenes at three granularities, of held-out pictograms and pairs of noun and colour",
        columns=("id", "split", "index", "question", "answer", "granularity", "kind"),
        item=_item,
        build=_table,
        image=_image,
        image_column=None,
        metric="multiple_choice",
        options={"form": "text"},
        max_new_tokens=20,
        baseline=Baseline("question only", _question_only),
    )
]
