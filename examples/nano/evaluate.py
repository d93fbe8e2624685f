"""
Evaluate a Granulon on easy-vqa's official test split and on held-out scenes, beside baselines, with 95 % intervals.

    python examples/nano/evaluate.py --model examples/nano/granulon-nano --output runs/nano/results.json

*Question only* answers with the commonest answer that training gave to the very same question (for a question that
training never asked, to questions of its kind): no model that sees only questions can be expected to do better.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import torch
from easy_vqa_data import granularity_of, read_split
from PIL import Image
from scenes import GRANULARITIES, make_scene, paint, scene_questions
from tqdm.auto import tqdm

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import granulon  # noqa: F401  registers the Auto classes
from granulon.evaluation.intervals import bootstrap_interval


TEST_START = 50_000_000  # scenes that no step of training has drawn


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


def question_only(rows: list[dict], training: list[dict]) -> list[str]:
    """The commonest answer of training to each row's question, or to questions of its kind."""
    by_question, by_kind = defaultdict(Counter), defaultdict(Counter)
    for row in training:
        by_question[row["question"]][row["answer"]] += 1
        by_kind[row["kind"]][row["answer"]] += 1
    return [
        (by_question.get(row["question"]) or by_kind.get(row["kind"]) or by_kind[""]).most_common(1)[0][0]
        for row in rows
    ]


@torch.no_grad()
def answer_questions(
    model, processor, rows: list[dict], batch_size: int = 64, granularity: str | None = None, name: str = "questions"
) -> tuple[list[str], list[int]]:
    """Greedy answers, lower-cased, and the level of each; `granularity` fixes it for all."""
    answers, levels = [], []
    for start in tqdm(range(0, len(rows), batch_size), desc=name, leave=False):
        chats = []
        for row in rows[start : start + batch_size]:
            image = Image.open(row["image"]) if isinstance(row["image"], str | Path) else row["image"]
            content = [{"type": "image", "image": image.convert("RGB")}, {"type": "text", "text": row["question"]}]
            chats.append([{"role": "user", "content": content}])
        inputs = processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True, "granularity": granularity},
        ).to(model.device)
        if granularity is None:
            chosen = model.get_granularity(inputs["input_ids"], inputs["attention_mask"]).argmax(-1)
        else:
            chosen = inputs["granularity"]
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip().lower() for text in processor.batch_decode(new, skip_special_tokens=True)]
        levels += chosen.tolist()
    return answers, levels


def summarise(rows: list[dict], answers: list[str], levels: list[int], baseline: list[str], names: list[str]) -> dict:
    """Accuracy, question-only accuracy, their difference, and the levels: of all rows, by granularity and by kind."""
    cuts = {"all": rows}
    cuts |= {granularity: [row for row in rows if row["granularity"] == granularity] for granularity in GRANULARITIES}
    cuts |= {
        f"kind: {kind}": [row for row in rows if row["kind"] == kind] for kind in sorted({r["kind"] for r in rows})
    }
    right = {id(row): float(answer == row["answer"]) for row, answer in zip(rows, answers, strict=True)}
    guessed = {id(row): float(guess == row["answer"]) for row, guess in zip(rows, baseline, strict=True)}
    level_of = {id(row): level for row, level in zip(rows, levels, strict=True)}
    summary = {}
    for cut, chosen in cuts.items():
        if chosen:
            groups = [row["group"] for row in chosen]
            hits, guesses = [right[id(row)] for row in chosen], [guessed[id(row)] for row in chosen]
            gains = [hit - guess for hit, guess in zip(hits, guesses, strict=True)]
            summary[cut] = {
                "questions": len(chosen),
                "accuracy": list(bootstrap_interval(hits, groups)),
                "question_only": list(bootstrap_interval(guesses, groups)),
                "gain": list(bootstrap_interval(gains, groups)),
                "levels": {name: sum(level_of[id(row)] == i for row in chosen) for i, name in enumerate(names)},
                "level_as_asked": sum(names[level_of[id(r)]] == r["granularity"] for r in chosen) / len(chosen),
            }
    return summary


def as_table(summary: dict) -> str:
    """A Markdown table of `summarise`'s result."""
    lines = ["| | questions | Granulon | question only | gain | levels chosen |", "|---|---|---|---|---|---|"]
    for cut, row in summary.items():
        cells = [
            f"{100 * row[name][0]:{sign}.1f} [{100 * row[name][1]:{sign}.1f}, {100 * row[name][2]:{sign}.1f}]"
            for name, sign in (("accuracy", ""), ("question_only", ""), ("gain", "+"))
        ]
        levels = ", ".join(f"{name} {count}" for name, count in row["levels"].items() if count)
        lines.append(f"| {cut} | {row['questions']:,} | {' | '.join(cells)} | {levels} |")
    return "\n".join(lines)


def evaluate_all(
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
    results = evaluate_all(
        model, processor, arguments.scenes, arguments.easy_vqa, arguments.batch_size, arguments.granularity
    )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
