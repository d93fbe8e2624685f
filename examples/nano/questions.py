"""
The questions of scenes and easy-vqa, with weights over the nano model's levels, as a corpus for its controller.

    python examples/nano/questions.py --output runs/nano/questions
    granulon train-controller --model runs/nano/backbones/model --corpus runs/nano/questions/train.jsonl \\
        --heldout runs/nano/questions/heldout.jsonl --out runs/nano/routed
"""

import argparse
import json
import random
from pathlib import Path

from easy_vqa_data import granularity_of, read_split
from scenes import GRANULARITY_LABELS

from granulon.evaluation.scenes import scene_questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for train.jsonl and heldout.jsonl")
    parser.add_argument("--scenes", type=int, default=1500, help="that are asked about (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, split, count in (("train", "train", arguments.scenes), ("heldout", "compositions", 150)):
        rows = [row for index in range(count) for row in scene_questions(split, index)]
        easy = read_split("train" if name == "train" else "test")
        rows += [
            {"question": row["question"], "kind": "easy-vqa", "granularity": granularity_of(row["question"])}
            for row in random.Random(0).sample(easy, count)
        ]
        lines = {
            row["question"]: {
                "question": row["question"],
                "weights": GRANULARITY_LABELS[row["granularity"]],
                "family": row["question"],
                "task": row["kind"],
                "split": "heldout" if name == "heldout" else ("dev" if place % 8 == 0 else "train"),
            }
            for place, row in enumerate(rows)
        }
        (arguments.output / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines.values()))
        print(f"{len(lines)} different questions in {arguments.output / name}.jsonl")


if __name__ == "__main__":
    main()
