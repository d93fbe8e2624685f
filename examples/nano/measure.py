"""
A Granulon's answers on easy-vqa's official test split and on held-out scenes, beside baselines, with 95 % intervals.

    python examples/nano/measure.py --model examples/nano/granulon-nano --output runs/nano/results.json

*Question only* answers with the commonest answer that training gave to the very same question (for a question that
training never asked, to questions of its kind): no model that sees only questions can be expected to do better. The
measuring itself is `granulon.evaluation.answers`; here are the questions.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from easy_vqa_data import granularity_of, read_split

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import granulon  # noqa: F401  registers the Auto classes
from granulon.evaluation.answers import answer_questions, as_table, question_only, summarise
from granulon.evaluation.scenes import TEST_START, make_scene, paint, scene_questions


def easy_vqa_rows(limit: int | None = None) -> list[dict]:
    """easy-vqa's test questions, drawn at random where a limit is given."""
    kinds = {"yes": "yes / no", "no": "yes / no", "circle": "shape", "rectangle": "shape", "triangle": "shape"}
    rows = read_split("test")
    rows = rows if limit is None else random.Random(0).sample(rows, min(limit, len(rows)))
    return [
        {
            **row,
            "granularity": granularity_of(row["question"]),
            "kind": kinds.get(row["answer"], "colour"),
            "group": row["image"],
        }
        for row in rows
    ]


def scene_rows(split: str, count: int) -> list[dict]:
    """Six questions, two of each granularity, about each of `count` held-out scenes; `image` is a PIL image."""
    rows = []
    for index in range(TEST_START, TEST_START + count):
        image = paint(make_scene(split, index))[0]
        rows += [{**row, "image": image, "group": index} for row in scene_questions(split, index)]
    return rows


def measure_all(
    model,
    processor,
    num_scenes: int = 500,
    num_easy: int | None = None,
    batch_size: int = 64,
    granularity: str | None = None,
) -> dict:
    """
    `summarise`'s results by data set, printed as tables when they are there.

    Args:
        num_scenes: of each held-out split.
        num_easy: easy-vqa test questions, drawn at random; all 9,673 where it is None.
    """
    names = model.config.level_names
    training = [row for index in range(20_000) for row in scene_questions("train", index)]
    easy_training = [{**row, "kind": ""} for row in read_split("train")]
    results, of_scenes = {}, []
    for name, rows, seen in (
        ("easy-vqa, test split", easy_vqa_rows(num_easy), easy_training),
        ("scenes, held-out compositions", scene_rows("compositions", num_scenes), training),
        ("scenes, held-out pictograms", scene_rows("pictograms", num_scenes), training),
        ("scenes, both", [], training),
    ):
        if rows:
            answers, levels = answer_questions(model, processor, rows, batch_size, granularity, name)
            if name.startswith("scenes"):
                of_scenes += zip(
                    [{**row, "group": (name, row["group"])} for row in rows], answers, levels, strict=True
                )
        else:
            rows, answers, levels = zip(*of_scenes, strict=True)
        results[name] = summarise(rows, answers, levels, question_only(rows, seen), names)
        print(f"\n{name}\n\n{as_table(results[name])}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="examples/nano/granulon-nano", help="directory or Hub id")
    parser.add_argument("--scenes", type=int, default=500, help="of each held-out split (default: %(default)s)")
    parser.add_argument("--easy-vqa", type=int, help="only so many questions, drawn at random (default: all 9,673)")
    parser.add_argument("--granularity", help="fix the level (default: the controller chooses)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(arguments.model)
    results = measure_all(
        model, processor, arguments.scenes, arguments.easy_vqa, arguments.batch_size, arguments.granularity
    )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
