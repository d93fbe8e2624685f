"""
The scenes of `granulon.evaluation.scenes` as training data: PNGs and a chat.json.

    python examples/nano/scenes.py --output runs/scenes --split pictograms --count 100
"""

import argparse
import json
import random
from pathlib import Path

from tqdm.auto import tqdm

from granulon.evaluation.scenes import SPLITS, Scene, ask, make_scene, paint


GRANULARITY_LABELS = {"coarse": [0.9, 0.1, 0.0], "medium": [0.05, 0.9, 0.05], "fine": [0.0, 0.1, 0.9]}
PACKING = {
    "meadow": "boots",
    "beach": "towel",
    "snow": "skis",
    "desert": "water",
    "sea": "oars",
    "road": "map",
    "room": "slippers",
    "stage": "costume",
}


def ask_packing(scene: Scene) -> list[dict[str, str]]:
    """A task that the nano model has not seen, for fine-tuning, in words of its own: what to pack for this place."""
    answer = f"{PACKING[scene.place]} and a torch" if scene.is_night else PACKING[scene.place]
    return [{"question": "what should i pack?", "answer": answer, "granularity": "coarse", "kind": "packing"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for images/ and chat.json")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument(
        "--task", choices=("questions", "packing"), default="questions", help="packing: the unseen task"
    )
    parser.add_argument("--count", type=int, default=100, help="scenes (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="index of the first scene")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    (arguments.output / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in tqdm(range(arguments.start, arguments.start + arguments.count), desc="scenes"):
        scene = make_scene(arguments.split, index, arguments.seed)
        name = f"{arguments.split}-{index}.png"
        paint(scene)[0].save(arguments.output / "images" / name)
        rng = random.Random(f"{arguments.seed}/{arguments.split}/{index}/{arguments.task}")
        for row in ask(scene, rng) if arguments.task == "questions" else ask_packing(scene):
            turns = [
                {"from": "human", "value": f"<image>\n{row['question']}"},
                {"from": "gpt", "value": row["answer"]},
            ]
            rows.append(
                {
                    "id": f"{name}/{len(rows)}",
                    "image": name,
                    "conversations": turns,
                    "granularity_labels": GRANULARITY_LABELS[row["granularity"]],
                }
            )
    (arguments.output / "chat.json").write_text(json.dumps(rows, indent=1))
    print(f"{len(rows)} questions about {arguments.count} scenes in {arguments.output}")
    print("Pictograms: OpenMoji, CC BY-SA 4.0 (https://openmoji.org)")


if __name__ == "__main__":
    main()
