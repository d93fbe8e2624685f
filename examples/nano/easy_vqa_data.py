"""
easy-vqa (PyPI, MIT licence, Victor Zhou): 64 px images of one coloured shape each, and questions about them.

    python examples/nano/easy_vqa_data.py --output runs/easy-vqa --count 9000     # images and a chat.json
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from scenes import GRANULARITY_LABELS

from granulon.evaluation.benchmarks.easy_vqa import ANSWERS, read_split


COLOURS, SHAPES = ANSWERS["colour"], ANSWERS["shape"]


def shape_and_colour(rows: list[dict]) -> dict[str, tuple[int, int]]:
    """What each image shows, as far as the answers tell: indices into SHAPES and COLOURS, -100 where they do not."""
    shown: dict[str, list[int]] = {}
    for row in rows:
        found = shown.setdefault(row["image"], [-100, -100])
        words = set(row["question"].rstrip("?").split())
        is_present = (row["answer"] == "yes") != bool(words & {"not", "no"})
        for kind, names in enumerate((SHAPES, COLOURS)):
            for index, name in enumerate(names):
                if row["answer"] == name or (name in words and row["answer"] in ("yes", "no") and is_present):
                    found[kind] = index
    return {path: (shape, colour) for path, (shape, colour) in shown.items()}


def granularity_of(question: str) -> str:
    """Colour questions look at an attribute, all others at the whole shape."""
    return "fine" if set(question.rstrip("?").split()) & {*COLOURS, "color"} else "medium"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for images/ and chat.json")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--count", type=int, default=9000, help="questions, drawn at random (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    (arguments.output / "images").mkdir(parents=True, exist_ok=True)
    asked = read_split(arguments.split)
    rows = []
    for row in random.Random(arguments.seed).sample(asked, min(arguments.count, len(asked))):
        name = Path(row["image"]).name
        shutil.copyfile(row["image"], arguments.output / "images" / name)
        turns = [{"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": row["answer"]}]
        labels = GRANULARITY_LABELS[granularity_of(row["question"])]
        rows.append({"id": str(len(rows)), "image": name, "conversations": turns, "granularity_labels": labels})
    (arguments.output / "chat.json").write_text(json.dumps(rows, indent=1))
    print(f"{len(rows)} questions in {arguments.output}")


if __name__ == "__main__":
    main()
